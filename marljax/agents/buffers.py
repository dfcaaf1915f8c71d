"""Uniform experience replay on the device: a ring of arrays, pure in and out, in place once donated."""

from typing import Generic, TypeVar

import jax
import jax.numpy as jnp
from flax import struct

Item = TypeVar("Item")


@struct.dataclass
class ReplayBuffer(Generic[Item]):
    """The last `capacity` items, a pytree whose leaves have a leading axis of that length."""

    items: Item  # leaves [capacity, ...]
    position: jax.Array  # int32[] where the next item goes
    size: jax.Array  # int32[] items held, at most capacity

    @classmethod
    def empty(cls, example: Item, capacity: int) -> "ReplayBuffer[Item]":
        """A buffer for items shaped like `example`."""
        items = jax.tree.map(lambda x: jnp.zeros((capacity, *jnp.shape(x)), jnp.result_type(x)), example)
        return cls(items, jnp.int32(0), jnp.int32(0))

    def add(self, batch: Item, accept: bool | jax.Array = True) -> "ReplayBuffer[Item]":
        """The buffer with `batch` (leaves [n, ...]) over its oldest items; unchanged where `accept` is False.

        The capacity must be a multiple of n, so that a batch never wraps around the end.
        """
        capacity = jax.tree.leaves(self.items)[0].shape[0]
        n = jax.tree.leaves(batch)[0].shape[0]
        if capacity % n:
            raise ValueError(f"replay capacity {capacity} is not a multiple of the batch of {n} added at once")

        def write(held: jax.Array, new: jax.Array) -> jax.Array:
            old = jax.lax.dynamic_slice_in_dim(held, self.position, n)
            return jax.lax.dynamic_update_slice_in_dim(held, jnp.where(accept, new, old), self.position, 0)

        added = jnp.where(accept, n, 0)
        return ReplayBuffer(
            jax.tree.map(write, self.items, batch),
            (self.position + added) % capacity,
            jnp.minimum(self.size + added, capacity),
        )

    def sample(self, bits: jax.Array) -> Item:
        """Items drawn uniformly with replacement by random `bits` uint32[n]; the buffer must not be empty.

        The remainder of a 32-bit number favours no item by more than size / 2^32.
        """
        index = bits % self.size.astype(jnp.uint32)
        return jax.tree.map(lambda x: x[index], self.items)
