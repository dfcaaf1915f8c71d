"""The proof of relative value: what it learns from, what its rule does, and what it refuses."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.reference.books import random_market

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "experiments" / "controlled" / "basket.py"
BOOKS = ROOT.parent / "shared" / "data" / "prosperity" / "p2" / "round3"


def run(*args):
    return subprocess.run([sys.executable, str(SCRIPT), *args], capture_output=True, text=True, cwd=ROOT, check=False)


@pytest.fixture
def basket(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    monkeypatch.syspath_prepend(str(SCRIPT.parents[1]))
    import basket

    return basket


def test_absent_books_end_it_with_one_line_and_two(tmp_path):
    done = run("--path", str(tmp_path / "nowhere"), "--run-dir", str(tmp_path / "run"))
    assert done.returncode == 2
    assert "no such file or folder" in done.stderr
    assert "nowhere" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.nightly
@pytest.mark.skipif(not BOOKS.exists(), reason="the Prosperity books are not here")
def test_the_quick_form_ends_with_a_verdict(tmp_path):
    done = run("--preset", "quick", "--path", str(BOOKS), "--run-dir", str(tmp_path))
    assert done.returncode == 0, done.stderr
    verdict = json.loads(done.stdout.splitlines()[-1])
    assert verdict.keys() == {"task", "estimate", "interval", "target", "met"}
    result = json.loads((tmp_path / "result.json").read_text())
    np.testing.assert_allclose(result["agents"][1] - result["rule"][1], verdict["estimate"], atol=1.0)
    assert (tmp_path / "basket.html").exists()


def test_the_rule_enters_beyond_the_entry_and_leaves_at_the_exit(basket):
    def wanted(z, held, entry=1.0, leave=0.25):
        action, _ = basket.ZScore().apply(jnp.array([entry, leave]), jnp.array([z, held]), (), None, True)
        return float(action[0])

    assert wanted(1.2, 0.0) == -1.0
    assert wanted(-1.2, 0.0) == 1.0
    assert np.isnan(wanted(0.6, 0.0))
    assert np.isnan(wanted(0.6, -1.0))
    assert wanted(0.2, -1.0) == 0.0
    assert wanted(-1.2, -1.0) == 1.0
    # An exit below zero holds on beyond the mean.
    assert np.isnan(wanted(-0.2, -1.0, leave=-0.25))
    assert wanted(-0.3, -1.0, leave=-0.25) == 0.0


def test_what_is_judged_comes_after_what_is_learned_from_and_validation_never_touches_the_last_day(basket):
    data = random_market(n_products=2)
    n = data.n_steps
    days = data.replace(session=jnp.asarray(np.repeat([0, 1, 2], [n // 3, n // 3, n - 2 * (n // 3)]), jnp.int32))
    learn, judge = basket.parts(days, "test")
    assert (learn.stop, judge) == (2 * (n // 3), slice(2 * (n // 3), n))
    basket.VALIDATION_ROWS, kept = n // 6, basket.VALIDATION_ROWS
    try:
        learn, judge = basket.parts(days, "validation")
    finally:
        basket.VALIDATION_ROWS = kept
    assert learn.stop == judge.start == 2 * (n // 3) - n // 6
    assert judge.stop == 2 * (n // 3)


def test_decisions_of_all_offsets_are_every_row_once(basket):
    data = random_market(n_products=2)
    features = jnp.arange(data.n_steps, dtype=jnp.float32)[:, None, None] * jnp.ones((1, 2, 1))
    made = [basket.decisions(data, features, 4, offset) for offset in range(4)]
    seen = np.concatenate([np.asarray(rows.features[:, 0, 0]) for rows in made])
    np.testing.assert_array_equal(np.sort(seen), np.arange(data.n_steps))
    together = basket.joined(made)
    session = np.asarray(together.data.session)
    assert (np.diff(session) >= 0).all()
    # Every session of it ends flat.
    last = np.flatnonzero(np.diff(session, append=session[-1] + 1))
    assert together.flat[last].all()


def test_hedged_moves_leave_what_the_others_do_not_explain(basket):
    data = random_market(n_products=2)
    mid = data.double_mid.astype(jnp.float32)
    none = basket.RelativeValue(mid[0], jnp.eye(2), jnp.zeros(2), jnp.ones(2))
    moves = np.asarray(basket.hedged_moves(data.double_mid, none, 0))
    # Without loadings on others they are the moves themselves, to the percent that a logarithm is off.
    np.testing.assert_allclose(moves[:-1], np.diff(np.asarray(data.double_mid)[:, 0]), atol=1.0)
    itself = basket.RelativeValue(mid[0], jnp.array([[1.0, -1.0], [0.0, 1.0]]), jnp.zeros(2), jnp.ones(2))
    twin = jnp.stack([data.double_mid[:, 0]] * 2, axis=1)
    anchored = itself.replace(anchor=jnp.stack([mid[0, 0]] * 2))
    np.testing.assert_array_equal(basket.hedged_moves(twin, anchored, 0), 0)


def test_an_interval_covers_the_total_and_tells_noise_from_earnings(basket):
    config = basket.BasketConfig(preset="quick", resamples=500)
    noise = np.random.default_rng(0).normal(size=(4, 400))
    low, estimate, high = basket.interval(noise, config)
    np.testing.assert_allclose(estimate, noise.sum(axis=1).mean())
    assert low < 0.0 < high
    low, _, _ = basket.interval(noise + 0.5, config)
    assert low > 100.0


def test_the_books_must_be_three_days_of_the_basket(basket):
    with pytest.raises(basket.InputError, match="GIFT_BASKET"):
        basket.check_days(random_market(n_products=2))


def test_the_rule_trades_the_first_feature(basket):
    with pytest.raises(basket.InputError, match="relative_value"):
        basket.BasketConfig(features=basket.FeatureConfig(names=("spread", "relative_value")))


def test_keeping_is_an_action(basket):
    key = jax.random.key(0)
    from tests.reference.worlds import replay

    env, params = replay()
    stances = basket.StanceEnv(env.episode_steps)
    params = params.replace(flat=jnp.zeros_like(params.flat), no_trade_band=jnp.float32(0.0))
    _, state = stances.reset(key, params)
    _, long, *_ = stances.step_env(key, state, jnp.int32(2), params)
    assert int(long.account.position) > 0
    _, kept, *_ = stances.step_env(key, long, jnp.int32(3), params)
    assert int(kept.account.position) == int(long.account.position)
    _, flat, *_ = stances.step_env(key, kept, jnp.int32(1), params)
    assert int(flat.account.position) == 0
