"""What goes into the order book, what it is made of, and what comes out.

Everything is written for one book; callers `vmap`. Prices are int32 ticks, sizes int32 lots. A message that cannot be
done is refused with a `Code` and changes nothing.
"""

import dataclasses

import jax
from flax import struct

from marljax.data.schema import InputError
from marljax.lob.tally import Tally

MAX_SIZE = 2**16 - 1
"""Largest size of a message [lots]: with at most `MAX_MESSAGES` to a block, no sum within it leaves 32 bits."""

MAX_MESSAGES = 128
"""Most messages that one call of `process` takes."""

MAX_PRICE = 2**23
"""Prices lie strictly within +-MAX_PRICE [ticks]."""

FAR = 2**30
"""Beyond every key and every coordinate of a `Book`: what is compared where there is no order."""

BUY, SELL = 1, -1


class Kind:
    """What a message asks for. `NOTHING` is padding: it has no effect and is always accepted."""

    NOTHING = 0
    LIMIT = 1
    """Trade what crosses `price`; the rest is queued there. `peak` > 0 shows only so much of the rest at a time."""
    MARKET = 2
    """Trade at any price; the rest is cancelled."""
    IMMEDIATE_OR_CANCEL = 3
    """Trade what crosses `price`; the rest is cancelled."""
    FILL_OR_KILL = 4
    """Trade all of `size` within `price`, or be refused."""
    POST_ONLY = 5
    """Be queued at `price`, or be refused if anything would trade."""
    CANCEL = 6
    """Take `size` from the owner's order `id`, all of it if it has no more left. Side and price are not looked at."""
    MODIFY = 7
    """Give the owner's order `id` the remaining size `size` and the price `price`. At an unchanged price a size that
    does not grow keeps the place in the queue; anything else is a cancel and a new limit order under the same id, and
    counts as both. Side is not looked at."""


class SelfTrade:
    """What an order does when it would trade with a resting one of its owner. It only concerns sizes it would reach."""

    ALLOW = 0
    """They trade."""
    CANCEL_OLDEST = 1
    """The resting order (of an iceberg: what is shown, or the reserve, whichever was reached) is cancelled, and the
    incoming one goes on."""
    CANCEL_NEWEST = 2
    """What is left of the incoming order is cancelled."""


class Code:
    """What became of a message. All but `ACCEPTED` leave the book as it was; of several reasons the first counts."""

    ACCEPTED = 0
    BAD_KIND = 1
    BAD_SIDE = 2
    BAD_SIZE = 3
    """Size not within 1..MAX_SIZE, or a negative peak."""
    BAD_PRICE = 4
    """Outside the tick window of the book."""
    BAD_OWNER = 5
    """Not within 0..owners-1."""
    BAD_RULE = 6
    """No such self-trade rule."""
    DUPLICATE_ID = 7
    """An order of this id is resting; ids are unique among the resting orders of a book, whoever owns them."""
    UNKNOWN_ID = 8
    NOT_OWNER = 9
    WOULD_TRADE = 10
    """A post-only order that crosses, be it orders of its own owner."""
    UNFILLABLE = 11
    """A fill-or-kill order that cannot be filled whole."""
    NO_RESERVE = 12
    """An iceberg that would queue, and the side's `reserves` are taken, be it one that would give way."""


@struct.dataclass
class Messages:
    """Orders to the book, one or (with a leading axis) many in order of arrival. Made by `marljax.lob.messages`."""

    kind: jax.Array  # int32[] see Kind
    side: jax.Array  # int32[] BUY or SELL
    price: jax.Array  # int32[] ticks
    size: jax.Array  # int32[] lots
    id: jax.Array  # int32[] of the order, any number; unique among those resting
    owner: jax.Array  # int32[] 0..owners-1
    peak: jax.Array  # int32[] lots shown at a time; 0 (or not less than the size) shows everything
    self_trade: jax.Array  # int32[] see SelfTrade


@dataclasses.dataclass(frozen=True)
class BookConfig:
    """What fixes the shapes of a book and of its reports."""

    slots: int = 100
    """Orders that can rest on one side."""
    owners: int = 3
    """Different owners of orders, numbered from 0."""
    trades: int = 128
    """Trades recorded for one block of messages; more are counted, not recorded."""
    reserves: int = 0
    """Icebergs with something hidden that can rest on one side."""

    def __post_init__(self) -> None:
        for name, least, most in (("slots", 1, 4096), ("owners", 1, 1024), ("trades", 1, 4096), ("reserves", 0, 64)):
            value = getattr(self, name)
            if not least <= value <= most:
                raise InputError(f"BookConfig.{name} must be within {least}..{most}, got {value!r}")


@struct.dataclass
class Reserves:
    """What the slots behind the displayed ones, those of the hidden parts of icebergs, hold besides."""

    peak: jax.Array  # int32[2, reserves] lots shown at a time
    shown: jax.Array  # int32[2, reserves] slot of the displayed part


@struct.dataclass
class Book:
    """One book. `L` is the padded number of slots of a side (displayed orders first, then reserves of icebergs).

    The volume resting on a side is a line, laid out in order of priority. The order in a slot owns the interval
    `(end - size, end]` of it; everything up to `consumed` has traded, so an order is alive while `end > consumed`,
    `end - size - consumed` lots stand before it, and slots need no order among themselves. Side 0 holds the bids.
    """

    key: jax.Array  # int32[2, L] priority of the price, smaller is better: twice the price (negated: bids), +1 hidden
    end: jax.Array  # int32[2, L] lots, where the order's interval ends
    size: jax.Array  # int32[2, L] lots, the interval's length
    id: jax.Array  # int32[2, L]
    owner: jax.Array  # int32[2, L]
    consumed: jax.Array  # int32[2] lots
    reserves: Reserves | None  # None where the config has none
    lowest: jax.Array  # int32[] ticks, the tick window
    highest: jax.Array  # int32[] ticks


@struct.dataclass
class Receipts:
    """What became of each message of a block of M. Lots of the message's own order, except `displaced`."""

    code: jax.Array  # int32[M] see Code
    traded: jax.Array  # int32[M] lots
    rested: jax.Array  # int32[M] lots that the order now has in the book, shown and hidden; 0 after a refusal
    cancelled: jax.Array  # int32[M] lots: of the named order, or what an incoming order did not trade or queue
    prevented: jax.Array  # int32[M] lots of the owner's resting orders cancelled by SelfTrade.CANCEL_OLDEST
    displaced: jax.Array  # int32[M] lots that gave way because the side was full, the worst in priority
    displaced_owner: jax.Array  # int32[M] whose, -1 where none


@struct.dataclass
class Trades:
    """The trades of a block in order; rows beyond `count` are zero. Of more than R trades R are kept, whichever, and
    the others are counted. Turnover and volumes do not depend on the record."""

    message: jax.Array  # int32[R] index of the incoming order within the block
    side: jax.Array  # int32[R] BUY or SELL, of the incoming order
    price: jax.Array  # int32[R] ticks
    size: jax.Array  # int32[R] lots
    maker: jax.Array  # int32[R] id of the resting order
    maker_owner: jax.Array  # int32[R]
    maker_left: jax.Array  # int32[R] lots of the resting order (of an iceberg: of the part that traded) still there
    taker: jax.Array  # int32[R] id of the incoming order
    taker_owner: jax.Array  # int32[R]
    count: jax.Array  # int32[] trades of the block, recorded or not
    overflow: jax.Array  # int32[] trades not recorded


@struct.dataclass
class Turnover:
    """What the owners traded in a block. First axis: resting (0) or incoming (1); second: bought (0) or sold (1)."""

    lots: jax.Array  # int32[2, 2, owners]
    value: Tally  # [2, 2, owners] lots x ticks, exact


@struct.dataclass
class Volumes:
    """Where each owner's volume went in a block [lots]: resting before + added = resting after + traded + cancelled +
    displaced, with `traded` the sum of `Turnover.lots` over both roles and sides."""

    added: jax.Array  # int32[owners] accepted orders, and what a modification added
    cancelled: jax.Array  # int32[owners] on request, not queued, or by a self-trade rule
    displaced: jax.Array  # int32[owners]


@struct.dataclass
class Report:
    """Everything that happened in a block of messages."""

    messages: Messages  # as they met the book
    receipts: Receipts
    trades: Trades
    turnover: Turnover
    volumes: Volumes
