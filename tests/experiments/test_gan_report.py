"""The page of a generator's run: what its pictures show, which bars are met, who is best, and all of it drawn."""

import json

import numpy as np
import pytest
from scipy.stats import spearmanr

from marljax.generative.scores.dependence import autocorrelation
from marljax.runtime.artefacts import save_arrays, write_json
from stages import gan_books, gan_index, gan_report, gan_stocks
from stages.gan_figures import figures
from stages.gan_pictures import pictures_of_books, pictures_of_paths, rank_correlation, some_paths
from stages.gan_report import READINGS, Reading, met
from tests.reference.browser import CHROMIUM, problems, seen_by_browser
from tests.reference.generative import toy_market

CONTROL = "block bootstrap"


def toy_paths(n: int = 3, n_steps: int = 300) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {source: 0.01 * rng.standard_t(4, (n, n_steps)) for source in ("real", "synthetic", CONTROL)}


def toy_result(protocol: str = "quantgan-sp500") -> dict:
    """Scores of which `last` meets none or one of the bars, and `best` more."""

    def cell(value, width=0.0):
        return {"estimate": value, "low": value - width, "high": value + width}

    unknown = {"estimate": None, "low": None, "high": None}
    scores = {
        "acf_abs_returns": {
            "last": cell(0.0240, 0.001),
            "best": cell(0.0230, 0.001),
            CONTROL: cell(0.0337),
            "real": cell(0.0),
            "reach": 0.0245,
            "aim": 0.0234,
            "published": 0.0248,
        },
        "memorisation": {"last": cell(0.8), "best": cell(0.95), CONTROL: cell(0.0), "reach": 0.9},
        "kurtosis": {"last": cell(9.0), "best": cell(3.0), CONTROL: cell(4.5), "real": cell(4.0)},
        "volatility_r2_after": {"last": cell(-0.2, 0.1), "best": unknown, CONTROL: cell(0.15)},
        "unheard_of": {"last": cell(1.0), "best": cell(2.0)},
    }
    minutes = {"training": 1.0, "all": 2.0}
    return {"protocol": protocol, "seed": 3, "best": "2/8", "minutes": minutes, "scores": scores}


def run_folder(path, pictures, protocol="quantgan-sp500"):
    path.mkdir(exist_ok=True)
    write_json(path / "scores.json", toy_result(protocol))
    save_arrays(path / "pictures.npz", pictures)
    return path


def cells(page: str, score: str) -> list[str]:
    """The cells of a score's row, after its name."""
    row = page.split(f" {score}<small>")[1].split("</tr>")[0]
    return [x.split(">", 1)[1] for x in row.split("</td><td")[1:]]


def test_paths_are_sums_of_pieces_side_by_side_within_a_stretch():
    pieces = some_paths([np.arange(5.0), np.ones(2), np.ones(1)], n_paths=9, n_steps=2)
    np.testing.assert_array_equal(pieces, [[0, 0, 1], [0, 2, 5], [0, 1, 2]])
    assert len(some_paths([np.ones(100)], n_paths=4, n_steps=2)) == 4
    assert some_paths([np.ones(3)], n_paths=4, n_steps=7).shape == (0, 8)


def test_rank_correlations_are_spearmans_and_a_constant_has_none():
    x = np.random.default_rng(0).integers(0, 5, (200, 3)).astype(float)
    x[:, 1] += x[:, 0]
    np.testing.assert_allclose(rank_correlation(x), spearmanr(x).statistic, atol=1e-12)
    x[:, 2] = 7.0
    found = rank_correlation(x)
    assert np.isnan(found[2]).all()
    assert np.isfinite(found[:2, :2]).all()


def test_pictures_of_paths_are_in_real_deviations_and_average_over_stretches():
    paths = toy_paths() | {"synthetic": 3 * toy_paths()["real"]}
    unequal = [paths["real"][0], paths["real"][1][:150]]
    found = pictures_of_paths(paths | {"real": unequal}, n_lags=5)
    pooled = np.concatenate(unequal)
    np.testing.assert_allclose(found["returns.real"], pooled / pooled.std(), rtol=1e-6)
    np.testing.assert_allclose(found["returns.synthetic"], paths["synthetic"].reshape(-1) / pooled.std(), rtol=1e-6)
    mean = np.mean([autocorrelation(np.abs(x), n_lags=5) for x in unequal], axis=0)
    np.testing.assert_allclose(found["autocorrelation.real"], mean, atol=1e-12)
    np.testing.assert_allclose(found["paths.real"][0, 1:], np.cumsum(unequal[0]), rtol=1e-4, atol=1e-6)
    assert "correlation.names" not in found


def test_several_columns_are_correlated_and_the_first_is_drawn():
    rng = np.random.default_rng(1)
    columns = {source: rng.normal(size=(4, 60, 2)) for source in ("real", "synthetic")}
    columns["synthetic"][..., 1] = columns["synthetic"][..., 0]
    found = pictures_of_paths(columns, ("open", "close"), n_paths=4)
    assert found["correlation.names"].tolist() == ["open", "close"]
    assert found["correlation.synthetic"][0, 1] == pytest.approx(1.0)
    assert abs(found["correlation.real"][0, 1]) < 0.3
    np.testing.assert_allclose(found["paths.real"][:, -1], columns["real"][..., 0].sum(1), rtol=1e-4, atol=1e-5)


def test_pictures_of_books_are_those_of_their_prices_and_sizes():
    data = toy_market(n_products=1)
    found = pictures_of_books({"real": data, "synthetic": toy_market(1, n_products=1)}, n_paths=2)
    later = np.asarray(data.session)[1:] == np.asarray(data.session)[:-1]
    rows = 1 + np.flatnonzero(later)
    sizes = np.stack([data.bid_size, data.ask_size])[:, rows, 0].astype(float)
    np.testing.assert_allclose(found["depth.real"], sizes.mean(axis=1))
    spread = np.asarray(data.ask_price - data.bid_price)[rows, 0, 0]
    np.testing.assert_array_equal(found["spread.real"], spread)
    mid = np.asarray(data.bid_price + data.ask_price)[:, 0, 0] / 2
    first = mid[: found["paths.real"].shape[1]]
    np.testing.assert_allclose(found["paths.real"][0], first - first[0])
    assert "order flow" in found["correlation.names"]
    many = pictures_of_books({"real": toy_market()})
    assert many["correlation.names"].tolist() == ["T0", "T1"]
    assert many["returns.real"].std() == pytest.approx(1.0, rel=1e-3)


def test_quantiles_of_a_source_twice_as_wide_lie_on_a_line_of_slope_two():
    paths = toy_paths()
    paths["synthetic"] = 2 * paths["real"]
    _, plot, _ = figures(pictures_of_paths(paths))["tails"]
    points = next(x for x in plot.data if x.name == "synthetic" and x.mode == "markers")
    np.testing.assert_allclose(points.y, 2 * np.asarray(points.x), rtol=1e-4, atol=1e-6)
    largest = paths["real"].max() / paths["real"].std()
    # The extremes are shown, and more than a third of the points lie beyond the middle 90 %.
    assert points.x[-1] == pytest.approx(largest)
    assert np.mean(np.abs(points.x) > 1.645) > 1 / 3


@pytest.mark.parametrize(
    ("value", "better", "verdict"),
    [
        (0.1, "lower", "aim"),
        (0.15, "lower", "reach"),
        (0.21, "lower", "no"),
        (0.21, "higher", "aim"),
        (0.05, "gate", "no"),
    ],
)
def test_the_hardest_bar_that_is_met_is_named(value, better, verdict):
    bars = {"reach": 0.2, "aim": 0.12} if better == "lower" else {"reach": 0.1, "aim": 0.2}
    assert met(value, bars, Reading("", better)) == verdict


def test_near_a_target_both_sides_count():
    near_one = Reading("", "target", 1.0, 0.05)
    assert [met(x, {}, near_one) for x in (0.94, 0.96, 1.04, 1.06)] == ["no", "reach", "reach", "no"]


def test_the_table_says_who_is_best_which_bars_are_met_and_what_is_not_known():
    page = gan_report.page(toy_result(), figures(pictures_of_paths(toy_paths())))
    clustering = cells(page, "acf abs returns")
    assert [x.startswith("<b>") for x in clustering[:4]] == [False, True, False, False]
    assert "0.0220–0.0240" in clustering[1]
    assert clustering[4:7] == ["0.0245", "0.0234", "0.0248"]
    assert "last: reach" in clustering[7]
    assert "best: aim" in clustering[7]
    gate = cells(page, "memorisation")
    assert "<b>" not in "".join(gate)
    assert "last: no" in gate[-1]
    assert "best: reach" in gate[-1]
    # Real data are near 4: 4.5 is nearer than 3.
    assert [x.startswith("<b>") for x in cells(page, "kurtosis")[:3]] == [False, False, True]
    forecast = cells(page, "volatility r2 after")
    assert forecast[1] == "–"
    assert "-0.300 to -0.100" in forecast[0]
    assert forecast[2].startswith("<b>")
    assert "unheard of" in page


def test_a_score_without_a_reading_names_nobody_best():
    result = toy_result()
    result["scores"] = {"unheard_of": result["scores"]["unheard_of"]}
    page = gan_report.page(result, {})
    assert "<b>1" not in page
    assert "<b>2" not in page


@pytest.mark.parametrize(
    ("protocol", "bars"),
    [
        ("goog-l2", gan_books.REACH | gan_books.AIM),
        ("quantgan-sp500", gan_index.REACH | gan_index.AIM),
        ("timegan-stocks", gan_stocks.REACH | gan_stocks.AIM),
    ],
)
def test_every_score_with_a_bar_has_a_reading(protocol, bars):
    assert set(bars) <= set(READINGS[protocol])


def test_a_run_becomes_a_page_and_its_plots_alone(tmp_path):
    folder = run_folder(tmp_path / "run", pictures_of_paths(toy_paths()))
    gan_report.render(folder)
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "--protocol quantgan-sp500 --seed 3" in page
    assert "2.0 with scoring" in page
    alone = (folder / "figures.html").read_text(encoding="utf-8")
    assert "plot-tails" in alone
    assert "<table" not in alone
    assert json.loads((folder / "scores.json").read_text())["seed"] == 3


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium or Chrome is installed")
@pytest.mark.parametrize("kind", ["paths", "books"])
def test_every_plot_is_drawn_and_the_console_is_silent(kind, tmp_path):
    if kind == "paths":
        pictures = pictures_of_paths(toy_paths())
    else:
        sources = {x: toy_market(i, n_products=1) for i, x in enumerate(("real", "synthetic", CONTROL))}
        pictures = pictures_of_books(sources)
    folder = run_folder(tmp_path / "run", pictures, "quantgan-sp500" if kind == "paths" else "goog-l2")
    gan_report.render(folder)
    seen = seen_by_browser((folder / "report.html").read_text(encoding="utf-8"), tmp_path)
    assert problems(seen) == []
    assert len(seen["plots"]) == (2 if kind == "paths" else 4)
