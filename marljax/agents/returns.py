"""Returns and advantages that honour the difference between a termination and a time limit."""

import chex
import jax
import jax.numpy as jnp


def generalised_advantage(
    reward: jax.Array,
    value: jax.Array,
    next_value: jax.Array,
    terminated: jax.Array,
    truncated: jax.Array,
    discount: float | jax.Array,
    gae_lambda: float | jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Generalised advantage estimates and value targets (Schulman et al. 2016), float32[T, ...] each.

        delta_t = r_t + discount * (1 - terminated_t) * V(s'_t) - V(s_t)
        A_t     = delta_t + discount * gae_lambda * (1 - terminated_t or truncated_t) * A_{t+1}

    All arrays are [T, ...] with time first. `next_value` is the value of the observation before any reset: a
    termination is worth nothing, a truncation bootstraps from it, and neither lets an advantage leak across episodes.
    """
    chex.assert_equal_shape([reward, value, next_value, terminated, truncated])
    delta = reward + discount * jnp.where(terminated, 0.0, next_value) - value
    decay = discount * gae_lambda * (1.0 - (terminated | truncated))

    def backward(advantage: jax.Array, step: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        step_delta, step_decay = step
        advantage = step_delta + step_decay * advantage
        return advantage, advantage

    _, advantage = jax.lax.scan(backward, jnp.zeros_like(delta[0]), (delta, decay), reverse=True)
    return advantage, advantage + value
