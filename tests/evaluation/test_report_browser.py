"""The page in a real browser: every plot is drawn and nothing complains."""

import pytest

from marljax.evaluation.report import render
from tests.reference import report_examples
from tests.reference.browser import CHROMIUM, problems, seen_by_browser


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium or Chrome is installed")
@pytest.mark.parametrize("n_products", [1, 4, 14])
def test_every_plot_is_drawn_and_the_console_is_silent(n_products, tmp_path):
    seen = seen_by_browser(render(report_examples.example(n_products)), tmp_path)
    assert problems(seen) == []
    assert len(seen["plots"]) == 9


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium or Chrome is installed")
def test_the_recorder_hears_a_broken_plot(tmp_path):
    page = render(report_examples.example(1)).replace('"plot-equity",', '"plot-nowhere",')
    assert problems(seen_by_browser(page, tmp_path))
