"""A policy's memory: the gated recurrent unit (Cho et al. 2014), and how a network is run along time."""

import dataclasses

import jax
import jax.numpy as jnp

from marljax.agents.networks import Carry, Dense, Network, Params, dense, init_dense, init_mlp


def init_recurrence(key: jax.Array, n_in: int, width: int) -> Params:
    """Fresh parameters of `recur`."""
    return _recurrence(list(jax.random.split(key, 4)), n_in, width)


def recur(params: Params, x: jax.Array, carry: jax.Array) -> jax.Array:
    """The carry float32[..., width] after float32[..., n_in]."""
    from_x = jnp.split(dense(params["input"], x), 3, -1)
    from_carry = jnp.split(dense(params["recurrent"], carry), 3, -1)
    reset, update = (jax.nn.sigmoid(a + b) for a, b in zip(from_x[:2], from_carry[:2], strict=True))
    candidate = jnp.tanh(from_x[2] + reset * from_carry[2])
    return (1.0 - update) * candidate + update * carry


@dataclasses.dataclass(frozen=True)
class GRU:
    """A perceptron of all but the last width, a recurrence of the last one, and a linear head.

    The carry is float32[..., hidden[-1]], zero at an episode's beginning.
    """

    hidden: tuple[int, ...] = (64, 64)

    @property
    def recurrent(self) -> bool:
        return True

    def init(self, key: jax.Array, n_in: int, n_out: int, final_scale: float) -> Params:
        body_key, *recurrence_keys, head_key = jax.random.split(key, 6)
        width = self.hidden[-1]
        n_body = self.hidden[-2] if len(self.hidden) > 1 else n_in
        return {
            "body": init_mlp(body_key, (n_in, *self.hidden[:-1]), 2.0**0.5) if len(self.hidden) > 1 else (),
            **_recurrence(recurrence_keys, n_body, width),
            "head": init_dense(head_key, width, n_out, final_scale),
        }

    def init_carry(self) -> jax.Array:
        return jnp.zeros(self.hidden[-1])

    def apply(self, params: Params, x: jax.Array, carry: jax.Array) -> tuple[jax.Array, jax.Array]:
        for layer in params["body"]:
            x = jnp.tanh(dense(layer, x))
        carry = recur(params, x, carry)
        return dense(params["head"], carry), carry


def unroll(
    network: Network, params: Params, x: jax.Array, carry: Carry, done: jax.Array
) -> tuple[jax.Array, Carry, Carry]:
    """A network along time, forgetting where an episode ends.

    Args:
        x: float32[T, N, ..., n_in].
        carry: leaves [N, ..., H], before the first step.
        done: bool[T, N] whether an episode ended with step t.

    Returns: outputs float32[T, N, ..., n_out]; the carries [T, N, ..., H] that each step left, ends of episodes not yet
    forgotten; and the carry [N, ..., H] for what comes after.
    """
    if not network.recurrent:
        y, _ = network.apply(params, x, carry)
        return y, carry, carry

    def step(carry: Carry, now: tuple[jax.Array, jax.Array]) -> tuple[Carry, tuple[jax.Array, Carry]]:
        y, left = network.apply(params, now[0], carry)
        return forget(left, now[1]), (y, left)

    last, (y, left) = jax.lax.scan(step, carry, (x, done))
    return y, left, last


def forget(carry: Carry, done: jax.Array) -> Carry:
    """The carry, leaves [N, ..., H], set to zero where `done` bool[N]."""
    return jax.tree.map(lambda c: jnp.where(done.reshape(done.shape + (1,) * (c.ndim - done.ndim)), 0.0, c), carry)


def _recurrence(keys: list[jax.Array], n_in: int, width: int) -> Params:
    # Each gate's recurrent kernel is orthogonal by itself.
    gates = [init_dense(key, width, width, 1.0).kernel for key in keys[1:]]
    return {
        "input": init_dense(keys[0], n_in, 3 * width, 1.0),
        "recurrent": Dense(jnp.concatenate(gates, -1), jnp.zeros(3 * width)),
    }
