"""The embedded sample: ten simulated trading days of two stocks, their ETF, a future and an FX pair.

    python -m marljax.data.sample --out data/sample

A market factor, idiosyncratic drivers and a basket residual move the fair values; each driver has its own order-flow
pressure, which leads it a little, and all share a Markov chain of a calm and a stressed regime. Every product is traded
in its own book (`marljax.data.exchange`), and a small market maker's PnL is recorded. The files have the Prosperity
layout; faults are planted in them (`marljax.data.faults`), and `truth.json` says where the faults are, which regime
ruled when, and with which parameters the days were made. One seed gives the same text on every platform: no random
stream but `random()`, no function beyond the square root, no `sum` of floats, which Python 3.12 rounds differently.
"""

import argparse
import dataclasses
import gzip
import json
import math
from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Any

from marljax.data.exchange import VISIBLE_LEVELS, Conditions, Market, Style, Trade, normal, whole
from marljax.data.faults import Level, Row, plant
from marljax.data.schema import Product

DAYS = 10
STEPS = 1950
"""Steps in a day: 6.5 hours."""

STEP_TIMESTAMP = 100
SECONDS_PER_TIMESTAMP = 0.12


@dataclasses.dataclass(frozen=True)
class Listing:
    """A product of the sample. It moves by its loadings on the drivers."""

    product: Product
    decimals: int  # of its prices in the files
    start: int  # ticks
    loadings: dict[str, float]  # basis points per standard step of a driver in the calm regime
    style: Style

    @property
    def name(self) -> str:
        return self.product.name


ETF = "GROVE"
BASKET = {"ALDER": 0.5, "BIRCH": 0.5}
"""Shares of each stock in one share of the ETF."""


def _share(name: str) -> Product:
    return Product(name, tick_size=0.01, lot_size=100.0, asset_class="equity")


_TIMBER = Product("TIMBER", tick_size=0.25, multiplier=50.0, asset_class="future")
_EURUSD = Product("EURUSD", tick_size=0.00005, lot_size=10_000.0, asset_class="fx")

LISTINGS = (
    Listing(_share("ALDER"), 2, 6150, {"market": 1.4, "alder": 1.3}, Style(half_spread=1.0, size=40)),
    Listing(_share("BIRCH"), 2, 4720, {"market": 1.6, "birch": 1.6}, Style(half_spread=0.9, size=50)),
    Listing(_share(ETF), 2, 5435, {}, Style(half_spread=0.8, size=60)),
    Listing(_TIMBER, 2, 4800, {"market": 1.7, "timber": 0.9}, Style(half_spread=0.7, size=50)),
    Listing(_EURUSD, 5, 21684, {"market": 0.1, "fx": 0.55}, Style(half_spread=0.8, size=80)),
)
"""The basket's value follows from the stocks, so the ETF has no loadings of its own."""

DRIVERS = ("market", "alder", "birch", "residual", "timber", "fx")


@dataclasses.dataclass(frozen=True)
class Regime:
    """A state of the market that all products share. Factors are relative to the calm regime."""

    name: str
    leave: float  # probability of leaving it per step
    volatility: float
    spread: float
    depth: float
    arrivals: float


REGIMES = (Regime("calm", 1 / 480, 1.0, 1.0, 1.0, 1.0), Regime("stressed", 1 / 240, 2.1, 1.7, 0.6, 1.6))


@dataclasses.dataclass(frozen=True)
class Parameters:
    """What the fair values are made from."""

    seed: int = 20240617
    """Seed of every random stream."""
    imbalance_lead: float = 0.12
    """Expected innovation of a driver per unit of its pressure, which the book's imbalance shows [standard steps]."""
    pressure_persistence: float = 0.8
    """First autocorrelation of the pressure per step."""
    jump_probability: float = 0.04
    """Share of innovations that come from the wider normal of the mixture."""
    jump_scale: float = 3.0
    """Standard deviation of the wider normal over that of the narrower."""
    residual_persistence: float = 0.9923
    """First autocorrelation of the ETF's residual per step: a half-life of 90 steps."""
    residual_deviation: float = 5.0
    """Stationary standard deviation of the ETF's residual if calm lasted for ever [ticks]."""
    overnight: float = 12.0
    """Standard deviation of the move between two days [standard steps]."""
    faults_per_day: int = 1
    """Faults of every kind planted in each day."""


def _mix(weights: Mapping[str, float], values: Mapping[str, float]) -> float:
    total = 0.0
    for name, weight in weights.items():
        total += weight * values[name]
    return total


def _unit(weights: Mapping[str, float]) -> dict[str, float]:
    norm = math.sqrt(_mix(weights, weights))
    return {name: weight / norm for name, weight in weights.items()}


class World:
    """The hidden state behind all books: regime, pressures, fair values."""

    def __init__(self, parameters: Parameters) -> None:
        self.parameters, self.rng = parameters, Random(parameters.seed)
        self.regime = 0
        self.pressure = dict.fromkeys(DRIVERS, 0.0)
        self.residual = 0.0
        self.prices = {listing.name: float(listing.start) for listing in LISTINGS if listing.loadings}
        chance, scale = parameters.jump_probability, parameters.jump_scale
        persistence = parameters.residual_persistence
        self._body = 1 / math.sqrt(1 - chance + chance * scale * scale)
        self._residual_step = parameters.residual_deviation * math.sqrt(1 - persistence * persistence)
        self._pressure_weights = {listing.name: _unit(self._tick_loadings(listing)) for listing in LISTINGS}

    def _tick_loadings(self, listing: Listing) -> dict[str, float]:
        if listing.name != ETF:
            return {driver: 1e-4 * listing.start * loading for driver, loading in listing.loadings.items()}
        ticks = {"residual": self._residual_step}
        for part in LISTINGS:
            if part.name in BASKET:
                for driver, loading in self._tick_loadings(part).items():
                    ticks[driver] = ticks.get(driver, 0.0) + BASKET[part.name] * loading
        return ticks

    def fair(self, listing: Listing) -> float:
        """Fair value [ticks]."""
        return _mix(BASKET, self.prices) + self.residual if listing.name == ETF else self.prices[listing.name]

    def conditions(self, listing: Listing) -> Conditions:
        """What the agents of a product go by; its pressure mixes those of its drivers by what they move."""
        regime, pressure = REGIMES[self.regime], _mix(self._pressure_weights[listing.name], self.pressure)
        return Conditions(self.fair(listing), regime.spread, regime.depth, pressure, regime.arrivals)

    def step(self) -> None:
        """Move every driver: a little with its pressure, the rest at random, with fat tails."""
        parameters, rng, regime = self.parameters, self.rng, REGIMES[self.regime]
        lead, keep = parameters.imbalance_lead, parameters.pressure_persistence
        moves: dict[str, float] = {}
        for driver in DRIVERS:
            noise = self._body * normal(rng)
            if rng.random() < parameters.jump_probability:
                noise *= parameters.jump_scale
            moves[driver] = regime.volatility * (lead * self.pressure[driver] + math.sqrt(1 - lead * lead) * noise)
            self.pressure[driver] = keep * self.pressure[driver] + math.sqrt(1 - keep * keep) * normal(rng)
        self.residual = parameters.residual_persistence * self.residual + self._residual_step * moves["residual"]
        self._move(moves)
        if rng.random() < regime.leave:
            self.regime = 1 - self.regime

    def overnight(self) -> None:
        """The move between two days. The residual stays."""
        self._move({driver: self.parameters.overnight * normal(self.rng) for driver in DRIVERS})

    def _move(self, moves: dict[str, float]) -> None:
        for listing in LISTINGS:
            if listing.loadings:
                self.prices[listing.name] *= 1 + 1e-4 * _mix(listing.loadings, moves)


@dataclasses.dataclass(frozen=True)
class Day:
    """One simulated day before anything is planted in it."""

    rows: list[Row]
    trades: list[tuple[int, Listing, Trade]]  # in time order; between two steps, so after one snapshot
    regimes: list[int]  # per step


def simulate_day(world: World, day: int) -> Day:
    """Trade one day of every product in books that start empty; the participant starts flat."""
    seed = 1000 * world.parameters.seed + 10 * day
    markets = [(listing, Market(listing.style, Random(seed + i))) for i, listing in enumerate(LISTINGS)]
    clock = Random(seed + len(LISTINGS))
    rows: list[Row] = []
    trades: list[tuple[int, Listing, Trade]] = []
    regimes: list[int] = []
    for timestamp in range(0, STEPS * STEP_TIMESTAMP, STEP_TIMESTAMP):
        regimes.append(world.regime)
        now = [world.conditions(listing) for listing in LISTINGS]
        for (listing, market), conditions in zip(markets, now, strict=True):
            market.quote(conditions)
            bids, asks = market.snapshot()
            rows.append(Row(timestamp, listing.name, list[Level](bids), list[Level](asks), market.double_pnl()))
        world.step()
        for (listing, market), conditions in zip(markets, now, strict=True):
            executed = market.trade(conditions, world.fair(listing))
            times = sorted(timestamp + whole(clock, 1, STEP_TIMESTAMP - 1) for _ in executed)
            trades += [(time, listing, trade) for time, trade in zip(times, executed, strict=True)]
    return Day(rows, sorted(trades, key=lambda trade: trade[0]), regimes)


def _number(value: float | None, decimals: int) -> str:
    return "" if value is None else f"{value:.{decimals}f}"


def _price_line(day: int, row: Row) -> str:
    listing = next(listing for listing in LISTINGS if listing.name == row.product)
    tick, lot, decimals = listing.product.tick_size, listing.product.lot_size, listing.decimals
    cells = [str(day), str(row.timestamp), row.product]
    for levels in (row.bids, row.asks):
        for price, size in levels + [(None, None)] * (VISIBLE_LEVELS - len(levels)):
            cells.append(_number(None if price is None else price * tick, decimals))
            cells.append(_number(None if size is None else size * lot, 0))
    cells.append(_number(None if row.double_mid is None else row.double_mid * tick / 2, decimals + 1))
    cells.append(_number(row.double_pnl * listing.product.tick_value / 2, 2))
    return ";".join(cells)


def _prices_header() -> str:
    sides = ("bid", "ask")
    levels = [f"{side}_{what}_{k + 1}" for side in sides for k in range(VISIBLE_LEVELS) for what in ("price", "volume")]
    return ";".join(["day", "timestamp", "product", *levels, "mid_price", "profit_and_loss"])


def _trade_line(time: int, listing: Listing, trade: Trade) -> str:
    price = _number(trade.price * listing.product.tick_size, listing.decimals)
    quantity = _number(trade.size * listing.product.lot_size, 0)
    return f"{time};{trade.buyer};{trade.seller};{listing.name};USD;{price};{quantity}"


def _regime_spells(day: int, regimes: list[int]) -> list[dict[str, Any]]:
    starts = [step for step, state in enumerate(regimes) if step == 0 or state != regimes[step - 1]]
    return [
        {
            "day": day,
            "start": start * STEP_TIMESTAMP,
            "end": end * STEP_TIMESTAMP,
            "state": REGIMES[regimes[start]].name,
        }
        for start, end in zip(starts, [*starts[1:], len(regimes)], strict=True)
    ]


def _json(content: dict[str, Any]) -> str:
    """JSON with one record of a list per line."""
    parts = []
    for key, value in content.items():
        records = isinstance(value, list)
        text = "[\n  " + ",\n  ".join(json.dumps(item) for item in value) + "\n ]" if records else json.dumps(value)
        parts.append(f" {json.dumps(key)}: {text}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def make(parameters: Parameters) -> dict[str, str]:
    """The text of every file of the sample by its name; those that end in .gz are compressed when written."""
    world = World(parameters)
    files: dict[str, str] = {}
    faults: list[dict[str, Any]] = []
    spells: list[dict[str, Any]] = []
    for number in range(DAYS):
        if number:
            world.overnight()
        day = simulate_day(world, number)
        spells += _regime_spells(number, day.regimes)
        name = f"prices_sample_day_{number}.csv.gz"
        rows = plant(day.rows, parameters.faults_per_day, Random(1000 * parameters.seed + 10 * number + 9))
        for line, row in enumerate(rows, start=2):
            if row.fault is not None:
                faults.append({"day": number, "file": name, "line": line} | row.fault)
        files[name] = "\n".join([_prices_header(), *(_price_line(number, row) for row in rows), ""])
        header = "timestamp;buyer;seller;symbol;currency;price;quantity"
        lines = [_trade_line(*trade) for trade in day.trades]
        files[f"trades_sample_day_{number}_nn.csv.gz"] = "\n".join([header, *lines, ""])
    products = [dataclasses.asdict(listing.product) for listing in LISTINGS]
    files["products.json"] = _json(
        {"seconds_per_timestamp": SECONDS_PER_TIMESTAMP, "origin": "simulated", "products": products}
    )
    half_life = round(math.log(0.5) / math.log(parameters.residual_persistence), 2)
    files["truth.json"] = _json(
        {
            "parameters": dataclasses.asdict(parameters)
            | {"residual_half_life": half_life, "etf": ETF, "basket": BASKET, "timestamps_per_step": STEP_TIMESTAMP},
            "drivers": [{"product": listing.name, "loadings": listing.loadings} for listing in LISTINGS],
            "states": [dataclasses.asdict(regime) for regime in REGIMES],
            "regimes": spells,
            "faults": faults,
        }
    )
    return files


def write(out: Path, parameters: Parameters) -> int:
    """Make the sample in the folder `out`. Returns the bytes written."""
    out.mkdir(parents=True, exist_ok=True)
    total = 0
    for name, text in make(parameters).items():
        content = text.encode("ascii")
        if name.endswith(".gz"):
            content = gzip.compress(content, 9, mtime=0)
        total += (out / name).write_bytes(content)
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the embedded sample: simulated, seeded, with planted faults.")
    parser.add_argument("--out", type=Path, required=True, help="folder to write, made if missing")
    parser.add_argument("--seed", type=int, default=Parameters.seed, help="seed of every random stream")
    arguments = parser.parse_args()
    total = write(arguments.out, Parameters(seed=arguments.seed))
    print(f"{arguments.out}: {DAYS} days, {len(LISTINGS)} products, {total / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
