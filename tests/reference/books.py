"""Random but valid market data for tests, from NumPy alone."""

import numpy as np

from marljax.data.schema import MarketData, Product


def random_market(
    seed: int = 0,
    n_steps: int = 200,
    n_products: int = 2,
    n_levels: int = 3,
    n_sessions: int = 1,
    invalid: float = 0.0,
    absent: float = 0.1,
    step_seconds: float = 1.0,
    start: int = 10_000,
) -> MarketData:
    """Random walks with books around them; some levels are absent, a fraction `invalid` of rows was not observed."""
    rng = np.random.default_rng(seed)
    shape = (n_steps, n_products)
    mid = start + np.cumsum(rng.integers(-2, 3, shape), axis=0)
    # A level is absent where the one before it is, and stands one tick beyond it.
    there = np.logical_and.accumulate(rng.random((2, *shape, n_levels)) >= absent * (np.arange(n_levels) > 0), axis=-1)
    below, above = np.cumsum(np.where(there, rng.integers(1, 4, (2, *shape, n_levels)), 1), axis=-1)
    sizes = there * rng.integers(1, 60, (2, *shape, n_levels))
    volume = rng.integers(0, 30, shape)
    per_session = -(-n_steps // n_sessions)
    row = np.arange(n_steps)
    return MarketData.build(
        bid_price=mid[..., None] - below,
        ask_price=mid[..., None] + above,
        bid_size=sizes[0],
        ask_size=sizes[1],
        trade_volume=volume,
        trade_imbalance=np.round(volume * rng.uniform(-1, 1, shape)).astype(int),
        pnl=np.full(shape, np.nan),
        valid=rng.random(shape) >= invalid,
        seconds=(row % per_session) * step_seconds,
        session=row // per_session,
        products=tuple(Product(f"P{i}", tick_size=0.5 + i, asset_class="equity") for i in range(n_products)),
        origin="simulated",
    )
