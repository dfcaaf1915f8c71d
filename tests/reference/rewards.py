"""The terms of the reward as a plain loop over one episode, in float64, from whole histories where that is obvious."""

import numpy as np

RUIN = 1e-6


def terms(earned, position, traded, capital, memory, least_deviation):
    """dict of term -> float64[T]; amounts of money in standard deviations of a step."""
    equity, mean, square, downside = [float(capital)], 0.0, 1.0, 0.5
    out = {name: [] for name in ("earnings", "log_return", "sharpe", "sortino", "drawdown", "inventory", "turnover")}
    for t, r in enumerate(np.asarray(earned, np.float64)):
        equity.append(max(equity[-1] + r, RUIN * capital))
        out["earnings"].append(r)
        out["log_return"].append(capital * np.log(equity[-1] / equity[-2]))
        out["drawdown"].append(-capital * (maximum_drawdown(equity) - maximum_drawdown(equity[:-1])))
        out["inventory"].append(-0.5 * position[t] ** 2)
        out["turnover"].append(-traded[t])

        deviation = max(np.sqrt(max(square - mean**2, 0.0)), least_deviation)
        mean_square = deviation**2 + mean**2
        d_mean, d_square, d_downside = r - mean, r**2 - square, min(r, 0.0) ** 2 - downside
        out["sharpe"].append((mean_square * d_mean - 0.5 * mean * d_square) / deviation**3)
        below = max(np.sqrt(downside), least_deviation)
        out["sortino"].append(d_mean / below - mean * d_downside / (2 * below**3))
        mean, square, downside = (
            x + d / memory for x, d in ((mean, d_mean), (square, d_square), (downside, d_downside))
        )
    return {name: np.array(values) for name, values in out.items()}


def maximum_drawdown(equity):
    """Largest relative loss from an earlier peak."""
    return max(1.0 - equity[t] / max(equity[: t + 1]) for t in range(len(equity)))


def sharpe_path(earned, memory):
    """float64[T + 1] moving mean over moving deviation, before and after every step."""
    mean, square, ratios = 0.0, 1.0, [0.0]
    for r in np.asarray(earned, np.float64):
        mean, square = mean + (r - mean) / memory, square + (r**2 - square) / memory
        ratios.append(mean / np.sqrt(square - mean**2))
    return np.array(ratios)


def sortino_path(earned, memory):
    """float64[T + 1] moving mean over moving downside deviation, before and after every step."""
    mean, downside, ratios = 0.0, 0.5, [0.0]
    for r in np.asarray(earned, np.float64):
        mean, downside = mean + (r - mean) / memory, downside + (min(r, 0.0) ** 2 - downside) / memory
        ratios.append(mean / np.sqrt(downside))
    return np.array(ratios)
