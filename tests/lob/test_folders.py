"""Within the order book, too, imports go one way: the book knows of no session, and sessions know of no flow."""

import re
from pathlib import Path

import pytest

from marljax import lob

FOLDER = Path(lob.__file__).parent


@pytest.mark.parametrize(
    ("files", "beyond"), [("*.py", r"marljax\.lob\.(flows|sessions)"), ("sessions/*.py", r"marljax\.lob\.flows")]
)
def test_a_folder_imports_only_from_those_before_it(files, beyond):
    found = list(FOLDER.glob(files))
    assert len(found) > 4
    for file in found:
        assert not re.search(rf"^(from|import) {beyond}\b", file.read_text(), re.MULTILINE), file.name
