"""When all correlations go to one, the meta-controller is out before most of the loss is made.

    python experiments/controlled/meta_crash.py [--preset quick]

Four product agents earn alike and nearly independently, until a hidden regime comes in which all move as one and lose;
no agent's own volatility changes. The meta-controller, which learns from the utility of growth alone, is compared with
equal weight, fully invested, on episodes of its own. `estimate` is how much smaller its maximum drawdown is, mean over
episodes and seeds, as a share of equal weight's. `met` also asks that its return is at most a tenth less, and that in
the crashes in which equal weight loses at least `DEEP`, its exposure is down to half of what it was by the rebalance
before equal weight has lost half of all it will lose, on average over crashes with an interval over seeds that excludes
zero.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import plotly.graph_objects as go

sys.path.insert(0, str(Path(__file__).parent))

from meta_picture import by_seed, drawdown, timeline
from meta_streams import PRESETS, MetaConfig, Played, judged, law_of, log_growth, play
from picture import best_line, seed_lines, write_picture
from proof import Verdict, prove, train_seeds

from marljax.envs.controlled.return_streams import ReturnStreams, ReturnStreamsParams, return_streams_params
from marljax.envs.controlled.return_streams_laws import regime_streams
from marljax.envs.controlled.return_streams_solution import beliefs
from marljax.evaluation.figure_style import styled
from marljax.evaluation.seeds import seed_interval

TASK, TARGET = "meta_crash", 0.3
LEAST_RETURN = 0.9
"""Of equal weight's, that the meta-controller has to earn."""
WORLD = ReturnStreams(periods=4, episode_steps=64)
"""A period is a week, a rebalance comes every four."""
DEEP = 0.1
"""Loss of equal weight from its peak that makes a crash one that is judged."""
BEFORE, AFTER = 8, 24
"""Rebalances around a crash's beginning that are looked at."""


class Crashes(NamedTuple):
    """N crashes: where they begin, and how equal weight and the learned strategies fared, rebalance by rebalance."""

    episode: np.ndarray  # int[N]
    begin: np.ndarray  # int[N] the rebalance in whose periods the regime came
    half: np.ndarray  # int[N] rebalances from there until half of equal weight's deepest drawdown is reached
    fall: np.ndarray  # int[seeds, N] until exposure is at most half of what it was before, AFTER where it never is


def market() -> ReturnStreamsParams:
    """The world; its numbers are per week."""

    def alike(correlation: float) -> np.ndarray:
        return np.full((4, 4), correlation) + (1.0 - correlation) * np.eye(4)

    streams = regime_streams(
        mean=np.array([[0.003] * 4, [-0.006] * 4]),
        volatility=np.full((2, 4), 0.02),
        correlation=np.stack([alike(0.1), alike(0.98)]),
        transition=np.array([[1 - 1 / 260, 1 / 260], [1 / 39, 1 - 1 / 39]]),
    )
    return return_streams_params(
        streams,
        typical_volatility=np.full(4, 0.04),
        tilt=float(np.log(6.0)),
        gross=1.0,
        cost=0.0005,
        halflife=4.0,
        record_decay=0.8,
        reward_scale=0.03,
        risk_aversion=0.5,
    )


def find_crashes(exposure: np.ndarray, equal: np.ndarray, regime: np.ndarray, burn_in: int) -> Crashes:
    """From exposures float64[seeds, E, T], equal weight's log growth float64[E, T] and regimes int[E, T, K].

    A crash begins where the last period of a rebalance is the first to end in the regime. Those whose surroundings are
    not all in the episode, or reach into another crash before, are left out, and those in which equal weight loses less
    than DEEP from its peak within AFTER rebalances.
    """
    last = regime[:, :, -1] == 1
    begins = last & ~np.roll(last, 1, axis=1)
    episode, begin, half, fall = [], [], [], []
    for e, b in np.argwhere(begins):
        calm = slice(b - BEFORE, b)
        if b - BEFORE < burn_in or b + AFTER > last.shape[1] or last[e, calm].any():
            continue
        # From the peak of equal weight that the crash ends.
        path = np.cumsum(equal[e, b - BEFORE : b + AFTER])
        loss = -np.expm1(path - np.maximum.accumulate(path))[BEFORE:]
        if loss.max() < DEEP:
            continue
        after = exposure[:, e, b : b + AFTER] <= 0.5 * exposure[:, e, calm].mean(-1, keepdims=True)
        episode.append(e)
        begin.append(b)
        half.append(int(np.argmax(loss >= 0.5 * loss.max())))
        fall.append(np.where(after.any(-1), after.argmax(-1), AFTER))
    return Crashes(np.array(episode, int), np.array(begin, int), np.array(half, int), np.array(fall, int).T)


def judge(played: Played, world: ReturnStreamsParams, burn_in: int) -> tuple[Verdict, dict[str, Any], Crashes]:
    """The verdict, what else is worth keeping, and the crashes."""
    n_periods = played.returns.shape[2]
    even = np.full_like(played.growth, 1.0 / played.growth.shape[-1])
    equal = log_growth(even, played.growth, float(world.cost), float(world.rate), n_periods)
    own, others = judged(played.log_growth, burn_in, 2), judged(equal, burn_in)
    deepest, deepest_equal = drawdown(own).max(-1).mean(-1), drawdown(others).max(-1).mean()
    smaller = 1.0 - deepest / deepest_equal
    earned = own.sum(-1).mean(-1) / others.sum(-1).mean()
    crashes = find_crashes(played.weights.sum(-1), equal, played.regime, burn_in)
    if not crashes.half.size:
        lead, in_time = np.full(len(own), np.nan), np.full(len(own), np.nan)
    else:
        # Weights of rebalance i are held while its periods lose: down at the same index is down before.
        lead, in_time = (crashes.half - crashes.fall).mean(-1), (crashes.fall <= crashes.half).mean(-1)
    low, estimate, high = seed_interval(smaller)
    returns, leads = seed_interval(earned), seed_interval(lead)
    met = estimate >= TARGET and returns[1] >= LEAST_RETURN and leads[0] > 0.0
    more = {
        "drawdown_smaller_by_seed": smaller,
        "maximum_drawdown": deepest,
        "maximum_drawdown_of_equal_weight": deepest_equal,
        "return_over_equal_weights": returns,
        "crashes": crashes.half.size,
        "rebalances_ahead_of_half_the_loss": leads,
        "crashes_in_which_it_is_ahead": seed_interval(in_time),
        "rebalances_until_half_the_loss": float(crashes.half.mean()) if crashes.half.size else None,
        "gross": judged(played.weights, burn_in, 2).sum(-1).mean((1, 2)),
        "turnover_per_rebalance": judged(played.turnover, burn_in, 2).mean((1, 2)),
    }
    return Verdict(TASK, estimate, (low, high), TARGET, met), more, crashes


def main(config: MetaConfig, folder: Path) -> tuple[Verdict, Mapping[str, Any]]:
    """Train, judge, draw."""
    learner, world = config.learner(WORLD), market()
    runners = train_seeds(TASK, learner, world, config, folder, show=("reward",))
    played = play(learner, learner.policy_params(runners), world, config)
    verdict, more, crashes = judge(played, world, config.burn_in)
    draw(folder / "picture.html", played, crashes, world, verdict, more)
    return verdict, more


def draw(
    path: Path,
    played: Played,
    crashes: Crashes,
    world: ReturnStreamsParams,
    verdict: Verdict,
    more: Mapping[str, Any],
) -> None:
    """All crashes on top of each other, one of them as it went, and every seed's drawdown."""
    n_periods = played.returns.shape[2]
    even = np.full_like(played.growth, 1.0 / played.growth.shape[-1])
    equal = log_growth(even, played.growth, float(world.cost), float(world.rate), n_periods)
    page = []
    if crashes.half.size:
        at = crashes.begin[:, None] + np.arange(-BEFORE, AFTER)
        exposure = played.weights.sum(-1)[:, crashes.episode[:, None], at].mean(1)
        lost = drawdown(equal[crashes.episode[:, None], at]).mean(0)
        x = np.arange(-BEFORE, AFTER)
        around = go.Figure()
        around.add_trace(best_line(x, lost / lost.max(), "equal weight's drawdown over its deepest", legend=True))
        for trace in seed_lines(x, exposure, "exposure, seed by seed", legend=True):
            around.add_trace(trace)
        around.update_xaxes(title_text="rebalances from the beginning of a crash")
        page.append((styled(around, 380, n_lines=2, top=40), f"Means over {crashes.half.size} crashes."))
    e = int(crashes.episode[0]) if crashes.half.size else 0
    known = beliefs(law_of(world.streams), played.returns[e])
    timed = timeline(
        played.weights[:, e],
        played.log_growth[:, e],
        {"correlations at one": known[:, 1]},
        None,
        {"equal weight": equal[e]},
    )
    page.append((timed, "One judged episode. The probability is that of who knows the law and sees every return."))
    page.append(
        (
            by_seed({"learned": more["drawdown_smaller_by_seed"]}, "drawdown smaller by", {"target": TARGET}),
            "Maximum drawdown against equal weight's. Points are seeds.",
        )
    )
    low, high = verdict.interval
    headline = (
        f"The maximum drawdown is {verdict.estimate:.0%} smaller than equal weight's ({low:.0%} to {high:.0%}) at "
        f"{more['return_over_equal_weights'][1]:.0%} of its return."
    )
    write_picture(path, "Correlations go to one", headline, page)


if __name__ == "__main__":
    prove(main, TASK, PRESETS, __doc__)
