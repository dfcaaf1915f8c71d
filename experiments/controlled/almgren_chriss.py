"""Optimal execution where the best schedule is known: that of Almgren and Chriss, learned across risk aversions.

    python experiments/controlled/almgren_chriss.py
    python experiments/controlled/almgren_chriss.py --preset quick

One agent for each risk aversion and seed sells a parent order in twenty steps, in the paper's market, and is rewarded
with minus the cost of each step and the price of the risk it holds. Judged is the schedule that it follows without
exploration: what its expected cost plus risk aversion times variance, both exact, are above those of the closed form,
as a share of them. The estimate is the worst risk aversion's, of the mean over seeds; it is to be at most 3 %.
"""

import dataclasses
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

sys.path.insert(0, str(Path(__file__).parent))

from picture import LEARNED, best_line, seed_lines, write_picture
from proof import ProofConfig, Verdict, prove, train_seeds

from marljax.agents import PPO, PPOConfig
from marljax.data.limits import require_positive
from marljax.data.schema import InputError
from marljax.envs.controlled.almgren_chriss import (
    AlmgrenChriss,
    AlmgrenChrissParams,
    cost_variance,
    expected_cost,
    optimal_holdings,
)
from marljax.evaluation.figure_style import styled, translucent
from marljax.evaluation.seeds import seed_interval

TASK, TARGET = "almgren_chriss", 0.03


@dataclasses.dataclass(frozen=True)
class AlmgrenChrissProof(ProofConfig):
    """Risk aversions, side by side, and how agents learn under them."""

    risk_aversion: tuple[float, ...] = (0.1, 0.3, 1.0, 3.0, 10.0)
    """Prices of variance, one agent each [1 / (dollars/share of the parent order)]."""
    ppo: PPOConfig = PPOConfig()

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "risk_aversion")
        if not self.risk_aversion:
            raise InputError("risk_aversion must have one value at least")


def markets(config: AlmgrenChrissProof) -> AlmgrenChrissParams:
    """The worlds, leaves [risk aversions]."""
    risk_aversion = jnp.array(config.risk_aversion, jnp.float32)
    rest = jax.tree.map(lambda x: jnp.full(risk_aversion.shape, x), AlmgrenChrissParams())
    return dataclasses.replace(rest, risk_aversion=risk_aversion)


def learned_holdings(learner: PPO, params: Any, worlds: AlmgrenChrissParams) -> np.ndarray:
    """float64[seeds, risk aversions, N + 1] of the parent order held after each step without exploration.

    No price is observed, so this is a schedule fixed beforehand.
    """
    env, policy, key = learner.env, learner.policy(worlds), jax.random.key(0)

    def holdings(params: Any, world: AlmgrenChrissParams) -> jax.Array:
        def step(carry: Any, _: None) -> tuple[Any, jax.Array]:
            obs, state = carry
            action, _ = policy.apply(params, obs, policy.init_carry(), key, True)
            obs, state, *_ = env.step_env(key, state, action, world)
            return (obs, state), state.left

        return jax.lax.scan(step, env.reset_env(key, world), length=env.n_steps)[1]

    left = jax.jit(jax.vmap(jax.vmap(holdings), in_axes=(0, None)))(params, worlds)
    return np.pad(np.asarray(left, np.float64), [(0, 0), (0, 0), (1, 0)], constant_values=1.0)


def cost_and_risk(holdings: np.ndarray, risk_aversion: float) -> float:
    """The paper's objective of a schedule float64[N + 1] in the paper's market [dollars per share]."""
    params = AlmgrenChrissParams()
    return expected_cost(holdings, params) + risk_aversion * cost_variance(holdings, params)


def main(config: AlmgrenChrissProof, folder: Path) -> tuple[Verdict, dict[str, Any]]:
    learner, worlds = PPO(AlmgrenChriss(), config.ppo), markets(config)
    runners = train_seeds(TASK, learner, worlds, config, folder, swept=True)
    holdings = learned_holdings(learner, learner.policy_params(runners), worlds)
    verdict, more = judge(holdings, config)
    draw(folder / "picture.html", holdings, np.array(more["excess"]), config, verdict)
    return verdict, more


def judge(holdings: np.ndarray, config: AlmgrenChrissProof) -> tuple[Verdict, dict[str, Any]]:
    """From float64[seeds, risk aversions, N + 1]."""
    prices = config.risk_aversion
    best = np.array(
        [cost_and_risk(schedule, price) for schedule, price in zip(closed(holdings, config), prices, strict=True)]
    )
    reached = np.array([[cost_and_risk(x, price) for x, price in zip(seed, prices, strict=True)] for seed in holdings])
    excess = reached / best - 1.0
    intervals = [seed_interval(excess[:, i]) for i in range(len(prices))]
    low, estimate, high = max(intervals, key=lambda interval: interval[1])
    params = AlmgrenChrissParams()
    # What no schedule can avoid: the spread, and the lasting impact of the whole order.
    unavoidable = params.spread + 0.5 * params.permanent
    more = {
        "risk_aversion": prices,
        "optimal_cost_and_risk": best,
        "learned_cost_and_risk": reached,
        "excess": excess,
        "excess_by_risk_aversion": [{"low": a, "mean": b, "high": c} for a, b, c in intervals],
        "excess_over_what_is_avoidable": ((reached - best) / (best - unavoidable)).mean(0),
    }
    return Verdict(TASK, estimate, (low, high), TARGET, estimate <= TARGET), more


def closed(holdings: np.ndarray, config: AlmgrenChrissProof) -> list[np.ndarray]:
    """The best schedule for each risk aversion, of as many steps."""
    n_steps = holdings.shape[-1] - 1
    return [optimal_holdings(AlmgrenChrissParams(), n_steps, price) for price in config.risk_aversion]


def draw(path: Path, holdings: np.ndarray, excess: np.ndarray, config: AlmgrenChrissProof, verdict: Verdict) -> None:
    """Every seed's schedule over the closed form, and what it costs above it."""
    days = np.linspace(0.0, AlmgrenChrissParams().horizon, holdings.shape[-1])
    prices = config.risk_aversion
    plot = make_subplots(
        1,
        len(prices),
        shared_yaxes=True,
        horizontal_spacing=0.02,
        subplot_titles=[f"risk aversion {p:g}" for p in prices],
    )
    for i, schedule in enumerate(closed(holdings, config)):
        plot.add_trace(best_line(days, schedule, "closed form", legend=i == 0), row=1, col=i + 1)
        for line in seed_lines(days, holdings[:, i], "learned, seed by seed", legend=i == 0):
            plot.add_trace(line, row=1, col=i + 1)
    plot.update_xaxes(title_text="days")
    plot.update_yaxes(title_text="share of the parent order left", row=1, col=1)
    above = go.Figure()
    for seed in excess:
        above.add_scatter(
            x=prices,
            y=100 * seed,
            mode="markers",
            marker={"color": translucent(LEARNED, 0.6), "size": 7},
            showlegend=False,
        )
    above.add_hline(y=100 * TARGET, line={"color": "#b23b4b", "dash": "dot"}, annotation_text="target")
    above.update_xaxes(type="log", title_text="risk aversion", tickvals=prices, ticktext=[f"{p:g}" for p in prices])
    above.update_yaxes(title_text="above the optimum [%]", rangemode="tozero")
    write_picture(
        path,
        "Optimal execution, learned",
        f"At the worst risk aversion cost plus risk is {verdict.estimate:.2%} above the optimum, mean of "
        f"{len(holdings)} seeds; at most {TARGET:.0%} was asked for.",
        [
            (styled(plot, 400, n_lines=2, top=70), "What is left to sell, without exploration."),
            (
                styled(above, 320, n_lines=1, top=20, hover="closest"),
                "Expected cost plus risk aversion times variance of every seed's schedule, above the closed form's.",
            ),
        ],
    )


FULL = AlmgrenChrissProof(
    chunks=200,
    ppo=PPOConfig(
        n_envs=512,
        n_steps=20,
        # One pass and wide bounds: where noise grows with the action, the clipped objective shuns such actions.
        n_epochs=1,
        n_minibatches=4,
        ratio_clip=1.0,
        value_clip=10.0,
        hidden=(32, 32),
        discount=1.0,
        gae_lambda=1.0,
        learning_rate=2e-3,
        learning_rate_decay=1 / 200,
        entropy_coefficient=0.03,
        entropy_decay=1 / 200,
        normalise_returns=True,
    ),
)
PRESETS = {
    "full": FULL,
    "quick": dataclasses.replace(FULL, preset="quick", seeds=2, chunks=4, ppo=dataclasses.replace(FULL.ppo, n_envs=16)),
}

if __name__ == "__main__":
    prove(main, TASK, PRESETS, __doc__)
