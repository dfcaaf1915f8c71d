"""Resampling: the marginals stay, and dependence only as far as blocks, an autoregression or a window let it."""

import numpy as np
import pytest
import scipy.stats

from marljax.data.schema import InputError
from marljax.generative.books import decompose
from marljax.generative.controls import (
    block_bootstrap_paths,
    iid_bootstrap,
    iid_bootstrap_paths,
    resampled_rows,
    shuffled_in_time,
    stationary_bootstrap,
    var_paths,
)
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


def autoregression(n_steps=30_000, seed=0):
    """float64[n_steps, 2] of a VAR(1) with a matrix, a drift and correlated noise that are known, and those three."""
    matrix, drift = np.array([[0.5, 0.3], [-0.2, 0.4]]), np.array([1.0, -0.5])
    covariance = np.array([[1.0, 0.6], [0.6, 2.0]])
    rng, rows = np.random.default_rng(seed), [np.zeros(2)]
    for noise in rng.multivariate_normal([0, 0], covariance, n_steps):
        rows.append(drift + matrix @ rows[-1] + noise)
    return np.array(rows[1:]), (matrix, drift, covariance)


def test_arrays_are_resampled_whole_rows_at_a_time():
    increments = np.arange(40.0).reshape(20, 2)
    joined = np.arange(20) % 10 > 0
    paths = block_bootstrap_paths(increments, n_paths=50, n_steps=200, mean_block=5.0, seed=0, joined=joined)
    assert paths.shape == (50, 200, 2)
    np.testing.assert_array_equal(paths[..., 1], paths[..., 0] + 1)
    rows = paths[..., 0].astype(int) // 2
    assert set(rows.reshape(-1)) == set(np.flatnonzero(joined))
    single = iid_bootstrap_paths(increments, n_paths=50, n_steps=200, seed=0)
    assert set(single[..., 0].reshape(-1).astype(int) // 2) == set(range(20))
    follows = [np.mean(np.diff(x[..., 0], axis=1) == 2) for x in (paths, single)]
    assert follows[0] > 0.6
    assert follows[1] < 0.08


def test_shuffled_windows_keep_their_rows_and_lose_their_order():
    windows = np.cumsum(np.random.default_rng(0).standard_normal((300, 24, 3)), axis=1)
    shuffled = shuffled_in_time(windows, seed=0)

    def rows(window):
        return sorted(map(tuple, window))

    assert all(rows(x) == rows(y) for x, y in zip(windows, shuffled, strict=True))
    places = np.argmax((shuffled[:, :1] == windows).all(-1), axis=1)
    assert np.unique(places).size == 24
    smoothness = [np.mean(np.square(np.diff(x, axis=1))) for x in (windows, shuffled)]
    assert smoothness[1] > 3 * smoothness[0]
    np.testing.assert_array_equal(shuffled, shuffled_in_time(windows, seed=0))
    assert not np.array_equal(shuffled, shuffled_in_time(windows, seed=1))


def test_var_paths_have_the_moments_of_the_autoregression():
    increments, (matrix, _, covariance) = autoregression()
    paths = var_paths(increments, n_paths=400, n_steps=100, seed=0)
    np.testing.assert_allclose(paths.mean((0, 1)), increments.mean(0), atol=0.06)
    centred = paths - paths.mean((0, 1))
    lagged = np.einsum("nti,ntj->ij", centred[:, 1:], centred[:, :-1]) / centred[:, 1:, 0].size
    together = np.einsum("nti,ntj->ij", centred, centred) / centred[..., 0].size
    np.testing.assert_allclose(lagged @ np.linalg.inv(together), matrix, atol=0.04)
    np.testing.assert_allclose(together - matrix @ together @ matrix.T, covariance, atol=0.1)
    assert abs(scipy.stats.kurtosis(paths[..., 0], axis=None)) < 0.1
    np.testing.assert_array_equal(paths, var_paths(increments, n_paths=400, n_steps=100, seed=0))


def test_a_var_is_fitted_to_pairs_of_rows_that_follow_each_other():
    increments, (matrix, *_) = autoregression(12_000)
    pieces = increments.reshape(-1, 4, 2)[np.random.default_rng(0).permutation(3000)].reshape(-1, 2)
    joined = np.arange(12_000) % 4 > 0
    paths = var_paths(pieces, n_paths=400, n_steps=100, seed=0, joined=joined)
    centred = paths - paths.mean((0, 1))
    lagged = np.einsum("nti,ntj->ij", centred[:, 1:], centred[:, :-1])
    together = np.einsum("nti,ntj->ij", centred[:, :-1], centred[:, :-1])
    np.testing.assert_allclose(lagged @ np.linalg.inv(together), matrix, atol=0.06)


def test_arrays_that_cannot_be_resampled_are_refused():
    request = {"n_paths": 2, "n_steps": 5, "seed": 0}
    explosive = 1.01 ** np.arange(300.0)[:, None]
    with pytest.raises(InputError, match="not stationary"):
        var_paths(explosive, **request)
    with pytest.raises(InputError, match="pairs of rows"):
        var_paths(np.ones((4, 2)), **request)
    with pytest.raises(InputError, match="finite"):
        iid_bootstrap_paths(np.array([[np.nan]]), **request)
    with pytest.raises(InputError, match="joined"):
        iid_bootstrap_paths(np.ones((5, 1)), **request, joined=np.zeros(5, bool))
    with pytest.raises(InputError, match="at least one step"):
        block_bootstrap_paths(np.ones((5, 1)), **request, mean_block=0.5)
    with pytest.raises(InputError, match=r"\[N, W, C\]"):
        shuffled_in_time(np.ones((3, 4)), seed=0)
