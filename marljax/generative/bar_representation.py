"""Bars of several products as unconstrained numbers and back, so that whatever a generator draws is a valid bar.

A bar is taken apart into numbers that are free of each other: the logarithms of close over open, of open over the
close before, of high over the body and of the body over low, and of volume over what its trailing mean and the bar's
own range let expect.
Bars without a range are closes alone, and their only number is the log return. The parts of the price are divided by
a trailing volatility, from which clusters of volatility and leverage follow in the decoder's own recursion; it is a
GARCH(1,1) (Bollerslev 1986) whose news may be asymmetric (Engle and Ng 1993) and reads the whole bar (Rogers and
Satchell 1991). Each number becomes a channel with a standard normal marginal, which carries the heavy tails.
"""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from marljax.data.schema import InputError
from marljax.features.classic import z_score
from marljax.features.returns import rolling_volatility
from marljax.generative.bars import Bars, bar_variance, take_apart
from marljax.generative.interface import N_REGIMES, Anchor, Encoded, Holding, regime_of
from marljax.generative.marginals import Marginals, fit_marginals

_VOLUME_DECAY = 0.5 ** (1 / 4)
_MOST_VOLUME_CLUSTERING = 0.98
_LEAST_SHARE = 0.02
"""Of the long-run variance, below which the expected one never falls."""
_LARGEST_LEVEL = 40.0
_LARGEST_VALUE = 1e3
_FEWEST_ROWS = 64
_DYNAMICS = ("clustering", "asymmetry", "slow_share")
_MOST_CLUSTERING = 0.95
_UNIT_ROUNDS = 4
_PRICE_UNIT = 1e6
_NO_SHADOW = 0.2
_ROUNDING = 1e-6
"""Of a logarithm: shadows below it are not there."""
_QUIET = 0.05
"""Of the expected variance, so that a bar without any has a finite surprise."""
_SHORT, _LONG = 5, 20


@struct.dataclass
class BarRepresentation:
    """The fitted map between bars and channels. Everything in it comes from the training part.

    An `Anchor.level` is float32[P, 3]: the logarithm of the last close, the trailing mean of log volume, and the
    logarithm of the slow trailing variance over the weighted mean of both, which is `Anchor.variance`.
    """

    marginals: Marginals
    long_run: jax.Array  # float32[P] mean squared log return
    clustering: jax.Array  # float32[P] how far the scale follows the trailing variance, 0 (not at all) to 0.95
    asymmetry: jax.Array  # float32[P] how much more losses move it than gains, 0 (no more)
    unit: jax.Array  # float32[P] mean news over the expected square
    slow_share: jax.Array  # float32[P] weight of the slow trailing variance, the rest is the fast one's
    decay: jax.Array  # float32[2] of the fast and the slow trailing variance, each row
    scale_bounds: jax.Array  # float32[2, P] the least and largest scale
    volume_mean: jax.Array  # float32[P] of log volume
    volume_clustering: jax.Array  # float32[P] how far expected log volume follows its trailing mean
    volume_loading: jax.Array  # float32[P] how far log volume follows the `surprise` of its own bar
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

    def after(self, now: Anchor, parts: jax.Array) -> Anchor:
        """The anchor behind one more bar, of parts float32[P, C] in logarithms."""
        news = self.news(now.variance, parts) / self.unit
        slow = now.variance * jnp.exp(now.level[:, 2])
        fast = jnp.maximum(now.variance - self.slow_share * slow, 0) / (1 - self.slow_share)
        fast, slow = (d * v + (1 - d) * news for d, v in zip(self.decay, (fast, slow), strict=True))
        variance = (1 - self.slow_share) * fast + self.slow_share * slow
        volume = now.level[:, 1]
        if self.ranged:
            volume = _VOLUME_DECAY * volume + (1 - _VOLUME_DECAY) * parts[:, -1]
        close = now.level[:, 0] + jnp.sum(parts[:, :2] if self.ranged else parts, -1)
        close = jnp.clip(close, -_LARGEST_LEVEL, _LARGEST_LEVEL)
        return Anchor(jnp.stack([close, volume, jnp.log(slow / variance)], -1), variance)

    def news(self, variance: jax.Array, parts: jax.Array) -> jax.Array:
        """float32[P] what moves the trailing variance: the bar's own, more where it fell than where it rose."""
        shift = self.asymmetry * self.scale(variance)
        return jnp.maximum(bar_variance(parts) - 2 * shift * parts[..., 0] + shift**2, 0)

    def regime(self, variance: jax.Array) -> jax.Array:
        """int32[..., P] which third of the training part's trailing volatilities this one falls into."""
        return regime_of(variance, self.regime_edges)

    def rescaled(self, factor: float | jax.Array) -> "BarRepresentation":
        """The same representation whose decoded returns are `factor` times as large and otherwise alike."""
        square = jnp.square(jnp.float32(factor))
        return replace(
            self,
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
        before, after = _anchors(self, parts, joined)
        noise = None if seed is None else np.random.default_rng(seed)
        scores = self.marginals.to_scores(_values(self, parts, before, noise))
        scores[~joined] = 0.0
        level = np.array(after.level)
        level[..., 0] = np.log(np.asarray(data.close, np.float64))
        return Encoded(
            channels=jnp.asarray(scores, jnp.float32),
            variance=before.variance,
            level=jnp.asarray(level),
            clock=jnp.zeros(len(joined)),
            joined=jnp.asarray(joined),
        )

    def decode(self, channels: jax.Array, anchor: Anchor) -> tuple[Bars, Anchor]:
        """Any float32[W, P, C] as valid bars, origin synthetic, and the anchor of the window behind it. Jittable."""
        values = self._values_of(channels)

        def step(now: Anchor, row: jax.Array) -> tuple[Anchor, tuple[jax.Array, jax.Array]]:
            parts = self._parts(row, now)
            after = self.after(now, parts)
            return after, (parts, after.level[:, 0])

        after, (parts, level) = jax.lax.scan(step, anchor, values)
        close = jnp.exp(level)
        bars = Bars(close, close, close, close, jnp.zeros_like(close), _no_session(close), self.products, "synthetic")
        if self.ranged:
            opened = jnp.exp(level - parts[..., 0])
            bars = replace(
                bars,
                open=opened,
                high=jnp.maximum(opened, close) * jnp.exp(parts[..., 2]),
                low=jnp.minimum(opened, close) * jnp.exp(-parts[..., 3]),
                volume=jnp.exp(parts[..., 4]),
            )
        return bars, after

    def derive(self, channels: jax.Array, anchor: Anchor) -> jax.Array:
        """float32[W, P, D] features of any float32[W, P, C], in training deviations from the training mean.

        Short and long volatility and the distance from the mean price by the project's own feature code, the day's
        own volatility and its return, all of the bars these channels decode to behind `anchor`.
        """
        return (self._features(channels, anchor) - self.feature_mean) / self.feature_deviation

    def _features(self, channels: jax.Array, anchor: Anchor) -> jax.Array:
        age = jnp.arange(len(channels), dtype=jnp.int32)
        root = jnp.sqrt(self.long_run)

        def step(now: Anchor, row: jax.Array) -> tuple[Anchor, jax.Array]:
            parts = self._parts(row, now)
            return self.after(now, parts), parts

        _, parts = jax.lax.scan(step, anchor, self._values_of(channels))
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
        scale = self.scale(now.variance)
        if not self.ranged:
            return values * scale[:, None]
        shadows = jnp.maximum(values[:, 2:4], 0)
        price = jnp.concatenate([values[:, :2], shadows], -1)
        volume = self.expected_volume(now.level[:, 1], price) + values[:, 4]
        volume = jnp.clip(volume, -_LARGEST_LEVEL, _LARGEST_LEVEL)
        return jnp.concatenate([price * scale[:, None], volume[:, None]], -1)

    def expected_volume(self, trailing: jax.Array, price: jax.Array) -> jax.Array:
        """float32[..., P] log volume expected after this trailing mean, with a bar whose first four parts, over their
        scale, are `price` float32[..., P, 4]."""
        clustering = self.volume_clustering * (trailing - self.volume_mean)
        return self.volume_mean + clustering + self.volume_loading * surprise(price)


def surprise(price: jax.Array) -> jax.Array:
    """float32[...] log of how much a bar moved against what was expected of it.

    `price` float32[..., 4] its parts but for volume, over their scale. The gap counts as the body does.
    """
    return 0.5 * jnp.log(bar_variance(price) + jnp.square(price[..., 1]) + _QUIET)


def fit(
    training: Bars, half_lives: tuple[float, float] = (4.0, 32.0), least_clustering: float = 0.0
) -> BarRepresentation:
    """Fit dynamics and marginals on the training part; deterministic.

    `half_lives` of the fast and the slow trailing variance [rows]. `least_clustering`, 0 to 0.95, bounds from below how
    far the scale follows them: the likelihood of one row at a time cares little for what lasts. Raises InputError where
    the training part is too short.
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
        slow_share=jnp.asarray(zeros, jnp.float32),
        decay=jnp.asarray(0.5 ** (1 / np.array(half_lives)), jnp.float32),
        scale_bounds=jnp.asarray(np.stack([zeros, ones * np.inf]), jnp.float32),
        volume_mean=jnp.asarray(parts[joined][..., -1].mean(0), jnp.float32),
        volume_clustering=jnp.asarray(zeros, jnp.float32),
        volume_loading=jnp.asarray(zeros, jnp.float32),
        regime_edges=jnp.zeros((shape[0], N_REGIMES - 1)),
        regime_variance=jnp.ones((shape[0], N_REGIMES)),
        step_seconds=jnp.float32(86_400.0),
        session_seconds=jnp.float32(np.inf),
        feature_mean=jnp.zeros((shape[0], 5)),
        feature_deviation=jnp.ones((shape[0], 5)),
        products=training.products,
        ranged=training.ranged,
    )
    fitted = _with_dynamics(first, parts, joined, least_clustering)
    if training.ranged:
        fitted = _with_volume(fitted, parts, joined)
    before, _ = _anchors(fitted, parts, joined)
    scale = np.asarray(fitted.scale(before.variance), np.float64)
    known = np.asarray(before.variance, np.float64)[joined]
    values = _values(fitted, parts, before, np.random.default_rng(0))
    fitted = replace(
        fitted,
        marginals=fit_marginals(values[joined]),
        scale_bounds=jnp.asarray(np.stack([scale[joined].min(0), scale[joined].max(0)]), jnp.float32),
        regime_edges=jnp.asarray(np.quantile(known, np.arange(1, N_REGIMES) / N_REGIMES, axis=0).T, jnp.float32),
        regime_variance=jnp.asarray(
            np.quantile(known, (np.arange(N_REGIMES) + 0.5) / N_REGIMES, axis=0).T, jnp.float32
        ),
    )
    return _with_feature_scales(fitted, training)


def _with_dynamics(
    start: BarRepresentation, parts: np.ndarray, joined: np.ndarray, least_clustering: float
) -> BarRepresentation:
    """Clustering and asymmetry of the greatest Gaussian quasi-likelihood on a grid, and the unit that goes with it."""
    # The unit keeps the recursion's mean where it is: without it a drift, met by the asymmetry, would wear it down.
    axes = (np.linspace(least_clustering, _MOST_CLUSTERING, 12), np.linspace(0, 1.6, 9), np.linspace(0, 0.4, 5))
    grid = jnp.asarray(np.stack(np.meshgrid(*axes), -1).reshape(-1, len(axes)), jnp.float32)
    rows, known = jnp.asarray(parts, jnp.float32), jnp.asarray(joined)
    count = int(joined.sum())

    def loss(point: jax.Array) -> tuple[jax.Array, BarRepresentation]:
        dynamics: dict[str, Any] = {
            name: jnp.full(start.n_products, x) for name, x in zip(_DYNAMICS, point, strict=True)
        }
        one = replace(start, **dynamics)

        def mean(x: jax.Array) -> jax.Array:
            return jnp.sum(jnp.where(known[:, None], x, 0), 0) / count

        for _ in range(_UNIT_ROUNDS):
            variance = _scan(one, rows, known)[0].variance
            scale = one.scale(variance)
            one = replace(one, unit=mean(one.news(variance, rows) / scale**2))
        return jnp.log(mean(bar_variance(rows) / scale**2)) + 2 * mean(jnp.log(scale)), one

    losses, candidates = jax.jit(jax.vmap(loss))(grid)
    best, product = np.argmin(np.nan_to_num(np.asarray(losses), nan=np.inf), 0), np.arange(start.n_products)
    chosen: dict[str, Any] = {name: getattr(candidates, name)[best, product] for name in (*_DYNAMICS, "unit")}
    return replace(start, **chosen)


def _with_volume(start: BarRepresentation, parts: np.ndarray, joined: np.ndarray) -> BarRepresentation:
    """How far log volume follows its trailing mean and its own bar's surprise, by least squares."""
    before, _ = _anchors(start, parts, joined)
    scale = np.asarray(start.scale(before.variance), np.float64)[..., None]
    known = (
        np.asarray(before.level[..., 1], np.float64),
        np.asarray(surprise(jnp.asarray(parts[..., :4] / scale)), np.float64),
    )
    causes = np.stack([x[joined] - x[joined].mean(0) for x in known], -1)
    volume = parts[joined][..., -1]
    slopes = [
        np.linalg.lstsq(causes[:, p], volume[:, p] - volume[:, p].mean(), rcond=None)[0] for p in range(len(scale[0]))
    ]
    clustering, loading = np.stack(slopes, -1)
    return replace(
        start,
        volume_clustering=jnp.asarray(np.clip(clustering, 0, _MOST_VOLUME_CLUSTERING), jnp.float32),
        volume_loading=jnp.asarray(loading, jnp.float32),
    )


def _with_feature_scales(start: BarRepresentation, training: Bars) -> BarRepresentation:
    """Means and deviations of the training part's features."""
    encoded = start.encode(training, 0)
    joined = np.flatnonzero(np.asarray(encoded.joined))
    anchor = Anchor(encoded.level[joined[0] - 1], encoded.variance[joined[0]])
    features = np.asarray(start._features(encoded.channels[joined], anchor), np.float64)
    return replace(
        start,
        feature_mean=jnp.asarray(features.mean(0), jnp.float32),
        feature_deviation=jnp.asarray(np.maximum(features.std(0), 1e-3), jnp.float32),
    )


def _values(
    representation: BarRepresentation, parts: np.ndarray, before: Anchor, noise: np.random.Generator | None
) -> np.ndarray:
    """float64[T, P, C] what the marginal maps act on, of parts and the anchors before them [T, ...]."""
    values = parts / np.asarray(representation.scale(before.variance), np.float64)[..., None]
    if not representation.ranged:
        return values
    expected = representation.expected_volume(before.level[..., 1], jnp.asarray(values[..., :4]))
    values[..., 4] = parts[..., 4] - np.asarray(expected, np.float64)
    shadows = values[..., 2:4]
    u = 0.5 if noise is None else noise.random(shadows.shape)
    # A shadow that is not there has a stretch of its own below zero.
    values[..., 2:4] = np.where(parts[..., 2:4] < _ROUNDING, -_NO_SHADOW * u, shadows)
    return values


def _anchors(representation: BarRepresentation, parts: np.ndarray, joined: np.ndarray) -> tuple[Anchor, Anchor]:
    """[T, ...] the anchors before and behind each row; prices in them count from the first row's."""
    return _scan(representation, jnp.asarray(parts, jnp.float32), jnp.asarray(joined))


@jax.jit
def _scan(representation: BarRepresentation, parts: jax.Array, joined: jax.Array) -> tuple[Anchor, Anchor]:
    """A row that does not continue the last starts from the long run, and from its own volume."""

    def step(before: Anchor, now: tuple[jax.Array, jax.Array]) -> tuple[Anchor, tuple[Anchor, Anchor]]:
        row, continues = now
        zero = jnp.zeros(len(row))
        fresh = Anchor(jnp.stack([zero, row[:, -1], zero], -1), representation.long_run)
        after = jax.tree.map(lambda x, y: jnp.where(continues, x, y), representation.after(before, row), fresh)
        return after, (jax.tree.map(lambda x, y: jnp.where(continues, x, y), before, fresh), after)

    start = Anchor(jnp.zeros((parts.shape[1], 3)), representation.long_run)
    return jax.lax.scan(step, start, (parts, joined))[1]


def _no_session(close: jax.Array) -> jax.Array:
    return jnp.zeros(len(close), jnp.int32)
