"""What the README and docs/market.md say works: their Python runs as printed, and the files they point to exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
MARKET = (ROOT / "docs" / "market.md").read_text(encoding="utf-8")


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


@pytest.mark.parametrize(("page", "folder", "least"), [(README, ROOT, 5), (MARKET, ROOT / "docs", 2)])
def test_every_file_it_points_to_exists(page, folder, least):
    targets = re.findall(r"\]\(([^)#]+)\)", page)
    assert len(targets) >= least
    for target in targets:
        assert (folder / target).exists(), target


def test_every_path_the_market_page_names_exists():
    named = set(re.findall(r"\b(?:marljax|experiments)/[\w/]+(?:\.py|\.json)?", MARKET))
    assert len(named) > 12
    for path in named:
        assert (ROOT / path).exists(), path
