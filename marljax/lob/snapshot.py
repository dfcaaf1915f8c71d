"""What one can see of a book: the touch, the levels, and where an order stands. Hidden size is not seen."""

import jax
import jax.numpy as jnp
from flax import struct

from marljax.lob.types import BUY, FAR, SELL, Book


@struct.dataclass
class Levels:
    """Prices and displayed sizes, best first; an absent level has size 0 and price 0."""

    bid_price: jax.Array  # int32[depth] ticks
    bid_size: jax.Array  # int32[depth] lots
    ask_price: jax.Array  # int32[depth] ticks
    ask_size: jax.Array  # int32[depth] lots


@struct.dataclass
class Order:
    """One resting order. Zeros where `found` is False."""

    found: jax.Array  # bool[]
    side: jax.Array  # int32[] BUY or SELL
    price: jax.Array  # int32[] ticks
    displayed: jax.Array  # int32[] lots
    hidden: jax.Array  # int32[] lots
    ahead: jax.Array  # int32[] lots that trade before it, at better prices and in its queue
    owner: jax.Array  # int32[]


def remaining(book: Book) -> jax.Array:
    """Lots left of the order in each slot, int32[2, L]; 0 where there is none."""
    return jnp.where(book.end > book.consumed[:, None], book.size, 0)


def levels(book: Book, depth: int) -> Levels:
    """The best `depth` prices of each side and what is displayed there."""
    lots = jnp.where(book.key & 1, 0, remaining(book))
    key = jnp.where(lots > 0, book.key, FAR)
    keys, sizes = [], []
    for _ in range(depth):
        best = jnp.min(key, axis=-1)
        here = (key == best[:, None]) & (key < FAR)
        sizes.append(jnp.sum(jnp.where(here, lots, 0), axis=-1))
        keys.append(jnp.where(best < FAR, best >> 1, 0))
        key = jnp.where(here, FAR, key)
    price, size = jnp.stack(keys, -1), jnp.stack(sizes, -1)
    return Levels(bid_price=-price[0], bid_size=size[0], ask_price=price[1], ask_size=size[1])


def touch(book: Book) -> Levels:
    """The best price of each side and its displayed size; int32[] each."""
    return jax.tree.map(lambda x: x[0], levels(book, 1))


def order(book: Book, id: jax.Array) -> Order:
    """Where the order `id` stands."""
    lots = jnp.where(book.id == id, remaining(book), 0)
    shown = (lots > 0) & (book.key & 1 == 0)
    found = jnp.any(shown)
    side = jnp.where(jnp.any(shown[0]), 0, 1)

    def of(values: jax.Array) -> jax.Array:
        return jnp.where(found, jnp.sum(jnp.where(shown, values, 0)), 0)

    return Order(
        found=found,
        side=jnp.where(found, jnp.where(side == 0, BUY, SELL), 0),
        price=of(book.key >> 1) * jnp.where(side == 0, -1, 1),
        displayed=of(lots),
        hidden=jnp.sum(jnp.where(shown, 0, lots)),
        ahead=of(book.end - book.size - book.consumed[:, None]),
        owner=of(book.owner),
    )
