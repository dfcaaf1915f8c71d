"""Market making where the best quotes are known: the market of Avellaneda and Stoikov, at the paper's parameters.

    python experiments/controlled/avellaneda_stoikov.py
    python experiments/controlled/avellaneda_stoikov.py --preset quick

An agent sees the time left and its inventory, quotes both sides and is rewarded with the exponential utility of wealth.
Judged are the quotes that it makes without exploration at every time and inventory: their certainty equivalent,
computed exactly, as a share of what the closed form's quotes reach in the same market. The estimate is the mean over
seeds; it is to be at least 98 %. Simulated episodes of the learned quotes check the computation.
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

from picture import best_line, seed_lines, write_picture
from proof import ProofConfig, Verdict, prove, train_seeds

from marljax.agents import PPO, PPOConfig
from marljax.agents.evaluate import JointPolicy, play
from marljax.data.limits import require_counts
from marljax.envs.controlled.avellaneda_stoikov import (
    AvellanedaStoikov,
    AvellanedaStoikovParams,
    benchmark_wealth,
    fill_probability,
)
from marljax.envs.controlled.avellaneda_stoikov_solution import (
    Quotes,
    continuous_quotes,
    inventories,
    optimal_quotes,
    value_of,
)
from marljax.evaluation.figure_style import styled
from marljax.evaluation.seeds import seed_interval

TASK, TARGET = "avellaneda_stoikov", 0.98


@dataclasses.dataclass(frozen=True)
class AvellanedaStoikovProof(ProofConfig):
    """How agents learn to make a market."""

    episodes: int = 1000
    """Simulated episodes of every agent that check the exact value [count]."""
    ppo: PPOConfig = PPOConfig()

    def __post_init__(self) -> None:
        super().__post_init__()
        require_counts(self, "episodes")


def learned_quotes(learner: PPO, params: Any, market: AvellanedaStoikovParams) -> list[Quotes]:
    """Of every seed, without exploration, at every step and inventory; `params` leaves [seeds, ...]."""
    n_steps, policy = learner.env.n_steps, learner.policy(market)
    left = 1.0 - np.arange(n_steps)[:, None] / n_steps
    obs = np.stack(np.broadcast_arrays(left, inventories(market) / market.max_inventory), -1)
    carry, key = policy.init_carry(), jax.random.key(0)
    action = jax.vmap(lambda one: policy.apply(one, jnp.asarray(obs, jnp.float32), carry, key, True)[0])(params)
    distance = market.max_quote * (0.5 + 0.5 * np.asarray(action, np.float64))
    return [Quotes(seed[..., 0], seed[..., 1]) for seed in distance]


def simulated_values(
    learner: PPO, params: Any, market: AvellanedaStoikovParams, key: jax.Array, n_episodes: int
) -> np.ndarray:
    """float64[seeds] certainty equivalents of wealth in simulated episodes without exploration [currency]."""
    env = learner.env
    policy = JointPolicy(learner.policy(market), env.observation_space(market))

    def returns(params: Any, key: jax.Array) -> jax.Array:
        keys = jax.random.split(key, n_episodes)
        return play(env, policy, params, keys, market, max_steps=env.n_steps, deterministic=True).returns

    n_seeds = len(jax.tree.leaves(params)[0])
    mean = np.asarray(jax.jit(jax.vmap(returns))(params, jax.random.split(key, n_seeds)), np.float64).mean(1)
    gamma = market.risk_aversion
    return benchmark_wealth(market, env.n_steps) - np.log1p(-gamma * mean) / gamma


def main(config: AvellanedaStoikovProof, folder: Path) -> tuple[Verdict, dict[str, Any]]:
    market, learner = AvellanedaStoikovParams(), PPO(AvellanedaStoikov(), config.ppo)
    runners = train_seeds(TASK, learner, market, config, folder)
    params = learner.policy_params(runners)
    quotes = learned_quotes(learner, params, market)
    verdict, more = judge(quotes, market)
    key = jax.random.fold_in(jax.random.key(config.seed), 1)
    more["simulated_certainty_equivalent"] = simulated_values(learner, params, market, key, config.episodes)
    draw(folder / "picture.html", quotes, market, verdict)
    return verdict, more


def judge(quotes: list[Quotes], market: AvellanedaStoikovParams) -> tuple[Verdict, dict[str, Any]]:
    """From every seed's quotes."""
    n_steps, start = len(quotes[0].bid), int(market.max_inventory)
    closed = value_of(continuous_quotes(market, n_steps).quotes, market)[0, start]
    learned = np.array([value_of(one, market)[0, start] for one in quotes])
    low, estimate, high = seed_interval(learned / closed)
    more = {
        "learned_certainty_equivalent": learned,
        "closed_form_certainty_equivalent": closed,
        "optimal_certainty_equivalent": optimal_quotes(market, n_steps).value[0, start],
    }
    return Verdict(TASK, estimate, (low, high), TARGET, estimate >= TARGET), more


def inventory_distribution(quotes: Quotes, market: AvellanedaStoikovParams) -> np.ndarray:
    """float64[N + 1, 2Q + 1] probability of each inventory at each time, exact, from none at the start."""
    n_steps, q = len(quotes.bid), inventories(market)
    dt = market.horizon / n_steps
    bought, sold = (np.asarray(fill_probability(np.clip(side, 0.0, market.max_quote), market, dt)) for side in quotes)
    bought, sold = bought * (q < q[-1]), sold * (q > q[0])
    more, less = bought * (1.0 - sold), sold * (1.0 - bought)
    now = (q == 0.0).astype(np.float64)
    path = [now]
    for i in range(n_steps):
        now = now * (1.0 - more[i] - less[i]) + np.roll(now * more[i], 1) + np.roll(now * less[i], -1)
        path.append(now)
    return np.stack(path)


def draw(path: Path, quotes: list[Quotes], market: AvellanedaStoikovParams, verdict: Verdict) -> None:
    """Spreads, skews and inventories of every seed over those of the closed form."""
    n_steps, q = len(quotes[0].bid), inventories(market)
    middle, half = len(q) // 2, n_steps // 2
    closed, discrete = continuous_quotes(market, n_steps).quotes, optimal_quotes(market, n_steps).quotes
    visited = np.flatnonzero(inventory_distribution(closed, market)[half] > 1e-3)
    time = market.horizon * np.arange(n_steps + 1) / n_steps

    def deviation(quotes: Quotes) -> np.ndarray:
        return np.sqrt(inventory_distribution(quotes, market) @ q**2)

    profiles = [
        ("spread, half-way", q[visited], lambda x: (x.bid + x.ask)[half, visited]),
        ("middle of the quotes over the mid, half-way", q[visited], lambda x: 0.5 * (x.ask - x.bid)[half, visited]),
        ("spread with no inventory", time[:-1], lambda x: (x.bid + x.ask)[:, middle]),
        ("standard deviation of inventory", time, deviation),
    ]
    plot = make_subplots(
        2, 2, subplot_titles=[name for name, *_ in profiles], horizontal_spacing=0.09, vertical_spacing=0.16
    )
    for i, (_, x, profile) in enumerate(profiles):
        place = {"row": i // 2 + 1, "col": i % 2 + 1}
        plot.add_trace(best_line(x, profile(closed), "closed form, continuous time", legend=i == 0), **place)
        dotted = {"legend": i == 0, "dash": "dot", "width": 2.5}
        plot.add_trace(best_line(x, profile(discrete), "optimum in the market's steps", **dotted), **place)
        for line in seed_lines(x, [profile(one) for one in quotes], "learned, seed by seed", legend=i == 0):
            plot.add_trace(line, **place)
        plot.update_xaxes(title_text="inventory [units]" if i < 2 else "time", **place)
        plot.update_yaxes(title_text="currency" if i < 3 else "units", **place)
    write_picture(
        path,
        "Market making, learned",
        f"The learned quotes' certainty equivalent is {verdict.estimate:.2%} of the closed form's, mean of "
        f"{len(quotes)} seeds; at least {TARGET:.0%} was asked for.",
        [
            (
                styled(plot, 720, n_lines=2, top=70, hover="closest"),
                "Quotes without exploration, at inventories that the closed form holds half-way with a probability of "
                "more than 0.1%. Inventories are exact, not simulated. In a step a quote is filled once at most, for "
                "which the optimum by dynamic programming asks a wider spread than the closed form in continuous time.",
            )
        ],
    )


FULL = AvellanedaStoikovProof(
    chunks=200,
    ppo=PPOConfig(
        n_envs=64,
        n_steps=200,
        n_epochs=4,
        n_minibatches=8,
        hidden=(32, 32),
        discount=1.0,
        gae_lambda=0.9,
        learning_rate=1e-3,
        learning_rate_decay=1 / 200,
        entropy_coefficient=0.0,
        normalise_returns=True,
    ),
)
PRESETS = {
    "full": FULL,
    "quick": dataclasses.replace(
        FULL, preset="quick", seeds=2, chunks=2, episodes=50, ppo=dataclasses.replace(FULL.ppo, n_envs=8)
    ),
}

if __name__ == "__main__":
    prove(main, TASK, PRESETS, __doc__)
