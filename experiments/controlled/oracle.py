"""An agent that is told the next return earns most of what can be earned; told anything else, it earns nothing.

    python experiments/controlled/oracle.py [--preset quick]

Three agents for every seed learn in one market without drift: one sees the next return among its features, one sees it
a row late, one sees it in a random order of rows. Each is judged on a tape of its own that nobody learned from, against
the optimum for one who knows that whole tape. `estimate` is the first agent's share of it; `met` asks for the target
and that the net Sharpe ratio of neither of the others is above zero (one-sided, 5 %).
"""

import dataclasses
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

from foresight import best_path, earnings, follow_rule, informed_rule
from learning_curves import Panel, read_curves, write_picture
from martingale import (
    COSTS,
    EPISODE_STEPS,
    LIMIT,
    WARM_UP,
    TapeConfig,
    martingale_market,
    moves,
    past,
    trade_through,
    whole_length,
    world,
)
from proof import Verdict, prove, train_seeds

from marljax.agents.ppo import PPO
from marljax.agents.ppo_config import PPOConfig
from marljax.data.schema import MarketData
from marljax.envs.replay import ReplayEnv, ReplayParams
from marljax.evaluation.seeds import seed_interval

TARGET = 0.9
"""Share of the optimum."""
VOLATILITY = 14.0
"""Of the mid in a row [ticks], where the next return's sign alone would earn 88 % of the optimum, and the best use of
it 94 %: costs have to be learned too."""
VARIANTS = ("told", "late", "shuffled")


@dataclasses.dataclass(frozen=True)
class OracleConfig(TapeConfig):
    """How the three learn and are judged."""

    ppo: PPOConfig = PPOConfig(
        n_envs=32,
        n_steps=128,
        hidden=(32, 32),
        learning_rate=1e-3,
        discount=0.8,
        gae_lambda=0.5,
        entropy_coefficient=0.1,
    )
    """How they learn; the learning rate and the entropy bonus fall to zero over the chunks."""

    @property
    def learner(self) -> PPO:
        falling = {"learning_rate_decay": 1.0 / self.chunks, "entropy_decay": 1.0 / self.chunks}
        return PPO(ReplayEnv(EPISODE_STEPS), self.ppo.replace(**falling))


def told(data: MarketData, variant: str, rng: np.random.Generator) -> np.ndarray:
    """float32[T, 4] features of the past, and the next return: as it is, a row late, or of rows in random order."""
    move = moves(data) / VOLATILITY
    column = {"told": move, "late": np.roll(move, 1), "shuffled": rng.permutation(move)}[variant]
    return np.column_stack([past(data, VOLATILITY), column]).astype(np.float32)


def worlds(data: MarketData, train: MarketData, episode_steps: int, seed: int) -> ReplayParams:
    """Leaves [variants, ...]."""
    rng = np.random.default_rng(seed)
    made = [world(data, told(data, variant, rng), train, episode_steps) for variant in VARIANTS]
    return jax.tree.map(lambda *x: jnp.stack(x), *made)


def optimum(data: MarketData, train: MarketData, flat: np.ndarray) -> tuple[float, float]:
    """What one who knows the whole tape earns, and what one who knows the next move alone does [currency]."""
    rows = slice(WARM_UP, None)
    earned, learned = earnings(data, train, LIMIT, COSTS)[rows], earnings(train, train, LIMIT, COSTS)
    rule = informed_rule(learned, moves(train)[:-1])
    flat = flat[WARM_UP : WARM_UP + len(earned)]
    return best_path(earned, flat).value, follow_rule(rule, earned, moves(data)[:-1][rows], flat)


def sharpe(earned: np.ndarray) -> np.ndarray:
    """float64[...] mean over standard deviation of float[..., N] earnings of a row; 0 where nothing was traded."""
    spread = earned.std(axis=-1)
    return np.where(spread > 0, earned.mean(axis=-1) / np.where(spread > 0, spread, 1.0), 0.0)


def verdict(share: np.ndarray, ratios: Mapping[str, np.ndarray]) -> tuple[Verdict, dict[str, Any]]:
    """Of float64[seeds] shares of the optimum and the three's Sharpe ratios float64[seeds], with one-sided bounds."""
    low, estimate, high = seed_interval(share)
    bounds = {name: seed_interval(ratio, one_sided=True) for name, ratio in ratios.items()}
    quiet = all(bounds[name][0] <= 0.0 for name in VARIANTS[1:])
    said = Verdict("oracle", estimate, (low, high), TARGET, estimate >= TARGET and quiet)
    return said, {"sharpe_of_a_row": ratios, "sharpe_one_sided_95": bounds, "sharpe_not_above_zero": quiet}


def main(config: OracleConfig, folder: Path) -> tuple[Verdict, Mapping[str, Any]]:
    """Train the three for every seed, judge each on the seed's tape."""
    # Tapes have seeds of their own, so that no tape to learn on is one to be judged on.
    train_seed, *test_seeds = np.random.SeedSequence(config.seed).generate_state(1 + config.seeds)
    train = martingale_market(train_seed, config.train_rows, VOLATILITY)
    learner = config.learner
    shown = worlds(train, train, EPISODE_STEPS, train_seed)
    runners = train_seeds("oracle", learner, shown, config, folder, swept=True, show=("reward",))

    tests = [martingale_market(seed, config.test_rows, VOLATILITY) for seed in test_seeds]
    held_out = [
        worlds(data, train, whole_length(config.test_rows), seed) for data, seed in zip(tests, test_seeds, strict=True)
    ]
    held_out = jax.tree.map(lambda *x: jnp.stack(x), *held_out)
    policy = learner.policy(jax.tree.map(lambda x: x[0], shown))
    keys = jax.random.split(jax.random.fold_in(jax.random.key(config.seed), 1), (config.seeds, len(VARIANTS)))

    def judge(params: Any, env_params: ReplayParams, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        path = trade_through(policy, params, env_params, key, True)
        return path.earned, path.traded

    both = jax.jit(jax.vmap(jax.vmap(judge)))
    earned, traded = (np.asarray(x, np.float64) for x in both(learner.policy_params(runners), held_out, keys))
    flat = np.asarray(held_out.flat[0, 0])
    best, informed = np.array([optimum(data, train, flat) for data in tests]).T
    net = earned.sum(axis=-1)
    said, ratios = verdict(net[:, 0] / best, dict(zip(VARIANTS, sharpe(earned).T, strict=True)))

    rewards = read_curves(folder / "metrics.jsonl", "oracle", "reward")
    curves = {name: rewards[..., i] for i, name in enumerate(VARIANTS)}
    reachable = float(best.mean()) / (float(shown.reward_scale[0]) * earned.shape[-1])
    marks = {"the optimum with foresight": reachable, f"{TARGET:.0%} of it": TARGET * reachable}
    caption = "What agents are paid while they learn and explore, told the next return as it is, a row late, shuffled."
    panel = Panel(caption, "reward of a step", curves, learner.steps_per_chunk, marks)
    headline = f"Told the next return, agents earn {said.estimate:.1%} of the optimum on tapes they never saw."
    write_picture(folder / "learning_curves.html", [panel], headline)
    more = {
        "optimum": best,
        "net": {name: net[:, i] for i, name in enumerate(VARIANTS)},
        "share_of_the_best_rule_that_knows_the_next_move_alone": seed_interval(net[:, 0] / informed),
        "that_rule's_share_of_the_optimum": seed_interval(informed / best),
        "traded_lots_of_a_row": {name: traded[:, i].mean(axis=-1) for i, name in enumerate(VARIANTS)},
    }
    return said, ratios | more


PRESETS = {
    "full": OracleConfig(chunks=120),
    "quick": OracleConfig(preset="quick", seeds=2, chunks=3, train_rows=2_000, test_rows=300),
}

if __name__ == "__main__":
    prove(main, "oracle", PRESETS, __doc__)
