"""The proof of coordination end to end, in its quick form, and what its pieces promise."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "experiments" / "controlled" / "coordination.py"


def run(*args):
    return subprocess.run([sys.executable, str(SCRIPT), *args], capture_output=True, text=True, cwd=ROOT, check=False)


@pytest.fixture
def coordination(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    monkeypatch.syspath_prepend(str(SCRIPT.parents[1]))
    import coordination

    return coordination


@pytest.mark.nightly
def test_the_quick_form_ends_with_a_verdict_and_leaves_what_it_measured(tmp_path):
    done = run("--preset", "quick", "--run-dir", str(tmp_path))
    assert done.returncode == 0, done.stderr
    verdict = json.loads(done.stdout.splitlines()[-1])
    assert verdict.keys() == {"task", "estimate", "interval", "target", "met"}
    result = json.loads((tmp_path / "result.json").read_text())
    low, estimate, high = result["critics"]["difference"]
    assert low <= estimate <= high
    assert [low, high] == verdict["interval"]
    assert verdict["met"] == all(result["better"].values())
    # The same episodes and seeds for both: a difference is that of the values by seed.
    by_seed = result["critics"]["by_seed"]
    np.testing.assert_allclose(np.mean(by_seed["shared"]) - np.mean(by_seed["own"]), estimate, rtol=1e-6, atol=1e-9)
    assert (tmp_path / "coordination.html").stat().st_size > 10_000


def test_a_setting_must_be_named():
    done = run("--learning-rates", "-1.0")
    assert done.returncode == 2
    assert done.stderr.startswith("error:")
    assert "Traceback" not in done.stderr


def test_both_critics_try_the_same_settings_with_the_same_networks(coordination):
    config = coordination.CoordinationConfig()
    assert len(config.settings) == 4
    own, shared = (
        coordination.products_learner(config, critic, config.settings[0]).config for critic in ("own", "shared")
    )
    assert own.replace(critic="shared") == shared


def test_a_desk_that_fills_parents_at_once_is_judged_by_its_impact_alone(coordination):
    """Filled in the first slice, a parent's shortfall is impact times its size squared."""

    class AtOnce:
        def init(self, key, obs_size):
            return {"weight": jax.numpy.zeros(())}

        def init_carry(self):
            return ()

        def apply(self, params, obs, carry, key, deterministic):
            return jax.numpy.where(obs[2] >= 1.0, 0.25 * jax.numpy.sign(obs[:1]), 1.0), carry

    policies = {"alpha": AtOnce(), "execution": AtOnce()}
    params = {role: {"weight": jax.numpy.zeros(())} for role in policies}
    found = coordination.desk_on_fresh_episodes(policies, params, jax.random.key(0), 500)
    # Targets are +-0.5 units: a parent that is not nothing is one unit, but the first, which is half of one.
    assert 0.9 * coordination.DESK.impact < float(found["shortfall"]) < coordination.DESK.impact
    np.testing.assert_allclose(found["done"][1:], 1.0, atol=1e-6)
    assert float(found["profit"]) > float(found["reward"]) > 0.0
    assert float(found["information_ratio"]) > 0.0
