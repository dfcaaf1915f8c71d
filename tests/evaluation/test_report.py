"""The report: what it says, in which words, and what it says where a stage is missing."""

import dataclasses
import re

import numpy as np
import pytest

from marljax.evaluation import figure_style, findings
from marljax.evaluation.report import render
from marljax.evaluation.report_inputs import Cleaning, JointTuning
from tests.reference.report_examples import example

STAGES = ("cleaning", "overview", "generator", "learning", "selection", "backtest", "allocation")


def without_scripts(page):
    return re.sub(r"<(script|style).*?</\1>", "", page, flags=re.DOTALL)


@pytest.fixture(scope="module")
def page():
    return render(example())


def test_page_holds_one_copy_of_plotly_and_loads_nothing(page):
    assert page.count("* plotly.js v") == 1
    assert not re.search(r'(src|href)="(?!#)', without_scripts(page))
    assert not re.search(r'<script[^>]*\ssrc="', page)
    assert "@import" not in page
    assert "url(http" not in page


def test_page_has_every_section_and_plot(page):
    for anchor in ["result", "data", "generator", "learning", "backtest", "allocation", "costs", "limits", "reproduce"]:
        assert f'<section id="{anchor}">' in page
        assert f'href="#{anchor}"' in page
    plots = re.findall(r'<div id="(plot-[\w-]+)"', page)
    assert plots == [
        *("plot-market", "plot-generated", "plot-learning", "plot-meta", "plot-equity", "plot-weights"),
        *("plot-positions", "plot-costs-strategy", "plot-costs-product"),
    ]


def test_a_page_is_the_same_every_time(page):
    assert render(example()) == page


def test_simulated_books_are_labelled_and_recorded_ones_are_not(page):
    assert "<b>Simulated market:</b>" in page
    recorded = render(example(origin="recorded"))
    assert "Simulated market" not in recorded
    assert "recorded market" in recorded


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_that_was_not_run_is_named_so(stage):
    text = without_scripts(render(example(**{stage: None})))
    if stage == "selection":
        assert "Selection on validation data" not in text
    else:
        assert "This stage was not run." in text or "has not been run" in text


def test_a_page_without_any_stage_still_says_what_it_is():
    text = without_scripts(render(example(**dict.fromkeys(STAGES))))
    assert "The backtest has not been run" in text
    assert text.count("This stage was not run.") == 7


def test_names_are_shown_as_text_and_never_as_markup():
    hostile = "<img src=x onerror=alert(1)>"
    inputs = example(n_products=1, title=hostile, source=hostile, command=hostile, currency=hostile)
    product = dataclasses.replace(inputs.products[0], name=hostile, asset_class=hostile)
    selection = tuple(dataclasses.replace(s, product=hostile) for s in inputs.selection)
    backtest = dataclasses.replace(inputs.backtest, differences={hostile: {"sharpe": [-1.0, 0.0, 1.0]}})
    strategies = (*backtest.strategies[:2], dataclasses.replace(backtest.strategies[2], name=hostile))
    backtest = dataclasses.replace(backtest, strategies=strategies)
    text = without_scripts(
        render(dataclasses.replace(inputs, products=(product,), selection=selection, backtest=backtest))
    )
    assert "<img" not in text
    assert "&lt;img" in text


def test_fifty_products_fit_in_eight_megabytes():
    assert len(render(example(n_products=50, n_steps=30_000)).encode()) < 8e6


def test_headline_tells_established_from_not_established(page):
    text = without_scripts(page)
    assert "it is better than no trade; against equal weight no difference is established" in text
    assert text.count('class="verdict better">better, established') == 1
    assert "Whether it differs from equal weight" in text
    assert "Whether it differs from no trade" not in text
    # Half-width 1.5 around 0.5: nine times as much data.
    assert "about 9.0 times as long" in text


@pytest.mark.parametrize(
    ("interval", "word"),
    [
        ([0.1, 1, 2], "better, established"),
        ([-2, -1, -0.1], "worse, established"),
        ([0, 1, 2], "not established"),
        ([-1, 0, 1], "not established"),
        ([0, 0, 0], "not established"),
    ],
)
def test_verdict_follows_the_interval(interval, word):
    assert findings.verdict(interval) == word


@pytest.mark.parametrize(
    ("interval", "adopted", "words"),
    [
        ([0.1, 1, 2], True, "1.00 (95 % interval 0.100 to 2.00): the tuned agents are better"),
        ([-1, 1, 3], False, "it is not established that tuning helps, so all agents stay as they were"),
        ([-3, -2, -1], False, "tuning made them worse, so all agents stay as they were"),
    ],
)
def test_the_report_says_what_came_of_tuning_all_agents_together(interval, adopted, words):
    page = render(dataclasses.replace(example(), joint=JointTuning(interval, 0.95, adopted)))
    assert "Joint fine-tuning" in page
    assert words in page


def test_cleaning_counts_that_do_not_add_up_are_refused(page):
    assert "110 rows in = 100 kept + 10 dropped; 1 repaired or filled in." in page
    with pytest.raises(ValueError, match="do not add up"):
        Cleaning(100, 90, {"duplicate": {"A": 9}})


def test_meaningless_annual_growth_is_shown_as_a_bound(page):
    assert "&gt; 1,000 %" in page or "> 1,000 %" in page
    assert "100,000,000" not in without_scripts(page)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (1234.5, "1,234"), (0.01234, "0.0123"), (-2.5, "−2.50"), (np.nan, "–"), (1e-12, "0.0000000000")],
)
def test_numbers_have_three_digits(value, text):
    assert findings.number(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0.0123, "+1.23 %"), (-0.5, "−50.00 %"), (0.00012, "+0.012 %"), (0, "0 %"), (np.inf, "–")]
)
def test_percentages_show_small_values_too(value, text):
    assert findings.percent(value, signed=True) == text


def test_thinning_keeps_extremes_and_ends():
    y = np.zeros(100_000)
    y[[31_337, 77_777]] = 5, -7
    x, kept = figure_style.thin(np.arange(100_000), y, 500)
    assert len(x) <= 500
    assert kept.max() == 5
    assert kept.min() == -7
    assert x[0] == 0
    assert x[-1] == 99_999
    assert (np.diff(x) > 0).all()


def test_sessions_are_joined_without_the_night():
    seconds = np.tile(np.arange(0, 3600, 10.0), 3)
    time, unit = figure_style.trading_time(seconds, np.repeat([4, 5, 9], 360))
    assert unit == "minutes of trading"
    np.testing.assert_allclose(np.diff(time), 10 / 60)
    days, unit = figure_style.trading_time(np.tile(np.arange(4.0), 20), np.repeat(np.arange(20), 4))
    assert unit == "trading day"
    np.testing.assert_allclose(days, np.arange(80) / 4)
