"""GARCH(1,1)-t: the parameters it was simulated with, the moments that follow from them, and books with its mids."""

import sys

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from marljax.data.schema import InputError
from marljax.generative.books import decompose
from marljax.generative.controls.garch import (
    Garch,
    _with_variance,
    fit_garch,
    garch_books,
    garch_paths,
    simulate_garch,
)
from tests.reference.generative import toy_market

pytest.importorskip("arch")


def one_by_one(seed, n_steps, omega, alpha, beta, degrees, correlation=0.0):
    """float64[n_steps, 2] step by step, with innovations of both columns over one normal copula."""
    rng = np.random.default_rng(seed)
    scores = rng.multivariate_normal([0, 0], [[1, correlation], [correlation, 1]], n_steps + 500)
    z = scipy.stats.t.ppf(scipy.stats.norm.cdf(scores), degrees) * np.sqrt((degrees - 2) / degrees)
    variance, rows = np.full(2, omega / (1 - alpha - beta)), []
    for innovation in z:
        rows.append(np.sqrt(variance) * innovation)
        variance = omega + alpha * rows[-1] ** 2 + beta * variance
    return np.array(rows[500:])


def model(alpha, beta, degrees):
    one = np.ones(1)
    return Garch(0 * one, (1 - alpha - beta) * one, alpha * one, beta * one, degrees * one, np.eye(1), np.ones((1, 1)))


def correlation_of_squares(paths, lag):
    x = np.square(paths)
    x = x - x.mean()
    return np.mean(x[:, lag:] * x[:, :-lag]) / np.mean(x**2)


@pytest.mark.parametrize("method", ["likelihood", "quasi"])
def test_the_fit_finds_the_parameters_of_simulated_returns(method):
    returns = 1e-4 * one_by_one(0, 20_000, omega=0.03, alpha=0.08, beta=0.89, degrees=8.0, correlation=0.6)
    found = fit_garch(returns, method=method)
    np.testing.assert_allclose(found.alpha, 0.08, atol=0.015)
    np.testing.assert_allclose(found.beta, 0.89, atol=0.02)
    np.testing.assert_allclose(found.degrees, 8.0, atol=1.0 if method == "likelihood" else 2.0)
    np.testing.assert_allclose(found.omega / (1 - found.alpha - found.beta), 1e-8, rtol=0.1)
    np.testing.assert_allclose(found.correlation, [[1, 0.6], [0.6, 1]], atol=0.02)
    assert np.mean(returns**2 / found.variance) == pytest.approx(1, abs=0.03)


def test_a_constant_mean_is_found_and_simulated_where_asked_for():
    returns = 0.2 + one_by_one(1, 5000, omega=0.1, alpha=0.05, beta=0.85, degrees=8.0)[:, :1]
    assert fit_garch(returns, mean="constant").mean == pytest.approx(0.2, abs=0.03)
    assert fit_garch(returns).mean == 0
    paths = garch_paths(returns, n_paths=200, n_steps=200, seed=0, mean="constant")
    assert paths.mean() == pytest.approx(0.2, abs=0.03)


def test_paths_have_the_kurtosis_and_the_memory_that_follow_from_the_parameters():
    """Moments of GARCH(1,1) after He & Terasvirta (1999)."""
    alpha, beta, degrees = 0.1, 0.8, 30.0
    paths = simulate_garch(model(alpha, beta, degrees), n_paths=2000, n_steps=700, seed=0)[:, 100:, 0]
    fourth, both = 3 * (degrees - 2) / (degrees - 4), alpha + beta
    kurtosis = fourth * (1 - both**2) / (1 - both**2 - (fourth - 1) * alpha**2)
    first = alpha * (1 - alpha * beta - beta**2) / (1 - 2 * alpha * beta - beta**2)
    assert paths.var() == pytest.approx(1, rel=0.02)
    assert scipy.stats.kurtosis(paths, axis=None, fisher=False) == pytest.approx(kurtosis, rel=0.08)
    for lag in (1, 2, 5, 10):
        assert correlation_of_squares(paths, lag) == pytest.approx(first * both ** (lag - 1), abs=0.02)
    assert np.mean(paths[:, 1:] * paths[:, :-1]) == pytest.approx(0, abs=0.005)


def test_a_model_is_given_the_variance_that_its_paths_show():
    found = _with_variance(model(0.1, 0.8, 8.0), np.array([9.0]), seed=0)
    paths = simulate_garch(found, n_paths=200, n_steps=1000, seed=1)
    assert np.mean(paths**2) == pytest.approx(9.0, rel=0.05)
    assert np.mean(paths[:, 0] ** 2) == pytest.approx(9.0, rel=0.35)


def test_innovations_are_those_of_student():
    paths = simulate_garch(model(0.0, 0.0, 5.0), n_paths=1000, n_steps=100, seed=1).reshape(-1)
    assert scipy.stats.kstest(paths, scipy.stats.t(5, scale=np.sqrt(3 / 5)).cdf).statistic < 0.006


def test_paths_begin_at_the_variances_of_rows_that_were_seen():
    calm_and_wild = model(0.05, 0.9, 8.0).__class__(
        **{**vars(model(0.05, 0.9, 8.0)), "variance": np.array([[0.01], [0.01], [4.0]])}
    )
    first = simulate_garch(calm_and_wild, n_paths=6000, n_steps=1, seed=0)[:, 0, 0]
    assert first.var() == pytest.approx((0.01 * 2 + 4) / 3, rel=0.15)
    assert np.mean(np.abs(first) < 0.5) > 0.65


def test_columns_keep_their_correlation():
    returns = one_by_one(2, 4000, omega=0.1, alpha=0.05, beta=0.85, degrees=6.0, correlation=0.6)
    paths = garch_paths(returns, n_paths=100, n_steps=200, seed=0).reshape(-1, 2)
    assert np.corrcoef(paths.T)[0, 1] == pytest.approx(np.corrcoef(returns.T)[0, 1], abs=0.05)


def test_moves_that_are_mostly_zero_are_refused_by_the_likelihood():
    returns = np.round(0.7 * one_by_one(3, 8000, omega=0.03, alpha=0.08, beta=0.89, degrees=4.0))
    assert np.mean(returns == 0) > 0.6
    with pytest.raises(InputError, match="GARCH of coarse did not converge"):
        fit_garch(returns[:, :1], names=["coarse"])


def test_the_optimiser_is_not_believed_where_a_neighbour_is_likelier(monkeypatch):
    import arch.univariate.base

    returns = one_by_one(0, 5000, omega=0.3, alpha=0.14, beta=0.65, degrees=8.0)[:, :1]
    honest = fit_garch(returns)
    fit, begun = arch.univariate.base.ARCHModel.fit, []

    def content(self, **options):
        """Where it chooses the values to begin with, it says that they are best."""
        begun.append(options["starting_values"])
        if options["starting_values"] is None:
            return self.fix(pd.Series([20.0, 0.05, 0.75, 8.0], ["omega", "alpha[1]", "beta[1]", "nu"]))
        return fit(self, **options)

    monkeypatch.setattr(arch.univariate.base.ARCHModel, "fit", content)
    monkeypatch.setattr(arch.univariate.base.ARCHModelFixedResult, "convergence_flag", 0, raising=False)
    found = fit_garch(returns)
    assert len(begun) > 1
    for name in ("omega", "alpha", "beta", "degrees"):
        assert getattr(found, name) == pytest.approx(getattr(honest, name), rel=0.03)


def garch_market(scale, n_steps, n_products=2):
    """A toy market whose mids follow the recursion, with moves of standard deviation `scale` ticks."""
    data = toy_market(0, n_steps=n_steps, n_products=n_products)
    moves = one_by_one(4, n_steps, omega=0.1, alpha=0.15, beta=0.75, degrees=8.0, correlation=0.6)[:, :n_products]
    spread = np.asarray(data.ask_price[..., :1] - data.bid_price[..., :1])
    best = np.round(20_000 + scale * np.cumsum(moves, axis=0)[..., None] - spread / 2).astype(int)
    shift = best - data.bid_price[..., :1]
    return data.replace(bid_price=data.bid_price + shift, ask_price=data.ask_price + shift)


@pytest.mark.parametrize("n_products", [1, 2])
def test_books_have_moves_like_the_training_part_and_everything_else_from_its_rows(n_products):
    data = garch_market(6.0, 4000, n_products)
    books = garch_books(data, n_sessions=3, n_steps=4000, seed=0)
    assert (books.origin, books.n_steps, books.products) == ("synthetic", 12_000, data.products)
    assert np.unique(np.diff(np.asarray(books.seconds[:4000]))).tolist() == [0.5]
    (real, _), (drawn, joined) = decompose(data), decompose(books)
    assert not joined[[0, 4000, 8000]].any()
    real_moves, moves = np.asarray(real.move, float), np.asarray(drawn.move, float)[joined]
    np.testing.assert_allclose(moves.std(0), real_moves.std(0), rtol=0.1)
    for p in range(n_products):
        size, real_size = np.abs(moves[:, p]), np.abs(real_moves[:, p])
        remembered, real_memory = (np.corrcoef(x[3:], x[:-3])[0, 1] for x in (size, real_size))
        assert remembered == pytest.approx(real_memory, abs=0.1)
        assert real_memory > 0.12
    if n_products == 2:
        assert np.corrcoef(moves.T)[0, 1] == pytest.approx(np.corrcoef(real_moves.T)[0, 1], abs=0.1)

    def rows(parts):
        fields = ("spread", "bid_gap", "ask_gap", "bid_size", "ask_size", "volume", "imbalance")
        joint = np.concatenate([np.reshape(getattr(parts, f), (len(parts.spread), -1)) for f in fields], axis=1)
        return {row.tobytes() for row in joint}

    assert rows(drawn) <= rows(real)
    assert len(rows(drawn)) > 0.9 * len(rows(real))


def test_books_on_a_coarse_grid_keep_their_variance():
    data = garch_market(1.0, 6000)
    books = garch_books(data, n_sessions=4, n_steps=2000, seed=0)

    def over(books, lag):
        mid = np.asarray(books.double_mid)[:, 0].astype(float)
        same = np.asarray(books.session)[lag:] == np.asarray(books.session)[:-lag]
        return (mid[lag:] - mid[:-lag])[same].std()

    assert over(books, 20) == pytest.approx(over(data, 20), rel=0.25)


def test_the_same_seed_draws_the_same_books_and_another_does_not():
    data = toy_market(0)
    one, two, other = (garch_books(data, n_sessions=2, n_steps=50, seed=s) for s in (0, 0, 1))
    np.testing.assert_array_equal(one.bid_price, two.bid_price)
    assert not np.array_equal(one.bid_price, other.bid_price)


def test_what_cannot_be_fitted_is_named(monkeypatch):
    data = toy_market(0)
    with pytest.raises(InputError, match="synthetic data"):
        garch_books(data.replace(origin="synthetic"), n_sessions=1, n_steps=10, seed=0)
    bid, ask = np.array(data.bid_price), np.array(data.ask_price)
    bid[:, 1], ask[:, 1] = bid[0, 1], ask[0, 1]
    still = data.replace(bid_price=bid, ask_price=ask)
    with pytest.raises(InputError, match="T1 never change"):
        garch_books(still, n_sessions=1, n_steps=10, seed=0)
    with pytest.raises(InputError, match="at least one session"):
        garch_books(data, n_sessions=1, n_steps=0, seed=0)
    with pytest.raises(InputError, match="at least 100"):
        fit_garch(np.ones((50, 1)))
    with pytest.raises(InputError, match="finite"):
        fit_garch(np.full((200, 1), np.nan))
    monkeypatch.setitem(sys.modules, "arch", None)
    with pytest.raises(InputError, match="extra `garch`"):
        fit_garch(np.random.default_rng(0).standard_normal((200, 1)))
