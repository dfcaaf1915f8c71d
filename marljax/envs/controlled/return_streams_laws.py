"""Where the returns of a controlled portfolio world come from: a hidden Markov law, or a recording.

Either is data with two functions, `start` and `draw`, so that a world does not know which it has. Returns are simple,
per period, on the capital that an agent was given, net of what its own trading cost.
"""

from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from marljax.data.schema import InputError

_LEAST_RETURN = -0.99
"""Nobody loses more than was given: a return below is this one."""


class StreamRows(NamedTuple):
    """What A agents did in each of K periods."""

    returns: jax.Array  # float32[K, A] on capital
    turnover: jax.Array  # float32[K, A] notional traded over capital
    confidence: jax.Array  # float32[K, A] absolute signal, 0 to 1
    regime: jax.Array  # int32[K] the hidden regime of each period, -1 where nobody knows; never observed


class Streams(Protocol):
    """A law of returns."""

    @property
    def n_agents(self) -> int: ...

    def start(self, key: jax.Array, n_periods: int) -> jax.Array:
        """Where an episode of `n_periods` starts, int32[]."""
        ...

    def draw(self, key: jax.Array, position: jax.Array, n_periods: int) -> tuple[jax.Array, StreamRows]:
        """The next `n_periods` periods from a position int32[], and the position after them."""
        ...


@struct.dataclass
class RegimeStreams:
    """Normal returns whose means, volatilities and correlations switch with a hidden Markov chain (Hamilton 1989).

    Build it with `regime_streams`. The position is the regime of the last period.
    """

    mean: jax.Array  # float32[S, A] per period
    volatility: jax.Array  # float32[S, A] per period
    root: jax.Array  # float32[S, A, A] lower triangular, root @ root.T is the correlation
    transition: jax.Array  # float32[S, S] row by row from which regime to which, per period
    first: jax.Array  # float32[S] probabilities of the regime before the first period
    turnover: jax.Array  # float32[A] of every period

    @property
    def n_agents(self) -> int:
        return self.mean.shape[-1]

    def start(self, key: jax.Array, n_periods: int) -> jax.Array:
        return _pick(jax.random.uniform(key), self.first)

    def draw(self, key: jax.Array, position: jax.Array, n_periods: int) -> tuple[jax.Array, StreamRows]:
        switch_key, news_key = jax.random.split(key)

        def switch(regime: jax.Array, chance: jax.Array) -> tuple[jax.Array, jax.Array]:
            regime = _pick(chance, self.transition[regime])
            return regime, regime

        position, regime = jax.lax.scan(switch, position, jax.random.uniform(switch_key, (n_periods,)))
        news = jax.random.normal(news_key, (n_periods, self.n_agents))
        moves = jnp.einsum("kab,kb->ka", self.root[regime], news)
        returns = jnp.maximum(self.mean[regime] + self.volatility[regime] * moves, _LEAST_RETURN)
        turnover = jnp.broadcast_to(self.turnover, returns.shape)
        return position, StreamRows(returns, turnover, jnp.ones_like(returns), regime)


@struct.dataclass
class RecordedStreams:
    """What A agents did in T periods, one row after the other. Build it with `recorded_streams`.

    The position is the next row. An episode starts at random where it fits into the recording.
    """

    returns: jax.Array  # float32[T, A]
    turnover: jax.Array  # float32[T, A]
    confidence: jax.Array  # float32[T, A]

    @property
    def n_agents(self) -> int:
        return self.returns.shape[-1]

    def start(self, key: jax.Array, n_periods: int) -> jax.Array:
        spare = self.returns.shape[0] - n_periods
        if spare < 0:
            raise InputError(
                f"a recording of {self.returns.shape[0]} periods is too short for an episode of {n_periods}: "
                "shorten the episode or its warm-up"
            )
        return jax.random.randint(key, (), 0, spare + 1)

    def draw(self, key: jax.Array, position: jax.Array, n_periods: int) -> tuple[jax.Array, StreamRows]:
        def rows(x: jax.Array) -> jax.Array:
            return jax.lax.dynamic_slice_in_dim(x, position, n_periods)

        returns = jnp.maximum(rows(self.returns), _LEAST_RETURN)
        unknown = jnp.full(n_periods, -1, jnp.int32)
        return position + n_periods, StreamRows(returns, rows(self.turnover), rows(self.confidence), unknown)


def _pick(chance: jax.Array, probabilities: jax.Array) -> jax.Array:
    """int32[] the index into float32[S] at a uniform float32[]."""
    below = (jnp.cumsum(probabilities) <= chance).sum()
    return jnp.minimum(below, probabilities.shape[0] - 1).astype(jnp.int32)


def stationary(transition: np.ndarray) -> np.ndarray:
    """float64[S] the long-run share of each regime under float[S, S]."""
    n = transition.shape[0]
    system = np.vstack([np.asarray(transition, np.float64).T - np.eye(n), np.ones(n)])
    return np.linalg.lstsq(system, np.append(np.zeros(n), 1.0), rcond=None)[0]


def regime_streams(
    mean: np.ndarray,
    volatility: np.ndarray,
    correlation: np.ndarray,
    transition: np.ndarray,
    *,
    first: np.ndarray | None = None,
    turnover: float | np.ndarray = 0.0,
) -> RegimeStreams:
    """The law of S regimes and A agents from host numbers, checked.

    `mean`, `volatility` float[S, A] per period, `correlation` float[S, A, A], `transition` float[S, S] per period.
    `first` float[S] is where an episode comes from, in the long run's shares unless given; `turnover` is what agents
    trade in every period. Raises InputError for shapes that do not fit, volatilities that are not positive, rows that
    are no probabilities, and a correlation that is not positive definite with a diagonal of ones.
    """
    mean, volatility, correlation, transition = (
        np.asarray(x, np.float64) for x in (mean, volatility, correlation, transition)
    )
    if mean.ndim != 2:
        raise InputError(f"regime_streams: mean must be [regimes, agents], got shape {mean.shape}")
    n_regimes, n_agents = mean.shape
    wanted = {
        "volatility": (volatility, (n_regimes, n_agents)),
        "correlation": (correlation, (n_regimes, n_agents, n_agents)),
        "transition": (transition, (n_regimes, n_regimes)),
    }
    for name, (array, shape) in wanted.items():
        if array.shape != shape:
            raise InputError(f"regime_streams: {name} must have shape {shape} to go with mean, got {array.shape}")
    if not (np.isfinite(mean).all() and np.isfinite(volatility).all() and (volatility > 0).all()):
        raise InputError("regime_streams: means must be finite, and volatilities positive and finite")
    if not ((transition >= 0).all() and np.allclose(transition.sum(1), 1.0, atol=1e-9)):
        raise InputError(f"regime_streams: every row of transition must be probabilities, got {transition.tolist()}")
    first = stationary(transition) if first is None else np.asarray(first, np.float64)
    if not (first.shape == (n_regimes,) and (first >= -1e-9).all() and np.isclose(first.sum(), 1.0, atol=1e-9)):
        raise InputError(f"regime_streams: first must be {n_regimes} probabilities, got {first.tolist()}")
    unit = np.allclose(np.diagonal(correlation, axis1=1, axis2=2), 1.0)
    symmetric = np.allclose(correlation, np.swapaxes(correlation, 1, 2))
    if not (unit and symmetric and np.linalg.eigvalsh(correlation).min() > 0):
        raise InputError("regime_streams: every correlation must be positive definite with a diagonal of ones")
    return RegimeStreams(
        mean=jnp.asarray(mean, jnp.float32),
        volatility=jnp.asarray(volatility, jnp.float32),
        root=jnp.asarray(np.linalg.cholesky(correlation), jnp.float32),
        transition=jnp.asarray(transition, jnp.float32),
        first=jnp.asarray(first, jnp.float32),
        turnover=jnp.broadcast_to(jnp.asarray(turnover, jnp.float32), (n_agents,)),
    )


def recorded_streams(
    returns: np.ndarray, turnover: float | np.ndarray = 0.0, confidence: float | np.ndarray = 1.0
) -> RecordedStreams:
    """A recording of `returns` float[T, A] per period, and what agents traded and how sure they were in each, checked.

    Raises InputError for numbers that are not finite, a return of -1 or less, and shapes that do not fit.
    """
    returns = np.asarray(returns, np.float64)
    if returns.ndim != 2 or returns.shape[0] < 1:
        raise InputError(f"recorded_streams: returns must be [periods, agents], got shape {returns.shape}")
    if not (np.isfinite(returns).all() and (returns > -1).all()):
        row, agent = np.argwhere(~(np.isfinite(returns) & (returns > -1)))[0]
        raise InputError(
            f"recorded_streams: returns must be finite and above -1, got {returns[row, agent]} of agent {agent} in "
            f"period {row}"
        )
    rest = {}
    for name, value in {"turnover": turnover, "confidence": confidence}.items():
        given = np.asarray(value, np.float64)
        if given.shape not in ((), returns.shape) or not (np.isfinite(given).all() and (given >= 0).all()):
            raise InputError(
                f"recorded_streams: {name} must be finite, not negative, and one number or of shape {returns.shape}"
            )
        rest[name] = jnp.asarray(np.broadcast_to(given, returns.shape), jnp.float32)
    return RecordedStreams(returns=jnp.asarray(returns, jnp.float32), **rest)
