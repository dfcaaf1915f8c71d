"""Made-up report inputs of any number of products, for the tests of the page."""

import numpy as np

from marljax.data.schema import Product, SourceFile
from marljax.evaluation import report_inputs as inputs


def example(n_products: int = 2, n_steps: int = 240, **replaced) -> inputs.ReportInputs:
    rng = np.random.default_rng(0)
    names = [f"P{i}" for i in range(n_products)]
    third = n_steps // 3
    returns = rng.standard_normal((2, third)) * 1e-4
    equity = [1e6 * np.concatenate([[1], np.cumprod(1 + r)]) for r in returns] + [np.full(third + 1, 1e6)]
    strategies = tuple(
        inputs.Strategy(
            name,
            curve,
            {"total_return": curve[-1] / 1e6 - 1, "cagr": 1e6, "sharpe": 1.5, "max_drawdown_duration": 40.0},
            {"sharpe": (-0.5, 1.5, 3.5)},
            {"fees": 12.0, "impact": 3.5} if name != "no_trade" else {},
        )
        for name, curve in zip(("meta_controller", "equal_weight", "no_trade"), equity, strict=True)
    )
    steps = np.arange(1e5, 1e6, 1e5)
    seconds, session = np.arange(n_steps, dtype=float), np.zeros(n_steps, int)
    noise = {source: rng.standard_normal(500) for source in ("real", "synthetic", "bootstrap")}
    whole = {
        "title": "A test run",
        "preset": "smoke",
        "seed": 3,
        "source": "made up",
        "origin": "simulated",
        "products": tuple(Product(name, 0.01, 100, 1, "equity") for name in names),
        "files": (SourceFile("books.csv", "ab" * 32, n_steps),),
        "command": "python experiments/pipeline.py --seed 3",
        "versions": {"jax": "0.0"},
        "currency": "USD",
        "features": {"imbalance": "size imbalance of the best level"},
        "cleaning": inputs.Cleaning(110, 100, {"duplicate_row": {"P0": 10}}, {"gap": {"P0": 1}}),
        "overview": inputs.Overview(
            seconds,
            session,
            100 + np.cumsum(rng.standard_normal((n_steps, n_products)), 0) * 0.01,
            rng.integers(1, 5, (n_steps, n_products)),
            {"train": (0, third), "validation": (third, 2 * third), "test": (2 * third, n_steps)},
        ),
        "generator": inputs.Generator(
            (
                inputs.GeneratorScore("Distance", 0.2, 0.1),
                inputs.GeneratorScore("Memory", 1.5, 4.0, perfect=1.0, floor=1.2, meaning="how much is kept"),
            ),
            noise,
            {source: 0.3 / np.arange(1, 20) for source in noise},
            {source: rng.integers(1, 6, 300) for source in noise},
        ),
        "learning": inputs.Learning(
            tuple(inputs.Curve(n, a, steps, np.log(steps)) for n in names for a in ("PPO", "SAC")),
            (inputs.Curve("portfolio", "meta-controller", steps, np.log(steps)),),
        ),
        "selection": tuple(inputs.Selection(name, "PPO", (-0.1, 0.2, 0.5)) for name in names),
        "backtest": inputs.Backtest(
            strategies,
            seconds[: third + 1],
            session[: third + 1],
            252 * 23_400.0,
            {
                "equal_weight": {"sharpe": [-1.0, 0.5, 2.0], "verdict": "not established"},
                "no_trade": {"sharpe": [0.2, 1.5, 2.8], "verdict": "established"},
            },
        ),
        "allocation": inputs.Allocation(
            seconds[:third],
            session[:third],
            rng.standard_normal((third, n_products)) / n_products,
            np.full(third, 0.8),
            rng.integers(-5, 5, (third, n_products)),
            {"leverage": rng.random(third) < 0.1},
            {name: {"fees": 6.0} for name in names},
        ),
    }
    return inputs.ReportInputs(**(whole | replaced))
