"""Agents: policies, the learners that train them, and the choice between them."""

from marljax.agents.learner import Learner, jit_update, train
from marljax.agents.policy import TanhGaussianPolicy
from marljax.agents.ppo import PPO
from marljax.agents.ppo_config import PPOConfig, PPORunner
from marljax.agents.sac import SAC, SACConfig, SACRunner
from marljax.agents.selection import SelectionConfig, select

__all__ = [
    "PPO",
    "SAC",
    "Learner",
    "PPOConfig",
    "PPORunner",
    "SACConfig",
    "SACRunner",
    "SelectionConfig",
    "TanhGaussianPolicy",
    "jit_update",
    "select",
    "train",
]
