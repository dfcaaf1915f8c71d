"""Capital among agents whose returns switch regime, where the best allocation is known: the meta-controller against it.

    python experiments/controlled/meta_regimes.py [--preset quick]

Four product agents earn returns by a hidden Markov law: in one regime the first two earn and the others are wild and
idle, in another it is the other way round, in the third all are wild and lose together. The meta-controller sees what
it always sees and learns from the utility of growth alone. Its certainty equivalent over cash, net of costs, is
compared with that of the optimum: Hamilton's filter on every return, the law known, and the best allocation at each
belief, rebalanced for nothing. `estimate` is the share of it, mean over seeds. `met` also asks that it beats risk
parity and equal weight at the constant exposures that would have been best for them on these very episodes, and the
best fixed mix, each with an interval over seeds that excludes zero.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

from meta_picture import by_seed, timeline
from meta_streams import PRESETS, MetaConfig, Played, investor_of, judged, law_of, log_growth, play
from picture import write_picture
from proof import Verdict, prove, train_seeds

from marljax.envs.controlled.return_streams import ReturnStreams, ReturnStreamsParams, return_streams_params
from marljax.envs.controlled.return_streams_laws import regime_streams
from marljax.envs.controlled.return_streams_solution import beliefs, solve
from marljax.evaluation.seeds import seed_interval

TASK, TARGET = "meta_regimes", 0.95
WORLD = ReturnStreams(periods=4, episode_steps=64)
"""A period is a week, a rebalance comes every four."""
EXPOSURES = 40
"""Constant exposures tried for each strategy that is not learned."""
REGIMES = ("first pair earns", "second pair earns", "all lose")


def correlation(within: float, across: float) -> np.ndarray:
    """float64[4, 4] of two pairs of agents."""
    matrix = np.full((4, 4), across)
    matrix[:2, :2] = matrix[2:, 2:] = within
    np.fill_diagonal(matrix, 1.0)
    return matrix


def market(**numbers: Any) -> ReturnStreamsParams:
    """The world; its numbers are per week. `numbers` are of `return_streams_params`, beside those of this market."""
    earn, idle, lose = 0.00425, 0.0005, -0.005
    calm, wild = 0.0139, 0.028
    pairs = correlation(0.4, -0.1)
    streams = regime_streams(
        mean=np.array([[earn, earn, idle, idle], [idle, idle, earn, earn], [lose] * 4]),
        volatility=np.array([[calm, calm, wild, wild], [wild, wild, calm, calm], [wild] * 4]),
        correlation=np.stack([pairs, pairs, correlation(0.8, 0.8)]),
        transition=np.array(
            [
                [1 - 1 / 416, 0.6 / 416, 0.4 / 416],
                [0.6 / 416, 1 - 1 / 416, 0.4 / 416],
                [0.5 / 104, 0.5 / 104, 1 - 1 / 104],
            ]
        ),
    )
    return return_streams_params(
        streams,
        typical_volatility=np.full(4, 2.0 * calm),
        tilt=float(np.log(6.0)),
        gross=1.25,
        cost=0.0005,
        halflife=4.0,
        record_decay=0.8,
        reward_scale=0.03,
        risk_aversion=0.5,
        **numbers,
    )


def judge(played: Played, world: ReturnStreamsParams, burn_in: int) -> tuple[Verdict, dict[str, Any], np.ndarray]:
    """The verdict, what else is worth keeping, and the optimum's weights float64[E, T, A].

    A certainty equivalent is the sure log growth per rebalance worth as much as the expected utility, less cash's.
    """
    law, investor, n_periods = law_of(world.streams), investor_of(world), played.returns.shape[2]
    cost, cash = float(world.cost), n_periods * np.log1p(investor.rate)
    best = solve(law, n_periods, investor)
    weights = best(beliefs(law, played.returns))

    def worth(growth: np.ndarray) -> float:
        utility = investor.utility(judged(growth, burn_in)).mean()
        return float(investor.certainty_equivalent(utility)) - cash

    def grown(weights: np.ndarray, cost: float = cost) -> np.ndarray:
        return log_growth(weights, played.growth, cost, investor.rate, n_periods)

    def best_constant(shape: np.ndarray) -> float:
        return max(worth(grown(x * shape)) for x in np.linspace(0.0, investor.gross, EXPOSURES + 1)[1:])

    optimum = worth(grown(weights, cost=0.0))
    fixed = {
        "risk_parity": best_constant(played.base),
        "equal_weight": best_constant(np.full_like(weights, 1.0 / weights.shape[-1])),
        "best_fixed_mix": worth(grown(np.broadcast_to(best(law.first), weights.shape))),
    }
    share = np.array([worth(x) for x in played.log_growth]) / optimum
    low, estimate, high = seed_interval(share)
    lead = {name: seed_interval(share - value / optimum) for name, value in fixed.items()}
    met = estimate >= TARGET and all(interval[0] > 0.0 for interval in lead.values())
    more = {
        "optimal_certainty_equivalent": optimum,
        "optimum_paying_costs": worth(grown(weights)) / optimum,
        "share_by_seed": share,
        "share_of_others": {name: value / optimum for name, value in fixed.items()},
        "lead_over": lead,
        "turnover_per_rebalance": judged(played.turnover, burn_in, 2).mean((1, 2)),
        "gross": judged(played.weights, burn_in, 2).sum(-1).mean((1, 2)),
        "optimal_gross": float(judged(weights, burn_in).sum(-1).mean()),
    }
    return Verdict(TASK, estimate, (low, high), TARGET, met), more, weights


def main(config: MetaConfig, folder: Path) -> tuple[Verdict, Mapping[str, Any]]:
    """Train, judge, draw."""
    learner, world = config.learner(WORLD), market()
    runners = train_seeds(TASK, learner, world, config, folder, show=("reward",))
    played = play(learner, learner.policy_params(runners), world, config)
    verdict, more, weights = judge(played, world, config.burn_in)
    draw(folder / "picture.html", played, weights, world, verdict, more)
    return verdict, more


def draw(
    path: Path, played: Played, best: np.ndarray, world: ReturnStreamsParams, verdict: Verdict, more: Mapping[str, Any]
) -> None:
    """The episode in which regimes change most often, and every seed's share of the optimum."""
    changes = (np.diff(played.regime[:, :, 0], axis=1) != 0).sum(1)
    e = int(changes.argmax())
    law, n_periods = law_of(world.streams), played.returns.shape[2]
    known = beliefs(law, played.returns[e])
    others = {"risk parity": played.base[e], "equal weight": np.full_like(best[e], 1.0 / best.shape[-1])}
    paths = {
        name: log_growth(x[None], played.growth[e][None], float(world.cost), float(world.rate), n_periods)[0]
        for name, x in ({"optimum": best[e]} | others).items()
    }
    page = [
        (
            by_seed(
                {"learned": more["share_by_seed"]},
                "share of the optimum",
                {"target": TARGET} | {name.replace("_", " "): value for name, value in more["share_of_others"].items()},
            ),
            "Certainty equivalent over cash as a share of the optimum's. Points are seeds.",
        ),
        (
            timeline(
                played.weights[:, e], played.log_growth[:, e], dict(zip(REGIMES, known.T, strict=True)), best[e], paths
            ),
            "One judged episode. Probabilities are the optimum's; risk parity and equal weight are fully invested.",
        ),
    ]
    low, high = verdict.interval
    headline = (
        f"The meta-controller reaches {verdict.estimate:.1%} of the optimum's certainty equivalent "
        f"({low:.1%} to {high:.1%}, {len(played.weights)} seeds); {TARGET:.0%} was asked for."
    )
    write_picture(path, "Capital among agents whose regimes switch", headline, page)


if __name__ == "__main__":
    prove(main, TASK, PRESETS, __doc__)
