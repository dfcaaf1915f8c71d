"""Checkpoints: bit-exact, whole or unseen, and refused where they do not fit."""

import shutil
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from marljax.data.schema import InputError
from marljax.runtime import checkpoint
from marljax.runtime.artefacts import named_leaves


class Runner(NamedTuple):
    params: dict
    optimiser: optax.OptState
    key: jax.Array
    keys: jax.Array
    nothing: jax.Array
    step: jax.Array


def make_runner(seed: int = 0) -> Runner:
    key = jax.random.key(seed)
    params = {"w/1": jax.random.normal(key, (4, 3)), "b.c": jnp.array([jnp.nan, -0.0, 1e-45], jnp.float32)}
    return Runner(
        params,
        optax.adam(1e-3).init(params),
        key,
        jax.random.split(jax.random.key(seed, impl="rbg"), 3),
        jnp.zeros((0, 2), jnp.int32),
        jnp.int32(7),
    )


def bits(tree) -> dict[str, tuple]:
    host = {}
    for name, leaf in named_leaves(tree).items():
        data = jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf
        host[name] = (str(leaf.dtype), leaf.shape, np.asarray(data).tobytes())
    return host


def test_a_runner_comes_back_bit_for_bit(tmp_path):
    runner = make_runner()
    checkpoint.save(tmp_path / "c", 3, runner, extra=[{"loss": 0.1 + 0.2, "nothing": None}])
    found = checkpoint.restore_latest(tmp_path / "c", make_runner(seed=1))
    assert found.step == 3
    assert isinstance(found.tree, Runner)
    assert bits(found.tree) == bits(runner)
    assert found.extra == [{"loss": 0.1 + 0.2, "nothing": None}]
    draws = [jax.random.normal(tree.keys[1], (3,)).tobytes() for tree in (found.tree, runner)]
    assert draws[0] == draws[1]


def test_a_runner_comes_back_into_an_abstract_one(tmp_path):
    runner = make_runner()
    checkpoint.save(tmp_path / "c", 1, runner)
    found = checkpoint.restore_latest(tmp_path / "c", jax.eval_shape(make_runner))
    assert bits(found.tree) == bits(runner)


def test_no_checkpoint_is_none_and_creates_nothing(tmp_path):
    assert checkpoint.restore_latest(tmp_path / "absent", make_runner()) is None
    assert not (tmp_path / "absent").exists()


def test_relative_paths_work(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    checkpoint.save("c", 1, jnp.arange(3))
    assert checkpoint.restore_latest("c", jnp.arange(3)).step == 1


def test_the_last_two_steps_stay(tmp_path):
    for step in (1, 2, 3):
        checkpoint.save(tmp_path, step, jnp.float32(step), keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2", "3"]
    assert checkpoint.restore_latest(tmp_path, jnp.float32(0)).tree == 3


def test_an_unfinished_step_is_never_seen(tmp_path):
    for step in (1, 2):
        checkpoint.save(tmp_path, step, jnp.float32(step))
    # What a process killed between writing and renaming leaves behind, in Orbax's naming.
    shutil.move(tmp_path / "2", tmp_path / "2.orbax-checkpoint-tmp")
    assert checkpoint.restore_latest(tmp_path, jnp.float32(0)).step == 1
    checkpoint.save(tmp_path, 2, jnp.float32(5))
    assert checkpoint.restore_latest(tmp_path, jnp.float32(0)).tree == 5


@pytest.mark.parametrize(
    ("like", "message"),
    [
        ({"w": jnp.zeros((3, 2)), "n": jnp.int32(0)}, r"\['w'\] is float32\[2,3\] there and float32\[3,2\] here"),
        ({"w": jnp.zeros((2, 3)), "n": jnp.float32(0)}, r"\['n'\] is int32\[\] there and float32\[\] here"),
        ({"w": jnp.zeros((2, 3))}, r"\['n'\] is int32\[\] there and absent here"),
    ],
)
def test_a_checkpoint_of_another_form_is_refused_by_name(tmp_path, like, message):
    checkpoint.save(tmp_path, 1, {"w": jnp.zeros((2, 3)), "n": jnp.int32(0)})
    with pytest.raises(InputError, match=message):
        checkpoint.restore_latest(tmp_path, like)
