"""Agents over recorded futures: what they know, when they trade, what they pay; and how time is cut into folds."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from experiments.controlled import meta_real
from experiments.controlled.futures import PRODUCTS, Futures, from_prices, read_futures
from experiments.controlled.futures_agents import AGENTS, records, signals, wanted
from experiments.controlled.futures_world import JUDGED, WORLD, Study, judged_world, study, training_worlds
from experiments.controlled.walk_forward import compounded, fold_of, folds
from marljax.data.schema import InputError

DAILY = Path(__file__).parents[3] / "shared" / "data" / "daily"
T, P = 800, len(PRODUCTS)
NAMES = list(PRODUCTS)


def tables(seed=0, rows=T):
    """Adjusted and contract prices of every product with holes, and a change of contract every 60 rows."""
    rng = np.random.default_rng(seed)
    contract = 100.0 * np.exp(np.cumsum(0.01 * rng.standard_normal((rows, P)), axis=0))
    gaps = np.where(np.arange(rows)[:, None] % 60 == 59, rng.normal(0.0, 1.0, (rows, P)), 0.0)
    adjusted = contract - np.cumsum(gaps, axis=0)
    holes = rng.uniform(size=(rows, P)) < 0.05
    dates = pd.bdate_range("2000-01-03", periods=rows)
    return tuple(pd.DataFrame(np.where(holes, np.nan, x), dates, NAMES) for x in (adjusted, contract))


def test_a_hole_is_earned_on_the_row_that_ends_it_and_a_change_of_contract_moves_nothing():
    dates = pd.bdate_range("2000-01-03", periods=5)
    contract = pd.DataFrame({"X": [np.nan, 100.0, np.nan, 110.0, 115.0]}, dates)
    # On the last row the new contract stands 8 above the old one, which fell by 3.
    adjusted = pd.DataFrame({"X": [50.0, 60.0, np.nan, 70.0, 67.0]}, dates)
    seen = from_prices(adjusted, contract)
    assert seen.priced[:, 0].tolist() == [False, True, False, True, True]
    np.testing.assert_allclose(seen.returns[:, 0], [0, 0, 0, 0.1, -3 / 110], rtol=1e-12)
    np.testing.assert_allclose(seen.roll_yield[:, 0], [0, 0, 0, 0, -8 / 110], rtol=1e-12)
    assert seen.rolled[:, 0].tolist() == [False] * 4 + [True]
    np.testing.assert_allclose(seen.price[:, 0], [np.nan, 100, 100, 110, 115])


def test_prices_that_mean_nothing_are_refused_by_name(tmp_path):
    adjusted, contract = tables(rows=4)
    contract.loc[contract.index[1], "GOLD"] = -37.0
    adjusted.loc[adjusted.index[1], "GOLD"] = -37.0
    with pytest.raises(InputError, match="GOLD is not positive"):
        from_prices(adjusted, contract)
    with pytest.raises(InputError, match="same rows"):
        from_prices(adjusted.iloc[1:], contract)
    with pytest.raises(InputError, match="not there"):
        read_futures(tmp_path)


def test_rules_say_what_their_definition_says():
    n = 1200
    wave = np.where(np.arange(n) % 2 == 0, 0.01, -0.01)
    sigma = 0.01 * 260**0.5
    # 2 % over a year's 260 rows, drifting up; changes of contract give 1 % every 65 rows.
    drift = 0.02 / 260
    roll = pd.Series(np.where(np.arange(n) % 65 == 64, 0.01, 0.0))
    said = signals(pd.Series(wave + drift), roll)
    quarter, half, year = (drift * rows / (sigma * (rows / 260) ** 0.5) for rows in (65, 130, 260))
    # The last quarter has one more of the wave's steps up than down.
    trends = {(quarter + last / (sigma * 0.5) + half + year) / 3 for last in (0.01, -0.01)}
    assert min(abs(said["trend"].iloc[-1] - trend) for trend in trends) < 0.01
    assert said["carry"].iloc[-1] == pytest.approx(0.04 / sigma / 0.5, rel=0.02)
    jumped = pd.Series(wave.copy())
    jumped.iloc[-1] += 0.05
    assert signals(jumped, roll)["reversal"].iloc[-1] < signals(pd.Series(wave), roll)["reversal"].iloc[-1] - 0.1
    assert signals(pd.Series(wave + 0.01), roll)["trend"].iloc[-1] == 1.0
    early = signals(pd.Series(wave[:250]), roll[:250])
    assert early["trend"].isna().all()
    assert early["carry"].isna().all()


def test_no_agent_knows_a_price_before_its_day():
    adjusted, contract = tables()
    known = records(from_prices(adjusted, contract))
    later = 700
    rng = np.random.default_rng(1)
    for table in (adjusted, contract):
        table.iloc[later:] *= rng.uniform(0.5, 2.0, (T - later, P))
    contract.iloc[later + 3 :, 2] = np.nan
    changed = records(from_prices(adjusted, contract))
    for one, other in zip(known, changed, strict=True):
        np.testing.assert_array_equal(one[:later], other[:later])
    assert (known.returns[later] != changed.returns[later]).all()
    # What the new prices make them want is traded one row later, not on the row itself: only a roll costs there.
    futures = from_prices(adjusted, contract)._replace(rolled=np.zeros((T, P), bool))
    before = from_prices(*tables())._replace(rolled=np.zeros((T, P), bool))
    np.testing.assert_array_equal(records(futures).turnover[later], records(before).turnover[later])
    assert (records(futures).turnover[later + 1] != records(before).turnover[later + 1]).mean() > 0.5


@pytest.mark.parametrize("agent", ["trend grains", "reversal equity", "carry bonds"])
def test_an_agent_earns_and_pays_what_a_plain_ledger_says(agent):
    futures = from_prices(*tables())
    found = records(futures)
    rule, name = agent.split()
    own = [p for p, product in enumerate(PRODUCTS.values()) if product.asset_class == name]
    signal, full = wanted(futures)
    position = dict.fromkeys(own, 0.0)
    goals = dict.fromkeys(own, (0.0, 0.0))
    for t in range(T):
        earned = cost = turnover = 0.0
        for p in own:
            earned += position[p] * futures.returns[t, p]
            fee = 2 * list(PRODUCTS.values())[p].spread / futures.price[t, p] if futures.price[t, p] > 0 else 0.0
            traded = abs(position[p]) if futures.rolled[t, p] else 0.0
            goal, most = goals[p]
            if futures.priced[t, p] and abs(goal - position[p]) > 0.1 * most:
                traded += abs(goal - position[p])
                position[p] = goal
            cost += fee * traded
            turnover += traded
        column = AGENTS.index(agent)
        np.testing.assert_allclose(found.returns[t, column], earned - cost, atol=1e-12)
        np.testing.assert_allclose(found.cost[t, column], cost, atol=1e-12)
        np.testing.assert_allclose(found.turnover[t, column], turnover, atol=1e-12)
        known = [p for p in own if np.isfinite(signal[rule][t, p] * full[t, p])]
        goals = {
            p: (signal[rule][t, p] * full[t, p] / len(known), full[t, p] / len(known)) if p in known else (0.0, 0.0)
            for p in own
        }
    assert found.turnover[:, column].sum() > 1.0


def test_nothing_is_traded_where_there_is_no_close():
    futures = from_prices(*tables())
    shut = futures._replace(priced=futures.priced.copy(), rolled=np.zeros((T, P), bool))
    shut.priced[500:520] = False
    assert isinstance(shut, Futures)
    assert not records(shut).turnover[500:520].any()
    reversal = [i for i, agent in enumerate(AGENTS) if agent.startswith("reversal")]
    assert records(shut).turnover[520:530, reversal].sum(0).all()


def test_folds_follow_one_another_and_learn_from_nothing_they_are_judged_on():
    cut = folds(103, 40, train=30, test=20, periods=5)
    assert [(fold.train.start, fold.train.stop, fold.test.start, fold.test.stop) for fold in cut] == [
        (10, 40, 40, 60),
        (30, 60, 60, 80),
        (50, 80, 80, 100),
    ]
    assert fold_of(cut, 5).tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert fold_of(folds(92, 40, train=30, test=20, periods=5), 5).tolist() == [0] * 4 + [1] * 4 + [2] * 2
    for problem, match in (
        ({"train": 41}, "before the first fold"),
        ({"test": 12}, "whole rebalances"),
        ({"n_rows": 44}, "end before"),
    ):
        with pytest.raises(InputError, match=match):
            folds(**{"n_rows": 103, "first": 40, "train": 30, "test": 20, "periods": 5} | problem)
    np.testing.assert_allclose(compounded(np.full((4, 1), 0.1), 2), [[0.21], [0.21]])


def test_what_a_fold_learns_from_does_not_change_with_what_it_is_judged_on():
    own = records(from_prices(*tables(rows=800)))
    cut = folds(800, 500, train=300, test=100, periods=5)
    part = Study(np.arange(800), own, cut)
    changed = part._replace(records=own._replace(**{f: getattr(own, f).copy() for f in ("returns", "turnover")}))
    changed.records.returns[600:] += 0.01
    changed.records.turnover[600:] += 1.0
    one, other = training_worlds(part), training_worlds(changed)
    for field in ("returns", "turnover", "confidence"):
        a, b = (np.asarray(getattr(x.streams, field)) for x in (one, other))
        np.testing.assert_array_equal(a[:2], b[:2])
        np.testing.assert_allclose(a[1], getattr(own, field)[300:600], rtol=1e-6, atol=1e-12)
    assert not np.array_equal(one.streams.returns[2], other.streams.returns[2])
    np.testing.assert_array_equal(one.typical_volatility[:2], other.typical_volatility[:2])
    weeks = own.returns[300:600].reshape(60, 5, -1)
    np.testing.assert_allclose(one.typical_volatility[1], (np.prod(1 + weeks, 1) - 1).std(0), rtol=1e-5)
    env, judged = judged_world(part, WORLD)
    assert env.episode_steps == part.n_rebalances == 60
    np.testing.assert_allclose(judged.streams.returns, own.returns[500 - 26 * 5 : 800], rtol=1e-6, atol=1e-12)


def test_development_ends_where_judging_begins_and_a_quick_run_judges_nothing():
    if not DAILY.is_dir():
        pytest.skip(f"real daily data is not at {DAILY}")
    early, late = study(DAILY, "development"), study(DAILY, "judged")
    assert early.dates[-1] < JUDGED <= late.dates[late.judged][0]
    assert len(early.cut) == 1
    assert len(late.cut) == 5
    for part in (early, late):
        for fold in part.cut:
            assert fold.train.stop == fold.test.start
            # Six years, or all there is before the development part's test.
            assert fold.train.stop - fold.train.start == min(1560, fold.test.start)
        assert (part.records.turnover.sum(0) > 0).all()
    np.testing.assert_array_equal(early.records.returns, late.records.returns[: len(early.dates)])
    assert late.weeks[0] == late.dates[late.judged][4]
    assert meta_real.PRESETS["quick"].part == "development"
    assert meta_real.PRESETS["full"].part == "judged"
