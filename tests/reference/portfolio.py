"""Slow and obvious in float64: weighted moments by their definition, risk parity by Newton, projection as a program,
and a portfolio's cash, row by row.

Nothing here shares code with marljax.
"""

from collections.abc import Callable

import cvxpy
import numpy as np
import scipy.optimize

from tests.reference.trading import Book, CashAccount, Costs


def weighted_covariance(returns: np.ndarray, halflife: float) -> np.ndarray:
    """Bias-corrected covariance, the row `age` steps old weighing 2^(-age / halflife)."""
    weights = np.array([0.5 ** (age / halflife) for age in reversed(range(len(returns)))])
    weights /= weights.sum()
    mean = sum(w * row for w, row in zip(weights, returns, strict=True))
    scatter = sum(w * np.outer(row - mean, row - mean) for w, row in zip(weights, returns, strict=True))
    return scatter / (1 - (weights**2).sum())


def constant_correlation_intensity(returns: np.ndarray) -> float:
    """Ledoit and Wolf (2004, Honey), element by element, on returns standardised with divisor T."""
    z = (returns - returns.mean(0)) / returns.std(0)
    n_steps, n = z.shape
    s = z.T @ z / n_steps
    mean_correlation = np.mean([s[i, j] for i in range(n) for j in range(n) if i != j])
    pi = rho = gamma = 0.0
    for i in range(n):
        for j in range(n):
            variance = np.mean((z[:, i] * z[:, j] - s[i, j]) ** 2)
            pi += variance
            if i == j:
                rho += variance
                continue
            gamma += (mean_correlation - s[i, j]) ** 2
            for k in (i, j):
                rho += mean_correlation / 2 * np.mean((z[:, k] ** 2 - 1) * (z[:, i] * z[:, j] - s[i, j]))
    return float(np.clip((pi - rho) / gamma / n_steps, 0, 1))


def risk_parity(covariance: np.ndarray, budget: np.ndarray) -> np.ndarray:
    """Minimise x'Cx/2 - b log x by Newton with backtracking, until every risk share is its budget to 1e-9."""
    scale = np.sqrt(np.diag(covariance))
    c = covariance / np.outer(scale, scale)
    b = budget / budget.sum()

    def objective(x: np.ndarray) -> float:
        return 0.5 * x @ c @ x - b @ np.log(x)

    x = np.sqrt(b / (np.sqrt(b) @ c @ np.sqrt(b)))
    for _ in range(300):
        gradient = c @ x - b / x
        if np.abs(x * gradient / b).max() < 1e-9:
            break
        step = -np.linalg.solve(c + np.diag(b / x**2), gradient)
        length = min(1.0, 0.99 / max(np.max(-step / x), 1e-12))
        while objective(x + length * step) > objective(x) + 0.25 * length * gradient @ step and length > 1e-10:
            length /= 2
        x = x + length * step
    weights = x / scale
    return weights / weights.sum()


def random_correlation(rng: np.random.Generator, n: int, condition: float) -> np.ndarray:
    """A correlation matrix of a random basis with eigenvalues spread evenly in logarithm, before scaling to one."""
    basis, _ = np.linalg.qr(rng.normal(size=(n, n)))
    spread = (basis * np.geomspace(1, 1 / condition, n)) @ basis.T
    scale = np.sqrt(np.diag(spread))
    return spread / np.outer(scale, scale)


def project(
    asked: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    gross: float,
    held: np.ndarray | None = None,
    turnover: float = np.inf,
    long_leverage: float | None = None,
    short_leverage: float | None = None,
    classes: np.ndarray | None = None,
    class_cap: np.ndarray | None = None,
) -> np.ndarray:
    """The nearest point as a quadratic program, solved by an interior-point method."""
    w = cvxpy.Variable(len(asked))
    constraints = [w >= low, w <= high, cvxpy.norm1(w) <= gross]
    if held is not None:
        constraints.append(cvxpy.norm1(w - held) <= turnover)
    if long_leverage is not None:
        constraints.append(cvxpy.sum(cvxpy.pos(w)) <= long_leverage)
    if short_leverage is not None:
        constraints.append(cvxpy.sum(cvxpy.neg(w)) <= short_leverage)
    if classes is not None:
        constraints += [cvxpy.norm1(w[classes == c]) <= class_cap[c] for c in np.unique(classes)]
    problem = cvxpy.Problem(cvxpy.Minimize(cvxpy.sum_squares(w - asked)), constraints)
    problem.solve(solver=cvxpy.CLARABEL, tol_gap_abs=1e-11, tol_gap_rel=1e-11, tol_feas=1e-11)
    assert problem.status == cvxpy.OPTIMAL
    return w.value


def cash_and_positions(
    positions: np.ndarray,
    book: Callable[[int, int], Book],
    costs: list[Costs],
    years: np.ndarray,
    capital: float,
    cash_rate: float,
    loan_rate: float,
    short_rate: float,
) -> tuple[list[float], dict[str, float]]:
    """Equity after each row of a portfolio that holds `positions` int[T, A] lots from each row to the next, and items.

    Whatever changes hands walks `book(row, agent)` and is paid from cash. Then the row's years pass: cash that no
    position needs earns its rate, what is missing is lent, and a short position is borrowed.
    """
    accounts = [CashAccount() for _ in costs]
    items = dict.fromkeys(("gross", "slippage", "charges", "interest", "loans", "shorts"), 0.0)
    equities = []
    for t, row in enumerate(positions):
        equity, exposure, short = capital, 0.0, 0.0
        for a, (account, model) in enumerate(zip(accounts, costs, strict=True)):
            now, then = book(t, a), book(t + 1, a)
            paid, charged = account.cash_ticks, account.charges
            bought = account.trade(int(row[a]), now, now, model)
            assert account.position == row[a], "what was reported as held could be traded"
            half_ticks = 2 * (paid - account.cash_ticks) - bought * now.double_mid
            items["slippage"] += half_ticks / 2 * model.tick_value
            items["charges"] += account.charges - charged
            items["gross"] += account.position * (then.double_mid - now.double_mid) / 2 * model.tick_value
            value = account.position * then.double_mid / 2 * model.tick_value
            equity += account.net(then, model)
            exposure += abs(value)
            short += max(-value, 0.0)
        free = equity + items["interest"] - items["loans"] - items["shorts"] - exposure
        items["interest"] += years[t] * cash_rate * max(free, 0.0)
        items["loans"] += years[t] * loan_rate * max(-free, 0.0)
        items["shorts"] += years[t] * short_rate * short
        equities.append(equity + items["interest"] - items["loans"] - items["shorts"])
    return equities, items


def least_turnover(
    held: np.ndarray,
    max_short: np.ndarray,
    max_weight: np.ndarray,
    gross: float,
    long_leverage: float,
    short_leverage: float,
    classes: np.ndarray,
    class_cap: np.ndarray,
) -> float:
    """The least sum of absolute changes that leads to within all other limits, as a linear program of longs, shorts."""
    n = len(held)
    one, none, eye = np.ones(n), np.zeros(n), np.eye(n)
    rows = [np.r_[one, one, none], np.r_[one, none, none], np.r_[none, one, none]]
    rows += [np.r_[classes == c, classes == c, none].astype(float) for c in range(len(class_cap))]
    change = np.hstack([eye, -eye, -eye]), np.hstack([-eye, eye, -eye])
    outcome = scipy.optimize.linprog(
        np.r_[none, none, one],
        A_ub=np.vstack([*rows, *change]),
        b_ub=np.concatenate([[gross, long_leverage, short_leverage], class_cap, held, -held.astype(float)]),
        bounds=[(0, b) for b in np.concatenate([max_weight, max_short])] + [(0, None)] * n,
    )
    assert outcome.status == 0
    return float(outcome.fun)
