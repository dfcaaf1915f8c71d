"""Relative value: found where it is there, not found where it is not, and worth something on days it has not seen."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from marljax.data.schema import MarketData, Product
from marljax.features import FeatureConfig, compute, fit
from marljax.features.relative_value import fit_relative_value, residual_z_score, residuals
from tests.reference import features as oracle

BASKETS = Path("../shared/data/prosperity/p2/round3")
NAMES = ("GIFT_BASKET", "CHOCOLATE", "STRAWBERRIES", "ROSES")


def market(double_mid: np.ndarray, session: np.ndarray | None = None) -> MarketData:
    """One-level books, one or two ticks to a side, around these double mids [T, P]."""
    n_steps, n_products = double_mid.shape
    half = 1 + double_mid % 2
    bid = (double_mid - half) // 2
    flat = np.zeros((n_steps, n_products), int)
    return MarketData.build(
        bid_price=bid[..., None],
        ask_price=(double_mid - bid)[..., None],
        bid_size=np.full((n_steps, n_products, 1), 10),
        ask_size=np.full((n_steps, n_products, 1), 10),
        trade_volume=flat,
        trade_imbalance=flat,
        pnl=flat,
        valid=np.ones_like(flat, bool),
        seconds=np.arange(n_steps),
        session=np.zeros(n_steps, int) if session is None else session,
        products=tuple(Product(f"p{i}") for i in range(n_products)),
        origin="simulated",
    )


def basket_of_two(seed: int, n_steps: int = 4000, half_life: float = 100.0) -> tuple[np.ndarray, np.ndarray]:
    """Two random walks and an ETF that holds one of each, plus a residual of 30 half ticks: (double mids, residual)."""
    rng = np.random.default_rng(seed)
    parts = 20_000 + rng.normal(0, 6, (n_steps, 2)).cumsum(axis=0)
    keep = 0.5 ** (1 / half_life)
    noise = rng.normal(0, 30 * np.sqrt(1 - keep**2), n_steps)
    stray = np.zeros(n_steps)
    for t in range(1, n_steps):
        stray[t] = keep * stray[t - 1] + noise[t]
    return np.round(np.column_stack([parts.sum(axis=1) + stray, parts])).astype(int), stray


def fitted(double_mid: np.ndarray):
    return fit_relative_value(market(double_mid), horizon=10, ridge=0.01)


def test_an_etf_is_found_to_be_worth_its_parts():
    double_mid, stray = basket_of_two(seed=0)
    relation = fitted(double_mid)
    np.testing.assert_allclose(relation.loadings[0], [1, -0.5, -0.5], atol=0.12)
    residual = residuals(jnp.asarray(double_mid), relation)[:, 0]
    assert np.corrcoef(residual, stray)[0, 1] > 0.95
    np.testing.assert_allclose([residual.mean(), residual.std()], [0, 1], atol=1e-3)


def test_random_walks_that_hold_nothing_in_common_are_left_alone():
    kept = []
    for seed in range(12):
        walks = 20_000 + np.random.default_rng(seed).integers(-5, 6, (4000, 4)).cumsum(axis=0)
        kept.append(np.asarray(fitted(walks).scale) > 0)
    assert np.mean(kept) < 0.08  # a test at 2.5%, 48 relations


def test_one_product_a_constant_one_or_a_price_below_zero_has_no_relation():
    double_mid, _ = basket_of_two(seed=0)
    assert fitted(double_mid[:, :1]).scale[0] == 0
    still = np.column_stack([double_mid[:, 0], np.full(len(double_mid), 300)])
    np.testing.assert_array_equal(fitted(still).scale, 0)
    below = double_mid - double_mid[:, 1:2].min() - 5
    assert fitted(np.column_stack([double_mid[:, 0], below[:, 1]])).scale[1] == 0
    np.testing.assert_array_equal(fitted(double_mid[:12]).scale, 0)  # too short to tell


def test_twins_do_not_divide_by_a_residual_of_zero():
    double_mid, _ = basket_of_two(seed=0)
    twins = double_mid[:, [1, 1]]
    pipeline = fit(market(twins), FeatureConfig())
    assert np.isfinite(compute(market(twins), pipeline.config, pipeline.reference)).all()


def test_residuals_are_the_fitted_relation_to_six_digits():
    double_mid, _ = basket_of_two(seed=3)
    relation = fitted(double_mid)
    fields = map(np.asarray, (relation.anchor, relation.loadings, relation.offset, relation.scale))
    np.testing.assert_allclose(
        residuals(jnp.asarray(double_mid), relation), oracle.residual(double_mid, *fields), rtol=1e-4, atol=1e-4
    )


def test_a_session_begins_at_the_training_mean_and_forgets_a_shift_within_the_span():
    age = jnp.concatenate([jnp.arange(400), jnp.arange(5)])
    z = residual_z_score(jnp.full(405, 3.0), age, span=100)
    np.testing.assert_allclose(z[0], 3.0, rtol=0.03)
    assert abs(z[399]) < 0.01
    np.testing.assert_allclose(z[400:], z[:5], rtol=1e-5)


def test_a_return_follows_the_residual_home_on_unseen_data():
    double_mid, _ = basket_of_two(seed=5, n_steps=8000)
    pipeline = fit(market(double_mid[:4000]), FeatureConfig(names=("relative_value",)))
    assert correlation_with_next_return(pipeline, double_mid[4000:], ahead=100) < -0.2


@pytest.mark.skipif(not BASKETS.exists(), reason="the recorded baskets are not on this machine")
def test_a_gift_basket_fitted_on_one_day_reverts_on_the_two_days_after():
    days = [recorded_day(day) for day in range(3)]
    pipeline = fit(market(days[0]), FeatureConfig(names=("relative_value",)))
    relation = pipeline.reference.relative_value
    # 4 chocolate at 8,000, 6 strawberries at 4,000 and roses at 15,000, in a basket of 71,355
    np.testing.assert_allclose(relation.loadings[0], [1, -0.45, -0.34, -0.21], atol=0.05)
    np.testing.assert_allclose(float(relation.scale[0]) * 71_355, 76.4, rtol=0.15)
    for day in days[1:]:
        assert correlation_with_next_return(pipeline, day, ahead=200) < -0.2


def correlation_with_next_return(pipeline, double_mid: np.ndarray, ahead: int) -> float:
    z = np.asarray(compute(market(double_mid), pipeline.config, pipeline.reference))[:-ahead, 0, 0]
    log_mid = np.log(double_mid[:, 0])
    return float(np.corrcoef(z, log_mid[ahead:] - log_mid[:-ahead])[0, 1])


def recorded_day(day: int) -> np.ndarray:
    table = pd.read_csv(BASKETS / f"prices_round_3_day_{day}.csv.gz", sep=";")
    mids = table.set_index(["timestamp", "product"])["mid_price"].unstack()[list(NAMES)]  # noqa: PD010
    return np.round(2 * mids.to_numpy()).astype(int)


def test_residuals_have_gradients():
    double_mid, _ = basket_of_two(seed=0)
    relation = fitted(double_mid)
    gradient = jax.grad(lambda x: residuals(x, relation)[5, 0])(jnp.asarray(double_mid[:10], jnp.float32))
    assert (np.abs(gradient[5]) > 0).all()
    assert np.count_nonzero(gradient) == 3
