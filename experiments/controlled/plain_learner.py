"""The learner of the studies on recorded futures and of the ablations: PPO over agents with the critic's baseline.

The proofs learn as it does but for what `meta_streams.LEARNER` changes, an advantage over a greedy step above all.
"""

from marljax.agents.ppo_config import PPOConfig

PLAIN = PPOConfig(
    n_envs=16,
    n_steps=64,
    n_epochs=3,
    hidden=(16, 16),
    over_agents=("agent",),
    exposure=0.6,
    # What is allocated has no effect beyond the next rebalance but for what trading costs.
    discount=0.2,
    gae_lambda=0.0,
    learning_rate=5e-3,
    entropy_coefficient=0.0,
    value_clip=10.0,
)
"""A fresh policy is risk parity at 0.6 of the largest exposure."""
