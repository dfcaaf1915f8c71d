"""Where no agent is better than another and nothing can be foretold, the meta-controller stays at risk parity.

    python experiments/controlled/meta_null.py [--preset quick]

Four product agents earn returns of one and the same law, alike and independent over time. The meta-controller, which
learns from the utility of growth after costs, may tilt as far as in meta_regimes.py and learns at the same settings. It
is judged without exploration, on episodes of its own: at each rebalance the weights granted are compared with risk
parity at the same exposure, and the difference is held until the next one. `estimate` is the tracking error, the
standard deviation over all rebalances of what that difference returns, a year, mean over seeds. `met` asks that the
upper end of its interval is below the target.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

from meta_picture import by_seed, timeline
from meta_streams import PRESETS, MetaConfig, Played, judged, play
from picture import write_picture
from proof import Verdict, prove, train_seeds

from marljax.envs.controlled.return_streams import ReturnStreams, ReturnStreamsParams, return_streams_params
from marljax.envs.controlled.return_streams_laws import regime_streams
from marljax.evaluation.seeds import seed_interval
from marljax.portfolio.meta_controller import ask

TASK, TARGET = "meta_null", 0.01
WORLD = ReturnStreams(periods=4, episode_steps=64)
"""A period is a week, a rebalance comes every four."""
REBALANCES_A_YEAR = 13


def market() -> ReturnStreamsParams:
    """The world; its numbers are per week."""
    streams = regime_streams(
        mean=np.full((1, 4), 0.003),
        volatility=np.full((1, 4), 0.02),
        correlation=(0.3 + 0.7 * np.eye(4))[None],
        transition=np.ones((1, 1)),
    )
    return return_streams_params(
        streams,
        typical_volatility=np.full(4, 0.04),
        tilt=float(np.log(6.0)),
        gross=1.0,
        cost=0.0005,
        halflife=26.0,
        record_decay=0.8,
        reward_scale=0.03,
        risk_aversion=0.5,
    )


def tracking_error(weights: np.ndarray, base: np.ndarray, growth: np.ndarray) -> np.ndarray:
    """Per year, float64[...], of weights float64[..., E, T, A] against base float64[E, T, A] at the same exposure."""
    off = weights - weights.sum(-1, keepdims=True) * base
    return (off * (growth - 1.0)).sum(-1).std((-2, -1)) * REBALANCES_A_YEAR**0.5


def judge(played: Played, world: ReturnStreamsParams, burn_in: int) -> tuple[Verdict, dict[str, Any]]:
    """The verdict, and what else is worth keeping."""
    weights, base = judged(played.weights, burn_in, 2), judged(played.base, burn_in)
    growth = judged(played.growth, burn_in)
    errors = tracking_error(weights, base, growth)
    low, estimate, high = seed_interval(errors)
    actions = np.random.default_rng(0).uniform(-1.0, 1.0, (*base.shape[:-1], base.shape[-1] + 1)).astype(np.float32)
    random = jax.vmap(jax.vmap(lambda action, base: ask(action, base, world.tilt, world.gross)))(actions, base)
    more = {
        "tracking_error_by_seed": errors,
        "tracking_error_of_random_actions": float(tracking_error(np.asarray(random, np.float64), base, growth)),
        "largest_tilt_of_a_weight": np.abs(weights / weights.sum(-1, keepdims=True) / base - 1.0).mean((1, 2)).max(-1),
        "gross": weights.sum(-1).mean((1, 2)),
        "turnover_per_rebalance": judged(played.turnover, burn_in, 2).mean((1, 2)),
    }
    return Verdict(TASK, estimate, (low, high), TARGET, high < TARGET), more


def main(config: MetaConfig, folder: Path) -> tuple[Verdict, Mapping[str, Any]]:
    """Train, judge, draw."""
    learner, world = config.learner(WORLD), market()
    runners = train_seeds(TASK, learner, world, config, folder, show=("reward",))
    played = play(learner, learner.policy_params(runners), world, config)
    verdict, more = judge(played, world, config.burn_in)
    draw(folder / "picture.html", played, verdict, more)
    return verdict, more


def draw(path: Path, played: Played, verdict: Verdict, more: Mapping[str, Any]) -> None:
    """Every seed's tracking error, and one episode."""
    one = np.log((played.base[0] * played.growth[0]).sum(-1))
    page = [
        (
            by_seed(
                {"learned": 100 * more["tracking_error_by_seed"]},
                "tracking error [% a year]",
                {"target": 100 * TARGET, "random actions": 100 * more["tracking_error_of_random_actions"]},
            ),
            "Against risk parity at the same exposure. Points are seeds.",
        ),
        (
            timeline(
                played.weights[:, 0],
                played.log_growth[:, 0],
                {"the only regime": np.ones(len(one))},
                None,
                {"risk parity, fully invested": one},
            ),
            "One judged episode.",
        ),
    ]
    low, high = verdict.interval
    headline = (
        f"Where there is nothing to know, the meta-controller is {verdict.estimate:.2%} a year "
        f"({low:.2%} to {high:.2%}) off risk parity; less than {TARGET:.0%} was asked for."
    )
    write_picture(path, "Agents that are all the same", headline, page)


if __name__ == "__main__":
    prove(main, TASK, PRESETS, __doc__)
