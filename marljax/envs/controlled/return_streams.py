"""Capital allocated among streams of returns whose law is known: the meta-controller's problem without its markets.

What stands between action and capital is the chain of the full hierarchy, function by function: `observe`, `ask`,
`guard`, with risk parity on a causal covariance as base. So what is proven here is what runs there; only where returns
come from differs, and that is data (`return_streams_laws.py`).
"""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from marljax.data.schema import InputError
from marljax.envs.controlled.return_streams_laws import StreamRows, Streams
from marljax.envs.environment import Box, Environment, Step
from marljax.portfolio import covariance
from marljax.portfolio.brake import BrakeState, released
from marljax.portfolio.covariance import CovarianceState
from marljax.portfolio.guardrails import Guardrails, guard, guardrails, limits
from marljax.portfolio.meta_controller import (
    PORTFOLIO_FEATURES,
    MarketView,
    TrackRecord,
    ask,
    observation_size,
    observe,
)
from marljax.portfolio.risk_parity import equal_weight, risk_parity

_LEAST_GROWTH = 0.01
_TURBULENT = 1.5
"""Volatility over its typical one that counts as turbulent; its inverse is calm."""


@struct.dataclass
class ReturnStreamsParams:
    """Build it with `return_streams_params`."""

    streams: Streams
    typical_volatility: jax.Array  # float32[A] of the agents' returns per rebalance
    rails: Guardrails
    tilt: jax.Array  # float32[] log factor of a full tilt
    gross: jax.Array  # float32[] largest exposure that may be asked for [fraction of equity]
    cost: jax.Array  # float32[] of a rebalance per unit of turnover [fraction of equity]
    rate: jax.Array  # float32[] that cash earns and loans cost, per period
    halflife: jax.Array  # float32[] of the covariance [periods]
    shrinkage: jax.Array  # float32[] of its correlations, 0 to 1, where nothing is known of them
    balanced: jax.Array  # float32[] share of risk parity in the base, the rest is equal weight
    seen: jax.Array  # float32[PORTFOLIO_FEATURES] one for what is observed, zero for what is hidden
    record_decay: jax.Array  # float32[] weight of the past in the agents' track record, per rebalance
    reward_scale: jax.Array  # float32[] log return per rebalance that counts as one
    risk_aversion: jax.Array  # float32[] reward units per squared reward


@struct.dataclass
class ReturnStreamsState:
    position: jax.Array  # int32[] of the streams
    elapsed: jax.Array  # int32[] rebalances in this episode
    moments: CovarianceState  # of the agents' returns per period
    covariance: jax.Array  # float32[A, A] of returns per rebalance, known now
    market: MarketView  # likewise
    usual_correlation: jax.Array  # float32[] slowly moving mean of the mean pairwise correlation
    record: TrackRecord
    weights: jax.Array  # float32[A] held now, drifted since the last rebalance, fractions of equity
    brake: BrakeState
    equity: jax.Array  # float32[] over that at the start
    peak: jax.Array  # float32[] highest equity so far


@dataclasses.dataclass(frozen=True)
class ReturnStreams(Environment[ReturnStreamsState, ReturnStreamsParams]):
    """One step is one rebalance and the `periods` after it, through which what is held drifts.

    Observation float32[observation_size(A)], see `marljax.portfolio.meta_controller.observe`. Action float32[A + 1]
    in [-1, 1], see `ask`. Reward: log growth of equity in units of `reward_scale`, less `risk_aversion / 2` times its
    square. Never terminates; truncates after `episode_steps`. An episode starts in cash, after `warmup_steps` in which
    nothing is held but the agents are watched.

    `info`: `asked` and `granted` weights, `held` before the rebalance, `base`, float32[A] each; `intervention`;
    `growth` float32[A] of capital left to each agent; `log_growth` of equity and `turnover`, float32[]; `returns`
    float32[K, A] and `regime` int32[K] of each period.
    """

    periods: int = 5
    episode_steps: int = 64
    warmup_steps: int = 8

    def __post_init__(self) -> None:
        if min(self.periods, self.episode_steps, self.warmup_steps) < 1:
            raise InputError(f"periods, episode_steps and warmup_steps must be at least 1, got {self}")

    def observation_space(self, params: ReturnStreamsParams) -> Box:
        return Box(-5.0, 5.0, (observation_size(params.typical_volatility.shape[0]),))

    def action_space(self, params: ReturnStreamsParams) -> Box:
        return Box(-1.0, 1.0, (params.typical_volatility.shape[0] + 1,))

    def reset_env(self, key: jax.Array, params: ReturnStreamsParams) -> tuple[jax.Array, ReturnStreamsState]:
        start_key, key = jax.random.split(key)
        n_agents, one = params.typical_volatility.shape[0], jnp.ones((), jnp.float32)
        flat = jnp.zeros(n_agents, jnp.float32)
        moments = covariance.init(n_agents)
        # A row of the typical size makes the first covariance that of a market of which nothing else is known.
        typical = params.typical_volatility / jnp.sqrt(1.0 * self.periods)
        moments = dataclasses.replace(moments, covariance=jnp.diag(typical**2), weight=one, squared_weight=0.5 * one)
        state = ReturnStreamsState(
            position=params.streams.start(start_key, (self.warmup_steps + self.episode_steps) * self.periods),
            elapsed=jnp.zeros((), jnp.int32),
            moments=moments,
            covariance=jnp.diag(params.typical_volatility**2),
            market=MarketView(flat, flat, params.typical_volatility, one, one, one),
            usual_correlation=jnp.zeros((), jnp.float32),
            record=TrackRecord.start(n_agents, params.typical_volatility),
            weights=flat,
            brake=released(one),
            equity=one,
            peak=one,
        )

        def watch(state: ReturnStreamsState, key: jax.Array) -> tuple[ReturnStreamsState, None]:
            return self._watch(key, state, params)[0], None

        state, _ = jax.lax.scan(watch, state, jax.random.split(key, self.warmup_steps))
        state = self._view(state, params)
        return self._observe(state, params), state

    def step_env(
        self, key: jax.Array, state: ReturnStreamsState, action: jax.Array, params: ReturnStreamsParams
    ) -> Step:
        asked = ask(jnp.clip(action, -1.0, 1.0), state.market.base, params.tilt, params.gross)
        return self.rebalance(key, state, asked, params)

    def rebalance(
        self, key: jax.Array, state: ReturnStreamsState, asked: jax.Array, params: ReturnStreamsParams
    ) -> Step:
        """`step_env` for whoever asks for weights, float32[A], without an action."""
        base, held = state.market.base, state.weights
        brake, granted, intervention = guard(params.rails, state.brake, asked, held, state.covariance, state.equity)
        turnover = jnp.abs(granted - held).sum()
        state, rows = self._watch(key, state, params)
        growth = jnp.prod(1.0 + rows.returns, axis=0)
        invested = granted * growth
        cash = (1.0 - granted.sum()) * (1.0 + params.rate) ** self.periods
        gross_growth = jnp.maximum(invested.sum() + cash, _LEAST_GROWTH)
        log_growth = jnp.log(gross_growth) + jnp.log1p(-jnp.minimum(params.cost * turnover, 0.5))
        equity = state.equity * jnp.exp(log_growth)
        state = dataclasses.replace(
            self._view(state, params),
            elapsed=state.elapsed + 1,
            weights=invested / gross_growth,
            brake=brake,
            equity=equity,
            peak=jnp.maximum(state.peak, equity),
        )
        scaled = log_growth / params.reward_scale
        reward = scaled - 0.5 * params.risk_aversion * scaled**2
        info = {
            "asked": asked,
            "granted": granted,
            "held": held,
            "base": base,
            "intervention": intervention,
            "growth": growth,
            "log_growth": log_growth,
            "turnover": turnover,
            "returns": rows.returns,
            "regime": rows.regime,
        }
        over = state.elapsed >= self.episode_steps
        return self._observe(state, params), state, reward, jnp.zeros((), bool), over, info

    def _watch(
        self, key: jax.Array, state: ReturnStreamsState, params: ReturnStreamsParams
    ) -> tuple[ReturnStreamsState, StreamRows]:
        """The periods up to the next rebalance, and the agents' record and moments after them."""
        position, rows = params.streams.draw(key, state.position, self.periods)

        def add(moments: CovarianceState, row: jax.Array) -> tuple[CovarianceState, None]:
            return covariance.update(moments, row, params.halflife), None

        moments, _ = jax.lax.scan(add, state.moments, rows.returns)
        record = state.record.update(
            jnp.prod(1.0 + rows.returns, axis=0) - 1.0,
            rows.turnover.sum(0),
            rows.confidence.mean(0),
            params.record_decay,
        )
        usual = params.record_decay * state.usual_correlation + (1.0 - params.record_decay) * _mean_correlation(
            moments.covariance
        )
        state = dataclasses.replace(state, position=position, moments=moments, record=record, usual_correlation=usual)
        return state, rows

    def _view(self, state: ReturnStreamsState, params: ReturnStreamsParams) -> ReturnStreamsState:
        """With what is known of the market now."""
        matrix = self.periods * covariance.covariance(state.moments, params.shrinkage)
        volatility = jnp.sqrt(jnp.diagonal(matrix))
        correlation = _mean_correlation(state.moments.covariance)
        stress = jnp.log(volatility / params.typical_volatility) / jnp.log(_TURBULENT)
        market = MarketView(
            base=params.balanced * risk_parity(matrix) + (1.0 - params.balanced) * equal_weight(matrix),
            volatility=volatility,
            typical_volatility=params.typical_volatility,
            correlation=correlation,
            correlation_change=correlation - state.usual_correlation,
            volatility_regime=jnp.clip(stress, -1.0, 1.0).mean(),
        )
        return dataclasses.replace(state, covariance=matrix, market=market)

    def _observe(self, state: ReturnStreamsState, params: ReturnStreamsParams) -> jax.Array:
        seen = observe(state.record, state.market, state.weights, 1.0 - state.equity / state.peak)
        return seen.at[-len(PORTFOLIO_FEATURES) :].multiply(params.seen)


def _mean_correlation(matrix: jax.Array) -> jax.Array:
    """float32[] of all pairs of float32[A, A]."""
    n = matrix.shape[0]
    volatility = jnp.sqrt(jnp.maximum(jnp.diagonal(matrix), 1e-20))
    return ((matrix / jnp.outer(volatility, volatility)).sum() - n) / max(n * (n - 1), 1)


def return_streams_params(
    streams: Streams,
    typical_volatility: np.ndarray,
    *,
    rails: Guardrails | None = None,
    tilt: float = float(np.log(3.0)),
    gross: float = 1.0,
    cost: float = 0.0,
    rate: float = 0.0,
    halflife: float = 20.0,
    shrinkage: float = 0.1,
    balanced: float = 1.0,
    unseen: Sequence[str] = (),
    record_decay: float = 0.9,
    reward_scale: float = 0.01,
    risk_aversion: float = 0.1,
) -> ReturnStreamsParams:
    """The world from host numbers, checked; fields and units as in `ReturnStreamsParams`.

    `unseen` are the features of the portfolio, by their names in PORTFOLIO_FEATURES, that are hidden from the policy.
    Without `rails` nothing limits but long-only positions of at most all equity each, and `gross` for their sum.
    """
    typical = np.asarray(typical_volatility, np.float64)
    if typical.shape != (streams.n_agents,) or not (np.isfinite(typical).all() and (typical > 0).all()):
        raise InputError(f"typical_volatility must be {streams.n_agents} positive numbers, got {typical.tolist()}")
    positive = {"gross": gross, "halflife": halflife, "reward_scale": reward_scale}
    not_negative = {"tilt": tilt, "cost": cost, "risk_aversion": risk_aversion}
    for name, value in positive.items():
        if not value > 0:
            raise InputError(f"{name} must be positive, got {value!r}")
    for name, value in not_negative.items():
        if not (np.isfinite(value) and value >= 0):
            raise InputError(f"{name} must be finite and not negative, got {value!r}")
    if not 0 <= record_decay < 1:
        raise InputError(f"record_decay must be at least 0 and below 1, got {record_decay!r}")
    for name, value in {"shrinkage": shrinkage, "balanced": balanced}.items():
        if not 0 <= value <= 1:
            raise InputError(f"{name} must be at least 0 and at most 1, got {value!r}")
    if unknown := sorted(set(unseen) - set(PORTFOLIO_FEATURES)):
        raise InputError(f"unseen must be among {', '.join(PORTFOLIO_FEATURES)}, got {', '.join(unknown)}")
    if rails is None:
        rails = guardrails(limits(streams.n_agents, leverage=gross, max_weight=max(1.0, gross)))
    numbers = {
        "tilt": tilt,
        "gross": gross,
        "cost": cost,
        "rate": rate,
        "halflife": halflife,
        "shrinkage": shrinkage,
        "balanced": balanced,
        "record_decay": record_decay,
        "reward_scale": reward_scale,
        "risk_aversion": risk_aversion,
    }
    return ReturnStreamsParams(
        streams=streams,
        typical_volatility=jnp.asarray(typical, jnp.float32),
        rails=rails,
        seen=jnp.asarray([name not in unseen for name in PORTFOLIO_FEATURES], jnp.float32),
        **{name: jnp.float32(value) for name, value in numbers.items()},
    )
