"""Data flows one way: a room imports only from rooms above it, and nothing imports in a circle."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "marljax"
ORDER = ["data", "features", "lob", "market", "generative", "portfolio", "envs", "agents", "evaluation"]
"""The rooms from raw files to results. `runtime` stands beside them and may use `data` alone; `serving` is the edge,
where agents meet files."""
ALLOWED = {room: {*ORDER[:i], room} for i, room in enumerate(ORDER)} | {
    "runtime": {"data", "runtime"},
    "serving": {*ORDER[:-1], "runtime", "serving"},
}


def imported_rooms(file: Path) -> set[str]:
    names = []
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names += [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
    return {name.split(".")[1] for name in names if name.startswith("marljax.")} & ALLOWED.keys()


def test_every_room_has_its_place():
    rooms = {path.name for path in PACKAGE.iterdir() if path.is_dir() and any(path.glob("*.py"))}
    assert rooms == ALLOWED.keys()


@pytest.mark.parametrize("room", sorted(ALLOWED))
def test_a_room_imports_only_from_rooms_above_it(room):
    for file in (PACKAGE / room).rglob("*.py"):
        beyond = imported_rooms(file) - ALLOWED[room]
        assert not beyond, f"{file.relative_to(PACKAGE)} imports {sorted(beyond)}"


@pytest.mark.parametrize(
    ("name", "door"), [("distrax", "agents/distributions.py"), ("tyro", None), ("plotly", "evaluation/")]
)
def test_a_heavy_or_fragile_dependency_has_one_door(name, door):
    users = {
        file.relative_to(PACKAGE).as_posix()
        for file in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if (isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == name)
        or (isinstance(node, ast.Import) and any(a.name.split(".")[0] == name for a in node.names))
    }
    assert all(door is not None and user.startswith(door) for user in users)
    assert bool(users) == (door is not None)
