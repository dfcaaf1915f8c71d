"""Whole numbers beyond 32 bits, in two words: what money is counted in."""

import jax
import jax.numpy as jnp
from flax import struct

LOW_BITS = 24

LARGEST_STEP = 2**30
"""What is added at once stays below it."""


@struct.dataclass
class Tally:
    """high x 2**24 + low, exact up to 2**55. Fields share one shape."""

    high: jax.Array  # int32[...]
    low: jax.Array  # int32[...], 0 <= low < 2**24

    @classmethod
    def zero(cls, shape: tuple[int, ...] = ()) -> "Tally":
        return cls(jnp.zeros(shape, jnp.int32), jnp.zeros(shape, jnp.int32))

    def plus(self, amount: jax.Array) -> "Tally":
        """The exact sum with an int32[...] of absolute value below `LARGEST_STEP`."""
        return self._carried(self.high, self.low + amount)

    def add(self, other: "Tally") -> "Tally":
        """The exact sum."""
        return self._carried(self.high + other.high, self.low + other.low)

    def minus(self, other: "Tally") -> "Tally":
        """The exact difference."""
        return self._carried(self.high - other.high, self.low - other.low)

    @staticmethod
    def _carried(high: jax.Array, low: jax.Array) -> "Tally":
        carry = low >> LOW_BITS
        return Tally(high + carry, low - (carry << LOW_BITS))

    def value(self) -> jax.Array:
        """float32[...] the number, rounded once."""
        return self.high.astype(jnp.float32) * 2.0**LOW_BITS + self.low
