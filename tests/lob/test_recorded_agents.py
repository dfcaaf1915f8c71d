"""A recorded day with agents in it: whom its executions fill, and whom its cancellations take from."""

import numpy as np

from marljax.lob.flows.flow import AGENT_ID
from marljax.lob.flows.recorded import CancelPolicy
from marljax.lob.messages import limit, market
from marljax.lob.types import BUY, Code
from tests.reference.recorded_page import START, page, resting, run, sizes, submit


def test_a_recorded_execution_fills_an_agent_that_stands_first(tmp_path):
    stream = page(tmp_path, START, ("4,9,20,1000,1", "30@1000 30@999 | 20@1002 40@1004"))
    book, report, _, _ = run(stream, agents=[limit(BUY, price=1001, size=15, id=AGENT_ID, owner=1)])
    assert int(report.trades.count) == 2
    assert report.trades.maker_owner[:2].tolist() == [1, 0]
    assert list(zip(report.trades.price.tolist(), report.trades.size.tolist(), strict=True))[:2] == [
        (1001, 15),
        (1000, 5),
    ]
    assert sizes(book)[0] == [(1000, 45), (999, 30)]
    book, report, _, _ = run(stream, agents=[limit(BUY, price=1000, size=15, id=AGENT_ID, owner=1)])
    assert report.trades.maker_owner[: int(report.trades.count)].tolist() == [0]


def test_a_recorded_cancel_of_an_order_that_an_agent_took_is_refused(tmp_path):
    """Order 2 was submitted within the episode, so order 3 of the same price and size is not taken in its stead."""
    bids = "50@1000 30@999"
    stream = page(
        tmp_path,
        START,
        ("1,2,7,1001,-1", f"{bids} | 7@1001 20@1002"),
        ("1,3,7,1001,-1", f"{bids} | 14@1001 20@1002"),
        ("3,2,7,1001,-1", f"{bids} | 7@1001 20@1002"),
    )
    book, _, _, _ = run(stream, rows=range(1, 3))
    book, report = submit(book, market(BUY, size=7, id=AGENT_ID, owner=1))
    assert int(report.trades.maker[0]) == 2
    book, report, draws, _ = run(stream, book=book, rows=range(3, 4))
    named = np.flatnonzero(draws.row == 3)[0]
    assert np.flatnonzero(report.receipts.code).tolist() == [named]
    assert report.receipts.code[named] == Code.UNKNOWN_ID
    assert sizes(book) == [[(1000, 50), (999, 30)], [(1001, 7), (1002, 20)]]


def test_a_deletion_takes_all_that_is_left_when_an_agent_was_filled_instead(tmp_path):
    """Order 2 lost 4 of 7 on record; here the agent before it was filled, and the deletion takes all 7."""
    stream = page(
        tmp_path,
        START,
        ("1,2,7,1001,1", "7@1001 50@1000 | 20@1002 40@1004"),
        ("4,2,4,1001,1", "3@1001 50@1000 | 20@1002 40@1004"),
        ("3,2,3,1001,1", "50@1000 30@999 | 20@1002 40@1004"),
    )
    book, report, _, _ = run(stream, agents=[limit(BUY, price=1001, size=4, id=AGENT_ID, owner=1)])
    assert report.trades.maker_owner[: int(report.trades.count)].tolist() == [1]
    assert sizes(book)[0] == [(1000, 50), (999, 30)]


def cancelled_at_level(tmp_path, policy: int, seed: int = 0) -> list[int]:
    """Ids left at 1000 after an unknown order's 10 are cancelled among: 50 of the snapshot, then 10 (id 2), 30, 12."""
    asks = "20@1002 40@1004"
    stream = page(
        tmp_path,
        START,
        ("1,2,10,1000,1", f"60@1000 30@999 | {asks}"),
        ("1,3,30,1000,1", f"90@1000 30@999 | {asks}"),
        ("1,4,12,1000,1", f"102@1000 30@999 | {asks}"),
        ("2,1,10,1000,1", f"92@1000 30@999 | {asks}"),
    )
    book, report, _, _ = run(stream, policy=policy, seed=seed)
    assert (report.receipts.code == Code.ACCEPTED).all()
    left = {order: size for price, size, order, _ in resting(book)[0] if price == 1000}
    assert sum(left.values()) == 92
    before = {next(i for i in left if i < 0): 50, 2: 10, 3: 30, 4: 12}
    return [max(order, 0) for order, size in before.items() if left.get(order, 0) != size]


def test_the_cancel_policy_says_which_order_gives_way(tmp_path):
    assert cancelled_at_level(tmp_path, CancelPolicy.SIZE) == [0]
    assert cancelled_at_level(tmp_path, CancelPolicy.OLDEST) == [0]
    assert cancelled_at_level(tmp_path, CancelPolicy.NEWEST) == [4]
    drawn = [cancelled_at_level(tmp_path, CancelPolicy.RANDOM, seed)[0] for seed in range(64)]
    assert min(drawn.count(order) for order in (0, 2, 3, 4)) >= 6


def test_by_size_the_nearest_order_gives_way_where_none_is_unknown(tmp_path):
    asks = "20@1002 40@1004"
    stream = page(
        tmp_path,
        START,
        ("1,2,10,1001,1", f"10@1001 50@1000 | {asks}"),
        ("1,3,30,1001,1", f"40@1001 50@1000 | {asks}"),
        ("1,4,12,1001,1", f"52@1001 50@1000 | {asks}"),
        ("2,99,11,1001,1", f"41@1001 50@1000 | {asks}"),
    )
    book, _, _, _ = run(stream)
    assert [(size, order) for price, size, order, _ in resting(book)[0] if price == 1001] == [(10, 2), (30, 3), (1, 4)]
