"""What the README and the pages in docs/ say works: their Python runs as printed, what they point to exists."""

import re
from pathlib import Path

import pytest

from marljax.serving import TrainedPolicy

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
MARKET = (ROOT / "docs" / "market.md").read_text(encoding="utf-8")
LEARNERS = (ROOT / "docs" / "learners.md").read_text(encoding="utf-8")
META = (ROOT / "docs" / "meta_controller.md").read_text(encoding="utf-8")


def test_the_example_runs_as_printed(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    shorter = code.replace("range(20)", "range(2)")
    assert shorter != code
    exec(compile(shorter, "README.md", "exec"), {})
    printed = capsys.readouterr().out
    assert all(name in printed for name in ("ALDER", "BIRCH", "GROVE", "TIMBER", "EURUSD"))


def test_the_market_page_prints_what_it_says(capsys):
    blocks = re.findall(r"```python\n(.*?)```\n```text\n(.*?)```", MARKET, re.DOTALL)
    assert len(blocks) == len(re.findall("```python", MARKET)) >= 5
    together = {}
    for code, expected in blocks:
        exec(compile(code, "docs/market.md", "exec"), together)
        assert capsys.readouterr().out == expected


def test_the_learners_page_trains_and_saves_an_agent(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", LEARNERS, re.DOTALL)
    exec(compile(code, "docs/learners.md", "exec"), {})
    assert TrainedPolicy.load(tmp_path / "runs" / "navigator").obs_size == 18


def test_every_proof_stands_in_the_table():
    scripts = {path.name for path in (ROOT / "experiments" / "controlled").glob("*.py")}
    proofs = {name for name in scripts if "prove(" in (ROOT / "experiments" / "controlled" / name).read_text()}
    assert len(proofs - {"proof.py"}) == 13
    for name in proofs - {"proof.py"}:
        assert f"| `{name}` |" in (META if name.startswith("meta_") else LEARNERS), name


@pytest.mark.parametrize(
    ("page", "folder", "least"), [(README, ROOT, 5), (MARKET, ROOT / "docs", 2), (LEARNERS, ROOT / "docs", 1)]
)
def test_every_file_it_points_to_exists(page, folder, least):
    targets = re.findall(r"\]\(([^)#]+)\)", page)
    assert len(targets) >= least
    for target in targets:
        assert (folder / target).exists(), target


@pytest.mark.parametrize(("page", "least"), [(MARKET, 13), (LEARNERS, 4), (META, 5)])
def test_every_path_a_page_names_exists(page, least):
    named = set(re.findall(r"\b(?:marljax|experiments)/[\w/]+(?:\.py|\.json)?", page))
    assert len(named) >= least
    for path in named:
        assert (ROOT / path).exists(), path
