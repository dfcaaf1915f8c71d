"""Files that are whole or absent: JSON, arrays and pytrees, each written beside its place and then moved there.

What is read back equals what was written bit for bit, the same content gives the same bytes, and nothing is pickled.
"""

import dataclasses
import json
import os
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from marljax.data.schema import InputError


def write_atomic(path: str | Path, content: bytes) -> None:
    """Write a file so that a process killed at any moment leaves the old file, or the new one, whole."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(beside, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def jsonable(value: Any) -> Any:
    """Plain JSON values: dataclasses and mappings become objects, sequences and arrays lists, NaN and infinities null.

    Raises TypeError for anything else, so that nothing is stored as its `repr`.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: jsonable(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(name): jsonable(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [jsonable(item) for item in value]
    if isinstance(value, (np.ndarray, np.generic, jax.Array)):
        return jsonable(np.asarray(value).tolist())
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    if value is None or isinstance(value, (bool, int, str)):
        return value
    raise TypeError(f"{type(value).__name__} has no place in JSON: {value!r}")


def canonical_json(value: Any) -> str:
    """One line of JSON, keys sorted: equal values give equal text."""
    return json.dumps(jsonable(value), sort_keys=True, separators=(",", ":"), allow_nan=False)


def write_json(path: str | Path, value: Any) -> None:
    """`value` as JSON for people: keys sorted, indented, NaN as null."""
    text = json.dumps(jsonable(value), sort_keys=True, indent=2, allow_nan=False, ensure_ascii=False)
    write_atomic(path, f"{text}\n".encode())


def read_json(path: str | Path) -> Any:
    """The value in a JSON file. Raises InputError where there is no such file or it is not JSON."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(error.strerror or "cannot be read", file=path) from error
    except json.JSONDecodeError as error:
        raise InputError(f"not JSON: {error.msg}", file=path, line=error.lineno) from error
    except UnicodeDecodeError as error:
        raise InputError("not JSON: the file is not UTF-8 text", file=path) from error


def save_arrays(path: str | Path, arrays: Mapping[str, np.ndarray | jax.Array]) -> None:
    """Named arrays as one `.npz` file. Object arrays are refused (ValueError)."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.stem}.{os.getpid()}.npz")
    host = {name: np.asarray(array) for name, array in arrays.items()}
    try:
        np.savez(beside, allow_pickle=False, **host)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def load_arrays(path: str | Path) -> dict[str, np.ndarray]:
    """The arrays of a `.npz` file by name. Raises InputError where the file is missing, cut off or something else."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except OSError as error:
        raise InputError(error.strerror or "cannot be read", file=path) from error
    except (ValueError, EOFError, AttributeError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError("not a whole .npz file; delete it to have it made again", file=path) from error


def save_tree(path: str | Path, tree: Any) -> None:
    """A pytree of arrays, typed PRNG keys among them, as one `.npz` file."""
    save_arrays(path, {name: _to_bits(leaf) for name, leaf in named_leaves(tree).items()})


def load_tree(path: str | Path, like: Any) -> Any:
    """The pytree written by `save_tree`, in the structure, shapes and dtypes of `like`.

    `like` may be abstract (`jax.eval_shape`). Raises InputError that names the first leaf which does not fit.
    """
    stored, expected = load_arrays(path), named_leaves(like)
    if stored.keys() != expected.keys():
        odd = sorted(stored.keys() ^ expected.keys())[0]
        raise InputError(f"the stored tree and the expected one differ at {odd}", file=path)
    leaves = [_from_bits(stored[name], leaf, f"{path}: {name}") for name, leaf in expected.items()]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def named_leaves(tree: Any) -> dict[str, Any]:
    """The leaves of a pytree by their path, in tree order, scalars made arrays."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path): leaf if hasattr(leaf, "dtype") else jnp.asarray(leaf) for path, leaf in leaves}


def describe_leaf(leaf: Any) -> str:
    """For example `float32[4,3]`."""
    return f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]"


def _to_bits(leaf: Any) -> np.ndarray:
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    host = np.asarray(leaf)
    # NumPy's file format knows no bfloat16 or float8; their bits are stored instead.
    return host.view(f"u{host.dtype.itemsize}") if host.dtype.kind == "V" else host


def _from_bits(host: np.ndarray, leaf: Any, where: str) -> jax.Array:
    is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    expected = jax.eval_shape(jax.random.key_data, leaf) if is_key else jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
    dtype = np.dtype(expected.dtype)
    if dtype.kind == "V" and host.dtype == np.dtype(f"u{dtype.itemsize}"):
        host = host.view(dtype)
    if host.shape != expected.shape or host.dtype != dtype:
        raise InputError(f"{where} is {describe_leaf(host)}, expected {describe_leaf(expected)}")
    array = jnp.asarray(host)
    return jax.random.wrap_key_data(array, impl=_key_impl(leaf)) if is_key else array


def _key_impl(leaf: Any) -> Any:
    found: list[Any] = []
    # `key_impl` takes arrays and tracers only; `leaf` may be abstract.
    jax.eval_shape(lambda key: found.append(jax.random.key_impl(key)), leaf)
    return found[0]
