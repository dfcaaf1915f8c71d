"""`train_order_book.py`: who meets whom, what a difference has to show to be one, and a small run from end to end."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import command, train_order_book
from marljax.envs.roles import ROLES
from marljax.envs.roles.execution import ExecutionParams
from marljax.envs.roles.market_maker import MarketMakerParams
from marljax.envs.roles.role import Scales, agents
from marljax.lob import messages
from marljax.lob.matching import empty, process
from marljax.lob.types import BUY, SELL, BookConfig
from marljax.market.fees import fee_schedule
from stages.order_book import (
    CLASSICAL,
    EXECUTION,
    LEARNED,
    MAKER,
    LeagueConfig,
    Training,
)
from stages.order_book_benchmarks import strategies
from stages.order_book_players import Corrected, CorrectedParams, Population, PopulationParams, closing_cost
from stages.order_book_report import compare, verdict
from tests.reference.browser import CHROMIUM, problems, seen_by_browser

ROOT = Path(__file__).parents[2]


class Constant:
    """Always the same action."""

    def init_carry(self):
        return jnp.zeros(())

    def apply(self, params, obs, carry, key, deterministic):
        return jnp.full(2, params), carry + 1.0


def test_one_policy_of_a_population_is_drawn_for_a_whole_episode_as_often_as_its_weight():
    population = Population((Constant(), Constant(), Constant()))
    params = PopulationParams(jnp.array([1.0, 0.0, 3.0]), (0.1, 0.2, 0.3))

    def episode(key):
        def step(carry, key):
            action, carry = population.apply(params, jnp.zeros(1), carry, key, False)
            return carry, action

        return jax.lax.scan(step, population.init_carry(), jax.random.split(key, 5))[1]

    actions = np.asarray(jax.jit(jax.vmap(episode))(jax.random.split(jax.random.key(0), 2000)))
    assert (actions == actions[:, :1, :1]).all()
    assert np.mean(actions[:, 0, 0] == np.float32(0.3)) == pytest.approx(0.75, abs=0.04)
    assert not (actions == np.float32(0.2)).any()


@pytest.mark.parametrize(
    ("round_", "classical", "earlier"), [(0, 1.0, [0.0, 0.0]), (1, 0.4, [0.6, 0.0]), (2, 0.4, [0.3, 0.3])]
)
def test_opponents_are_classical_first_and_then_also_every_earlier_self_of_the_other(round_, classical, earlier):
    bases = ((MAKER, "glft"), (EXECUTION, "vwap"))
    training = Training(None, LeagueConfig(rounds=3, classical_share=0.4), bases)
    past = {MAKER: (), EXECUTION: (jnp.arange(2.0),)}
    strategies = {MAKER: ("as", "glft"), EXECUTION: ("twap", "vwap", "ac")}
    params = training._params(MAKER, None, strategies, past, jnp.int32(round_))
    met = params.opponents[EXECUTION]
    np.testing.assert_allclose(met.weights, [classical / 3] * 3 + earlier, rtol=1e-6)
    assert [float(member.learned[0]) for member in met.members[3:]] == [0.0, 1.0]
    assert [member.base for member in met.members[3:]] == ["vwap", "vwap"]
    assert params.correction.base == "glft"


def test_a_correction_starts_as_the_strategy_that_it_corrects_and_reaches_as_far_as_it_may():
    made = strategies(book_rules(), 38.0, 34.0)[MAKER]["glft"][1](jnp.full(4, 0.5))
    corrected = Corrected(CLASSICAL[MAKER]["glft"], LeagueConfig().policy(MAKER))
    n = len(ROLES[MAKER].OBSERVATION)
    obs = jax.random.normal(jax.random.key(1), (n,))
    fresh = CorrectedParams(made, jnp.float32(0.3), corrected.learned.init(jax.random.key(0), n))
    base, _ = corrected.base.apply(made, obs, (), jax.random.key(0), True)
    action, _ = corrected.apply(fresh, obs, (), jax.random.key(0), True)
    np.testing.assert_allclose(action, base, atol=0.01)
    for correction, change in ((1.0, 0.3), (0.5, 0.15), (-1.0, -0.3)):
        corrected_action = fresh.act(corrected.base, obs, jnp.full(4, correction))
        np.testing.assert_allclose(corrected_action, jnp.clip(base + change, -1.0, 1.0), atol=1e-6)


def test_closing_a_position_walks_the_book_past_one_s_own_order():
    block = [
        messages.limit(BUY, price=100, size=2, id=1, owner=0),
        messages.limit(BUY, price=99, size=5, id=2, owner=1),
        messages.limit(BUY, price=97, size=3, id=3, owner=0),
        messages.limit(SELL, price=102, size=9, id=4, owner=0),
    ]
    book, _ = process(empty(BookConfig(slots=8, owners=2)), messages.stack(block), BookConfig(slots=8, owners=2))
    params = SimpleNamespace(tick_value=0.5)
    # The mid is 101: two lots a tick below it and three lots four ticks below; then there is nothing more.
    for position, ticks in ((0, 0.0), (2, 2.0), (4, 10.0), (7, 22.0), (-3, 3.0)):
        state = SimpleNamespace(
            book=book,
            ledger=SimpleNamespace(position=jnp.array([-position, position])),
            market=SimpleNamespace(mark=jnp.int32(202)),
            conditions=SimpleNamespace(fees=fee_schedule(taker_per_lot=0.1)),
        )
        assert float(closing_cost(state, params)) == pytest.approx(0.5 * ticks + 0.1 * abs(position))


def test_a_difference_counts_only_where_its_whole_interval_is_on_one_side_of_zero():
    assert [verdict(*x) for x in ((0.1, 0.2), (-0.2, -0.1), (-0.1, 0.2))] == ["better", "worse", "not established"]


def test_more_profit_and_less_shortfall_are_better():
    noise = np.linspace(-0.01, 0.01, 10)
    makers, schedules = (*CLASSICAL[MAKER], LEARNED), (*CLASSICAL[EXECUTION], LEARNED)
    cells = {
        maker: {
            schedule: {
                "adjusted": list((2.0 if maker == LEARNED else 1.0) + noise * (maker == LEARNED)),
                "shortfall": list((3.0 if schedule == LEARNED else 4.0) + noise * (schedule == LEARNED)),
            }
            for schedule in schedules
        }
        for maker in makers
    }
    values = {"avellaneda-stoikov": 1.0, "glft": 2.0, "twap": 2.0, "vwap": 1.0, "almgren-chriss": 3.0}
    differences, findings = compare(cells, values, parent_value=0.5)
    for role, metric, best in ((MAKER, "adjusted", "glft"), (EXECUTION, "shortfall", "vwap")):
        for met in ("classical", LEARNED):
            rows = differences[role][met]
            assert {name: row["best_on_validation"] for name, row in rows.items()} == {
                name: name == best for name in CLASSICAL[role]
            }
            for row in rows.values():
                assert row[metric][1] == pytest.approx(1.0)
                assert (row["verdict"], row["seeds_ahead"]) == ("better", 10)
    saved = differences[EXECUTION]["classical"]["twap"]
    np.testing.assert_allclose(saved["currency"], 0.5 * np.array(saved["shortfall"]))
    assert len(findings) == 4
    cells[LEARNED]["twap"]["adjusted"] = list(-20.0 + noise)
    assert compare(cells, values, 0.5)[0][MAKER]["classical"]["glft"]["verdict"] == "worse"


def book_rules():
    roles = {MAKER: agents(MarketMakerParams(largest=4), 1), EXECUTION: agents(ExecutionParams(), 1)}
    scales = Scales(jnp.float32(1.3), jnp.float32(2.0), jnp.float32(0.8))
    return SimpleNamespace(roles=roles, scales=scales, tick_value=jnp.float32(0.01))


def test_every_number_of_a_benchmark_acts():
    made = strategies(book_rules(), 38.0, 34.0)
    for role, by_name in made.items():
        for name, (size, make) in by_name.items():
            at = make(jnp.full(size, 0.5))
            for i in range(size):
                moved = make(jnp.full(size, 0.5).at[i].set(0.9))
                same = jax.tree.map(lambda a, b: bool(jnp.array_equal(a, b)), at, moved)
                assert not all(jax.tree.leaves(same)), (role, name, i)


def test_schedules_range_from_next_to_even_to_nearly_all_at_once():
    made = strategies(book_rules(), 38.0, 34.0)[EXECUTION]
    policies = CLASSICAL[EXECUTION]
    half = jnp.float32(0.5)
    for name, edge, least, most in (("vwap", 0.5, 0.499, 0.501), ("almgren-chriss", 0.0, 0.49, 0.5)):
        assert least <= policies[name].left(made[name][1](jnp.array([0.5, edge])), half) <= most
    assert policies["almgren-chriss"].left(made["almgren-chriss"][1](jnp.array([0.5, 1.0])), half) < 1e-3
    assert ROLES[EXECUTION].ACTION == ("size", "aggression")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--league.seeds", "1"], "league.seeds must be at least 2 for an interval, got 1"),
        (["--batch", "48"], "batch 48 does not divide evaluation_episodes 64"),
        (["--world.execution.deadline", "500"], "world.execution.deadline 500 is after the episode's 40 steps"),
        (["--league.rounds", "500"], "rounds"),
        (["--league.critic-chunks", "500"], "critic_chunks"),
        (["--league.market-maker.n-minibatches", "7"], "n_minibatches 7 does not divide n_steps"),
        (["--leage.seeds", "3"], "did you mean '--league.seeds'?"),
        (["--seed", "-1"], "seed must lie within 0 and 2**32 - 1, got -1"),
    ],
)
def test_a_bad_setting_is_one_line_and_exit_code_2(flags, message, capsys):
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit) as end:
            command.run(train_order_book.main, train_order_book.OrderBookTraining, train_order_book.PRESETS, "", flags)
    finally:
        signal.signal(signal.SIGTERM, before)
    said = capsys.readouterr().err
    assert end.value.code == 2
    assert said.count("\n") == 1
    assert message in said


def start(*flags: str, cwd: Path) -> subprocess.Popen:
    script = str(ROOT / "experiments" / "train_order_book.py")
    return subprocess.Popen(
        [sys.executable, script, "--preset", "smoke", *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
    )


@pytest.mark.nightly
def test_who_has_only_learned_what_things_are_worth_still_acts_as_the_strategy_it_corrects(tmp_path):
    run = start("--run-dir", "a", "--league.critic-chunks", "3", cwd=tmp_path)
    _, said = run.communicate(timeout=600)
    assert run.returncode == 0, said
    rows = [json.loads(line) for line in (tmp_path / "a" / "metrics.jsonl").read_text().splitlines()]
    moved = [row["market_maker.approx_kl"] for row in rows]
    # Within an update the policy moves, and goes back before the next.
    assert np.isfinite(moved).all()
    summary = json.loads((tmp_path / "a" / "summary.json").read_text())
    best = summary["benchmarks"]["best"]
    learned, corrected = (summary["cells"][name]["twap"]["adjusted"] for name in (LEARNED, best[MAKER]))
    np.testing.assert_allclose(learned, corrected, atol=0.05)


@pytest.mark.nightly
def test_a_stopped_run_continues_and_ends_with_the_same_numbers(tmp_path):
    stopped = start("--run-dir", "a", "--league.chunks", "200", cwd=tmp_path)
    while not (tmp_path / "a" / "metrics.jsonl").exists():
        assert stopped.poll() is None, stopped.communicate()
        time.sleep(0.05)
    stopped.send_signal(signal.SIGINT)
    _, said = stopped.communicate(timeout=120)
    assert stopped.returncode == 3, said
    assert "run the same command again to resume" in said
    assert not (tmp_path / "a" / "summary.json").exists()
    results = []
    for folder in ("a", "b"):
        run = start("--run-dir", folder, "--league.chunks", "200", cwd=tmp_path)
        out, said = run.communicate(timeout=600)
        assert run.returncode == 0, said
        assert ("resumes after chunk" in said) == (folder == "a")
        last = json.loads(out.splitlines()[-1])
        assert (last["experiment"], last["simulated"], last["seeds"]) == ("train_order_book", True, 2)
        results.append((last["differences"], (tmp_path / folder / "metrics.jsonl").read_text()))
    assert results[0] == results[1]

    folder = tmp_path / "a"
    assert json.loads((folder / "provenance.json").read_text())["origins"] == {"order book": "simulated"}
    assert json.loads((folder / "config.json").read_text())["league"]["chunks"] == 200
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 200
    cells = json.loads((folder / "summary.json").read_text())["cells"]
    assert {maker: set(row) for maker, row in cells.items()} == {
        maker: {*CLASSICAL[EXECUTION], LEARNED} for maker in (*CLASSICAL[MAKER], LEARNED)
    }
    page = (folder / "report.html").read_text()
    assert "Simulated market" in page
    if CHROMIUM is not None:
        seen = seen_by_browser(page, tmp_path)
        assert [name for name, *_ in seen["plots"]] == ["plot-learning", "plot-episode"]
        assert problems(seen) == []
