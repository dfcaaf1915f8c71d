"""A desk of two: one decides on parent orders from a signal that fades, the other works them with temporary impact.

A parent is decided on once per `n_slices` slices of time and is done at their end. In a slice n units trade at a cost
of impact * n**2, and what is held earns edge * signal plus noise; the signal is a Gaussian autoregression of unit
variance. The desk earns

    x r - impact * n**2 - risk_aversion / 2 * volatility**2 * x**2

in each slice, the problem of Garleanu and Pedersen (2013). Who sees the signal in every slice and may trade at will
does best by their rule, which has a closed form here and which no desk can beat. What a desk earns whose parents are
linear in signal and position, and whose schedule is fixed, is known exactly, too. What a parent misses against being
filled at once and for nothing at the price of the decision is its implementation shortfall (Perold 1988).
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from scipy import optimize

from marljax.data.limits import require, require_not_negative, require_positive
from marljax.data.schema import InputError
from marljax.envs.environment import Box, Environment, Step


@struct.dataclass
class DeskParams:
    """The market and the desk's taste for risk."""

    edge: float = 0.5
    """Expected return per signal [price/slice]."""
    persistence: float = 0.8
    """First autocorrelation of the signal from slice to slice."""
    volatility: float = 1.0
    """Of returns beyond the signal [price/slice]."""
    impact: float = 0.5
    """Cost of n units traded in a slice over n**2 [price/unit]."""
    risk_aversion: float = 0.5
    """Price of variance, half of it charged [1/currency]."""
    max_position: float = 2.0
    """Largest target, long or short [units]."""

    def __post_init__(self) -> None:
        require_positive(self, "volatility", "impact", "risk_aversion", "max_position")
        require_not_negative(self, "edge")
        require(self, "0 or more and below 1", lambda x: 0.0 <= x < 1.0, "persistence")


@struct.dataclass
class DeskState:
    signal: jax.Array  # float32[]
    position: jax.Array  # float32[] units
    target: jax.Array  # float32[] units
    parent: jax.Array  # float32[] units to trade when it was decided, signed
    slices: jax.Array  # int32[] slices of the parent that are over; n_slices where a new one is to be decided
    parents: jax.Array  # int32[] parents done


@dataclasses.dataclass(frozen=True)
class Desk(Environment[DeskState, DeskParams]):
    """Roles `alpha` and `execution`, one agent each; each parent is a step to decide and `n_slices` steps to trade.

    Observations float32[1, 3]: alpha the signal, the position as a share of the largest, the share of the parent's
    slices that are over; execution what is left of the parent and its size, both as shares of the largest position,
    and the same share of slices. Actions float32[1, 1] in [-1, 1]: alpha's is the target as a share of the largest
    position and matters in the step to decide; execution's is from nothing to all of what is left in the others, and
    in the last slice all of it trades. Reward float32[1] for each: what the desk earns. Truncates after `n_parents`.

    To train one of them apart, `execution` "twap" trades equal slices whatever execution does, and `alpha` "random"
    draws targets evenly whatever alpha does and rewards minus the implementation shortfall, since such targets earn
    nothing that execution could learn from.

    `info`: `profit` net of costs, `shortfall` [currency] and the size of the parent that was decided, `decided`
    [units].
    """

    n_slices: int = 5
    n_parents: int = 10
    alpha: Literal["learned", "random"] = "learned"
    execution: Literal["learned", "twap"] = "learned"

    def __post_init__(self) -> None:
        if self.alpha not in ("learned", "random") or self.execution not in ("learned", "twap"):
            raise InputError(f"alpha is learned or random and execution learned or twap, got {self}")

    def observation_space(self, params: DeskParams) -> dict[str, Box]:
        return dict.fromkeys(("alpha", "execution"), Box(-jnp.inf, jnp.inf, (1, 3)))

    def action_space(self, params: DeskParams) -> dict[str, Box]:
        return dict.fromkeys(("alpha", "execution"), Box(-1.0, 1.0, (1, 1)))

    def reset_env(self, key: jax.Array, params: DeskParams) -> tuple[dict[str, jax.Array], DeskState]:
        flat, none = jnp.zeros(()), jnp.zeros((), jnp.int32)
        state = DeskState(jax.random.normal(key), flat, flat, flat, jnp.int32(self.n_slices), none)
        return self._observe(state, params), state

    def step_env(self, key: jax.Array, state: DeskState, action: dict[str, jax.Array], params: DeskParams) -> Step:
        deciding = state.slices >= self.n_slices
        target_key, news_key = jax.random.split(key)
        decided = jax.random.uniform(target_key, minval=-1.0, maxval=1.0) if self.alpha == "random" else None
        wish = jnp.clip(action["alpha"][0, 0], -1.0, 1.0) if decided is None else decided
        target = jnp.where(deciding, params.max_position * wish, state.target)
        left = target - state.position

        # Deciding takes no time: the price of the decision is that of the first slice.
        remaining = self.n_slices - state.slices
        share = 0.5 + 0.5 * jnp.clip(action["execution"][0, 0], -1.0, 1.0)
        if self.execution == "twap":
            share = 1.0 / jnp.maximum(remaining, 1)
        share = jnp.where(remaining <= 1, 1.0, share)
        traded = jnp.where(deciding, 0.0, share * left)
        position = state.position + traded
        noise, news = jax.random.normal(news_key, (2,))
        move = jnp.where(deciding, 0.0, params.edge * state.signal + params.volatility * noise)
        fresh = params.persistence * state.signal + jnp.sqrt(1.0 - params.persistence**2) * news
        cost = params.impact * traded**2
        charge = 0.5 * params.risk_aversion * params.volatility**2 * position**2
        profit = position * move - cost
        shortfall = jnp.where(deciding, 0.0, (target - position) * move + cost)
        earned = -shortfall if self.alpha == "random" else profit - jnp.where(deciding, 0.0, charge)

        state = DeskState(
            signal=jnp.where(deciding, state.signal, fresh),
            position=position,
            target=target,
            parent=jnp.where(deciding, left, state.parent),
            slices=jnp.where(deciding, 0, state.slices + 1),
            parents=state.parents + jnp.where(remaining == 1, 1, 0),
        )
        truncated = jnp.reshape(state.parents >= self.n_parents, (1,))
        info = {"profit": profit, "shortfall": shortfall, "decided": jnp.where(deciding, jnp.abs(left), 0.0)}
        return (
            self._observe(state, params),
            state,
            _both(jnp.reshape(earned, (1,))),
            _both(jnp.zeros(1, bool)),
            _both(truncated),
            info,
        )

    def _observe(self, state: DeskState, params: DeskParams) -> dict[str, jax.Array]:
        over = state.slices / self.n_slices
        largest = params.max_position
        # Nothing is left of a parent that is over.
        left, parent = (state.target - state.position) / largest, state.parent / largest
        alpha = jnp.stack([state.signal, state.position / largest, over])
        return {"alpha": alpha[None], "execution": jnp.stack([left, parent, over])[None]}


def _both(x: jax.Array) -> dict[str, jax.Array]:
    return {"alpha": x, "execution": x}


@dataclasses.dataclass(frozen=True)
class LinearDesk:
    """Targets that are linear in signal and position, and a schedule that is the same for every parent."""

    signal_weight: float
    """Of the target [units]."""
    position_weight: float
    """Of the target, between -1 and 1."""
    schedule: np.ndarray
    """float64[n_slices] parts of the parent, adding up to one."""


@dataclasses.dataclass(frozen=True)
class Expected:
    """What a desk comes to per slice in the long run."""

    reward: float
    profit: float
    holding_variance: float
    """Mean square of the position [units**2]."""
    shortfall: float
    """Per parent [currency]; 0 for a rule without parents."""
    parent: float
    """Mean size of a parent [units]; 0 for a rule without."""


def expected(desk: LinearDesk, params: DeskParams) -> Expected:
    """Exactly, from the stationary second moments of signal and position when a parent is decided."""
    a, b = desk.signal_weight, desk.position_weight
    n_slices, edge = len(desk.schedule), float(params.edge)
    fade = float(params.persistence) ** np.arange(n_slices)
    lag = float(params.persistence) ** n_slices
    with_signal = lag * a / (1.0 - lag * b)  # position times signal
    square = (a**2 + 2.0 * a * b * with_signal) / (1.0 - b**2)  # of position, and so of target
    target_signal, target_position = a + b * with_signal, a * with_signal + b * square
    parent = 2.0 * (square - target_position)
    done = np.cumsum(desk.schedule)
    drift = edge * fade * ((1.0 - done) * with_signal + done * target_signal)
    held = (1.0 - done) ** 2 * square + 2.0 * done * (1.0 - done) * target_position + done**2 * square
    cost = float(params.impact) * desk.schedule**2 * parent
    profit = float(np.mean(drift - cost))
    charge = 0.5 * float(params.risk_aversion) * float(params.volatility) ** 2 * float(held.mean())
    shortfall = float(np.sum(edge * fade * target_signal - drift + cost))
    return Expected(profit - charge, profit, float(held.mean()), shortfall, float(np.sqrt(2.0 * parent / np.pi)))


def best_desk(params: DeskParams, n_slices: int, schedule: np.ndarray | None = None) -> LinearDesk:
    """The linear desk that earns most, its schedule free to choose or given. Numerically, on the host."""

    def of(z: np.ndarray) -> LinearDesk:
        parts = np.exp(z[2:] - z[2:].max()) if schedule is None else np.asarray(schedule)
        return LinearDesk(float(z[0]), float(np.tanh(z[1])), parts / parts.sum())

    start = np.concatenate([[0.5, 0.0], np.zeros(n_slices if schedule is None else 0)])
    found = optimize.minimize(lambda z: -expected(of(z), params).reward, start, method="BFGS", options={"gtol": 1e-8})
    return of(found.x)


def garleanu_pedersen(params: DeskParams) -> tuple[float, float]:
    """The best rule of one who sees all and may trade in every slice: each slice trades the rate's part of the way to
    aim * signal. Their propositions 1 and 2 with one asset and one signal, without discounting: (rate, aim [units]).
    """
    variance, aversion = float(params.volatility) ** 2, float(params.risk_aversion)
    cost = 2.0 * float(params.impact) / variance
    a = 0.5 * (np.sqrt(aversion**2 + 4.0 * aversion * cost) - aversion)
    aim = float(params.edge) / (aversion * variance) / (1.0 + (1.0 - float(params.persistence)) * a / aversion)
    return float(a / cost), float(aim)


def expected_of_rule(rate: float, aim: float, params: DeskParams) -> Expected:
    """What a rule of that form comes to, from the stationary moments of signal and position."""
    phi, keep = float(params.persistence), 1.0 - rate
    with_signal = rate * aim / (1.0 - keep * phi)
    square = ((rate * aim) ** 2 + 2.0 * rate * keep * aim * phi * with_signal) / (1.0 - keep**2)
    traded = rate**2 * (aim**2 - 2.0 * aim * phi * with_signal + square)
    profit = float(params.edge) * with_signal - float(params.impact) * traded
    charge = 0.5 * float(params.risk_aversion) * float(params.volatility) ** 2 * square
    return Expected(profit - charge, profit, square, 0.0, 0.0)
