"""What the README says works: its Python runs as printed, and the files it points to exist."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_example_runs_as_printed(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    shorter = code.replace("range(20)", "range(2)")
    assert shorter != code
    exec(compile(shorter, "README.md", "exec"), {})
    printed = capsys.readouterr().out
    assert all(name in printed for name in ("ALDER", "BIRCH", "GROVE", "TIMBER", "EURUSD"))


def test_every_file_it_points_to_exists():
    targets = re.findall(r"\]\(([^)#]+)\)", README)
    assert len(targets) > 4
    for target in targets:
        assert (ROOT / target).exists(), target
