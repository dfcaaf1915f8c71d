"""Features the slow way: float64, one row at a time, each from the rows of its own session and nothing else.

Prices are ticks, `mid` is the mid itself; `age` is the number of rows since the session's first.
"""

import itertools
import math

import numpy as np


def ages(session: np.ndarray, valid: np.ndarray) -> np.ndarray:
    age, observed = [], False
    for t in range(len(session)):
        new = t == 0 or session[t] != session[t - 1]
        if new:
            observed = False
        age.append(0 if new or not observed else age[-1] + 1)
        observed = observed or bool(valid[t])
    return np.array(age)


def log_return(mid: np.ndarray, age: np.ndarray) -> np.ndarray:
    out = np.zeros(len(mid))
    for t in range(len(mid)):
        if age[t] > 0 and mid[t] > 0 and mid[t - 1] > 0:
            out[t] = math.log(mid[t] / mid[t - 1])
    return out


def step_mean(x: np.ndarray, age: np.ndarray, window: int) -> np.ndarray:
    """Mean over the last steps; a session's first row is no step."""
    out = np.zeros(len(x))
    for t in range(len(x)):
        rows = [s for s in range(t - window + 1, t + 1) if s > t - age[t]]
        out[t] = np.mean([x[s] for s in rows]) if rows else 0.0
    return out


def row_windows(x: np.ndarray, age: np.ndarray, window: int) -> list[np.ndarray]:
    return [np.array([x[s] for s in range(max(t - age[t], t - window + 1), t + 1)]) for t in range(len(x))]


def volatility(mid: np.ndarray, age: np.ndarray, window: int) -> np.ndarray:
    return np.sqrt(step_mean(log_return(mid, age) ** 2, age, window))


def volatility_ratio(mid: np.ndarray, age: np.ndarray, window: int, long_window: int) -> np.ndarray:
    short, long = volatility(mid, age, window), volatility(mid, age, long_window)
    return np.array([s / v if v > 0 else 1.0 for s, v in zip(short, long, strict=True)])


def tick_changes(mid: np.ndarray, age: np.ndarray) -> np.ndarray:
    return np.array([mid[t] - mid[t - 1] if age[t] > 0 else 0.0 for t in range(len(mid))])


def averages(sequence: list[float], period: int, weight: float) -> list[float]:
    """Plain mean until `period` values are there, exponential from then on."""
    out: list[float] = []
    for n, value in enumerate(sequence, start=1):
        out.append(float(np.mean(sequence[:n])) if n <= period else (1 - weight) * out[-1] + weight * value)
    return out


def sessions(age: np.ndarray) -> list[range]:
    starts = [t for t in range(len(age)) if age[t] == 0] + [len(age)]
    return [range(a, b) for a, b in itertools.pairwise(starts)]


def rsi(mid: np.ndarray, age: np.ndarray, period: int) -> np.ndarray:
    out = np.full(len(mid), 50.0)
    for rows in sessions(age):
        steps = [mid[t] - mid[t - 1] for t in rows[1:]]
        gains = averages([max(s, 0.0) for s in steps], period, 1 / period)
        losses = averages([max(-s, 0.0) for s in steps], period, 1 / period)
        for t, gain, loss in zip(rows[1:], gains, losses, strict=True):
            out[t] = 100 * gain / (gain + loss) if gain + loss > 0 else 50.0
    return out


def macd(
    mid: np.ndarray, age: np.ndarray, fast: int, slow: int, signal: int, window: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    line, smooth = np.zeros(len(mid)), np.zeros(len(mid))
    for rows in sessions(age):
        prices = [float(mid[t]) for t in rows]
        difference = np.subtract(averages(prices, fast, 2 / (fast + 1)), averages(prices, slow, 2 / (slow + 1)))
        line[rows.start : rows.stop] = difference
        smooth[rows.start : rows.stop] = averages(list(difference), signal, 2 / (signal + 1))
    scale = np.sqrt(np.maximum(step_mean(tick_changes(mid, age) ** 2, age, window), 0.25 / window))
    return line / scale, smooth / scale, (line - smooth) / scale


def z_score(mid: np.ndarray, age: np.ndarray, window: int) -> np.ndarray:
    return np.array([(w[-1] - w.mean()) / w.std() if w.std() > 0 else 0.0 for w in row_windows(mid, age, window)])


def order_flow(bid: np.ndarray, ask: np.ndarray, bid_size: np.ndarray, ask_size: np.ndarray, age: np.ndarray):
    """[T, K]: equation 4 of Cont, Kukanov and Stoikov (2014), term by term."""
    out = np.zeros(bid.shape)
    for t, k in np.ndindex(*bid.shape):
        if age[t] == 0:
            continue
        if bid[t, k] >= bid[t - 1, k]:
            out[t, k] += bid_size[t, k]
        if bid[t, k] <= bid[t - 1, k]:
            out[t, k] -= bid_size[t - 1, k]
        if ask[t, k] <= ask[t - 1, k]:
            out[t, k] -= ask_size[t, k]
        if ask[t, k] >= ask[t - 1, k]:
            out[t, k] += ask_size[t - 1, k]
    return out


def order_flow_imbalance(bid, ask, bid_size, ask_size, age, levels: int, window: int, depth_window: int) -> np.ndarray:
    flow = order_flow(bid, ask, bid_size, ask_size, age)[:, :levels].sum(axis=1)
    depth = (bid_size[:, :levels].sum(axis=1) + ask_size[:, :levels].sum(axis=1)) / 2
    added = [w.sum() for w in row_windows(flow, age, window)]
    usual = [max(w.mean(), 1.0) for w in row_windows(depth, age, depth_window)]
    return np.array(added) / np.array(usual)


def imbalance(bid_size: np.ndarray, ask_size: np.ndarray, levels: int) -> np.ndarray:
    bid, ask = bid_size[:, :levels].sum(axis=1), ask_size[:, :levels].sum(axis=1)
    return (bid - ask) / (bid + ask)


def microprice_offset(bid: np.ndarray, ask: np.ndarray, bid_size: np.ndarray, ask_size: np.ndarray) -> np.ndarray:
    b, a, qb, qa = bid[:, 0], ask[:, 0], bid_size[:, 0], ask_size[:, 0]
    return (b * qa + a * qb) / (qa + qb) - (a + b) / 2


def depth_volatility(bid_size: np.ndarray, ask_size: np.ndarray, age: np.ndarray, window: int) -> np.ndarray:
    depth = bid_size.sum(axis=1) + ask_size.sum(axis=1)
    return np.array([w.std() / w.mean() for w in row_windows(depth, age, window)])


def relative_volume(volume: np.ndarray, age: np.ndarray, window: int, long_window: int) -> np.ndarray:
    recent, usual = step_mean(volume, age, window), step_mean(volume, age, long_window)
    return np.array([r / u if u > 0 else 1.0 for r, u in zip(recent, usual, strict=True)])


def signed_flow(volume: np.ndarray, net: np.ndarray, age: np.ndarray, window: int) -> np.ndarray:
    bought, traded = step_mean(net, age, window), step_mean(volume, age, window)
    return np.array([b / v if v > 0 else 0.0 for b, v in zip(bought, traded, strict=True)])


def residual(double_mid: np.ndarray, anchor, loadings, offset, scale) -> np.ndarray:
    """[T, P] strays from the fitted relations, in training deviations."""
    log_mid = np.log(double_mid / np.asarray(anchor, float))
    out = np.zeros(double_mid.shape)
    for p in range(double_mid.shape[1]):
        if scale[p] > 0:
            out[:, p] = (log_mid @ np.asarray(loadings[p], float) - offset[p]) / scale[p]
    return out


def around_slow_mean(series: np.ndarray, age: np.ndarray, span: int) -> np.ndarray:
    weight, mean, out = 2 / (span + 1), 0.0, np.zeros(len(series))
    for t in range(len(series)):
        mean = (1 - weight) * (0.0 if age[t] == 0 else mean) + weight * series[t]
        out[t] = series[t] - mean
    return out


def all_features(data, config, reference) -> dict[str, np.ndarray]:
    """Every registered feature, [T, P] by name."""
    bid, ask, bid_size, ask_size = (
        np.asarray(x).astype(float) for x in (data.bid_price, data.ask_price, data.bid_size, data.ask_size)
    )
    volume, net = np.asarray(data.trade_volume).astype(float), np.asarray(data.trade_imbalance).astype(float)
    relation = reference.relative_value
    stray = residual(
        bid[..., 0] + ask[..., 0],
        *map(np.asarray, (relation.anchor, relation.loadings, relation.offset, relation.scale)),
    )
    fraction = np.clip(np.asarray(data.seconds, float) / float(reference.session_seconds), 0, 1)
    columns: dict[str, list[np.ndarray]] = {}
    for p in range(bid.shape[1]):
        age = ages(np.asarray(data.session), np.asarray(data.valid)[:, p])
        mid = (bid[:, p, 0] + ask[:, p, 0]) / 2
        book = (bid[:, p], ask[:, p], bid_size[:, p], ask_size[:, p])
        macd_lines = macd(mid, age, config.macd_fast, config.macd_slow, config.macd_signal, config.volatility_window)
        flow_windows = (config.flow_window, config.liquidity_window)
        one = {
            "log_return": log_return(mid, age),
            "volatility": volatility(mid, age, config.volatility_window),
            "volatility_ratio": volatility_ratio(mid, age, config.volatility_window, config.long_volatility_window),
            "rsi": rsi(mid, age, config.rsi_period),
            "macd": macd_lines[0],
            "macd_signal": macd_lines[1],
            "macd_histogram": macd_lines[2],
            "z_score": z_score(mid, age, config.z_score_window),
            "spread": book[1][:, 0] - book[0][:, 0],
            "imbalance": imbalance(*book[2:], 1),
            "depth_imbalance": imbalance(*book[2:], bid.shape[2]),
            "microprice": microprice_offset(*book),
            "order_flow_imbalance": order_flow_imbalance(*book, age, 1, *flow_windows),
            "depth_order_flow_imbalance": order_flow_imbalance(*book, age, bid.shape[2], *flow_windows),
            "depth_volatility": depth_volatility(*book[2:], age, config.liquidity_window),
            "relative_volume": relative_volume(volume[:, p], age, *flow_windows),
            "signed_flow": signed_flow(volume[:, p], net[:, p], age, config.flow_window),
            "relative_value": around_slow_mean(stray[:, p], age, config.relative_value_span),
            "time_of_session": fraction,
        }
        for name, column in one.items():
            columns.setdefault(name, []).append(column)
    return {name: np.stack(column, axis=-1) for name, column in columns.items()}
