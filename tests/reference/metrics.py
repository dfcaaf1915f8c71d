"""Performance metrics the slow way: loops over equity in float64, sharing nothing with the package."""

import math


def equity_curve(returns):
    equity = [1.0]
    for r in returns:
        equity.append(equity[-1] * (1.0 + float(r)))
    return equity


def performance(returns, periods_per_year):
    r = [float(x) for x in returns]
    n = len(r)
    equity = equity_curve(r)
    mean = sum(r) / n
    deviation = math.sqrt(sum((x - mean) ** 2 for x in r) / (n - 1)) if n > 1 else 0.0
    downside = math.sqrt(sum(x * x for x in r if x < 0) / n)
    deepest, longest = 0.0, 0
    for end in range(n + 1):
        high = max(equity[: end + 1])
        deepest = max(deepest, 1.0 - equity[end] / high)
        last_high = max(i for i in range(end + 1) if equity[i] >= high * (1 - 1e-5))
        longest = max(longest, end - last_high)
    moved = [x for x in r if x != 0]
    cagr = equity[-1] ** (periods_per_year / n) - 1.0
    year = math.sqrt(periods_per_year)
    return {
        "total_return": equity[-1] - 1.0,
        "cagr": cagr,
        "volatility": deviation * year,
        "sharpe": mean / deviation * year if deviation else 0.0,
        "sortino": mean / downside * year if downside else 0.0,
        "calmar": cagr / deepest if deepest else 0.0,
        "max_drawdown": deepest,
        "max_drawdown_duration": float(longest),
        "hit_rate": sum(x > 0 for x in moved) / len(moved) if moved else 0.0,
    }
