"""Files: what is read back is what was written, whole or not at all."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marljax.data.schema import InputError
from marljax.runtime import artefacts


def test_nan_becomes_null_and_keys_are_sorted(tmp_path):
    artefacts.write_json(tmp_path / "a.json", {"b": float("nan"), "a": np.float32(0.5), "c": (np.arange(2), None)})
    text = (tmp_path / "a.json").read_text()
    assert json.loads(text) == {"a": 0.5, "b": None, "c": [[0, 1], None]}
    assert text.index('"a"') < text.index('"b"')


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_floats_survive_json_exactly(value):
    assert json.loads(artefacts.canonical_json([value])) == [value]


def test_what_json_cannot_hold_is_refused():
    with pytest.raises(TypeError, match="no place in JSON"):
        artefacts.canonical_json({"f": object()})


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    artefacts.write_atomic(tmp_path / "a", b"old")
    monkeypatch.setattr(artefacts.os, "replace", lambda *_: (_ for _ in ()).throw(OSError("killed")))
    with pytest.raises(OSError, match="killed"):
        artefacts.write_atomic(tmp_path / "a", b"new")
    with pytest.raises(OSError, match="killed"):
        artefacts.save_arrays(tmp_path / "a.npz", {"x": np.arange(3)})
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a", b"old")]


def test_arrays_give_equal_bytes_for_equal_content(tmp_path):
    arrays = {"x": np.linspace(0, 1, 5), "n": jnp.arange(3)}
    artefacts.save_arrays(tmp_path / "a.npz", arrays)
    artefacts.save_arrays(tmp_path / "b.npz", arrays)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.npz", "b.npz"]


def test_object_arrays_are_refused(tmp_path):
    with pytest.raises(ValueError, match="Object arrays"):
        artefacts.save_arrays(tmp_path / "a.npz", {"x": np.array([object()])})


def test_a_tree_with_keys_and_bfloat16_survives_bit_for_bit(tmp_path):
    tree = {
        "params": [jnp.array([jnp.nan, -0.0, 1e-45], jnp.float32), jnp.array([1.5, -2], jnp.bfloat16)],
        "key": jax.random.split(jax.random.key(3), 2),
        "empty": jnp.zeros((0, 3)),
        "flag": jnp.array(True),
    }
    artefacts.save_tree(tmp_path / "t.npz", tree)
    back = artefacts.load_tree(tmp_path / "t.npz", jax.eval_shape(lambda: tree))
    assert jax.tree.structure(back) == jax.tree.structure(tree)
    for there, here in zip(jax.tree.leaves(back), jax.tree.leaves(tree), strict=True):
        assert there.dtype == here.dtype
        bits = [jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x for x in (there, here)]
        assert np.asarray(bits[0]).tobytes() == np.asarray(bits[1]).tobytes()


def test_a_tree_of_another_shape_is_refused_by_name(tmp_path):
    artefacts.save_tree(tmp_path / "t.npz", {"w": jnp.zeros(3)})
    with pytest.raises(InputError, match=r"\['w'\] is float32\[3\], expected float32\[4\]"):
        artefacts.load_tree(tmp_path / "t.npz", {"w": jnp.zeros(4)})
    with pytest.raises(InputError, match="differ at"):
        artefacts.load_tree(tmp_path / "t.npz", {"v": jnp.zeros(3)})


@dataclasses.dataclass(frozen=True)
class _Point:
    x: float = 1.0


def test_a_missing_or_broken_json_file_is_one_clear_error(tmp_path):
    with pytest.raises(InputError, match="No such file"):
        artefacts.read_json(tmp_path / "absent.json")
    (tmp_path / "broken.json").write_text('{"a": 1,\n')
    with pytest.raises(InputError, match=r"broken.json:\d: not JSON"):
        artefacts.read_json(tmp_path / "broken.json")
    assert artefacts.canonical_json(_Point()) == '{"x":1.0}'
