"""Small markets whose dependence is known, for tests of the generator."""

import numpy as np

from marljax.data.schema import MarketData, Product


def toy_market(
    seed: int = 0,
    n_steps: int = 1200,
    n_products: int = 2,
    n_levels: int = 3,
    n_sessions: int = 2,
    lead: float = 0.0,
    clustering: float = 0.0,
    tail: float = 4.0,
    absent: float = 0.1,
    invalid: float = 0.0,
    scale: float = 6.0,
) -> MarketData:
    """Fat-tailed moves (Student's t with `tail` degrees of freedom, `scale` half ticks), deep levels sometimes absent.

    Each product's move repeats `lead` times that of the product before it one step earlier. `clustering` is the first
    autocorrelation of log volatility, whose standard deviation is 0.7.
    """
    rng = np.random.default_rng(seed)
    shape = (n_steps, n_products)
    volatility = np.zeros(n_steps)
    if clustering:
        for t in range(1, n_steps):
            volatility[t] = clustering * volatility[t - 1] + 0.7 * np.sqrt(1 - clustering**2) * rng.standard_normal()
    moves = scale * np.exp(volatility)[:, None] * rng.standard_t(tail, shape) / np.sqrt(tail / (tail - 2))
    for p in range(1, n_products):
        moves[1:, p] = lead * moves[:-1, p - 1] + np.sqrt(1 - lead**2) * moves[1:, p]
    spread = 1 + rng.geometric(0.4, shape)
    bid = np.round(20_000 + np.cumsum(moves, 0) / 2 - spread / 2).astype(int)
    gaps = rng.geometric(0.5, (2, *shape, n_levels - 1))
    sizes = rng.geometric(0.02, (2, *shape, n_levels))
    present = np.cumprod(rng.random((2, *shape, n_levels - 1)) >= absent, -1)
    sizes[..., 1:] *= present
    steps = np.cumsum(np.where(present == 1, gaps, 1), -1)
    volume = rng.geometric(0.05, shape) * (rng.random(shape) < 0.6)
    row, per_session = np.arange(n_steps), -(-n_steps // n_sessions)
    return MarketData.build(
        bid_price=bid[..., None] - np.concatenate([np.zeros((*shape, 1), int), steps[0]], -1),
        ask_price=(bid + spread)[..., None] + np.concatenate([np.zeros((*shape, 1), int), steps[1]], -1),
        bid_size=sizes[0],
        ask_size=sizes[1],
        trade_volume=volume,
        trade_imbalance=np.round(volume * rng.uniform(-1, 1, shape)).astype(int),
        pnl=np.full(shape, np.nan),
        valid=rng.random(shape) >= invalid,
        seconds=(row % per_session) * 0.5,
        session=row // per_session,
        products=tuple(Product(f"T{p}", tick_size=0.25) for p in range(n_products)),
        origin="simulated",
    )


BOOK_FIELDS = ("bid_price", "ask_price", "bid_size", "ask_size", "trade_volume", "trade_imbalance")
