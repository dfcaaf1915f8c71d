"""Trading one product against recorded (or generated) books, with stochastic slippage.

Episodes start at permitted rows of one long tape and never leave a session. The agent chooses a target position; the
order walks the visible book under `marljax.market.slippage`. Its trades do not change the recorded books: that is what
the impact term and small size are for, and why an order-book env exists beside this one.

Observation: float32[F + 1], the scaled features of the row and the position as a fraction of its limit.
Action: float32[1] in [-1, 1], the target position as a fraction of the limit, rounded to whole lots. NaN keeps the
position, and so does a target within `no_trade_band` of it.
Reward: float32[], the weighted terms of `marljax.envs.rewards`; by default the step's net earnings, in standard
deviations of holding the full position for one step in the training part, less a penalty on the squared position.
Termination: the loss since the start exceeds `max_loss` of the agent's capital. Truncation: the episode's length.
On rows marked `flat` (features warming up, the session about to close) the target is 0, whatever the action says.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import struct

from marljax.envs import rewards
from marljax.envs.environment import Box, Environment, Step
from marljax.envs.rewards import Facts, PathState, RewardWeights
from marljax.market.slippage import Account, CostModel, Tape, trade


@struct.dataclass
class ReplayParams:
    """One product's market and rules. Leaves may carry a product axis: `vmap` over it."""

    tape: Tape
    features: jax.Array  # float32[T, F] scaled features of each row
    flat: jax.Array  # bool[T] rows on which the target is flat: features warming up, or the session about to close
    real_starts: jax.Array  # int32[S] rows at which a real episode may start
    synthetic_starts: jax.Array  # int32[S'] rows at which a synthetic one may; repeats real_starts where there is none
    synthetic_fraction: jax.Array  # float32[] probability that an episode is synthetic
    costs: CostModel
    max_position: jax.Array  # int32[] lots, the position limit on either side
    no_trade_band: jax.Array  # float32[] fraction of the limit by which target and position must differ to trade
    reward_scale: jax.Array  # float32[] currency, one step's standard deviation of the full position
    rewards: RewardWeights
    capital: jax.Array  # float32[] currency, the agent's equity when an episode starts
    max_loss: jax.Array  # float32[] currency; an episode that loses more terminates

    @property
    def risk_aversion(self) -> jax.Array:
        """float32[] reward per squared position fraction, twice."""
        return self.rewards.inventory


@struct.dataclass
class ReplayState:
    time: jax.Array  # int32[] row of the tape
    elapsed: jax.Array  # int32[] steps since the episode's start
    account: Account
    path: PathState | None  # what terms of the reward remember; None where none does


@dataclasses.dataclass(frozen=True)
class ReplayEnv(Environment[ReplayState, ReplayParams]):
    """Per-product replay; see the module's docstring."""

    episode_steps: int = 128

    def observation_space(self, params: ReplayParams) -> Box:
        return Box(-jnp.inf, jnp.inf, (params.features.shape[-1] + 1,))

    def action_space(self, params: ReplayParams) -> Box:
        return Box(-1.0, 1.0, (1,))

    def reset_env(self, key: jax.Array, params: ReplayParams) -> tuple[jax.Array, ReplayState]:
        which, where = jax.random.uniform(key, (2,))
        real = params.real_starts[_index(where, params.real_starts)]
        synthetic = params.synthetic_starts[_index(where, params.synthetic_starts)]
        start = jnp.where(which < params.synthetic_fraction, synthetic, real)
        path = rewards.start(params.rewards, params.capital / params.reward_scale)
        state = ReplayState(time=start, elapsed=jnp.zeros((), jnp.int32), account=Account.open(), path=path)
        return observe(state.time, state.account.position, params), state

    def step_env(self, key: jax.Array, state: ReplayState, action: jax.Array, params: ReplayParams) -> Step:
        fraction = jnp.clip(jnp.reshape(action, ()), -1.0, 1.0)
        held = state.account.position
        limit = params.max_position.astype(jnp.float32)
        target = jnp.where(params.flat[state.time], 0, target_position(fraction, held, limit, params.no_trade_band))
        # Without the barrier XLA's CPU backend repeats the trade for what is made from it.
        account, earned = jax.lax.optimization_barrier(
            trade(key, state.account, target, params.tape, state.time, params.costs)
        )
        facts = Facts(
            earned=earned / params.reward_scale,
            position=account.position / params.max_position,
            traded=jnp.abs(account.position - held) / params.max_position,
        )
        path, reward = rewards.step(state.path, params.rewards, facts)
        state = ReplayState(time=state.time + 1, elapsed=state.elapsed + 1, account=account, path=path)
        terminated = account.net(params.costs.tick_value) < -params.max_loss
        truncated = (state.elapsed >= self.episode_steps) & ~terminated
        obs = observe(state.time, account.position, params)
        return obs, state, reward, terminated, truncated, {"earned": earned}


def target_position(fraction: jax.Array, held: jax.Array, limit: jax.Array, band: jax.Array) -> jax.Array:
    """The position to trade to, int32[] lots, never beyond the limit.

    Under proportional costs it pays to leave a position alone while it is near enough to the one that is wanted (Davis
    and Norman, Mathematics of Operations Research 15, 1990).

    Args:
        fraction: float32[] wanted, of the limit; NaN keeps the position.
        held: int32[] lots.
        limit: float32[] lots, > 0.
        band: float32[] fraction of the limit by which the two must differ.
    """
    most = jnp.floor(limit).astype(jnp.int32)
    wanted = jnp.round(jnp.where(jnp.isnan(fraction), 0.0, fraction) * limit).astype(jnp.int32)
    near = jnp.isnan(fraction) | (jnp.abs(wanted - held) < band * limit)
    return jnp.clip(jnp.where(near, held, wanted), -most, most)


def observe(time: jax.Array, position: jax.Array, params: ReplayParams) -> jax.Array:
    """float32[F + 1] what the agent sees: a row's features and its own position."""
    # Written into its place, since XLA's CPU backend would compute a concatenated entry once for every column.
    return jnp.pad(params.features[time], (0, 1)).at[-1].set(position / params.max_position)


def _index(uniform: jax.Array, choices: jax.Array) -> jax.Array:
    n = choices.shape[0]
    return jnp.minimum((uniform * n).astype(jnp.int32), n - 1)
