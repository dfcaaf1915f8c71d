import numpy as np
import pytest

from marljax.agents.selection import SelectionConfig, select, sharpe
from marljax.data.schema import InputError
from tests.reference import learning


def returns(means, seeds=4, steps=900, noise=1.0, seed=0):
    """float[S, P, T] normal returns with one mean per product; the market's share is common to all seeds."""
    rng = np.random.default_rng(seed)
    market = rng.normal(size=(1, len(means), steps))
    own = rng.normal(size=(seeds, len(means), steps))
    return noise * (0.8 * market + 0.6 * own) + np.asarray(means)[None, :, None]


def test_sharpe_is_mean_over_deviation_and_zero_without_trades():
    r = returns([0.1])
    assert sharpe(r)[2, 0] == pytest.approx(learning.sharpe(r[2, 0]), rel=1e-12)
    assert sharpe(r, 250.0)[2, 0] == pytest.approx(250**0.5 * learning.sharpe(r[2, 0]), rel=1e-12)
    assert sharpe(np.zeros(10)) == 0.0
    assert sharpe(np.full(10, 0.1)) == 0.0


def test_clear_differences_decide_and_unclear_ones_go_to_ppo():
    choices, _ = select(
        {"ppo": returns([0.5, 0.0, 0.1]), "sac": returns([0.0, 0.5, 0.12], seed=0)}, ["good", "bad", "even"]
    )
    assert [choices[p]["algorithm"] for p in ("good", "bad", "even")] == ["ppo", "sac", "ppo"]
    assert [choices[p]["verdict"] for p in ("good", "bad", "even")] == ["established", "established", "not established"]
    assert choices["good"]["interval"][0] > 0 > choices["bad"]["interval"][1]
    low, high = choices["even"]["interval"]
    assert low < 0 < high
    for row in choices.values():
        assert row["interval"][0] < row["margin"] < row["interval"][1]


def test_margin_and_seed_are_those_of_the_loop():
    ppo, sac = returns([0.3], seeds=3), returns([0.1], seeds=5, seed=1)
    choices, trials = select({"ppo": ppo, "sac": sac}, ["A"], steps_per_year=252.0)
    scores = {
        name: [252**0.5 * learning.sharpe(r[s, 0]) for s in range(len(r))] for name, r in (("ppo", ppo), ("sac", sac))
    }
    assert choices["A"]["margin"] == pytest.approx(np.mean(scores["ppo"]) - np.mean(scores["sac"]))
    assert choices["A"]["seed"] == int(np.argmax(scores["ppo"]))
    assert [t["validation_sharpe"] for t in trials] == pytest.approx(scores["ppo"] + scores["sac"])
    assert [(t["algorithm"], t["seed"]) for t in trials] == [("ppo", s) for s in range(3)] + [
        ("sac", s) for s in range(5)
    ]


def test_interval_covers_the_truth_at_its_level():
    """Returns that repeat for ten steps: blocks must see that there are fewer of them than there are rows."""
    rng, covered, trials = np.random.default_rng(0), 0, 150
    for i in range(trials):
        ppo, sac = (np.repeat(rng.normal(size=(4, 1, 60)), 10, axis=-1) for _ in range(2))
        choices, _ = select({"ppo": ppo, "sac": sac}, ["A"], config=SelectionConfig(n_resamples=200, seed=i))
        low, high = choices["A"]["interval"]
        covered += low <= 0 <= high
    assert covered / trials > 0.88


@pytest.mark.parametrize("seeds", [2, 4, 8])
def test_nothing_is_established_more_often_than_said_however_few_the_seeds(seeds):
    """Two algorithms alike, whose seeds differ by more than time explains."""
    rng, established, trials = np.random.default_rng(seeds), 0, 200

    def one():
        luck = 0.15 * rng.normal(size=(seeds, 1, 1))
        return luck + rng.normal(size=(seeds, 1, 400))

    for i in range(trials):
        choices, _ = select({"ppo": one(), "sac": one()}, ["A"], config=SelectionConfig(n_resamples=100, seed=i))
        established += choices["A"]["verdict"] == "established"
    assert established / trials < 0.09


def test_one_input_gives_one_choice():
    data = {"ppo": returns([0.1, 0.2]), "sac": returns([0.2, 0.1], seed=3)}
    assert select(data, ["A", "B"]) == select(data, ["A", "B"])


@pytest.mark.parametrize(
    ("data", "match"),
    [
        ({"ppo": np.zeros((2, 1, 5))}, "expected returns of"),
        ({"ppo": np.zeros((2, 2, 5)), "sac": np.zeros((2, 1, 5))}, "returns must be"),
        ({"ppo": np.zeros((2, 1, 5)), "sac": np.zeros((1, 1, 5))}, "returns must be .S >= 2"),
        ({"ppo": np.zeros((2, 1, 5)), "sac": np.zeros((2, 1, 6))}, "different numbers of steps"),
        ({"ppo": np.zeros((2, 1, 5)), "sac": np.full((2, 1, 5), np.nan)}, "not finite"),
    ],
)
def test_returns_that_cannot_be_compared_are_refused(data, match):
    with pytest.raises(ValueError, match=match):
        select(data, ["A"])


@pytest.mark.parametrize(
    ("name", "value"),
    [("confidence", 0.5), ("confidence", 1.0), ("n_resamples", 0), ("block_length", -1), ("seed", -1)],
)
def test_an_impossible_setting_is_refused_by_name(name, value):
    with pytest.raises(InputError, match=f"{name} must be .*, got {value}"):
        SelectionConfig(**{name: value})
