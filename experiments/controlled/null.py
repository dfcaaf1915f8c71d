"""Where nothing can be foretold and every order costs, agents learn to stop trading.

    python experiments/controlled/null.py [--preset quick]

The market's mid is a martingale, features are of the past, and only net earnings are rewarded. Each seed's agent is
judged on a tape of its own that nobody learned from. `estimate` is what it trades, as a part of what uniformly random
actions trade on the same tape; the policy plays as it would in use, without exploration, and result.json has it with.
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

from learning_curves import Panel, read_curves, write_picture
from martingale import EPISODE_STEPS, LIMIT, TapeConfig, martingale_market, past, trade_through, whole_length, world
from proof import Verdict, prove, train_seeds
from random_policy import RandomPolicy

from marljax.agents.ppo import PPO
from marljax.agents.ppo_config import PPOConfig
from marljax.data.schema import MarketData
from marljax.envs.replay import ReplayEnv, ReplayParams
from marljax.evaluation.seeds import seed_interval

TARGET = 0.02
"""Of the random policy's turnover."""
VOLATILITY = 4.0
"""Of the mid in a row [ticks]; to cross the spread costs one or two."""


@dataclasses.dataclass(frozen=True)
class NullConfig(TapeConfig):
    """How agents learn and are judged."""

    ppo: PPOConfig = PPOConfig(
        n_envs=32,
        n_steps=128,
        hidden=(32, 32),
        learning_rate=1e-3,
        discount=0.8,
        gae_lambda=0.5,
        entropy_coefficient=0.0,
    )
    """How they learn; the learning rate falls to zero over the chunks."""

    @property
    def learner(self) -> PPO:
        return PPO(ReplayEnv(EPISODE_STEPS), self.ppo.replace(learning_rate_decay=1.0 / self.chunks))


def held_out(tests: list[MarketData], train: MarketData) -> ReplayParams:
    """Leaves [seeds, ...], for one episode through each tape."""
    made = [world(data, past(data, VOLATILITY), train, whole_length(data.n_steps)) for data in tests]
    return jax.tree.map(lambda *x: jnp.stack(x), *made)


def main(config: NullConfig, folder: Path) -> tuple[Verdict, Mapping[str, Any]]:
    """Train an agent for every seed, judge each on the seed's tape."""
    # Tapes have seeds of their own, so that no tape to learn on is one to be judged on.
    train_seed, *test_seeds = np.random.SeedSequence(config.seed).generate_state(1 + config.seeds)
    train = martingale_market(train_seed, config.train_rows, VOLATILITY)
    shown, learner = world(train, past(train, VOLATILITY), train, EPISODE_STEPS), config.learner
    runners = train_seeds("null", learner, shown, config, folder, show=("reward",))

    tapes = held_out([martingale_market(seed, config.test_rows, VOLATILITY) for seed in test_seeds], train)
    keys = jax.random.split(jax.random.fold_in(jax.random.key(config.seed), 1), config.seeds)

    def turnover(policy: Any, params: Any, deterministic: np.ndarray) -> np.ndarray:
        """float64[ways, seeds] lots traded in a row, as a part of the limit."""

        def one(params: Any, tape: ReplayParams, key: jax.Array, way: jax.Array) -> jax.Array:
            return trade_through(policy, params, tape, key, way).traded.mean() / LIMIT

        ways = jax.jit(jax.vmap(jax.vmap(one, (0, 0, 0, None)), (None, None, None, 0)))
        return np.asarray(ways(params, tapes, keys, deterministic), np.float64)

    learned = turnover(learner.policy(shown), learner.policy_params(runners), np.array([True, False]))
    chance = turnover(RandomPolicy(learner.env.action_space(shown)), jnp.zeros(config.seeds), np.array([False]))[0]
    deterministic, stochastic = (seed_interval(x / chance) for x in learned)

    curves = {"PPO": read_curves(folder / "metrics.jsonl", "null", "reward")}
    caption = "What agents are paid while they learn and explore: it rises to nothing, which is what not trading earns."
    panel = Panel(caption, "reward of a step", curves, learner.steps_per_chunk, {"no trade": 0.0})
    # With exploration: untrained agents hold nothing where they do what they hold best, and only look as if they knew.
    low, estimate, high = stochastic
    more = {
        "turnover_without_exploration": learned[0],
        "turnover_with_exploration": learned[1],
        "turnover_of_random_actions": chance,
        "without_exploration": deterministic,
    }
    headline = f"Agents trade {estimate:.2%} of what random actions trade."
    write_picture(folder / "learning_curves.html", [panel], headline)
    return Verdict("null", estimate, (low, high), TARGET, estimate < TARGET), more


PRESETS = {
    "full": NullConfig(chunks=200),
    "quick": NullConfig(preset="quick", seeds=2, chunks=3, train_rows=2_000, test_rows=300),
}

if __name__ == "__main__":
    prove(main, "null", PRESETS, __doc__)
