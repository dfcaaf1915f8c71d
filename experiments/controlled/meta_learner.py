"""The learner of the meta-controller's proofs and studies: PPO over agents, its advantage one over a greedy step."""

from marljax.agents.ppo_config import PPOConfig

LEARNER = PPOConfig(
    n_envs=24,
    n_steps=64,
    n_epochs=4,
    hidden=(16, 16),
    over_agents=("agent",),
    exposure=0.8,
    # What markets did meanwhile is most of what a rebalance earns, whatever was allocated.
    baseline="greedy",
    # What is allocated has no effect beyond the next rebalance but for what trading costs.
    discount=0.2,
    gae_lambda=0.0,
    learning_rate=5e-3,
    entropy_coefficient=0.0,
    value_clip=10.0,
    # Many small lessons from few returns: how far a policy moves in each is what bounds it.
    ratio_clip=0.5,
    max_grad_norm=5.0,
)
"""One policy for every agent, whoever it is; a fresh one is risk parity at 0.8 of the largest exposure. Chosen on
meta_regimes from seed 100 on; no judged seed was looked at."""

CHUNKS = 280
"""Updates of it in markets of known law."""
