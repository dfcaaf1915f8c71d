"""A film of a book: what it shows is what happened, and a browser plays it."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marljax.data.schema import InputError
from marljax.evaluation.book_figures import MOST_ROWS, depth_over_time, shots, view
from marljax.evaluation.book_film import Film, Told, record
from marljax.evaluation.book_page import Labels, render
from marljax.lob import messages, snapshot
from marljax.lob.matching import empty, process
from marljax.lob.types import BUY, SELL, BookConfig
from tests.reference.browser import CHROMIUM, problems, seen_by_browser

CONFIG = BookConfig(slots=40, owners=3, reserves=2)
LABELS = Labels("Two & three", "simulated", agents=("maker <1>", "taker"))


def told(*blocks) -> Told:
    """Blocks of four messages, one each second."""
    rows = [messages.stack([*block, *[messages.nothing()] * (4 - len(block))]) for block in blocks]
    seconds = np.arange(4.0 * len(rows)).reshape(-1, 4)
    return Told(empty(CONFIG), CONFIG, jax.tree.map(lambda *x: jnp.stack(x), *rows), seconds)


@pytest.fixture(scope="module")
def film() -> Film:
    return record(
        told(
            [
                messages.limit(BUY, 99, 5, id=1, owner=0),
                messages.limit(BUY, 99, 7, id=2, owner=1),
                messages.limit(SELL, 102, 9, id=3, owner=1, peak=4),
                messages.limit(SELL, 104, 6, id=4, owner=2),
            ],
            [messages.market(SELL, 8, id=5, owner=2), messages.cancel(id=4, owner=2)],
        )
    )


def random_told(seed: int = 0, count: int = 200, centre: int = 1000, spread: int = 8) -> Told:
    """Blocks of four random limit orders about a price."""
    random = np.random.default_rng(seed)
    side = np.where(random.random(count) < 0.5, BUY, SELL)
    rows = messages.limit(BUY, 1, 1, id=1, owner=0)
    rows = jax.tree.map(lambda x: jnp.broadcast_to(x, (count,)), rows).replace(
        side=jnp.asarray(side, jnp.int32),
        price=jnp.asarray(centre - side * random.integers(-1, spread, count), jnp.int32),
        size=jnp.asarray(random.integers(1, 20, count), jnp.int32),
        id=jnp.arange(count, dtype=jnp.int32),
        owner=jnp.asarray(random.integers(0, 3, count), jnp.int32),
    )
    blocks = jax.tree.map(lambda x: x.reshape(-1, 4), rows)
    return Told(empty(CONFIG), CONFIG, blocks, np.sort(random.random(count)).reshape(-1, 4) * 60)


def test_a_film_has_every_message_and_no_padding(film):
    np.testing.assert_array_equal(film.seconds, [0, 1, 2, 3, 4, 5])
    np.testing.assert_array_equal(film.shot_messages, [0, 4, 6])
    np.testing.assert_array_equal(film.shot_seconds, [0, 3, 7])
    np.testing.assert_array_equal(film.touch[:, 0], [99] * 6)
    np.testing.assert_array_equal(film.touch[:, 1], [np.nan, np.nan, 102, 102, 102, 102])


def test_trades_name_who_came_in_and_who_stood_there(film):
    np.testing.assert_array_equal(film.trade_message, [4, 4])
    np.testing.assert_array_equal(film.trade_side, [SELL, SELL])
    np.testing.assert_array_equal(film.trade_price, [99, 99])
    np.testing.assert_array_equal(film.trade_size, [5, 3])
    np.testing.assert_array_equal(film.trade_maker, [0, 1])
    np.testing.assert_array_equal(film.trade_taker, [2, 2])


def test_orders_stand_in_their_queue_and_hidden_size_is_not_shown(film):
    assert film.orders[0].shape == (0, 4)
    np.testing.assert_array_equal(film.orders[1], [[0, 99, 5, 0], [0, 99, 7, 1], [1, 102, 4, 1], [1, 104, 6, 2]])
    np.testing.assert_array_equal(film.orders[2], [[0, 99, 4, 1], [1, 102, 4, 1]])


def test_an_agents_quotes_are_the_best_of_its_orders(film):
    np.testing.assert_array_equal(film.quotes[3], [[99, 102], [np.nan, 104]])
    np.testing.assert_array_equal(film.quotes[5], [[99, 102], [np.nan, np.nan]])


@jax.jit
def step(book, block):
    book, report = process(book, block, CONFIG)
    return book, snapshot.levels(book, 5), report.turnover.lots[1].sum()


def test_a_film_shows_the_book_that_the_messages_make():
    said = random_told()
    book, traded = said.book, 0
    film = record(said)
    for b in range(len(said.seconds)):
        book, levels, lots = step(book, jax.tree.map(lambda x, b=b: x[b], said.messages))
        shot, traded = film.orders[b + 1], traded + int(lots)
        for side, price, size in ((0, levels.bid_price, levels.bid_size), (1, levels.ask_price, levels.ask_size)):
            mine = shot[shot[:, 0] == side]
            shown = [mine[mine[:, 1] == p, 2].sum() for p in np.asarray(price)]
            np.testing.assert_array_equal(shown, size)
        if levels.bid_size[0] > 0 and levels.ask_size[0] > 0:
            np.testing.assert_array_equal(film.touch[4 * b + 3], [levels.bid_price[0], levels.ask_price[0]])
    assert traded == film.trade_size.sum() > 100


def test_a_book_that_nobody_spoke_to_is_refused():
    with pytest.raises(InputError, match="not one message reached the book"):
        record(told([], []))


def test_the_view_has_room_for_the_levels_asked_for_and_moves_only_with_the_mid():
    film = record(random_told(spread=12))
    near, far = view(film, 2), view(film, 8)
    assert near.reach < far.reach <= 14
    jumps = np.flatnonzero(np.diff(near.centre))
    assert len(jumps) < len(near.centre) / 4, "it stays while the mid is not far away"
    for flat, shot, centre in zip(shots(film, near), film.orders, near.centre, strict=True):
        rows = np.add(np.reshape(flat, (-1, 4)), [0, centre, 0, 0])
        np.testing.assert_array_equal(rows, shot[np.abs(shot[:, 1] - centre) <= near.reach])


@pytest.mark.parametrize(("spread", "ticks"), [(10, 1), (2000, None)])
def test_the_heat_map_holds_every_lot_of_the_window(spread, ticks):
    film = record(random_told(spread=spread))
    seen = view(film, 20)
    figure = depth_over_time(film, seen, LABELS.agents, "0.01")
    heat = figure.data[0]
    assert len(heat.y) <= MOST_ROWS
    width = round(float(heat.y[1] - heat.y[0]))
    assert width == ticks or (ticks is None and width > 5)
    assert heat.z.shape == (len(heat.y), len(heat.x) - 1)
    shot = film.orders[30]
    for row in range(len(heat.y)):
        here = np.abs(shot[:, 1] - heat.y[row]) < 0.5 * width
        asks = np.where(shot[here, 0] == 1, 1, -1) * shot[here, 2]
        shade = np.sign(asks.sum()) * np.round(32 * np.log10(1 + abs(asks.sum())))
        assert heat.z[row, 30] == shade
    names = [trace.name for trace in figure.data[1:]]
    assert names == [
        *("best bid", "best ask", "maker <1>'s quotes", "maker <1>'s quotes", "taker's quotes", "taker's quotes"),
        *("trade, buyer came in", "trade, seller came in"),
    ]
    assert figure.layout.xaxis.title.text == "time [seconds]"
    assert figure.layout.yaxis.title.text == "price [ticks of 0.01]"


def test_a_line_of_few_points_is_the_same_staircase():
    film = record(random_told())
    line = depth_over_time(film, view(film, 5), (), "").data[1]
    x, y = np.asarray(line.x), np.asarray(line.y)
    at = np.searchsorted(x, film.seconds, side="right") - 1
    np.testing.assert_array_equal(y[at], film.touch[:, 0])
    assert len(x) < len(film.seconds)


def test_the_page_says_where_its_orders_come_from_and_shows_texts_as_text(film):
    page = render(film, LABELS, depth=5)
    assert "<h1>Two &amp; three</h1>" in page
    assert "maker <1>" not in page, "agents' names are in the film alone, and put there as text"
    assert "<b>Simulated:</b>" in page
    assert "<b>Recorded:</b>" in render(film, Labels("x", "recorded"), depth=5)
    assert page == render(film, LABELS, depth=5)
    assert not re.search(r'(src|href)="', page)
    assert len(page) < 2.1e6


ACTED = """<script>
const wait = setInterval(() => {
  const slider = document.getElementById("scrub"), when = document.getElementById("when");
  if (!document.querySelector("#plot-queues .main-svg") || when.dataset.done) return;
  clearInterval(wait);
  const says = (what, id, words) => {
    const text = document.getElementById(id).textContent;
    for (const word of words) if (!text.includes(word)) console.error(`${what}: "${word}" is not in "${text}"`);
  };
  const drawn = () => [...document.querySelectorAll("#plot-queues .bars path")].map(path => path.getAttribute("d"));
  slider.value = 1;
  slider.dispatchEvent(new Event("input"));
  says("slider", "when", ["3.000 s", "message 4"]);
  says("slider", "quote", ["best bid 12 lots at 99", "best ask 4 lots at 102", "spread 3 ticks"]);
  says("slider", "own", ["maker <1>buys7995", "taker sells".replace(" ", "") + "6104"]);
  const before = drawn();
  slider.value = 2;
  slider.dispatchEvent(new Event("input"));
  says("slider", "trades", ["sell 5 at 99by the taker", "sell 3 at 99by the taker from the maker <1>"]);
  if (drawn().join() === before.join()) console.error("the boxes are the same");
  const x0 = document.getElementById("plot-depth").layout.shapes[0].x0;
  if (x0 !== 7) console.error(`the cursor is at ${x0}`);
  document.getElementById("play").click();
  says("play", "play", ["Pause"]);
  says("play", "when", ["0.000 s"]);
  setTimeout(() => says("end", "when", ["7.000 s"]), 600);
  setTimeout(() => says("end", "play", ["Play"]), 600);
}, 50);
</script></body>"""


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium or Chrome is installed")
def test_a_browser_plays_the_film_and_its_console_is_silent(film, tmp_path):
    page = render(film, LABELS, depth=5).replace("</body>", ACTED)
    seen = seen_by_browser(page, tmp_path)
    assert problems(seen) == []
    assert len(seen["plots"]) == 2


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium or Chrome is installed")
def test_a_page_that_says_something_else_is_heard(film, tmp_path):
    page = render(film, LABELS, depth=5).replace("</body>", ACTED.replace("12 lots", "13 lots"))
    assert any("13 lots" in complaint for complaint in problems(seen_by_browser(page, tmp_path)))
