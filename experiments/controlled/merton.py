"""Portfolio choice where the best share is known: Merton's investor, learned from the utility of growth alone.

    python experiments/controlled/merton.py
    python experiments/controlled/merton.py --preset quick

One agent for each market and seed sees a drift and a volatility that never change, chooses a share of wealth for the
risky asset ten times in an episode and is rewarded with the utility of each step's growth. Judged is the relative error
of the share it would take without exploration against (mu - r) / (gamma sigma**2). The estimate is the worst market's,
of the mean over seeds; it is to be at most 5 %.
"""

import dataclasses
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from plotly.subplots import make_subplots

sys.path.insert(0, str(Path(__file__).parent))

from picture import CLOSED_FORM, LEARNED, write_picture
from proof import ProofConfig, Verdict, prove, train_seeds

from marljax.agents import PPO, PPOConfig
from marljax.data.limits import require_positive
from marljax.data.schema import InputError
from marljax.envs.controlled.merton import Merton, MertonParams, equivalent_rate, optimal_fraction
from marljax.evaluation.figure_style import styled, translucent
from marljax.evaluation.seeds import seed_interval

TASK, TARGET = "merton", 0.05


@dataclasses.dataclass(frozen=True)
class MertonProof(ProofConfig):
    """Markets, side by side, and how agents learn in them."""

    drift: tuple[float, ...] = (0.22, 0.10, 0.08, -0.03, 0.09, 0.12)
    """Of the risky asset, market by market; the riskless rate is 0.02 [1/year]."""
    volatility: tuple[float, ...] = (0.4, 0.2, 0.2, 0.3, 0.3, 0.25)
    """Of the risky asset, market by market [1/sqrt(year)]."""
    risk_aversion: tuple[float, ...] = (2.0, 4.0, 1.0, 2.0, 0.5, 8.0)
    """Constant relative risk aversion of the investor, market by market."""
    ppo: PPOConfig = PPOConfig()

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "volatility", "risk_aversion")
        if not len(self.drift) == len(self.volatility) == len(self.risk_aversion) > 0:
            raise InputError("drift, volatility and risk_aversion must have one value for each market")
        best = best_shares(self)
        if np.any(best == 0.0) or np.any(np.abs(best) >= MertonParams().limit):
            raise InputError(
                f"the best share must not be zero and within +-{MertonParams().limit}, got {best.tolist()}"
            )


def markets(config: MertonProof) -> MertonParams:
    """The worlds, leaves [markets]."""
    drift, volatility, risk_aversion = (
        jnp.array(x, jnp.float32) for x in (config.drift, config.volatility, config.risk_aversion)
    )
    rest = jax.tree.map(lambda x: jnp.full(drift.shape, x), MertonParams())
    return dataclasses.replace(rest, drift=drift, volatility=volatility, risk_aversion=risk_aversion)


def best_shares(config: MertonProof) -> np.ndarray:
    """float64[markets] Merton's."""
    params = MertonParams(risk_aversion=np.asarray(config.risk_aversion))
    return optimal_fraction(np.asarray(config.drift), np.asarray(config.volatility), params)


def learned_shares(learner: PPO, params: Any, worlds: MertonParams) -> np.ndarray:
    """float64[seeds, markets, steps] of wealth in the risky asset without exploration, from policies' parameters."""
    env, policy, key = learner.env, learner.policy(worlds), jax.random.key(0)

    def shares(params: Any, world: MertonParams) -> jax.Array:
        def step(carry: Any, _: None) -> tuple[Any, jax.Array]:
            obs, state = carry
            action, _ = policy.apply(params, obs, policy.init_carry(), key, True)
            obs, state, *_ = env.step_env(key, state, action, world)
            return (obs, state), world.limit * action[0]

        return jax.lax.scan(step, env.reset_env(key, world), length=env.n_steps)[1]

    return np.asarray(jax.jit(jax.vmap(jax.vmap(shares), in_axes=(0, None)))(params, worlds), np.float64)


def main(config: MertonProof, folder: Path) -> tuple[Verdict, dict[str, Any]]:
    learner, worlds = PPO(Merton(), config.ppo), markets(config)
    runners = train_seeds(TASK, learner, worlds, config, folder, swept=True)
    shares = learned_shares(learner, learner.policy_params(runners), worlds)
    verdict, more = judge(shares, config)
    draw(folder / "picture.html", shares, config, verdict)
    return verdict, more


def judge(shares: np.ndarray, config: MertonProof) -> tuple[Verdict, dict[str, Any]]:
    """From float64[seeds, markets, steps]. An error is a mean over the steps of an episode, which are all alike."""
    best = best_shares(config)
    error = np.abs(shares / best[:, None] - 1.0).mean(-1)
    intervals = [seed_interval(error[:, i]) for i in range(len(best))]
    low, estimate, high = max(intervals, key=lambda interval: interval[1])
    params = MertonParams(risk_aversion=np.asarray(config.risk_aversion))
    drift, volatility = np.asarray(config.drift), np.asarray(config.volatility)
    rate = equivalent_rate(np.moveaxis(shares, 1, -1), drift, volatility, params).mean((0, 1))
    more = {
        "optimal_share": best,
        "learned_share": shares.mean(-1),
        "relative_error": [{"low": a, "mean": b, "high": c} for a, b, c in intervals],
        "equivalent_rate_lost": equivalent_rate(best, drift, volatility, params) - rate,
    }
    return Verdict(TASK, estimate, (low, high), TARGET, estimate <= TARGET), more


def draw(path: Path, shares: np.ndarray, config: MertonProof, verdict: Verdict) -> None:
    """Every seed's share in every market beside the best one, and its relative error."""
    best, mean = best_shares(config), shares.mean(-1)
    names = [
        f"μ {d:g}<br>σ {v:g}<br>γ {g:g}"
        for d, v, g in zip(config.drift, config.volatility, config.risk_aversion, strict=True)
    ]
    plot = make_subplots(1, 2, horizontal_spacing=0.1)
    seeds = {"mode": "markers", "marker": {"color": translucent(LEARNED, 0.6), "size": 7}}
    every = np.tile(np.arange(len(best)), len(mean))
    ticks = {"mode": "markers", "marker": {"symbol": "line-ew-open", "size": 34, "color": CLOSED_FORM}}
    plot.add_scatter(x=names, y=best, name="closed form", **ticks, row=1, col=1)
    plot.add_scatter(x=[names[i] for i in every], y=mean.ravel(), name="learned, seed by seed", **seeds, row=1, col=1)
    error = 100 * (mean / best - 1.0)
    plot.add_scatter(x=[names[i] for i in every], y=error.ravel(), showlegend=False, **seeds, row=1, col=2)
    plot.add_hrect(y0=-100 * TARGET, y1=100 * TARGET, fillcolor="#2f8f5b", opacity=0.1, line_width=0, row=1, col=2)
    plot.update_xaxes(tickangle=0)
    plot.update_yaxes(title_text="share of wealth in the risky asset", row=1, col=1)
    plot.update_yaxes(title_text="relative error [%]", row=1, col=2)
    write_picture(
        path,
        "Merton's investor, learned",
        f"The worst market's share is {verdict.estimate:.1%} off the optimum, mean of {len(mean)} seeds; "
        f"at most {TARGET:.0%} was asked for.",
        [
            (
                styled(plot, 440, n_lines=2, top=40, hover="closest").update_layout(margin_b=72),
                "Each point is a trained agent without exploration, mean over an episode's steps. Shaded: the target.",
            )
        ],
    )


FULL = MertonProof(
    chunks=200,
    ppo=PPOConfig(
        n_envs=1024,
        n_steps=20,
        # One pass and wide bounds: where noise grows with the action, the clipped objective shuns such actions.
        n_epochs=1,
        n_minibatches=4,
        ratio_clip=1.0,
        value_clip=10.0,
        # Utility is skewed, and a bound on gradients would make rare large losses count less.
        max_grad_norm=10.0,
        # Of all that is seen only the time left varies, and the value is linear in it.
        hidden=(),
        normalise_observations=True,
        normalise_returns=True,
        discount=1.0,
        # A step's action has no effect on later ones, whose noise would only add to its advantage.
        gae_lambda=0.0,
        learning_rate=1e-2,
        learning_rate_decay=1 / 200,
        entropy_coefficient=0.03,
        entropy_decay=1 / 100,
    ),
)
PRESETS = {
    "full": FULL,
    "quick": dataclasses.replace(FULL, preset="quick", seeds=2, chunks=4, ppo=dataclasses.replace(FULL.ppo, n_envs=16)),
}

if __name__ == "__main__":
    prove(main, TASK, PRESETS, __doc__)
