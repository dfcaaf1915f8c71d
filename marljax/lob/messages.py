"""Messages by name: `limit(BUY, price=100, size=5, id=1, owner=1)`.

The same functions serve host code and jitted code. Numbers that are known when a message is made are checked and a bad
one raises ValueError with its field; a traced one cannot be, and the book refuses it with a `Code`.
"""

import jax
import jax.numpy as jnp
import numpy as np

from marljax.lob.types import BUY, MAX_PRICE, MAX_SIZE, SELL, Kind, Messages, SelfTrade

Number = int | jax.Array

_WITHIN = {
    "kind": (Kind.NOTHING, Kind.MODIFY),
    "price": (1 - MAX_PRICE, MAX_PRICE - 1),
    "size": (1, MAX_SIZE),
    "id": (-(2**31), 2**31 - 1),
    "owner": (0, 2**31 - 1),
    "peak": (0, 2**31 - 1),
    "self_trade": (SelfTrade.ALLOW, SelfTrade.CANCEL_NEWEST),
}


def message(
    kind: Number,
    side: Number = BUY,
    price: Number = 0,
    size: Number = 1,
    id: Number = 0,
    owner: Number = 0,
    peak: Number = 0,
    self_trade: Number = SelfTrade.ALLOW,
) -> Messages:
    """Any message; int32[] each. Raises ValueError naming the field and the value where it is known to be bad."""
    fields = {
        "kind": kind,
        "side": side,
        "price": price,
        "size": size,
        "id": id,
        "owner": owner,
        "peak": peak,
        "self_trade": self_trade,
    }
    for name, value in fields.items():
        _check(name, value)
    return Messages(**{name: jnp.asarray(value, jnp.int32) for name, value in fields.items()})


def nothing() -> Messages:
    """Padding: no effect."""
    return message(Kind.NOTHING)


def limit(side: Number, price: Number, size: Number, id: Number, owner: Number, **more: Number) -> Messages:
    """A limit order. `peak` makes it an iceberg, `self_trade` sets its rule."""
    return message(Kind.LIMIT, side, price, size, id, owner, **more)


def market(side: Number, size: Number, id: Number, owner: Number, **more: Number) -> Messages:
    """A market order."""
    return message(Kind.MARKET, side, 0, size, id, owner, **more)


def immediate_or_cancel(
    side: Number, price: Number, size: Number, id: Number, owner: Number, **more: Number
) -> Messages:
    """A limit order of which nothing is queued."""
    return message(Kind.IMMEDIATE_OR_CANCEL, side, price, size, id, owner, **more)


def fill_or_kill(side: Number, price: Number, size: Number, id: Number, owner: Number, **more: Number) -> Messages:
    """A limit order that trades whole or is refused."""
    return message(Kind.FILL_OR_KILL, side, price, size, id, owner, **more)


def post_only(side: Number, price: Number, size: Number, id: Number, owner: Number, **more: Number) -> Messages:
    """A limit order that is refused if it would trade."""
    return message(Kind.POST_ONLY, side, price, size, id, owner, **more)


def cancel(id: Number, owner: Number, size: Number = MAX_SIZE) -> Messages:
    """Take `size` lots from an order, or all it has."""
    return message(Kind.CANCEL, size=size, id=id, owner=owner)


def modify(id: Number, owner: Number, price: Number, size: Number, **more: Number) -> Messages:
    """Give an order a new price and remaining size."""
    return message(Kind.MODIFY, price=price, size=size, id=id, owner=owner, **more)


def stack(messages: list[Messages]) -> Messages:
    """A block of messages, in order."""
    return jax.tree.map(lambda *fields: jnp.stack(fields), *messages)


def _check(name: str, value: Number) -> None:
    if isinstance(value, jax.core.Tracer):
        return
    number = np.asarray(value)
    if number.shape != () or not np.issubdtype(number.dtype, np.integer):
        raise ValueError(f"message.{name} is one whole number, got {value!r}")
    if name == "side":
        if int(number) not in (BUY, SELL):
            raise ValueError(f"message.side is {BUY} (buy) or {SELL} (sell), got {value!r}")
        return
    low, high = _WITHIN[name]
    if not low <= int(number) <= high:
        raise ValueError(f"message.{name} must be within {low}..{high}, got {value!r}")
