"""The bootstraps: valid books that keep the marginals, and dependence only as far as their blocks reach."""

import numpy as np
import pytest
import scipy.stats

from marljax.data.schema import InputError
from marljax.generative.books import decompose
from marljax.generative.controls import iid_bootstrap, resampled_rows, stationary_bootstrap
from marljax.generative.quality import series
from marljax.generative.representation import fit
from tests.reference.generative import toy_market


def resampled(data, mean_block: float = 20.0):
    return stationary_bootstrap(fit(data), data, n_sessions=4, n_steps=1500, mean_block=mean_block, seed=0)


def test_the_bootstrap_preserves_marginals_and_cross_sections():
    data = toy_market(0, n_steps=3000)
    books = resampled(data)
    real, drawn = series(data), series(books)
    for field in ("returns", "spread", "imbalance", "touch_size"):
        for x, y in zip(getattr(real, field).T, getattr(drawn, field).T, strict=True):
            assert scipy.stats.ks_2samp(x, y).statistic < 0.05, field
    assert books.origin == "synthetic"
    assert np.unique(books.session).tolist() == [0, 1, 2, 3]


def test_blocks_carry_dependence_and_single_rows_do_not():
    data = toy_market(0, n_steps=3000, lead=0.9)

    def lead(books):
        moves = np.asarray(decompose(books)[0].move, float)
        return scipy.stats.spearmanr(moves[1:-1, 0], moves[2:, 1]).statistic

    assert lead(data) > 0.8
    assert lead(resampled(data, 50.0)) > 0.7
    single = iid_bootstrap(fit(data), data, n_sessions=2, n_steps=1500, seed=0)
    assert abs(lead(single)) < 0.1


def test_blocks_have_the_stated_mean_length_and_end_at_breaks():
    joined = np.ones(20_000, bool)
    joined[[0, 5000, 5001, 12_000]] = False
    rows = resampled_rows(joined, 3, 20_000, 25.0, np.random.default_rng(0))
    assert joined[rows].all()
    goes_on = np.diff(rows, axis=1) == 1
    assert 1 / (1 - goes_on.mean()) == pytest.approx(25.0, rel=0.06)


def test_the_same_seed_draws_the_same_books_and_another_does_not():
    data = toy_market(0)
    representation = fit(data)
    one, two, other = (
        stationary_bootstrap(representation, data, n_sessions=1, n_steps=100, mean_block=10, seed=s) for s in (0, 0, 1)
    )
    np.testing.assert_array_equal(one.bid_price, two.bid_price)
    assert not np.array_equal(one.bid_price, other.bid_price)


def test_bad_requests_are_refused():
    data = toy_market(0)
    with pytest.raises(InputError, match="at least one step"):
        resampled(data, 0.5)
    with pytest.raises(InputError, match="synthetic data"):
        resampled(data.replace(origin="synthetic"))
