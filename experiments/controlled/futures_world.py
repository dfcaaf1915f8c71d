"""The world in which capital is allocated among futures agents, and the strategies that are compared in it.

A rebalance is a week of five sessions. Everybody stands under the same guardrails and pays the same for reallocating:
what it costs on average over the agents of the development part to sell what they hold. The base is risk parity, and
an exposure of one is asked for by all who do not choose theirs; a meta-controller that has learned nothing holds it.
"""

import dataclasses
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import stream_strategies
from futures import CLASSES, read_futures
from futures_agents import AGENT_CLASSES, AGENTS, Records, records
from stream_accounts import Seen, hold
from walk_forward import Fold, compounded, fold_of, folds

from marljax.envs.controlled.return_streams import ReturnStreams, ReturnStreamsParams, return_streams_params
from marljax.envs.controlled.return_streams_laws import recorded_streams
from marljax.portfolio.bidding import AuctionConfig
from marljax.portfolio.brake import brake
from marljax.portfolio.guardrails import Guardrails, guardrails, limits

WEEK, WEEKS_A_YEAR = 5, 52
BEGIN, JUDGED = np.datetime64("2002-01-01"), np.datetime64("2010-01-01")
"""From the first on there are two years of every rule's signals or one; what lies before the second is development."""
TRAIN, TEST = 6 * WEEKS_A_YEAR * WEEK, 3 * WEEKS_A_YEAR * WEEK
"""Of a fold [rows]."""
DEVELOPMENT_TEST = 2 * WEEKS_A_YEAR * WEEK
WORLD = ReturnStreams(periods=WEEK, episode_steps=64, warmup_steps=26)
COST = 0.0003
"""Of a unit of capital that is moved: 2.6 basis points on average before JUDGED, rounded up."""
EXPOSURE = 0.6
"""Of a fresh meta-controller [fraction of the largest]."""
GROSS = 1.0 / EXPOSURE
"""So that it holds an exposure of one."""
VOLATILITY_LIMIT, EQUAL_WEIGHT_TARGET = 0.04, 0.025
"""Of the portfolio, a year: what the guardrails allow, and the target of equal weight with one."""
SCALE, AVERSION = 0.003, 0.1
"""A typical week's log return, which counts as one, and what its square costs."""


class Study(NamedTuple):
    """Recorded agents, cut for walking forward."""

    dates: np.ndarray  # datetime64[T]
    records: Records  # [T, A]
    cut: tuple[Fold, ...]

    @property
    def judged(self) -> slice:
        """Rows of all test parts."""
        return slice(self.cut[0].test.start, self.cut[-1].test.stop)

    @property
    def n_rebalances(self) -> int:
        return (self.judged.stop - self.judged.start) // WEEK

    @property
    def weeks(self) -> np.ndarray:
        """datetime64[N] the last day of each judged week."""
        return self.dates[self.judged].reshape(-1, WEEK)[:, -1]


def study(folder: Path, part: str) -> Study:
    """The judged part from JUDGED on, or the development part: one fold that ends where the judged part begins."""
    futures = read_futures(folder)
    kept = futures.dates >= BEGIN
    if part == "development":
        kept &= futures.dates < JUDGED
    dates = futures.dates[kept]
    own = Records(*(x[kept] for x in records(futures)))
    first = len(dates) - DEVELOPMENT_TEST if part == "development" else int(np.searchsorted(dates, JUDGED))
    return Study(dates, own, folds(len(dates), first, train=min(TRAIN, first), test=TEST, periods=WEEK))


def rails() -> Guardrails:
    """Of everybody."""
    return guardrails(
        limits(
            len(AGENTS),
            leverage=GROSS,
            max_weight=0.25,
            turnover=0.5,
            classes=AGENT_CLASSES,
            class_cap=np.full(len(CLASSES), 0.6),
        ),
        volatility_target=VOLATILITY_LIMIT / WEEKS_A_YEAR**0.5,
        brake=brake(0.1, cooldown=13),
    )


def world(part: Study, rows: slice, typical: slice) -> ReturnStreamsParams:
    """Over some rows, with the agents' typical volatility from others."""
    own = Records(*(x[rows] for x in part.records))
    whole = part.records.returns[typical]
    whole = whole[len(whole) % WEEK :]
    return return_streams_params(
        recorded_streams(own.returns, own.turnover, own.confidence),
        typical_volatility=compounded(whole, WEEK).std(0),
        rails=rails(),
        tilt=float(np.log(3.0)),
        gross=GROSS,
        cost=COST,
        halflife=65.0,
        record_decay=0.95,
        reward_scale=SCALE,
        risk_aversion=AVERSION,
    )


def training_worlds(part: Study) -> ReturnStreamsParams:
    """One world for each fold, leaves [folds, ...], of nothing but what lies before the fold."""
    worlds = [world(part, fold.train, fold.train) for fold in part.cut]
    return jax.tree.map(lambda *x: jnp.stack(x), *worlds)


def judged_world(part: Study, env: ReturnStreams) -> tuple[ReturnStreams, ReturnStreamsParams]:
    """The world of the joined track, which begins with the warm-up before the first fold."""
    rows = slice(part.judged.start - env.warmup_steps * WEEK, part.judged.stop)
    return dataclasses.replace(env, episode_steps=part.n_rebalances), world(part, rows, part.cut[0].train)


def fold_at(part: Study) -> jax.Array:
    """int32[N] the fold of every judged rebalance."""
    return jnp.asarray(fold_of(part.cut, WEEK), jnp.int32)


def asked_by_others(part: Study, env: ReturnStreams, params: ReturnStreamsParams) -> dict[str, np.ndarray]:
    """What every strategy but the meta-controller asks for, float64[N, A] by name."""
    nothing = jnp.zeros((1, part.n_rebalances, len(AGENTS)))
    seen: Seen = jax.jit(lambda asked: hold(env, params, asked)[1])(nothing)
    begin = part.judged.start - stream_strategies.WINDOW * WEEK
    past = compounded(part.records.returns[begin : part.judged.stop], WEEK)
    aversion = AVERSION / SCALE
    target = EQUAL_WEIGHT_TARGET / WEEKS_A_YEAR**0.5
    return (
        stream_strategies.in_loop(seen, target, GROSS)
        | stream_strategies.on_host(seen, past, aversion)
        | {"auction": stream_strategies.by_auction(seen, params.rails, aversion, AuctionConfig())}
    )
