"""The embedded sample is what it says: regenerated to the byte, consistent, mildly predictable, faulty where stated."""

import dataclasses
import gzip
import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from marljax.data.faults import KINDS
from marljax.data.sample import (
    BASKET,
    DAYS,
    ETF,
    LISTINGS,
    SECONDS_PER_TIMESTAMP,
    STEP_TIMESTAMP,
    STEPS,
    Parameters,
    World,
    make,
    simulate_day,
)

FOLDER = Path(__file__).parents[2] / "data" / "sample"
NAMES = [listing.name for listing in LISTINGS]
PRODUCTS = {listing.name: listing.product for listing in LISTINGS}
LEVELS = (1, 2, 3)


def text(name: str) -> str:
    content = (FOLDER / name).read_bytes()
    return (gzip.decompress(content) if name.endswith(".gz") else content).decode()


def prices(day: int) -> pd.DataFrame:
    table = pd.read_csv(io.StringIO(text(f"prices_sample_day_{day}.csv.gz")), sep=";")
    return table.assign(line=table.index + 2)


def trades(day: int) -> pd.DataFrame:
    return pd.read_csv(io.StringIO(text(f"trades_sample_day_{day}_nn.csv.gz")), sep=";", keep_default_na=False)


@dataclasses.dataclass(frozen=True)
class Grid:
    """The sample without its faults: float64[day, step, product], ticks and lots; a lost row repeats the one before."""

    bid: np.ndarray
    ask: np.ndarray
    bid_size: np.ndarray
    ask_size: np.ndarray
    stressed: np.ndarray  # bool[day, step]

    @property
    def mid(self) -> np.ndarray:
        return (self.bid + self.ask) / 2

    @property
    def spread(self) -> np.ndarray:
        return self.ask - self.bid

    @property
    def residual(self) -> np.ndarray:
        """float64[day, step] ETF less its basket [ticks]."""
        basket = sum(weight * self.mid[..., NAMES.index(name)] for name, weight in BASKET.items())
        return self.mid[..., NAMES.index(ETF)] - basket


@pytest.fixture(scope="module")
def truth() -> dict[str, Any]:
    return json.loads(text("truth.json"))


@pytest.fixture(scope="module")
def raw() -> list[pd.DataFrame]:
    return [prices(day) for day in range(DAYS)]


@pytest.fixture(scope="module")
def intact(truth: dict[str, Any], raw: list[pd.DataFrame]) -> list[pd.DataFrame]:
    """Every row whose cells are as the exchange showed them, once, in time order; indexed by timestamp and product."""
    days = []
    for day, table in enumerate(raw):
        bad = [f["line"] for f in truth["faults"] if f["day"] == day and f["kind"] not in ("out_of_order", "gap")]
        kept = table[~table["line"].isin(bad)]
        days.append(kept.sort_values("timestamp", kind="stable").set_index(["timestamp", "product"]))
    return days


@pytest.fixture(scope="module")
def grid(truth: dict[str, Any], intact: list[pd.DataFrame]) -> Grid:
    def column(name: str, unit: str) -> np.ndarray:
        scale = np.array([getattr(PRODUCTS[product], unit) for product in NAMES])
        times = range(0, STEPS * STEP_TIMESTAMP, STEP_TIMESTAMP)
        wide = [
            day.pivot_table(index="timestamp", columns="product", values=name)
            .reindex(index=times, columns=NAMES)
            .ffill()
            for day in intact
        ]
        return np.round(np.stack(wide) / scale)

    stressed = np.zeros((DAYS, STEPS), bool)
    for spell in truth["regimes"]:
        stressed[spell["day"], spell["start"] // STEP_TIMESTAMP : spell["end"] // STEP_TIMESTAMP] = (
            spell["state"] == "stressed"
        )
    return Grid(
        bid=column("bid_price_1", "tick_size"),
        ask=column("ask_price_1", "tick_size"),
        bid_size=column("bid_volume_1", "lot_size"),
        ask_size=column("ask_volume_1", "lot_size"),
        stressed=stressed,
    )


def test_the_committed_files_are_what_the_seed_makes() -> None:
    made = make(Parameters())
    assert sorted(made) == sorted(path.name for path in FOLDER.iterdir())
    for name, content in made.items():
        assert hashlib.sha256(content.encode()).digest() == hashlib.sha256(text(name).encode()).digest(), name


def test_another_seed_makes_another_day() -> None:
    one, other = (simulate_day(World(Parameters(seed=seed)), 0) for seed in (1, 2))
    assert one.rows != other.rows


def test_the_sample_is_small() -> None:
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) <= 3_000_000


def test_products_are_described_and_labelled_simulated() -> None:
    described = json.loads(text("products.json"))
    assert described["origin"] == "simulated"
    assert described["seconds_per_timestamp"] * STEP_TIMESTAMP * STEPS == pytest.approx(6.5 * 3600)
    assert described["seconds_per_timestamp"] == SECONDS_PER_TIMESTAMP
    assert [product["asset_class"] for product in described["products"]] == ["equity"] * 3 + ["future", "fx"]
    assert described["products"] == [dataclasses.asdict(listing.product) for listing in LISTINGS]


def test_prices_stand_on_the_tick_grid_and_sizes_are_whole_positive_lots(raw: list[pd.DataFrame]) -> None:
    for table in raw:
        for name, product in PRODUCTS.items():
            rows = table[table["product"] == name]
            assert 1900 < len(rows) < 2000
            for unit, what in ((product.tick_size, "price"), (product.lot_size, "volume")):
                cells = rows[[f"{side}_{what}_{k}" for side in ("bid", "ask") for k in LEVELS]].to_numpy() / unit
                cells = cells[np.isfinite(cells)]
                np.testing.assert_allclose(cells, np.round(cells), rtol=0, atol=1e-6)
                assert (cells > 0).all()


def test_every_kind_of_fault_is_planted_all_over_the_sample(truth: dict[str, Any]) -> None:
    faults = pd.DataFrame(truth["faults"])
    assert faults.groupby("kind").size().to_dict() == dict.fromkeys(KINDS, DAYS)
    assert set(faults["product"]) == set(NAMES)
    assert set(faults["day"]) == set(range(DAYS))


def _present(table: pd.DataFrame, side: str) -> np.ndarray:
    """bool[row, level, price or size] which cells are filled."""
    return np.stack([table[[f"{side}_price_{k}", f"{side}_volume_{k}"]].notna() for k in LEVELS], axis=1)


def test_the_faults_are_where_the_truth_says_and_nowhere_else(truth: dict[str, Any], raw: list[pd.DataFrame]) -> None:
    for day, table in enumerate(raw):
        found: dict[str, set[int]] = {}
        keys = [*table.columns.drop("line")]
        found["duplicate"] = set(table.loc[table.duplicated(keys), "line"])
        found["out_of_order"] = set(table.loc[table["timestamp"] < table["timestamp"].cummax(), "line"])
        present = {side: _present(table, side) for side in ("bid", "ask")}
        sides = [cells.any(axis=(1, 2)) for cells in present.values()]
        found["missing_side"] = set(table.loc[~np.logical_and(*sides), "line"])
        half = np.logical_or(*(cells.any(axis=2) & ~cells.all(axis=2) for cells in present.values()))
        found["missing_best_value"] = set(table.loc[half[:, 0], "line"])
        found["missing_deep_value"] = set(table.loc[half[:, 1:].any(axis=1), "line"])
        found["crossed"] = set(table.loc[table["bid_price_1"] > table["ask_price_1"], "line"])
        found["locked"] = set(table.loc[table["bid_price_1"] == table["ask_price_1"], "line"])
        usual = table.groupby("product")["mid_price"].transform(lambda mid: mid.rolling(21, center=True).median())
        found["outlier"] = set(table.loc[(table["mid_price"] / usual - 1).abs() > 0.03, "line"])
        lost = table.drop_duplicates(keys).sort_values("timestamp", kind="stable")
        lost = lost.assign(jump=lost.groupby("product")["timestamp"].diff() > STEP_TIMESTAMP)
        found["gap"] = set(lost.loc[lost["jump"], "line"])
        stated = {kind: {f["line"] for f in truth["faults"] if f["day"] == day and f["kind"] == kind} for kind in KINDS}
        assert found == stated, day


def test_the_truth_names_product_and_time_of_every_fault(truth: dict[str, Any], raw: list[pd.DataFrame]) -> None:
    for fault in truth["faults"]:
        row = raw[fault["day"]].iloc[fault["line"] - 2]
        assert row["product"] == fault["product"]
        assert row["timestamp"] == fault["timestamp"] + STEP_TIMESTAMP * fault.get("rows", 0)
        assert row["day"] == fault["day"]


def test_no_two_rows_of_one_time_and_product_disagree(raw: list[pd.DataFrame]) -> None:
    for table in raw:
        assert not table.drop(columns="line").drop_duplicates().duplicated(["timestamp", "product"]).any()


def test_every_trade_was_executed_at_a_visible_level(intact: list[pd.DataFrame]) -> None:
    checked = 0
    for day, books in enumerate(intact):
        table = trades(day)
        step = table["timestamp"] // STEP_TIMESTAMP * STEP_TIMESTAMP
        assert (table["timestamp"] > step).all()
        assert table["timestamp"].is_monotonic_increasing
        volume = table.groupby([step, "symbol", "price"])["quantity"].sum()
        known = volume[volume.index.droplevel("price").isin(books.index)]
        seen = books.loc[known.index.droplevel("price")]
        price = known.index.get_level_values("price").to_numpy()
        shown = np.zeros(len(known))
        for side in ("bid", "ask"):
            for k in LEVELS:
                at = np.isclose(seen[f"{side}_price_{k}"], price, rtol=0, atol=1e-9)
                shown += np.where(at, seen[f"{side}_volume_{k}"], 0)
        assert (known.to_numpy() <= shown).all()
        checked += len(known)
    assert checked > 20_000


def test_pnl_is_cash_of_earlier_own_trades_plus_position_at_the_mid(intact: list[pd.DataFrame]) -> None:
    own_trades, moving_rows = 0, 0
    for day, books in enumerate(intact):
        table = trades(day)
        table["signed"] = table["quantity"] * (
            (table["buyer"] == "SUBMISSION").astype(int) - (table["seller"] == "SUBMISSION").astype(int)
        )
        for name, product in PRODUCTS.items():
            rows = books.xs(name, level="product")
            own = table[(table["symbol"] == name) & (table["signed"] != 0)]
            position = np.concatenate([[0], own["signed"].cumsum()])
            cash = np.concatenate([[0], -(own["signed"] * own["price"]).cumsum()])
            before = np.searchsorted(own["timestamp"], rows.index.to_numpy(), side="left")
            pnl = (cash[before] + position[before] * rows["mid_price"]) * product.multiplier
            np.testing.assert_allclose(rows["profit_and_loss"], pnl, rtol=0, atol=0.0051)
            own_trades += len(own)
            moving_rows += int((position[before] != 0).sum())
    assert own_trades > 2000
    assert moving_rows > 0.5 * DAYS * STEPS * len(NAMES)


def test_median_spread_is_one_to_four_ticks(grid: Grid) -> None:
    medians = np.median(grid.spread.reshape(-1, len(NAMES)), axis=0)
    assert (medians >= 1).all()
    assert (medians <= 4).all()


def test_a_step_moves_the_mid_by_about_half_a_spread(grid: Grid) -> None:
    deviation = np.diff(grid.mid, axis=1).std(axis=(0, 1))
    ratio = deviation / (grid.spread.mean(axis=(0, 1)) / 2)
    assert (ratio > 0.5).all()
    assert (ratio < 1.6).all()


def test_imbalance_leads_the_next_mid_move_as_in_real_books(grid: Grid) -> None:
    imbalance = (grid.bid_size - grid.ask_size) / (grid.bid_size + grid.ask_size)
    moves = np.diff(grid.mid, axis=1)
    for p, name in enumerate(NAMES):
        shown, move = pd.Series(imbalance[:, :-1, p].ravel()), moves[..., p].ravel()
        moved = move != 0
        rank, up = shown[moved].rank().to_numpy(), move[moved] > 0
        area = (rank[up].sum() - up.sum() * (up.sum() + 1) / 2) / (up.sum() * (~up).sum())
        assert 0.55 < area < 0.61, name


def test_trades_are_informed_on_average_but_not_beyond_the_spread(grid: Grid) -> None:
    table = pd.concat([trades(day).assign(day=day) for day in range(DAYS)])
    step = table["timestamp"].to_numpy() // STEP_TIMESTAMP
    for p, name in enumerate(NAMES):
        kept = (table["symbol"] == name).to_numpy() & (step < STEPS - 10)
        at, day = step[kept], table["day"].to_numpy()[kept]
        price = table["price"].to_numpy()[kept] / PRODUCTS[name].tick_size
        sign = np.sign(price - grid.mid[day, at, p])
        markout = (sign * (grid.mid[day, at + 10, p] - grid.mid[day, at, p])).mean()
        half_spread = (sign * (price - grid.mid[day, at, p])).mean()
        assert 0.25 * half_spread < markout < half_spread, name


def test_volatility_clusters_and_tails_are_fat(grid: Grid) -> None:
    moves = np.diff(grid.mid, axis=1)
    for p, name in enumerate(NAMES):
        for lags, transform, low, high in ((range(1, 21), np.abs, 0.05, 0.2), ([1], np.asarray, -0.08, 0.08)):
            series = transform(moves[..., p])
            found = np.mean([np.corrcoef(day[lag:], day[:-lag])[0, 1] for day in series for lag in lags])
            assert low < found < high, name
        standard = moves[..., p] / moves[..., p].std()
        assert 2 < (standard**4).mean() - 3 < 12, name
        calm = moves[~grid.stressed[:, :-1], p]
        assert ((calm / calm.std()) ** 4).mean() - 3 > 2.5, name


def test_stress_moves_more_widens_the_spread_and_thins_the_book(grid: Grid) -> None:
    moves, stressed = np.diff(grid.mid, axis=1), grid.stressed
    assert 0.25 < stressed.mean() < 0.5
    for p in range(len(NAMES)):
        assert 1.8 < moves[stressed[:, :-1], p].std() / moves[~stressed[:, :-1], p].std() < 2.8
        assert 1.4 < grid.spread[stressed, p].mean() / grid.spread[~stressed, p].mean() < 2.0
        assert 0.4 < grid.bid_size[stressed, p].mean() / grid.bid_size[~stressed, p].mean() < 0.8


def test_stocks_etf_and_future_move_together_and_fx_hardly(grid: Grid) -> None:
    correlation = np.corrcoef(np.diff(grid.mid, axis=1).reshape(-1, len(NAMES)).T)
    assert (correlation[:4, :4] > 0.4).all()
    assert (np.abs(correlation[4, :4]) < 0.2).all()


def _persistence(residual: np.ndarray, lag: int = 10, horizon: int = 20) -> float:
    """AR(1) coefficient per step; the value `lag` steps earlier is the instrument, which quoting noise cannot reach."""
    instrument, now, later = residual[:, : -lag - horizon], residual[:, lag:-horizon], residual[:, lag + horizon :]
    return float(((later * instrument).sum() / (now * instrument).sum()) ** (1 / horizon))


def test_the_planted_persistence_lies_within_the_interval_of_the_etf_residual(
    grid: Grid, truth: dict[str, Any]
) -> None:
    estimate = _persistence(grid.residual)
    without = np.array([_persistence(np.delete(grid.residual, day, axis=0)) for day in range(DAYS)])
    error = np.sqrt((DAYS - 1) * ((without - without.mean()) ** 2).mean())
    assert error < 0.002
    assert abs(estimate - truth["parameters"]["residual_persistence"]) < 2.26 * error
    assert 60 < truth["parameters"]["residual_half_life"] < 120
    assert grid.residual.std() > 3 * grid.spread[..., NAMES.index(ETF)].mean() / 2


def _taker_profit(grid: Grid, target: np.ndarray) -> np.ndarray:
    """float64[day] ticks per lot-unit earned by holding `target[day, step, product]` lots, every change paid for."""
    before = np.concatenate([np.zeros_like(target[:, :1]), target[:, :-1]], axis=1)
    target = np.concatenate([target[:, :-1], np.zeros_like(target[:, :1])], axis=1)
    change = target - before
    return -(change * np.where(change > 0, grid.ask, grid.bid)).sum(axis=(1, 2))


def _t_statistic(daily: np.ndarray) -> float:
    return float(daily.mean() / (daily.std(ddof=1) / np.sqrt(len(daily))))


def _reversion_target(residual: np.ndarray, enter: float) -> np.ndarray:
    """float64[day, step] one ETF short above `enter` ticks, long below, held until the residual changes its sign."""
    target = np.zeros_like(residual)
    for day, series in enumerate(residual):
        held = 0.0
        for step, value in enumerate(series):
            if abs(value) > enter:
                held = -np.sign(value)
            elif held * value > 0:
                held = 0.0
            target[day, step] = held
    return target


def test_reversion_of_the_etf_pays_the_spread_and_more(grid: Grid) -> None:
    etf = np.zeros((*grid.residual.shape, len(NAMES)))
    etf[..., NAMES.index(ETF)] = _reversion_target(grid.residual, enter=7.5)
    hedged = etf.copy()
    for name, weight in BASKET.items():
        hedged[..., NAMES.index(name)] = -weight * etf[..., NAMES.index(ETF)]
    alone, both = _taker_profit(grid, etf), _taker_profit(grid, hedged)
    assert alone.mean() > 20
    assert _t_statistic(alone) > 3
    assert both.mean() > 10
    assert _t_statistic(both) > 3


@pytest.mark.parametrize("lookback", [1, 10, 60, 240])
def test_momentum_loses_after_the_spread(grid: Grid, lookback: int) -> None:
    for p in range(len(NAMES)):
        target = np.zeros_like(grid.mid)
        target[:, lookback:, p] = np.sign(grid.mid[:, lookback:, p] - grid.mid[:, :-lookback, p])
        assert _taker_profit(grid, target).mean() < 0


def test_noise_trading_loses_after_the_spread(grid: Grid) -> None:
    signs = np.random.default_rng(0).choice([-1.0, 1.0], size=(DAYS, STEPS // 10, len(NAMES))).repeat(10, axis=1)
    assert _t_statistic(_taker_profit(grid, signs)) < -3


def test_imbalance_alone_does_not_pay_the_spread(grid: Grid) -> None:
    target = np.sign(grid.bid_size - grid.ask_size)
    assert _t_statistic(_taker_profit(grid, target)) < -3
