"""Checkpoints: a whole Runner, its typed PRNG keys included, saved with Orbax so that resuming is bit-exact.

A step is a folder which Orbax writes under another name and renames when it is complete: a process killed half-way
leaves a folder that no reader takes for a checkpoint, and the next save removes it.
"""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from marljax.data.schema import InputError
from marljax.runtime.artefacts import describe_leaf, named_leaves


class Checkpoint(NamedTuple):
    """What `restore_latest` finds."""

    step: int
    tree: Any
    extra: Any
    """The JSON value that was saved with the tree."""


def save(directory: str | Path, step: int, tree: Any, *, extra: Any = None, keep: int = 2) -> None:
    """Save `tree` as `directory/step` and return when it is complete; the last `keep` steps stay.

    `extra` is any JSON value (for example the rows of metrics so far). A step that exists is left as it is.
    """
    leaves = named_leaves(tree)
    form = {name: describe_leaf(leaf) for name, leaf in leaves.items()}
    # Orbax refuses arrays without elements; `form` is all there is to know about them.
    filled = {name: leaf for name, leaf in leaves.items() if leaf.size}
    with _manager(directory, keep) as manager:
        manager.save(
            step,
            args=ocp.args.Composite(
                tree=ocp.args.StandardSave(filled), extra=ocp.args.JsonSave({"form": form, "extra": extra})
            ),
        )
        manager.wait_until_finished()


def restore_latest(directory: str | Path, like: Any) -> Checkpoint | None:
    """The last complete checkpoint in `directory`, or None where there is none.

    The tree has the structure of `like` (arrays, or abstract as from `jax.eval_shape`). Raises InputError that names
    the first leaf whose path, shape or dtype differs from the stored one.
    """
    if not Path(directory).is_dir():
        return None
    leaves = named_leaves(like)
    with _manager(directory, keep=None) as manager:
        step = manager.latest_step()
        if step is None:
            return None
        header = manager.restore(step, args=ocp.args.Composite(extra=ocp.args.JsonRestore())).extra
        _check_form(header["form"], {name: describe_leaf(leaf) for name, leaf in leaves.items()}, directory)
        filled = {name: leaf for name, leaf in leaves.items() if leaf.size}
        restored = manager.restore(step, args=ocp.args.Composite(tree=ocp.args.StandardRestore(filled))).tree
    values = [restored[name] if leaf.size else jnp.zeros(leaf.shape, leaf.dtype) for name, leaf in leaves.items()]
    return Checkpoint(step, jax.tree.unflatten(jax.tree.structure(like), values), header["extra"])


def _manager(directory: str | Path, keep: int | None) -> ocp.CheckpointManager:
    options = ocp.CheckpointManagerOptions(max_to_keep=keep, enable_async_checkpointing=False)
    return ocp.CheckpointManager(Path(directory).absolute(), options=options)


def _check_form(stored: dict[str, str], expected: dict[str, str], directory: str | Path) -> None:
    for name in sorted(stored.keys() | expected.keys()):
        there, here = stored.get(name, "absent"), expected.get(name, "absent")
        if there != here:
            raise InputError(f"the checkpoint does not fit: {name} is {there} there and {here} here", file=directory)
