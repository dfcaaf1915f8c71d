"""Configurations as JSON: there and back, and strict about keys and values."""

import dataclasses
from pathlib import Path
from typing import Literal

import pytest

from marljax.data.schema import InputError
from marljax.runtime.artefacts import canonical_json
from marljax.runtime.config import from_json, to_json


@dataclasses.dataclass(frozen=True)
class Network:
    widths: tuple[int, ...] = (64, 64)
    learning_rate: float = 1e-3


@dataclasses.dataclass(frozen=True)
class Config:
    preset: Literal["smoke", "demo"] = "demo"
    seed: int = 0
    run_dir: Path = Path("runs/demo")
    limit: float | None = None
    window: tuple[int, float] = (1, 2.0)
    fast: bool = False
    columns: dict[str, str] = dataclasses.field(default_factory=dict)
    network: Network = Network()
    networks: tuple[Network, ...] = ()


FULL = Config(
    preset="smoke",
    seed=3,
    run_dir=Path("a/b"),
    limit=0.5,
    window=(2, 0.1),
    fast=True,
    columns={"price": "p"},
    network=Network((8,), 1e-300),
    networks=(Network(), Network((1, 2))),
)


@pytest.mark.parametrize("config", [Config(), FULL], ids=["default", "full"])
def test_a_configuration_survives_json(config):
    assert from_json(Config, to_json(config)) == config
    assert canonical_json(to_json(config)) == canonical_json(config)


def test_absent_keys_are_those_of_the_base():
    assert from_json(Config, {"seed": 9, "network": {"widths": [5]}}, FULL) == dataclasses.replace(
        FULL, seed=9, network=Network((5,), 1e-300)
    )


def test_an_unknown_key_is_refused_with_the_closest_one():
    with pytest.raises(InputError, match=r"unknown key 'network.learnig_rate'; did you mean 'learning_rate'\?"):
        from_json(Config, {"network": {"learnig_rate": 1.0}})
    with pytest.raises(InputError, match=r"unknown key 'zzz'$"):
        from_json(Config, {"zzz": 1})


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"seed": 1.5}, "seed: expected int, got 1.5"),
        ({"seed": True}, "seed: expected int, got True"),
        ({"preset": "fulll"}, "preset: 'fulll' is none of 'smoke', 'demo'"),
        ({"network": {"learning_rate": None}}, "network.learning_rate: expected a finite number"),
        ({"network": {"widths": [1, "a"]}}, r"network.widths\[1\]: expected int, got 'a'"),
        ({"window": [1]}, "window: expected 2 values, got 1"),
        ({"limit": "x"}, "limit: expected float, got 'x'"),
        ({"network": 3}, "network: expected an object"),
        ([], "configuration: expected an object"),
    ],
)
def test_a_value_of_another_type_is_refused_by_name(value, message):
    with pytest.raises(InputError, match=message):
        from_json(Config, value)
