"""Which messages are refused, and why."""

import jax
import jax.numpy as jnp

from marljax.lob.types import MAX_SIZE, Book, BookConfig, Code, Kind, Messages, SelfTrade


def refusal(
    message: Messages,
    book: Book,
    config: BookConfig,
    *,
    known: jax.Array,
    owner: jax.Array,
    crosses: jax.Array,
    traded: jax.Array,
    homeless: jax.Array,
) -> jax.Array:
    """The first Code that applies, int32[].

    Args:
        message: scalars.
        book: as it finds it.
        config: that of the book.
        known: bool[] whether an order of its id rests.
        owner: int32[] whose.
        crosses: bool[] whether anything stands within its price.
        traded: int32[] lots that it would trade.
        homeless: bool[] whether it has something to hide and no place for it.
    """
    kind = message.kind
    names = (kind == Kind.CANCEL) | (kind == Kind.MODIFY)
    priced = (kind != Kind.MARKET) & (kind != Kind.CANCEL)
    reasons = (
        ((kind < Kind.NOTHING) | (kind > Kind.MODIFY), Code.BAD_KIND),
        (~names & (jnp.abs(message.side) != 1), Code.BAD_SIDE),
        ((message.size < 1) | (message.size > MAX_SIZE) | (message.peak < 0), Code.BAD_SIZE),
        (priced & ((message.price < book.lowest) | (message.price > book.highest)), Code.BAD_PRICE),
        ((message.owner < 0) | (message.owner >= config.owners), Code.BAD_OWNER),
        ((message.self_trade < SelfTrade.ALLOW) | (message.self_trade > SelfTrade.CANCEL_NEWEST), Code.BAD_RULE),
        (~names & known, Code.DUPLICATE_ID),
        (names & ~known, Code.UNKNOWN_ID),
        (names & (owner != message.owner), Code.NOT_OWNER),
        ((kind == Kind.POST_ONLY) & crosses, Code.WOULD_TRADE),
        ((kind == Kind.FILL_OR_KILL) & (traded < message.size), Code.UNFILLABLE),
        (homeless, Code.NO_RESERVE),
    )
    code = jnp.full((), Code.ACCEPTED, jnp.int32)
    for applies, reason in reversed(reasons):
        code = jnp.where(applies, reason, code)
    return jnp.where(kind == Kind.NOTHING, Code.ACCEPTED, code)
