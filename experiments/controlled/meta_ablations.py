"""What the parts of the meta-controller are good for: without one of them it is trained and judged anew.

    python experiments/controlled/meta_ablations.py [--preset quick]

The market is that of meta_regimes.py, under guardrails: a cap of each agent, turnover, a volatility limit and a brake.
Compared with the whole are meta-controllers
- without correlation: covariances are diagonal, so that the base is inverse volatility and the guardrails see none
  either, and the observation's two features of correlation are zero;
- without guardrails: nothing limits but positions from zero to the gross exposure that may be asked for;
- without the base: actions tilt equal weight and not risk parity.

All learn as in the proofs (meta_learner.py) and play the same episodes. What counts is the certainty equivalent
over cash, net of costs, as a share of the optimum's, which knows the law and no guardrails. `estimate` is what the
whole has more of than the best of the three, mean over seeds, `interval` is over seeds. `met` asks that it lies above
zero, so that every part is worth its place. result.json also has drawdown, turnover and costs, and those of the modes
of coordination that do without a policy.
"""

import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import plotly.graph_objects as go

sys.path.insert(0, str(Path(__file__).parent))

import meta_regimes
from meta_modes import MODES, hold_modes
from meta_picture import by_seed, drawdown
from meta_streams import PRESETS, MetaConfig, Played, judged, play
from picture import write_picture
from proof import Verdict, prove, train_seeds

from marljax.envs.controlled.return_streams import ReturnStreamsParams
from marljax.evaluation.figure_style import styled
from marljax.evaluation.seeds import seed_interval
from marljax.portfolio.brake import brake
from marljax.portfolio.guardrails import guardrails, limits

TASK, TARGET = "meta_ablations", 0.0
WHOLE = "whole"
ABLATIONS = ("without_correlation", "without_guardrails", "without_base")
REBALANCES_A_YEAR = 13


def variants() -> dict[str, ReturnStreamsParams]:
    """The whole, and without one of its parts each: one program, other numbers."""
    free = meta_regimes.market()
    n_agents, gross = free.typical_volatility.shape[0], float(free.gross)
    rails = guardrails(
        limits(n_agents, leverage=gross, max_weight=0.6, turnover=0.75),
        volatility_target=0.15 / REBALANCES_A_YEAR**0.5,
        brake=brake(0.15, cooldown=6),
    )
    # Out of reach: nobody turns over more than all he may hold, is that volatile, or loses everything.
    unguarded = guardrails(
        limits(n_agents, leverage=gross, max_weight=gross, turnover=2.0 * gross),
        volatility_target=1e3,
        brake=brake(1.0, cooldown=6),
    )
    market = partial(meta_regimes.market, rails=rails)
    return {
        WHOLE: market(),
        "without_correlation": market(shrinkage=1.0, unseen=("correlation", "correlation_change")),
        "without_guardrails": market(rails=unguarded),
        "without_base": market(balanced=0.0),
    }


def measure(played: Played, world: ReturnStreamsParams, burn_in: int) -> dict[str, Any]:
    """Results of every seed, float64[seeds] by name; rates are a year's."""
    turnover = judged(played.turnover, burn_in, 2).mean((1, 2)) * REBALANCES_A_YEAR
    return {
        "share_of_optimum": meta_regimes.judge(played, world, burn_in)[1]["share_by_seed"],
        "max_drawdown": drawdown(judged(played.log_growth, burn_in, 2)).max(-1).mean(-1),
        "turnover": turnover,
        "cost": turnover * float(world.cost),
        "gross": judged(played.weights, burn_in, 2).sum(-1).mean((1, 2)),
    }


def judge(measured: Mapping[str, Mapping[str, np.ndarray]]) -> tuple[Verdict, dict[str, Any]]:
    """The verdict from what `measure` says of the whole, the ablations and the modes, and all of it with intervals."""
    share = {name: values["share_of_optimum"] for name, values in measured.items()}
    gain = {name: seed_interval(share[WHOLE] - share[name]) for name in ABLATIONS}
    best = max(ABLATIONS, key=lambda name: share[name].mean())
    low, estimate, high = gain[best]
    more = {
        "best_ablation": best,
        "gain_over": gain,
        "results": {
            name: {key: seed_interval(x) if len(x) > 1 else float(x[0]) for key, x in values.items()}
            for name, values in measured.items()
        },
        "share_by_seed": share,
    }
    return Verdict(TASK, estimate, (low, high), TARGET, low > TARGET), more


def main(config: MetaConfig, folder: Path) -> tuple[Verdict, Mapping[str, Any]]:
    """Train all variants side by side, judge, draw."""
    learner, worlds = config.learner(meta_regimes.WORLD), variants()
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *worlds.values())
    runners = train_seeds(TASK, learner, stacked, config, folder, swept=True, show=("reward",))
    measured = {}
    for i, (name, world) in enumerate(worlds.items()):
        params = jax.tree.map(lambda x, i=i: x[:, i], learner.policy_params(runners))
        measured[name] = measure(play(learner, params, world, config), world, config.burn_in)
    modes = measure(hold_modes(learner.env, worlds[WHOLE], config), worlds[WHOLE], config.burn_in)
    measured |= {mode: {key: x[i : i + 1] for key, x in modes.items()} for i, mode in enumerate(MODES)}
    verdict, more = judge(measured)
    draw(folder / "picture.html", measured, verdict, more)
    return verdict, more


def draw(
    path: Path, measured: Mapping[str, Mapping[str, np.ndarray]], verdict: Verdict, more: Mapping[str, Any]
) -> None:
    """Every seed's share of the optimum, and what each way of allocating turns over and loses."""

    def label(name: str) -> str:
        return name.replace("_", " ")

    share = {label(name): measured[name]["share_of_optimum"] for name in (WHOLE, *ABLATIONS)}
    marks = {label(mode): float(measured[mode]["share_of_optimum"][0]) for mode in MODES}
    bars = go.Figure()
    for key, colour in (("turnover", "#3b6fb6"), ("max_drawdown", "#b23b4b")):
        shown = key == "turnover"
        bars.add_bar(
            x=[label(name) for name in measured],
            y=[float(values[key].mean()) * (1.0 if shown else 100.0) for values in measured.values()],
            name="turnover a year, times equity" if shown else "maximum drawdown of an episode, %",
            marker_color=colour,
        )
    low, high = verdict.interval
    best = more["best_ablation"]
    of_all, of_best = (measured[name]["share_of_optimum"].mean() for name in (WHOLE, best))
    headline = (
        f"With all parts it reaches {of_all:.1%} of the optimum's certainty equivalent, {label(best)} {of_best:.1%}: "
        f"a difference of {verdict.estimate:+.1%} ({low:+.1%} to {high:+.1%}, {len(share[WHOLE])} seeds)."
    )
    page = [
        (by_seed(share, "share of the optimum", marks), "Points are seeds, lines the modes without a policy."),
        (styled(bars, 360, n_lines=2, top=50, hover="closest"), "Means over seeds and episodes."),
    ]
    write_picture(path, "What the parts of the meta-controller are good for", headline, page)


if __name__ == "__main__":
    prove(main, TASK, PRESETS, __doc__)
