"""A market in the replay env whose mid is a martingale: nothing that was seen foretells it, and every order costs.

Moves of the mid are independent and symmetric whole ticks, and books stand evenly around it, so that no feature of the
past is worth anything. What is known beyond that is what a proof puts there.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from proof import ProofConfig

from marljax.data.limits import require
from marljax.data.schema import MarketData, Product
from marljax.envs.replay import ReplayEnv, ReplayParams
from marljax.envs.tapes import CostConfig, Rows, TradingConfig, cost_models, replay_params

LIMIT = 10
"""The position limit [lots]."""
COSTS = CostConfig()
TRADING = TradingConfig(no_trade_band=0.0, risk_aversion=0.0)
"""Every target is sent and only earnings are rewarded: nothing but learning keeps an agent from trading."""
EPISODE_STEPS = 128
"""Of training episodes."""
WARM_UP = 10
"""Rows at the beginning on which nobody trades, since features look that far back [rows]."""
_LEVELS, _START = 5, 10_000


@dataclasses.dataclass(frozen=True)
class TapeConfig(ProofConfig):
    """Of a proof whose seeds learn on one tape and are judged each on its own."""

    train_rows: int = 20_000
    """Of the tape they learn on [rows]."""
    test_rows: int = 2_000
    """Of each seed's own tape to be judged on [rows]."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, "at least 200", lambda x: x >= 200, "train_rows", "test_rows")


class Path(NamedTuple):
    """What one agent did on N rows of a tape."""

    earned: jax.Array  # float32[N] currency, net of all costs
    position: jax.Array  # int32[N] lots after the row's order
    traded: jax.Array  # int32[N] lots bought or sold


def martingale_market(seed: int, n_steps: int, volatility: float) -> MarketData:
    """`n_steps` rows of one session: a spread of two or four ticks, five levels of 5 to 15 lots on either side.

    `volatility` is the standard deviation of the mid's move in one row before it is rounded [ticks].
    """
    rng = np.random.default_rng(seed)
    mid = _START + np.cumsum(np.rint(rng.normal(0.0, volatility, n_steps)).astype(int))
    distance = rng.integers(1, 3, n_steps)[:, None, None] + np.arange(_LEVELS)
    sizes = rng.integers(5, 16, (2, n_steps, 1, _LEVELS))
    volume = rng.integers(10, 31, (n_steps, 1))
    return MarketData.build(
        bid_price=mid[:, None, None] - distance,
        ask_price=mid[:, None, None] + distance,
        bid_size=sizes[0],
        ask_size=sizes[1],
        trade_volume=volume,
        trade_imbalance=np.zeros_like(volume),
        pnl=np.full(volume.shape, np.nan),
        valid=np.ones(volume.shape, bool),
        seconds=np.arange(n_steps),
        products=(Product("MARTINGALE"),),
        origin="simulated",
    )


def moves(data: MarketData) -> np.ndarray:
    """float64[T] the mid's move from each row to the next [ticks], 0 on the last."""
    mid = 0.5 * np.asarray(data.double_mid, np.float64)[:, 0]
    return np.diff(mid, append=mid[-1:])


def past(data: MarketData, volatility: float) -> np.ndarray:
    """float32[T, 3] what is known without being told: the mid's move over one and over ten rows, in standard
    deviations of `volatility` a row [ticks], and the imbalance of sizes at the touch."""
    cumulative = np.concatenate([[0.0], np.cumsum(moves(data))])[:-1]
    last = [cumulative - np.concatenate([np.zeros(n), cumulative[:-n]]) for n in (1, WARM_UP)]
    bid, ask = (np.asarray(x, np.float64)[:, 0, 0] for x in (data.bid_size, data.ask_size))
    columns = [last[0] / volatility, last[1] / (volatility * WARM_UP**0.5), (bid - ask) / (bid + ask)]
    return np.stack(columns, axis=-1).astype(np.float32)


def world(data: MarketData, features: np.ndarray, train: MarketData, episode_steps: int) -> ReplayParams:
    """Replay params over `data` with float32[T, F] features; costs are estimated on `train`."""
    rows = Rows.of(data, jnp.asarray(features)[:, None], warm_up=WARM_UP, closing_rows=TRADING.closing_rows)
    params = replay_params(
        rows,
        costs=cost_models(train, COSTS),
        max_position=np.array([LIMIT], np.int32),
        trading=TRADING,
        episode_steps=episode_steps,
    )
    return jax.tree.map(lambda x: x[0], params)


def whole_length(n_steps: int) -> int:
    """Steps of the one episode that begins where features are warm and ends with the tape."""
    return n_steps - 1 - WARM_UP


def trade_through(policy: Any, params: Any, env_params: ReplayParams, key: jax.Array, deterministic: Any) -> Path:
    """An agent's way through a whole tape, which `env_params` were made for, from flat to flat."""
    n_steps = whole_length(env_params.features.shape[0])
    env = ReplayEnv(n_steps)
    reset_key, *keys = jax.random.split(key, 3)
    obs, state = env.reset(reset_key, env_params)

    def step(carry: Any, keys: jax.Array) -> tuple[Any, Path]:
        obs, state, memory = carry
        action, memory = policy.apply(params, obs, memory, keys[0], deterministic)
        held = state.account.position
        obs, state, _, _, _, info = env.step_env(keys[1], state, action, env_params)
        position = state.account.position
        return (obs, state, memory), Path(info["earned"], position, jnp.abs(position - held))

    step_keys = jnp.stack([jax.random.split(k, n_steps) for k in keys], axis=1)
    return jax.lax.scan(step, (obs, state, policy.init_carry()), step_keys)[1]
