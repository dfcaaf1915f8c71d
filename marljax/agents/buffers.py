"""Experience replay on the device: a ring of arrays, drawn from uniformly or by priority; pure, in place once donated.

Prioritised replay is that of Schaul et al. (2016), the proportional variant: an item is drawn with probability
proportional to a power of its last error, every draw in its own stratum of the total, and its weight (N P)^-beta makes
up for it. Sums are kept in a tree of four children per node, whose levels are arrays: at 65,536 items and batches of
256 that is faster on a CPU than two children (more levels) or blocks of 256 (longer sums).
"""

from typing import Generic, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from flax import struct

Item = TypeVar("Item")

FAN_OUT = 4


class Sample(NamedTuple, Generic[Item]):
    """What was drawn from a replay."""

    items: Item  # leaves [n, ...]
    slot: jax.Array  # int32[n] where they are held
    weight: jax.Array  # float32[n] in (0, 1], importance weights whose largest is 1


@struct.dataclass
class ReplayBuffer(Generic[Item]):
    """The last `capacity` items, a pytree whose leaves have a leading axis of that length; drawn uniformly."""

    items: Item  # leaves [capacity, ...]
    position: jax.Array  # int32[] where the next item goes
    size: jax.Array  # int32[] items held, at most capacity

    @classmethod
    def empty(cls, example: Item, capacity: int) -> "ReplayBuffer[Item]":
        """A buffer for items shaped like `example`."""
        items = jax.tree.map(lambda x: jnp.zeros((capacity, *jnp.shape(x)), jnp.result_type(x)), example)
        return cls(items, jnp.int32(0), jnp.int32(0))

    @property
    def capacity(self) -> int:
        return jax.tree.leaves(self.items)[0].shape[0]

    def add(self, batch: Item, accept: bool | jax.Array = True) -> "ReplayBuffer[Item]":
        """The buffer with `batch` (leaves [n, ...]) over its oldest items; unchanged where `accept` is False.

        The capacity must be a multiple of n, so that a batch never wraps around the end.
        """
        capacity, n = self.capacity, _length(batch)
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

    def sample(self, bits: jax.Array, beta: float | jax.Array = 0.0) -> Sample[Item]:
        """Items drawn uniformly with replacement by random `bits` uint32[n]; the buffer must not be empty.

        The remainder of a 32-bit number favours no item by more than size / 2^32. Weights are 1 whatever `beta` is.
        """
        index = (bits % self.size.astype(jnp.uint32)).astype(jnp.int32)
        return Sample(self._at(index), index, jnp.ones(index.shape, jnp.float32))

    def reprioritise(self, index: jax.Array, priority: jax.Array) -> "ReplayBuffer[Item]":
        """The same buffer: uniform draws know no priority."""
        return self

    def _at(self, index: jax.Array) -> Item:
        return jax.tree.map(lambda x: x[index], self.items)


@struct.dataclass
class SumTree:
    """Numbers >= 0 under a tree of their sums: set many, and find where many running sums lie, level by level.

    A sum is always computed anew from its children, so rounding does not accumulate.
    """

    levels: tuple[jax.Array, ...]  # float32[rows, FAN_OUT] each, the root's children first, the numbers themselves last

    @classmethod
    def zeros(cls, n: int) -> "SumTree":
        """`n` zeros."""
        rows = [-(-n // FAN_OUT)]
        while rows[0] > 1:
            rows.insert(0, -(-rows[0] // FAN_OUT))
        return cls(tuple(jnp.zeros((r, FAN_OUT), jnp.float32) for r in rows))

    @property
    def total(self) -> jax.Array:
        """float32[] sum of all numbers."""
        return self.levels[0].sum()

    def __getitem__(self, index: jax.Array) -> jax.Array:
        """float32[n] the numbers at int32[n]."""
        return self.levels[-1][index // FAN_OUT, index % FAN_OUT]

    def put(self, index: jax.Array, values: jax.Array) -> "SumTree":
        """With float32[n] `values` >= 0 at int32[n] `index`; of several for one place the largest, on every device."""
        row, column = index // FAN_OUT, index % FAN_OUT
        levels = list(self.levels)
        # A scatter that meets a place twice may take either value; zero and maximum do not depend on the order.
        levels[-1] = levels[-1].at[row, column].set(0.0).at[row, column].max(values)
        for depth in reversed(range(len(levels) - 1)):
            sums = levels[depth + 1][row].sum(-1)
            row, column = row // FAN_OUT, row % FAN_OUT
            levels[depth] = levels[depth].at[row, column].set(sums)
        return SumTree(tuple(levels))

    def find(self, target: jax.Array) -> jax.Array:
        """int32[n] the first index up to which the sum exceeds float32[n] `target` in [0, total).

        The number there is positive, wherever rounding puts the target, unless all are 0.
        """
        index = jnp.zeros(target.shape, jnp.int32)
        for level in self.levels:
            children = level[index]
            sums = jnp.cumsum(children, -1)
            last = (sums < sums[..., -1:]).sum(-1)
            child = jnp.minimum((sums <= target[..., None]).sum(-1), last)
            before = jnp.where(jnp.arange(FAN_OUT) < child[..., None], children, 0.0).sum(-1)
            target = target - before
            index = FAN_OUT * index + child
        return index


@struct.dataclass
class PrioritisedReplay(Generic[Item]):
    """The last items, each drawn with probability proportional to its priority."""

    ring: ReplayBuffer[Item]
    priorities: SumTree  # 0 where nothing is held
    largest: jax.Array  # float32[] largest priority ever given, 1 before any; what new items get

    @classmethod
    def empty(cls, example: Item, capacity: int) -> "PrioritisedReplay[Item]":
        """A buffer for items shaped like `example`."""
        return cls(ReplayBuffer.empty(example, capacity), SumTree.zeros(capacity), jnp.float32(1.0))

    @property
    def items(self) -> Item:
        """What is held, leaves [capacity, ...]."""
        return self.ring.items

    @property
    def size(self) -> jax.Array:
        """int32[] items held."""
        return self.ring.size

    def add(self, batch: Item, accept: bool | jax.Array = True) -> "PrioritisedReplay[Item]":
        """As `ReplayBuffer.add`; new items have the largest priority, whatever lay in their place."""
        index = self.ring.position + jnp.arange(_length(batch))
        priority = jnp.where(accept, self.largest, self.priorities[index])
        return PrioritisedReplay(self.ring.add(batch, accept), self.priorities.put(index, priority), self.largest)

    def sample(self, bits: jax.Array, beta: float | jax.Array) -> Sample[Item]:
        """Items drawn by random `bits` uint32[n], the i-th from the i-th of n equal parts of all priority.

        The buffer must not be empty. `beta` in [0, 1] is the part of the non-uniformity that weights make up for. A
        probability is exact to 2^-24 of the whole.
        """
        n = bits.shape[0]
        total = self.priorities.total
        uniform = (bits >> 8).astype(jnp.float32) * 2.0**-24
        index = self.priorities.find((jnp.arange(n) + uniform) * (total / n))
        priority = self.priorities[index]
        # (N P)^-beta over its largest: the number of items and the total cancel.
        weight = (priority.min() / priority) ** beta
        return Sample(self.ring._at(index), index, weight)

    def reprioritise(self, index: jax.Array, priority: jax.Array) -> "PrioritisedReplay[Item]":
        """With float32[n] priorities > 0 at int32[n]; one that is not finite leaves the item's as it was.

        Of several for one item the largest counts.
        """
        priority = jnp.where(jnp.isfinite(priority), priority, self.priorities[index])
        largest = jnp.maximum(self.largest, priority.max())
        return PrioritisedReplay(self.ring, self.priorities.put(index, priority), largest)


def _length(batch: Item) -> int:
    return jax.tree.leaves(batch)[0].shape[0]
