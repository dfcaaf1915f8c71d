"""Constructors make what they say, and a bad number is refused with its field and value."""

import chex
import jax
import jax.numpy as jnp
import pytest

from marljax.lob import messages
from marljax.lob.messages import limit, message, stack
from marljax.lob.types import BUY, MAX_PRICE, MAX_SIZE, SELL, Kind, Messages, SelfTrade

DEFAULT = {"side": BUY, "price": 0, "size": 1, "id": 0, "owner": 0, "peak": 0, "self_trade": SelfTrade.ALLOW}
ORDER = {"side": SELL, "size": 5, "id": 3, "owner": 2}
PRICED = ORDER | {"price": -7}


def values(made: Messages) -> dict[str, int]:
    chex.assert_tree_shape_prefix(made, ())
    assert {leaf.dtype for leaf in jax.tree.leaves(made)} == {jnp.dtype(jnp.int32)}
    return {name: int(x) for name, x in vars(made).items()}


@pytest.mark.parametrize(
    ("name", "kind", "fields"),
    [
        ("nothing", Kind.NOTHING, {}),
        ("limit", Kind.LIMIT, PRICED),
        ("limit", Kind.LIMIT, PRICED | {"peak": 2, "self_trade": SelfTrade.CANCEL_OLDEST}),
        ("market", Kind.MARKET, ORDER | {"self_trade": SelfTrade.CANCEL_NEWEST}),
        ("immediate_or_cancel", Kind.IMMEDIATE_OR_CANCEL, PRICED),
        ("fill_or_kill", Kind.FILL_OR_KILL, PRICED),
        ("post_only", Kind.POST_ONLY, PRICED | {"peak": 1}),
        ("cancel", Kind.CANCEL, {"id": 3, "owner": 2, "size": 4}),
        ("modify", Kind.MODIFY, {"id": 3, "owner": 2, "price": 9, "size": 4, "peak": 2}),
    ],
)
def test_a_constructor_sets_its_kind_and_the_fields_it_is_given(name, kind, fields):
    assert values(getattr(messages, name)(**fields)) == {"kind": kind} | DEFAULT | fields


def test_a_cancel_without_a_size_takes_all():
    assert values(messages.cancel(3, owner=2))["size"] == MAX_SIZE


@pytest.mark.parametrize(
    ("field", "bad"),
    [
        ("kind", -1),
        ("kind", Kind.MODIFY + 1),
        ("side", 0),
        ("side", 2),
        ("price", MAX_PRICE),
        ("price", -MAX_PRICE),
        ("size", 0),
        ("size", -3),
        ("size", MAX_SIZE + 1),
        ("id", 2**31),
        ("id", -(2**31) - 1),
        ("owner", -1),
        ("peak", -1),
        ("self_trade", -1),
        ("self_trade", SelfTrade.CANCEL_NEWEST + 1),
        ("size", 1.5),
        ("price", float("nan")),
        ("size", "7"),
        ("id", [1, 2]),
        ("size", True),
    ],
)
def test_a_bad_number_is_refused_by_field_and_value(field, bad):
    with pytest.raises(ValueError, match=rf"message\.{field} ") as refusal:
        message(**({"kind": Kind.LIMIT} | {field: bad}))
    assert repr(bad) in str(refusal.value)


@pytest.mark.parametrize("field", ["side", "price", "size", "owner"])
def test_an_array_that_is_known_is_checked_like_a_number(field):
    with pytest.raises(ValueError, match=rf"message\.{field} "):
        limit(**(PRICED | {field: jnp.int32(-(2**30))}))


def test_a_traced_number_goes_through_for_the_book_to_judge():
    made = jax.jit(lambda size: limit(BUY, price=1, size=size, id=1, owner=0))(jnp.int32(-4))
    assert values(made)["size"] == -4


def test_messages_are_stacked_in_order():
    block = stack([limit(**(PRICED | {"id": id})) for id in (4, 9, 1)])
    chex.assert_tree_shape_prefix(block, (3,))
    assert block.id.tolist() == [4, 9, 1]
