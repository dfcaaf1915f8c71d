"""A picture of an order book that one can play, stop and scrub, in one HTML file.

    python experiments/watch_book.py --source zero-intelligence
    python experiments/watch_book.py --source agents --seed 3 --png book.png
    python experiments/watch_book.py --source recorded --path GOOG_2012-06-21_10.zip --start-row 20000

A flow of orders, a recorded LOBSTER day, or agents in a book of simulated flow. The file shows each side's queues with
every order in its place, agents' orders in their own colour, the last trades, and depth over the whole time.
"""

import contextlib
import dataclasses
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from command import run
from marljax.agents.classical.execution import TWAP, ScheduleParams
from marljax.agents.classical.market_making import GueantLehalleFernandezTapia, MakerParams
from marljax.data.readers.lobster_messages import RecordedMessages, read_messages
from marljax.data.schema import InputError
from marljax.envs.opening import order_book_params, run_in
from marljax.envs.order_book import OrderBookEnv
from marljax.envs.order_book_types import Opening, OrderBookConfig
from marljax.envs.roles.execution import ExecutionParams
from marljax.envs.roles.market_maker import MarketMakerParams
from marljax.evaluation.book_film import Film, Told, record
from marljax.evaluation.book_page import WIDTH, Labels, height, render
from marljax.lob.flows import fair_value, hawkes, hawkes_market, recorded, zero_intelligence
from marljax.lob.matching import process
from marljax.lob.stress import calm
from marljax.lob.types import MAX_MESSAGES, BookConfig
from marljax.runtime.artefacts import write_atomic
from marljax.runtime.progress import print_line

AGENTS = ("market maker", "execution agent")
_FLOWS = {"zero-intelligence": "zero intelligence", "hawkes": "Hawkes", "fair-value": "fair value"}
_LONGEST_BLOCK = MAX_MESSAGES - 2 * len(AGENTS)
_CHUNK = 50
"""Blocks between two lines of progress."""
_PATIENCE = 120
"""Seconds that a browser may take for a picture."""


@dataclasses.dataclass(frozen=True)
class WatchConfig:
    """What is shown, and how much of it."""

    preset: Literal["standard"] = "standard"
    """Values which the other flags change."""
    source: Literal["zero-intelligence", "hawkes", "fair-value", "agents", "recorded"] = "zero-intelligence"
    """Who writes the messages: a model of order flow, a market maker and an execution agent in a book of zero
    intelligence, or a LOBSTER file."""
    path: tuple[Path, ...] = ()
    """For a recorded book: the message and order book file of one stock and day, or the folder or archive with them."""
    start_row: int = 0
    """For a recorded book: the row of the file behind which the film begins [counted from 0]."""
    messages: int = 5000
    """Messages of the background, or rows of the file [count]; simulated ones may find nothing to do."""
    shots: int = 300
    """Moments at which the film can be stopped [count]."""
    depth: int = 10
    """Price levels of each side that the picture has room for [count]."""
    seed: int = 0
    """Seed of everything random."""
    html: Path = Path("runs/book.html")
    """The page to write."""
    png: Path | None = None
    """A picture of the page near the middle of the film; needs Chromium or Chrome."""

    def __post_init__(self) -> None:
        for name, most in (("messages", 50_000), ("shots", 1000), ("depth", 50)):
            if not 1 <= getattr(self, name) <= most:
                raise InputError(f"{name} must lie within 1 and {most}, got {getattr(self, name)}")
        if self.start_row < 0:
            raise InputError(f"start_row must not be negative, got {self.start_row}")
        if self.start_row and self.source != "recorded":
            raise InputError("--start-row goes with --source recorded")
        if not 0 <= self.seed < 2**32:
            raise InputError(f"seed must lie within 0 and 2**32 - 1, got {self.seed}")
        for name in ("html", "png"):
            page = getattr(self, name)
            if page is not None and page.is_dir():
                raise InputError(f"--{name} names a folder, and a file is to be written: {page}")
        if self.block > _LONGEST_BLOCK:
            least = -(-self.messages // _LONGEST_BLOCK)
            raise InputError(f"shots must be at least {least} for {self.messages} messages, got {self.shots}")
        if bool(self.path) != (self.source == "recorded"):
            raise InputError("--path and --source recorded go together: name the LOBSTER files of one stock and day")

    @property
    def block(self) -> int:
        """Messages from one shot to the next."""
        return -(-self.messages // self.shots)

    @property
    def blocks(self) -> int:
        return -(-self.messages // self.block)


def main(config: WatchConfig) -> None:
    """Run the book, look at it, write the page."""
    browser = find_browser() if config.png else None
    tell = {"recorded": recorded_book, "agents": agents_book}.get(config.source, simulated_book)
    told, labels = tell(config)
    film = record(told)
    print_line(f"[film] {len(film.seconds)} messages met the book, {len(film.trade_price)} trades")
    write_atomic(config.html, render(film, labels, depth=config.depth).encode())
    print_line(f"[page] {config.html}: {config.html.stat().st_size / 1e6:.1f} MB, {len(film.orders)} shots")
    if browser is not None and config.png is not None:
        photograph(browser, config.html, best_shot(film), height(labels), config.png)
        print_line(f"[picture] {config.png}")


def simulated_book(config: WatchConfig) -> tuple[Told, Labels]:
    """A book in which a model of order flow trades with itself."""
    path_key, opening_key, key = jax.random.split(jax.random.key(config.seed), 3)
    model, params = zero_intelligence, zero_intelligence.typical()
    if config.source == "fair-value":
        model, params = fair_value, fair_value.typical(random_walk(path_key))
    elif config.source == "hawkes":
        model, params = hawkes, hawkes_market.load()
    book_config = BookConfig(owners=1)
    openings, _ = run_in(opening_key, model, params, book_config, count=1, blocks=20)
    told = background(config, key, model, params, book_config, jax.tree.map(lambda x: x[0], openings))
    return told, Labels(f"An order book of {_FLOWS[config.source]} flow", "simulated")


def recorded_book(config: WatchConfig) -> tuple[Told, Labels]:
    """A recorded day, replayed through the book from a row on."""
    found = read_messages(config.path)
    if len(found) != 1:
        names = ", ".join(f"{messages.product.name} {messages.day}" for messages in found)
        raise InputError(f"one stock and day is shown at a time, and the path holds {names}")
    day = found[0]
    if config.start_row + 2 > len(day):
        raise InputError(f"start_row must be at most {len(day) - 2} for this file, got {config.start_row}")
    rows = slice(config.start_row, config.start_row + config.messages + 1)
    stream = recorded.load(cut(day, rows))
    print_line(f"[read] {day.product.name} {day.day}: {len(day)} messages, {day.levels} levels")
    params = recorded.RecordedParams(stream, jnp.int32(recorded.CancelPolicy.SIZE), jnp.int32(0))
    book_config = BookConfig(slots=stream.most_orders, owners=1)
    opening = Opening(*recorded.episode(stream, jnp.int32(0), book_config))
    # A row may take several messages: a level that slides into the window is one of its own.
    instructions = len(stream.instructions) - int(stream.first[1])
    told = background(config, jax.random.key(config.seed), recorded, params, book_config, opening, instructions)
    tick = f"{day.product.tick_size:g}"
    return told, Labels(f"{day.product.name}, {day.day}, from row {config.start_row:,}", "recorded", tick=tick)


def cut(day: RecordedMessages, rows: slice) -> RecordedMessages:
    """Some rows of a recorded day as a day of its own."""
    arrays = {name: value[rows] for name, value in vars(day).items() if isinstance(value, np.ndarray)}
    return dataclasses.replace(day, first_line=day.first_line + rows.start, **arrays)


def random_walk(key: jax.Array) -> jax.Array:
    """Fair value as a walk of one tick per root second, float32[T] ticks, a point each second."""
    return 10_000 + jnp.cumsum(jax.random.normal(key, (20_000,)))


def background(
    config: WatchConfig,
    key: jax.Array,
    model: Any,
    params: Any,
    book_config: BookConfig,
    opening: Opening,
    messages: int | None = None,
) -> Told:
    """What a flow alone tells a book, which is as it was opened."""
    size = config.block if messages is None else -(-messages // config.blocks)

    def step(carry: Opening, key: jax.Array) -> Any:
        draws, state = model.prepare(key, carry.flow, params, calm(), size)
        book, report = process(carry.book, draws, book_config, lambda book, draw: model.message(draw, book))
        return Opening(book, state), (report.messages, draws.seconds, draws.seconds[-1])

    return tell(config, key, step, opening, opening.book, book_config)


def agents_book(config: WatchConfig) -> tuple[Told, Labels]:
    """A market maker and an execution agent, who decide anew at every shot, in a book of zero intelligence."""
    opening_key, reset_key, key = jax.random.split(jax.random.key(config.seed), 3)
    env = OrderBookEnv(zero_intelligence, OrderBookConfig(messages=config.block, episode_steps=config.blocks + 1))
    maker = MarketMakerParams(nearest=0.5, furthest=10.0, largest=20, max_position=80)
    parent = ExecutionParams(parent=max(config.messages // 50, 1), buys=1.0, deadline=config.blocks, through=2.0)
    flow = zero_intelligence.typical(size=10.0, line=600.0)
    openings, scales = run_in(opening_key, zero_intelligence, flow, env.config.book, count=1, blocks=20)
    params = order_book_params(env, flow, openings, scales, roles={"market_maker": maker, "execution": parent})
    closed_form = MakerParams(
        risk_aversion=jnp.float32(0.002),
        decay=jnp.float32(1.5),
        intensity=jnp.float32(2.0),
        horizon=jnp.float32(1.0),
        size=jnp.float32(15.0),
        rules=maker,
        scales=scales,
    )
    schedule = ScheduleParams(aggression=jnp.float32(0.0), rules=parent)
    policies = {
        "market_maker": (GueantLehalleFernandezTapia(), closed_form),
        "execution": (TWAP(), schedule),
    }

    def step(carry: Any, key: jax.Array) -> Any:
        obs, state = carry
        action = {
            role: jax.vmap(lambda obs, policy=policy, p=p: policy.apply(p, obs, (), key, True)[0])(obs[role])
            for role, (policy, p) in policies.items()
        }
        obs, state, *_, info = env.step_env(key, state, action, params)
        return (obs, state), (info["messages"], info["arrived"], info["seconds"])

    carry = env.reset_env(reset_key, params)
    told = tell(config, key, step, carry, carry[1].book, env.config.book)
    return told, Labels("Two agents in an order book of zero intelligence flow", "simulated", agents=AGENTS)


def tell(
    config: WatchConfig, key: jax.Array, step: Callable[[Any, jax.Array], Any], carry: Any, book: Any, of: BookConfig
) -> Told:
    """All blocks, told chunk by chunk. `step` returns a block's messages, their seconds since its start, and its
    length."""
    advance = jax.jit(lambda carry, keys: lax.scan(step, carry, keys))
    keys, parts, now = jax.random.split(key, config.blocks), [], 0.0
    print_line(f"[book] {config.messages} messages: compiling")
    for first in range(0, config.blocks, _CHUNK):
        carry, (messages, seconds, length) = advance(carry, keys[first : first + _CHUNK])
        # Counted in 64 bits, so that microseconds are not lost late in a session.
        ends = now + np.cumsum(np.asarray(length, np.float64))
        starts = np.append(now, ends[:-1])
        parts.append((messages, starts[:, None] + np.asarray(seconds, np.float64)))
        now = float(ends[-1])
        done = min((first + _CHUNK) * config.block, config.messages)
        print_line(f"[book] {done}/{config.messages} messages, {now:.1f} s of the market")
    messages = jax.tree.map(lambda *x: jnp.concatenate(x), *[part[0] for part in parts])
    return Told(book, of, messages, np.concatenate([part[1] for part in parts]))


def best_shot(film: Film) -> int:
    """The shot nearest the middle of those in which most agents have orders."""
    agents = np.array([len(np.unique(shot[shot[:, 3] > 0, 3])) for shot in film.orders])
    shots = np.flatnonzero(agents == agents.max())
    return int(shots[np.argmin(np.abs(shots - len(agents) // 2))])


def find_browser() -> str:
    """Chromium or Chrome. Raises InputError where there is none."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if found := shutil.which(name):
            return found
    raise InputError("--png needs Chromium or Chrome, and neither is on the PATH; without it the page is written")


def photograph(browser: str, page: Path, shot: int, height: int, png: Path) -> None:
    """What a browser draws of a page at one of its shots. Raises InputError where the browser fails."""
    with tempfile.TemporaryDirectory() as folder:
        taken = Path(folder) / "page.png"
        command = [
            browser,
            *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
            *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
            *(f"--user-data-dir={folder}/profile", "--hide-scrollbars", "--virtual-time-budget=20000"),
            *(f"--window-size={WIDTH},{height}", f"--screenshot={taken}", f"{page.absolute().as_uri()}#{shot}"),
        ]
        with contextlib.suppress(subprocess.TimeoutExpired):
            subprocess.run(command, capture_output=True, timeout=_PATIENCE, check=False)
        if not taken.exists():
            raise InputError(f"{Path(browser).name} made no picture of it", file=page)
        write_atomic(png, taken.read_bytes())


if __name__ == "__main__":
    run(main, WatchConfig, {"standard": WatchConfig()}, __doc__, resumes=False)
