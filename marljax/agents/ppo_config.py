"""How PPO learns, and what it carries from chunk to chunk."""

from typing import Any, Literal, NamedTuple

import jax
import optax
from flax import struct

from marljax.agents.agent_set import AgentSet
from marljax.agents.attention import Attention
from marljax.agents.memory import GRU
from marljax.agents.networks import MLP, Carry, Network
from marljax.agents.normalisation import Moments
from marljax.agents.rollout import Worlds
from marljax.data.limits import require, require_counts, require_not_negative, require_positive, require_shares
from marljax.data.schema import InputError
from marljax.envs.environment import Space


@struct.dataclass
class PPOConfig:
    """How PPO learns. Whole numbers and names fix shapes; floats may carry an axis."""

    n_envs: int = struct.field(pytree_node=False, default=64)
    """Worlds stepped side by side [count]."""
    n_steps: int = struct.field(pytree_node=False, default=128)
    """Steps per world in one rollout [steps]."""
    n_epochs: int = struct.field(pytree_node=False, default=4)
    """Passes over one rollout [count]."""
    n_minibatches: int = struct.field(pytree_node=False, default=4)
    """Gradient steps per pass [count]; must divide n_steps, or n_envs where the network is a GRU."""
    network: Literal["mlp", "gru", "attention"] = struct.field(pytree_node=False, default="mlp")
    """Perceptron, recurrence over time, or attention over the products of an observation."""
    hidden: tuple[int, ...] = struct.field(pytree_node=False, default=(64, 64))
    """Widths of the hidden layers of actor and critic [units]: a GRU's last recurs, each is a block of attention."""
    tokens: int = struct.field(pytree_node=False, default=1)
    """Equal parts, one per product, that attention takes an observation for [count]."""
    heads: int = struct.field(pytree_node=False, default=2)
    """Heads of attention, over products or over agents [count]."""
    over_agents: tuple[str, ...] = struct.field(pytree_node=False, default=())
    """Roles that allocate among agents; "agent" where there are no roles. Their networks, recurrent for a GRU, are over
    the set of agents and fit any number of them."""
    exposure: float = struct.field(pytree_node=False, default=0.95)
    """Of their largest gross exposure, the share that they ask for before they learn [1]."""
    baseline: Literal["critic", "greedy"] = struct.field(pytree_node=False, default="critic")
    """What an action is compared with: the critic's value, or what the policy would have got without exploring, in a
    step of its own from the same state under the same draws."""
    critic: Literal["own", "shared"] = struct.field(pytree_node=False, default="own")
    """Whether every agent judges by its own observation, or one critic by all observations (in training only)."""
    separate: tuple[str, ...] = struct.field(pytree_node=False, default=())
    """Roles whose agents have parameters of their own; "agent" where there are no roles. The others' share theirs."""
    normalise_observations: bool = struct.field(pytree_node=False, default=False)
    """Whether observations are scaled by their running moments."""
    normalise_returns: bool = struct.field(pytree_node=False, default=False)
    """Whether rewards are scaled by the running standard deviation of discounted returns."""
    learning_rate: float = 3e-4
    """Adam step size [1]."""
    learning_rate_decay: float = 0.0
    """Part of the learning rate lost per chunk, linearly [1 / chunk]; 0 keeps it constant."""
    discount: float = 0.99
    """Discount per step [1]."""
    gae_lambda: float = 0.95
    """Decay of advantage estimates [1]."""
    ratio_clip: float = 0.2
    """How far the probability ratio may move from 1 [1]."""
    target_kl: float = 0.0
    """Divergence from the rollout's policy at which learning from it stops [nats]; 0 never stops."""
    value_clip: float = 1.0
    """How far a value may move from the rollout's in one chunk [scaled reward]."""
    value_coefficient: float = 0.5
    """Weight of the value loss [1]."""
    entropy_coefficient: float = 0.001
    """Weight of the entropy bonus [1 / nat]."""
    entropy_decay: float = 0.0
    """Part of the entropy bonus lost per chunk, linearly [1 / chunk]."""
    max_grad_norm: float = 0.5
    """Global norm to which gradients are clipped [1]."""
    reward_scale: float = 1.0
    """Factor on rewards before learning [1]; metrics stay unscaled."""
    max_loss: float = 1e8
    """Loss beyond which learning counts as diverged [1]."""

    def __post_init__(self) -> None:
        require_counts(self, "n_envs", "n_steps", "n_epochs", "n_minibatches", "hidden", "tokens", "heads")
        require_positive(self, "learning_rate", "max_grad_norm", "reward_scale", "max_loss")
        require(self, "above 0 and at most 1", lambda x: 0 < x <= 1, "discount")
        require_shares(self, "gae_lambda")
        require_not_negative(
            self,
            "learning_rate_decay",
            "ratio_clip",
            "target_kl",
            "value_clip",
            "value_coefficient",
            "entropy_coefficient",
            "entropy_decay",
        )
        known_names = {
            "network": ("mlp", "gru", "attention"),
            "baseline": ("critic", "greedy"),
            "critic": ("own", "shared"),
        }
        for name, known in known_names.items():
            if getattr(self, name) not in known:
                raise InputError(f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}")
        require(self, "above 0 and below 1", lambda x: 0 < x < 1, "exposure")
        if self.baseline == "greedy":
            require(self, "0 with a greedy baseline, which compares single steps", lambda x: x == 0, "gae_lambda")
        if self.network == "attention" and self.critic == "shared":
            raise InputError("attention over products looks at one observation: critic must be own")
        if self.network != "attention" and self.tokens != 1:
            raise InputError(f"tokens {self.tokens} are for network attention, not for {self.network}")
        if self.network != "attention" and not self.over_agents and self.heads != 2:
            raise InputError(f"heads {self.heads} are for network attention and over_agents, not for {self.network}")
        if not self.over_agents and self.exposure != 0.95:
            raise InputError(f"exposure {self.exposure} is for roles named in over_agents, and none is")
        if (self.network != "mlp" or self.over_agents) and not self.hidden:
            raise InputError(f"hidden must have a width at least for network {self.network}, got {self.hidden!r}")
        split = "n_envs" if self.network == "gru" else "n_steps"
        if getattr(self, split) % self.n_minibatches:
            raise InputError(f"n_minibatches {self.n_minibatches} does not divide {split} {getattr(self, split)}")

    @property
    def body(self) -> Network:
        """The network of actor and critic, but for roles over agents."""
        if self.network == "attention":
            return Attention(self.hidden, self.tokens, self.heads)
        return GRU(self.hidden) if self.network == "gru" else MLP(self.hidden)

    def network_of(self, role: str, action: Space) -> Network:
        """The network of one agent of a role, and of its own critic. Raises InputError where the role allocates and its
        actions are not a tilt for every agent and an exposure."""
        if role not in self.over_agents:
            return self.body
        if len(action.shape) != 1 or action.shape[0] < 2:
            raise InputError(f"over_agents names {role!r}, whose action is not a tilt for each agent and an exposure")
        return AgentSet(
            n_agents=action.shape[0] - 1,
            hidden=self.hidden,
            heads=self.heads,
            recurrent=self.network == "gru",
            exposure=self.exposure,
        )


@struct.dataclass
class Memory:
    """What agents remember of the episode under way."""

    policy: dict[str, Carry]  # by team, leaves [N, G, H]
    critic: dict[str, Carry]  # by team [N, G, H], or of the centre [N, H]
    discounted: dict[str, jax.Array]  # by team float32[N, G] discounted sum of rewards so far


@struct.dataclass
class Statistics:
    """Of one team, or with a leading axis [G] of each of its agents."""

    obs: Moments  # of [obs_size]
    returns: Moments  # of discounted sums of rewards


@struct.dataclass
class PPORunner:
    """Everything that learning changes."""

    params: dict[str, Any]  # by team {"policy": PolicyParams, "critic": ...}; the shared critic under "centre"
    opt_state: dict[str, optax.OptState]  # likewise
    statistics: dict[str, Statistics]  # by team
    worlds: Worlds
    memory: Memory
    key: jax.Array
    chunks: jax.Array  # int32[] updates done


class Batch(NamedTuple):
    """A rollout ready for learning: by team leaves [T, N, G, ...], a minibatch of times [t, N, G, ...] or of worlds
    [T, n, G, ...]; memories at its start [N, G, H]."""

    obs: dict[str, jax.Array]  # float32[..., obs_size]
    choice: dict[str, jax.Array]  # float32[..., A] before the tanh, or int32[...]
    noise: dict[str, jax.Array]  # random draws, reused to sample the entropy
    log_density: dict[str, jax.Array]  # float32[...] of the choice under the rollout's policy
    value: dict[str, jax.Array]  # float32[...] under the rollout's critic
    advantage: dict[str, jax.Array]  # float32[...]
    target: dict[str, jax.Array]  # float32[...] what the critic should say
    done: jax.Array  # bool[T, N]
    memory: Memory
