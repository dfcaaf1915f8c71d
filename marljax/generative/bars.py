"""Bars of several products as unconstrained numbers and back, so that whatever a generator draws is a valid bar.

A bar is taken apart into numbers that are free of each other: the logarithms of close over open, of open over the
close before, of high over the body and of the body over low, and of volume over what its trailing mean lets expect.
Bars without a range are closes alone, and their only number is the log return. The parts of the price are divided by
a trailing volatility, from which clusters of volatility and leverage follow in the decoder's own recursion; it is a
GARCH(1,1) (Bollerslev 1986) whose news may be asymmetric (Engle and Ng 1993) and reads the whole bar (Rogers and
Satchell 1991). Each number becomes a channel with a standard normal marginal, which carries the heavy tails.
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from marljax.data.schema import InputError
from marljax.features.classic import z_score
from marljax.features.returns import rolling_volatility
from marljax.generative.interface import N_REGIMES, Anchor, Encoded, Holding
from marljax.generative.marginals import Marginals, fit_marginals

_VOLUME_DECAY = 0.5 ** (1 / 4)
_MOST_VOLUME_CLUSTERING = 0.98
_LEAST_SHARE = 0.02
"""Of the long-run variance, below which the expected one never falls."""
_LARGEST_LEVEL = 40.0
_LARGEST_VALUE = 1e3
_FEWEST_ROWS = 64
_UNIT_ROUNDS = 4
_PRICE_UNIT = 1e6
_ROUNDING = 1e-6
"""Of a logarithm: shadows below it are not there."""
_SHORT, _LONG = 5, 20


@struct.dataclass
class Bars:
    """Bars of P products; `build` makes them valid."""

    open: jax.Array  # float32[T, P]
    high: jax.Array  # float32[T, P]
    low: jax.Array  # float32[T, P]
    close: jax.Array  # float32[T, P] positive
    volume: jax.Array  # float32[T, P] 0 where only closes are known
    session: jax.Array  # int32[T] rows of one unbroken stretch share a number
    products: tuple[str, ...] = struct.field(pytree_node=False)
    origin: Literal["real", "synthetic"] = struct.field(pytree_node=False)

    @staticmethod
    def build(*, products: tuple[str, ...], origin: Literal["real", "synthetic"] = "real", **arrays: Any) -> "Bars":
        """Checked bars. Raises InputError unless shapes agree, prices are positive and `low <= open, close <= high`."""
        session = np.asarray(arrays.pop("session"), np.int32)
        host = {name: np.asarray(x, np.float32) for name, x in arrays.items()}
        if any(x.shape != (len(session), len(products)) for x in host.values()) or not len(session):
            raise InputError(f"bars must be [{len(session)}, {len(products)}] and not empty")
        body = np.stack([host["open"], host["close"]])
        broken = {
            "a number is not finite": ~np.isfinite(np.stack(list(host.values()))).all(0),
            "a price is not positive": ~(host["low"] > 0),
            "open or close lies outside low and high": (host["low"] > body.min(0)) | (host["high"] < body.max(0)),
            "volume is negative": host["volume"] < 0,
        }
        for what, where in broken.items():
            if where.any():
                t, p = np.argwhere(where)[0]
                raise InputError(f"bars: {what} at row {t}, product {products[p]!r}")
        return Bars(
            **{k: jnp.asarray(x) for k, x in host.items()},
            session=jnp.asarray(session),
            products=products,
            origin=origin,
        )

    @staticmethod
    def of_closes(close: np.ndarray, session: np.ndarray, products: tuple[str, ...]) -> "Bars":
        """Bars of which only the close [T, P] is known."""
        prices = dict.fromkeys(("open", "high", "low", "close"), close)
        return Bars.build(**prices, volume=np.zeros_like(close), session=session, products=products)

    @property
    def ranged(self) -> bool:
        """Whether more than the close is known."""
        return bool((np.asarray(self.volume) > 0).any())


@struct.dataclass
class BarRepresentation:
    """The fitted map between bars and channels. Everything in it comes from the training part.

    An `Anchor.level` is float32[P, 2]: the logarithm of the last close and the trailing mean of log volume.
    """

    marginals: Marginals
    long_run: jax.Array  # float32[P] mean squared log return
    clustering: jax.Array  # float32[P] how far the scale follows the trailing variance, 0 (not at all) to 0.95
    asymmetry: jax.Array  # float32[P] how much more losses move it than gains, 0 (no more)
    unit: jax.Array  # float32[P] mean news over the expected square
    decay: jax.Array  # float32[] of the trailing variance, each row
    scale_bounds: jax.Array  # float32[2, P] the least and largest scale
    volume_mean: jax.Array  # float32[P] of log volume
    volume_clustering: jax.Array  # float32[P] how far expected log volume follows its trailing mean
    regime_edges: jax.Array  # float32[P, N_REGIMES-1] quantiles of the trailing variance
    regime_variance: jax.Array  # float32[P, N_REGIMES] the typical one of each regime
    step_seconds: jax.Array  # float32[] a day [s]
    session_seconds: jax.Array  # float32[] infinite: bars have no time of session
    feature_mean: jax.Array  # float32[P, D] of the training part's features
    feature_deviation: jax.Array  # float32[P, D]
    products: tuple[str, ...] = struct.field(pytree_node=False)
    ranged: bool = struct.field(pytree_node=False)

    @property
    def n_products(self) -> int:
        """P."""
        return len(self.products)

    @property
    def n_channels(self) -> int:
        """C, of each product."""
        return len(self.channel_names)

    @property
    def holding(self) -> Holding:
        """Bars hold no channel."""
        return Holding.nothing(self.n_products * self.n_channels)

    @property
    def n_derived(self) -> int:
        """D, of each product."""
        return 5

    @property
    def channel_names(self) -> tuple[str, ...]:
        """The channels in order."""
        return ("move", "gap", "above", "below", "volume") if self.ranged else ("move",)

    def scale(self, variance: jax.Array) -> jax.Array:
        """float32[..., P] what divides a log return: the root of the square expected after this trailing variance."""
        expected = self.long_run + self.clustering * (variance - self.long_run)
        scale = jnp.sqrt(jnp.maximum(expected, _LEAST_SHARE * self.long_run))
        return jnp.clip(scale, self.scale_bounds[0], self.scale_bounds[1])

    def next_variance(self, variance: jax.Array, parts: jax.Array) -> jax.Array:
        """float32[P] the trailing variance after one more bar, of parts float32[P, C] in logarithms."""
        return self.decay * variance + (1 - self.decay) * self.news(variance, parts) / self.unit

    def news(self, variance: jax.Array, parts: jax.Array) -> jax.Array:
        """float32[P] what moves the trailing variance: the bar's own, more where it fell than where it rose."""
        shift = self.asymmetry * self.scale(variance)
        return jnp.maximum(bar_variance(parts) - 2 * shift * parts[..., 0] + shift**2, 0)

    def regime(self, variance: jax.Array) -> jax.Array:
        """int32[..., P] which third of the training part's trailing volatilities this one falls into."""
        return jnp.sum(variance[..., None] > self.regime_edges, -1, dtype=jnp.int32)

    def rescaled(self, factor: float | jax.Array) -> "BarRepresentation":
        """The same representation whose decoded returns are `factor` times as large and otherwise alike."""
        square = jnp.square(jnp.float32(factor))
        return self.replace(  # type: ignore[attr-defined]
            long_run=self.long_run * square,
            scale_bounds=self.scale_bounds * factor,
            regime_edges=self.regime_edges * square,
            regime_variance=self.regime_variance * square,
        )

    def encode(self, data: Bars, seed: int | None = None) -> Encoded:
        """The channels of every row, on the host. The trailing variance and channels of row t use rows up to t only.

        With `seed` highs and lows that coincide with the body are spread below zero at random, for training; without,
        nothing is random. Raises InputError where the products are not those of the fit.
        """
        if data.products != self.products or data.ranged != self.ranged:
            raise InputError("the bars' products or columns are not those the representation was fitted on")
        parts, joined = take_apart(data)
        variance, trailing = _trailing(self, parts, joined)
        noise = None if seed is None else np.random.default_rng(seed)
        scale = np.asarray(self.scale(jnp.asarray(variance)), np.float64)
        scores = self.marginals.to_scores(_values(self, parts, scale, trailing, noise))
        scores[~joined] = 0.0
        volume = _VOLUME_DECAY * trailing + (1 - _VOLUME_DECAY) * parts[..., -1] if self.ranged else 0.0 * trailing
        level = np.stack([np.log(np.asarray(data.close, np.float64)), volume], -1)
        return Encoded(
            channels=jnp.asarray(scores, jnp.float32),
            variance=jnp.asarray(variance, jnp.float32),
            level=jnp.asarray(level, jnp.float32),
            clock=jnp.zeros(len(joined)),
            joined=jnp.asarray(joined),
        )

    def decode(self, channels: jax.Array, anchor: Anchor) -> tuple[Bars, Anchor]:
        """Any float32[W, P, C] as valid bars, origin synthetic, and the anchor of the window behind it. Jittable."""
        values = self._values_of(channels)

        def step(now: Anchor, row: jax.Array) -> tuple[Anchor, tuple[jax.Array, jax.Array]]:
            parts = self._parts(row, now)
            level = now.level[:, 0] + jnp.sum(parts[:, :2] if self.ranged else parts, -1)
            level = jnp.clip(level, -_LARGEST_LEVEL, _LARGEST_LEVEL)
            trailing = _VOLUME_DECAY * now.level[:, 1] + (1 - _VOLUME_DECAY) * parts[:, -1]
            volume = trailing if self.ranged else now.level[:, 1]
            return Anchor(jnp.stack([level, volume], -1), self.next_variance(now.variance, parts)), (parts, level)

        after, (parts, level) = jax.lax.scan(step, anchor, values)
        close = jnp.exp(level)
        bars = Bars(close, close, close, close, jnp.zeros_like(close), _no_session(close), self.products, "synthetic")
        if self.ranged:
            opened = jnp.exp(level - parts[..., 0])
            bars = bars.replace(  # type: ignore[attr-defined]
                open=opened,
                high=jnp.maximum(opened, close) * jnp.exp(parts[..., 2]),
                low=jnp.minimum(opened, close) * jnp.exp(-parts[..., 3]),
                volume=jnp.exp(parts[..., 4]),
            )
        return bars, after

    def derive(self, channels: jax.Array, regime: jax.Array) -> jax.Array:
        """float32[W, P, D] features of any float32[W, P, C], in training deviations from the training mean.

        Short and long volatility and the distance from the mean price by the project's own feature code, the day's
        own volatility and its return, all of the bars these channels decode to. `regime` int32[P] sets the trailing
        variance before the first row.
        """
        return (self._features(channels, regime) - self.feature_mean) / self.feature_deviation

    def _features(self, channels: jax.Array, regime: jax.Array) -> jax.Array:
        variance = jnp.take_along_axis(self.regime_variance, regime[:, None], 1)[:, 0]
        age = jnp.arange(len(channels), dtype=jnp.int32)
        root = jnp.sqrt(self.long_run)

        def step(variance: jax.Array, row: jax.Array) -> tuple[jax.Array, jax.Array]:
            parts = self._parts(row, Anchor(jnp.zeros((self.n_products, 2)), variance))
            return self.next_variance(variance, parts), parts

        _, parts = jax.lax.scan(step, variance, self._values_of(channels))
        returns = jnp.sum(parts[..., :2] if self.ranged else parts, -1)
        price = _PRICE_UNIT * jnp.exp(jnp.clip(jnp.cumsum(returns, 0), -_LARGEST_LEVEL / 4, _LARGEST_LEVEL / 4))

        def of_one(price: jax.Array) -> jax.Array:
            volatilities = [jnp.log(rolling_volatility(price, age, window) + 1e-3) for window in (_SHORT, _LONG)]
            return jnp.stack([*volatilities, z_score(price, age, _LONG)], -1)

        of_day = [jnp.sqrt(bar_variance(parts) + 1e-3 * self.long_run) / root, jnp.arcsinh(returns / root)]
        return jnp.concatenate([jax.vmap(of_one, 1, 1)(price), jnp.stack(of_day, -1)], -1)

    def _values_of(self, channels: jax.Array) -> jax.Array:
        return jnp.clip(self.marginals.to_values(channels), -_LARGEST_VALUE, _LARGEST_VALUE)

    def _parts(self, values: jax.Array, now: Anchor) -> jax.Array:
        """float32[P, C] logarithms of one bar, of its values float32[P, C] behind `now`."""
        scale = self.scale(now.variance)[:, None]
        if not self.ranged:
            return values * scale
        volume = self.expected_volume(now.level[:, 1]) + values[:, 4]
        shadows = jnp.maximum(values[:, 2:4], 0) * scale
        return jnp.concatenate(
            [values[:, :2] * scale, shadows, jnp.clip(volume, -_LARGEST_LEVEL, _LARGEST_LEVEL)[:, None]], -1
        )

    def expected_volume(self, trailing: jax.Array) -> jax.Array:
        """float32[..., P] log volume expected after this trailing mean."""
        return self.volume_mean + self.volume_clustering * (trailing - self.volume_mean)


def bar_variance(parts: jax.Array) -> jax.Array:
    """float32[...] what one bar, its parts float32[..., C] in logarithms, says of the variance of its move.

    Of closes the squared move; else the estimate of Rogers and Satchell (1991), which no drift disturbs and whose
    error is several times smaller.
    """
    move = parts[..., 0]
    if parts.shape[-1] == 1:
        return jnp.square(move)
    up, down = jnp.maximum(move, 0) + parts[..., 2], jnp.minimum(move, 0) - parts[..., 3]
    return up * (up - move) + down * (down - move)


def take_apart(bars: Bars) -> tuple[np.ndarray, np.ndarray]:
    """Parts float64[T, P, C] in logarithms, and bool[T] whether a row continues the one before."""
    session = np.asarray(bars.session)
    joined = np.concatenate([[False], session[1:] == session[:-1]])
    opened, high, low, close = (np.log(np.asarray(x, np.float64)) for x in (bars.open, bars.high, bars.low, bars.close))
    before = np.concatenate([close[:1], close[:-1]])
    if not bars.ranged:
        return (np.where(joined[:, None], close - before, 0.0))[..., None], joined
    gap = np.where(joined[:, None], opened - before, 0.0)
    above, below = high - np.maximum(opened, close), np.minimum(opened, close) - low
    volume = np.log(np.maximum(np.asarray(bars.volume, np.float64), 1e-12))
    return np.stack([close - opened, gap, above, below, volume], -1), joined


def fit(training: Bars, half_life: float = 8.0, most_clustering: float = 0.95) -> BarRepresentation:
    """Fit dynamics and marginals on the training part; deterministic.

    `half_life` of the trailing variance [rows]. `most_clustering` bounds how far the scale follows it, 0 to 0.95: what
    is beyond is left to the generator, whose errors the recursion then repeats less often. Raises InputError where the
    training part is too short.
    """
    parts, joined = take_apart(training)
    if joined.sum() < _FEWEST_ROWS:
        raise InputError(f"the generator needs {_FEWEST_ROWS} bars that continue the one before, got {joined.sum()}")
    shape = parts.shape[1:]
    zeros, ones = np.zeros(shape[0]), np.ones(shape[0])
    square = np.asarray(bar_variance(jnp.asarray(parts)), np.float64)
    long_run = np.maximum(square[joined].mean(0), 1e-12)
    first = BarRepresentation(
        marginals=fit_marginals(np.zeros((2, *shape))),
        long_run=jnp.asarray(long_run, jnp.float32),
        clustering=jnp.asarray(zeros, jnp.float32),
        asymmetry=jnp.asarray(zeros, jnp.float32),
        unit=jnp.asarray(ones, jnp.float32),
        decay=jnp.float32(0.5 ** (1 / half_life)),
        scale_bounds=jnp.asarray(np.stack([zeros, ones * np.inf]), jnp.float32),
        volume_mean=jnp.asarray(parts[joined][..., -1].mean(0), jnp.float32),
        volume_clustering=jnp.asarray(zeros, jnp.float32),
        regime_edges=jnp.zeros((shape[0], N_REGIMES - 1)),
        regime_variance=jnp.ones((shape[0], N_REGIMES)),
        step_seconds=jnp.float32(86_400.0),
        session_seconds=jnp.float32(np.inf),
        feature_mean=jnp.zeros((shape[0], 5)),
        feature_deviation=jnp.ones((shape[0], 5)),
        products=training.products,
        ranged=training.ranged,
    )
    fitted = _with_dynamics(first, parts, joined, most_clustering)
    if training.ranged:
        fitted = _with_volume(fitted, parts, joined)
    variance, trailing = _trailing(fitted, parts, joined)
    scale = np.asarray(fitted.scale(jnp.asarray(variance)), np.float64)
    known = variance[joined].astype(np.float64)
    values = _values(fitted, parts, scale, trailing, np.random.default_rng(0))
    fitted = fitted.replace(  # type: ignore[attr-defined]
        marginals=fit_marginals(values[joined]),
        scale_bounds=jnp.asarray(np.stack([scale[joined].min(0), scale[joined].max(0)]), jnp.float32),
        regime_edges=jnp.asarray(np.quantile(known, np.arange(1, N_REGIMES) / N_REGIMES, axis=0).T, jnp.float32),
        regime_variance=jnp.asarray(
            np.quantile(known, (np.arange(N_REGIMES) + 0.5) / N_REGIMES, axis=0).T, jnp.float32
        ),
    )
    return _with_feature_scales(fitted, training)


def _with_dynamics(
    start: BarRepresentation, parts: np.ndarray, joined: np.ndarray, most_clustering: float
) -> BarRepresentation:
    """Clustering and asymmetry of the greatest Gaussian quasi-likelihood on a grid, and the unit that goes with it."""
    # The unit keeps the recursion's mean where it is: without it a drift, met by the asymmetry, would wear it down.
    grid = np.stack(np.meshgrid(np.linspace(0, most_clustering, 20), np.linspace(0, 1.6, 9)), -1).reshape(-1, 2)
    clustering, asymmetry = (jnp.asarray(x, jnp.float32) for x in grid.T)
    rows, known = jnp.asarray(parts, jnp.float32), jnp.asarray(joined)
    count = int(joined.sum())

    def loss(clustering: jax.Array, asymmetry: jax.Array) -> tuple[jax.Array, BarRepresentation]:
        one = start.replace(  # type: ignore[attr-defined]
            clustering=jnp.full(start.n_products, clustering), asymmetry=jnp.full(start.n_products, asymmetry)
        )

        def mean(x: jax.Array) -> jax.Array:
            return jnp.sum(jnp.where(known[:, None], x, 0), 0) / count

        for _ in range(_UNIT_ROUNDS):
            variance = _scan_trailing(one, rows, known)[0]
            scale = one.scale(variance)
            one = one.replace(unit=mean(one.news(variance, rows) / scale**2))
        return jnp.log(mean(bar_variance(rows) / scale**2)) + 2 * mean(jnp.log(scale)), one

    losses, candidates = jax.jit(jax.vmap(loss))(clustering, asymmetry)
    best, product = np.argmin(np.nan_to_num(np.asarray(losses), nan=np.inf), 0), np.arange(start.n_products)
    chosen = {name: getattr(candidates, name)[best, product] for name in ("clustering", "asymmetry", "unit")}
    return start.replace(**chosen)  # type: ignore[attr-defined]


def _with_volume(start: BarRepresentation, parts: np.ndarray, joined: np.ndarray) -> BarRepresentation:
    """How far log volume follows its trailing mean, by least squares."""
    _, trailing = _trailing(start, parts, joined)
    x, y = trailing[joined].astype(np.float64), parts[joined][..., -1]
    x, y = x - np.asarray(start.volume_mean), y - y.mean(0)
    slope = np.clip(np.mean(x * y, 0) / np.maximum(np.mean(x**2, 0), 1e-12), 0, _MOST_VOLUME_CLUSTERING)
    return start.replace(volume_clustering=jnp.asarray(slope, jnp.float32))  # type: ignore[attr-defined]


def _with_feature_scales(start: BarRepresentation, training: Bars) -> BarRepresentation:
    """Means and deviations of the training part's features, the long run's trailing variance before its first row."""
    channels, joined = (np.asarray(x) for x in (start.encode(training, 0).channels, take_apart(training)[1]))
    middle = jnp.full(start.n_products, N_REGIMES // 2)
    features = np.asarray(start._features(jnp.asarray(channels[joined]), middle), np.float64)
    return start.replace(  # type: ignore[attr-defined]
        feature_mean=jnp.asarray(features.mean(0), jnp.float32),
        feature_deviation=jnp.asarray(np.maximum(features.std(0), 1e-3), jnp.float32),
    )


def _values(
    representation: BarRepresentation,
    parts: np.ndarray,
    scale: np.ndarray,
    trailing: np.ndarray,
    noise: np.random.Generator | None,
) -> np.ndarray:
    """float64[T, P, C] what the marginal maps act on."""
    values = parts / scale[..., None]
    if not representation.ranged:
        return values
    values[..., 4] = parts[..., 4] - np.asarray(representation.expected_volume(jnp.asarray(trailing)), np.float64)
    shadows = values[..., 2:4]
    u = 0.5 if noise is None else noise.random(shadows.shape)
    # A shadow that is not there has a stretch of its own, as wide as those that are there are long.
    values[..., 2:4] = np.where(parts[..., 2:4] < _ROUNDING, -0.2 * u, shadows)
    return values


def _trailing(
    representation: BarRepresentation, parts: np.ndarray, joined: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """float32[T, P] the trailing variance and the trailing mean of log volume before each row."""
    found = _scan_trailing(representation, jnp.asarray(parts, jnp.float32), jnp.asarray(joined))
    return np.asarray(found[0]), np.asarray(found[1])


@jax.jit
def _scan_trailing(
    representation: BarRepresentation, parts: jax.Array, joined: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """They begin with the long run and the first row's own volume wherever a row does not continue the last."""

    def step(carry: tuple[jax.Array, jax.Array], now: tuple[jax.Array, jax.Array]) -> tuple[Any, Any]:
        row, continues = now
        variance = jnp.where(continues, carry[0], representation.long_run)
        volume = jnp.where(continues, carry[1], row[:, -1])
        after = jnp.where(continues, representation.next_variance(variance, row), variance)
        return (after, _VOLUME_DECAY * volume + (1 - _VOLUME_DECAY) * row[:, -1]), (variance, volume)

    return jax.lax.scan(step, (representation.long_run, parts[0, :, -1]), (parts, joined))[1]


def _no_session(close: jax.Array) -> jax.Array:
    return jnp.zeros(len(close), jnp.int32)
