"""Every configuration key acts: something reads it, it survives the trip through JSON, and its help says what it is."""

import ast
import dataclasses
import itertools
import typing
from pathlib import Path

import pytest

from experiments.pipeline import PRESETS, PipelineConfig
from experiments.train_meta import PRESETS as META_PRESETS
from experiments.train_meta import TrainMetaConfig
from marljax.runtime.config import from_json, to_json

ROOT = Path(__file__).parents[2]


def leaves(config_type: type, prefix: str = "") -> list[tuple[type, str, str]]:
    """(class that declares it, field, dotted name) of every key."""
    hints, found = typing.get_type_hints(config_type), []
    for field in dataclasses.fields(config_type):
        name = f"{prefix}{field.name}"
        if dataclasses.is_dataclass(hints[field.name]):
            found += leaves(hints[field.name], f"{name}.")
        else:
            owner = next(c for c in config_type.__mro__ if field.name in vars(c).get("__annotations__", {}))
            found.append((owner, field.name, name))
    return found


def attributes_read() -> set[str]:
    """Every attribute that code outside a configuration's own checks reads."""
    read: set[str] = set()
    for file in [*(ROOT / "marljax").rglob("*.py"), *(ROOT / "experiments").rglob("*.py")]:
        tree = ast.parse(file.read_text())
        checks = {
            id(inner)
            for node in ast.walk(tree)
            if isinstance(node, ast.FunctionDef) and node.name == "__post_init__"
            for inner in ast.walk(node)
        }
        read |= {
            node.attr
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load) and id(node) not in checks
        }
    return read


READ = attributes_read()
KEYS = sorted({*leaves(PipelineConfig), *leaves(TrainMetaConfig)}, key=lambda key: key[2])


@pytest.mark.parametrize("name", [name for _, _, name in KEYS])
def test_every_key_is_read_by_something(name):
    assert name.rpartition(".")[2] in READ


@pytest.mark.parametrize("config_type", sorted({t for t, _, _ in KEYS}, key=lambda t: t.__name__))
def test_every_key_has_a_help_text(config_type):
    module = ast.parse(Path(typing.cast(str, __import__(config_type.__module__, fromlist=["_"]).__file__)).read_text())
    (body,) = [n.body for n in ast.walk(module) if isinstance(n, ast.ClassDef) and n.name == config_type.__name__]
    documented = {
        statement.target.id
        for statement, following in itertools.pairwise(body)
        if isinstance(statement, ast.AnnAssign) and isinstance(following, ast.Expr)
    }
    plain = {field for owner, field, _ in KEYS if owner is config_type}
    assert plain <= documented


@pytest.mark.parametrize("preset", sorted(PRESETS))
@pytest.mark.parametrize(("config_type", "presets"), [(PipelineConfig, PRESETS), (TrainMetaConfig, META_PRESETS)])
def test_every_preset_survives_the_trip_through_json(config_type, presets, preset):
    assert from_json(config_type, to_json(presets[preset])) == presets[preset]
    assert presets[preset].preset == preset
