"""Order books as unconstrained numbers and back, so that whatever a generator draws is a valid book.

A book is taken apart into whole numbers that are free of each other: the move of the double mid in half ticks, the
spread and the gaps between levels in ticks, sizes and traded volume in lots, and the share of volume that takers
bought. Each of them becomes one channel with a standard normal marginal, `z = Phi^-1(F(x))`, F fitted on the
training part. That monotone map carries the heavy tails, which a Lipschitz generator fed with Gaussian noise cannot
make: such a generator only has to learn how the channels depend on each other. The move is divided by a trailing
volatility first, so that clusters of volatility follow from the decoder's own recursion.

Whole numbers are spread uniformly over their unit for training (dequantisation, Theis et al. 2016), which leaves the
critic no lattice to spot; decoding rounds. A real window encoded with or without that noise decodes to itself exactly
while neighbouring knots of F lie less than 2e5 units apart.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from marljax.data.schema import InputError, MarketData, Product
from marljax.features import FeatureConfig, FeaturePipeline, transform
from marljax.features import fit as fit_features
from marljax.generative.book_values import (
    SIZES,
    columns,
    flow_columns,
    hold,
    holding_of,
    in_columns,
    move_column,
    pick,
    values_of,
)
from marljax.generative.books import Numbers, Parts, decompose, next_mid
from marljax.generative.interface import N_REGIMES, Anchor, Encoded, Holding, regime_of
from marljax.generative.marginals import Marginals, fit_marginals

HALF_LIFE = 16.0
"""Half-life of the trailing volatility [steps]."""

_DECAY = 0.5 ** (1.0 / HALF_LIFE)
_LATTICE = 1 / 3
"""Variance of the noise that spreads a move over the two half ticks between allowed ones [half ticks squared]."""

_COARSE = 4.0
"""Mean squared move below which the tick grid shapes a product's moves [half ticks squared]."""

_LARGEST_UNIT = float(2**20)
_LARGEST_MID = 2**27
_FEWEST_STEPS = 64

DERIVED = FeatureConfig(
    names=(
        "volatility",
        "z_score",
        "imbalance",
        "depth_imbalance",
        "microprice",
        "order_flow_imbalance",
        "signed_flow",
    ),
    volatility_window=8,
    z_score_window=16,
    flow_window=8,
    liquidity_window=16,
)
"""What the critic is shown beside the channels, over windows that fit into a generated one."""


@struct.dataclass
class Representation:
    """The fitted map between books and channels. Everything in it comes from the training part."""

    marginals: Marginals  # of every column, see book_values.columns
    move_edges: jax.Array  # int32[P, len(SIZES)] half ticks, quantiles of the sizes of moves
    holding: Holding  # of the touch, and of each level's gap and size
    long_run: jax.Array  # float32[P] half ticks squared, mean squared move
    clustering: jax.Array  # float32[P] how far the scale follows the trailing variance, 0 (not at all) to 0.95
    scale_bounds: jax.Array  # float32[2, P] half ticks, the least and largest trailing volatility
    mid_bounds: jax.Array  # int32[2, P] half ticks, where generated prices stop
    regime_edges: jax.Array  # float32[P, N_REGIMES-1] half ticks squared, quantiles of the trailing variance
    regime_variance: jax.Array  # float32[P, N_REGIMES] half ticks squared, the typical one of each regime
    step_seconds: jax.Array  # float32[] median time between rows [s]
    session_seconds: jax.Array  # float32[] longest time since a session's start [s]
    features: FeaturePipeline  # DERIVED with the training part's scales
    products: tuple[Product, ...] = struct.field(pytree_node=False)
    n_levels: int = struct.field(pytree_node=False)

    @property
    def n_products(self) -> int:
        """P."""
        return len(self.products)

    @property
    def n_channels(self) -> int:
        """C, of each product."""
        return 6 * self.n_levels + 3

    @property
    def n_derived(self) -> int:
        """D, of each product."""
        return len(self.features.feature_names)

    def scale(self, variance: jax.Array) -> jax.Array:
        """float32[..., P] half ticks, what divides a move: the root of the square expected after this trailing mean.

        As an expectation it keeps generated moves stationary with the training part's mean square; moves divided by
        the trailing mean alone would feed back on themselves, and their variance dies out or explodes (Nelson 1990).
        """
        expected = self.long_run + self.clustering * (variance - self.long_run) + _LATTICE
        return jnp.clip(jnp.sqrt(expected), self.scale_bounds[0], self.scale_bounds[1])

    def regime(self, variance: jax.Array) -> jax.Array:
        """int32[..., P] which third of the training part's trailing volatilities this one falls into."""
        return regime_of(variance, self.regime_edges)

    def encode(self, data: MarketData, seed: int | None = None) -> Encoded:
        """The channels of every row, on the host.

        With `seed` whole numbers are spread uniformly over their unit, for training; without, nothing is random.
        The trailing variance and channels of row t use rows up to t only. Raises InputError where products or levels
        are not those of the fit.
        """
        if data.products != self.products or data.n_levels != self.n_levels:
            raise InputError("the data's products or levels are not those the representation was fitted on")
        parts, joined = decompose(data)
        variance = _trailing_variance(parts.move, joined, np.asarray(self.long_run))
        noise = None if seed is None else np.random.default_rng(seed)
        values = values_of(parts, joined, np.asarray(self.scale(jnp.asarray(variance))), noise)
        move, k = jnp.asarray(parts.move), self.n_levels
        scores = self.marginals.to_scores(values[..., columns(k)])
        channels = scores[..., : self.n_channels]
        chosen = (move_column(move % 2 == 1, k), *flow_columns(move, self.move_edges, k))
        for channel, column in zip((0, 4 * k, 4 * k + 1), chosen, strict=True):
            channels[..., channel] = np.take_along_axis(scores, np.asarray(column)[..., None], -1)[..., 0]
        unknown = np.isnan(values)
        channels[unknown] = 0.0 if noise is None else noise.standard_normal(int(unknown.sum()))
        channels = hold(self.holding, channels.astype(np.float32))
        clock = np.asarray(data.seconds) / max(float(self.session_seconds), 1e-9)
        return Encoded(
            channels=jnp.asarray(channels),
            variance=jnp.asarray(variance, jnp.float32),
            level=data.double_mid,
            clock=jnp.asarray(np.clip(clock, 0, 1), jnp.float32),
            joined=jnp.asarray(joined),
        )

    def decode(self, channels: jax.Array, anchor: Anchor) -> tuple[tuple[Parts, jax.Array], Anchor]:
        """Any float32[W, P, C] as valid books: parts, int32[W, P] double mids, and the anchor of the next window.

        Jittable. NaN counts as the median; levels behind an absent one are absent and stand one tick further each.
        """
        values, moves = self._values_of(channels, anchor.level)
        return self._books(values, moves, anchor)

    def derive(self, channels: jax.Array, anchor: Anchor) -> jax.Array:
        """float32[W, P, D] features `DERIVED` of any float32[W, P, C], in training deviations from the training mean.

        The project's own feature code on the books these channels decode to behind `anchor`, but that nothing is
        rounded, so that gradients flow.
        """
        values, moves = self._values_of(channels, anchor.level)
        k = self.n_levels
        spread = jnp.maximum(values[..., 1], 1)
        gaps, sizes = _deep(values, k)

        def step(carry: tuple[jax.Array, jax.Array], scaled: jax.Array) -> tuple[Any, Any]:
            mid, variance = carry
            move = scaled * self.scale(variance)
            return (mid + move, next_variance(variance, move)), (mid + move, move)

        start = (anchor.level.astype(jnp.float32), anchor.variance)
        _, (double_mid, move) = jax.lax.scan(step, start, moves)
        volume, sign = self._flow(values, move)
        bid, n = (double_mid - spread) / 2, len(channels)
        book = MarketData(
            bid_price=jnp.concatenate([bid[..., None], bid[..., None] - jnp.cumsum(gaps[..., 0, :], -1)], -1),
            ask_price=(bid + spread)[..., None]
            + jnp.concatenate([jnp.zeros_like(bid)[..., None], jnp.cumsum(gaps[..., 1, :], -1)], -1),
            bid_size=sizes[..., 0, :],
            ask_size=sizes[..., 1, :],
            trade_volume=volume,
            trade_imbalance=sign * volume,
            pnl=jnp.full(volume.shape, jnp.nan),
            valid=jnp.ones(volume.shape, bool),
            seconds=self.step_seconds * jnp.arange(n),
            session=jnp.zeros(n, jnp.int32),
            products=self.products,
            origin="synthetic",
        )
        return transform(self.features, book)

    def _values_of(self, channels: jax.Array, before: jax.Array) -> tuple[jax.Array, jax.Array]:
        """float32[W, P, C+7] values in columns, and float32[W, P] scaled moves.

        The double mid is odd where the spread is, so that the spreads say which moves are odd; `before` int32[P] is the
        double mid of the row before.
        """
        scores = channels[..., columns(self.n_levels)]
        values = jnp.clip(self.marginals.to_values(scores), -_LARGEST_UNIT, _LARGEST_UNIT)
        spread = jnp.maximum(jnp.round(values[..., 1]).astype(jnp.int32), 1)
        odd = jnp.diff(spread, axis=0, prepend=before[None]) % 2 == 1
        still = self.holding.held(channels.reshape(len(channels), -1)).reshape(channels.shape)[..., 0]
        return values, jnp.where(still, 0.0, pick(values, move_column(odd, self.n_levels)))

    def _flow(self, values: jax.Array, move: jax.Array) -> tuple[jax.Array, jax.Array]:
        """float32[W, P] traded volume and the share that takers bought less the share they sold, -1 to 1."""
        volume, sign = (pick(values, x) for x in flow_columns(move, self.move_edges, self.n_levels))
        return jnp.maximum(volume, 0), jnp.clip(sign, -1, 1)

    def _books(
        self, values: jax.Array, scaled_move: jax.Array, anchor: Anchor
    ) -> tuple[tuple[Parts, jax.Array], Anchor]:
        whole = jnp.round(values).astype(jnp.int32)
        spread = jnp.maximum(whole[..., 1], 1)
        gaps, sizes = _deep(whole, self.n_levels)

        def step(now: Anchor, inputs: tuple[jax.Array, jax.Array]) -> tuple[Anchor, tuple[jax.Array, jax.Array]]:
            scaled, width = inputs
            wanted = jnp.clip(scaled * self.scale(now.variance), -_LARGEST_UNIT, _LARGEST_UNIT)
            mid = next_mid(now.level, wanted, width, self.mid_bounds)
            move = mid - now.level
            return Anchor(mid, next_variance(now.variance, move)), (mid, move)

        after, (double_mid, move) = jax.lax.scan(step, anchor, (scaled_move, spread))
        traded, sign = self._flow(values, move)
        volume = jnp.round(traded).astype(jnp.int32)
        imbalance = jnp.clip(jnp.round(sign * volume).astype(jnp.int32), -volume, volume)
        sides = (gaps[..., 0, :], gaps[..., 1, :], sizes[..., 0, :], sizes[..., 1, :])
        return (Parts(move, spread, *sides, volume, imbalance), double_mid), after


def channel_names(n_levels: int) -> tuple[str, ...]:
    """The C = 6K + 3 channels in order. The last 2K + 1 say what stays as it was in the row before."""
    deeper, levels = range(2, n_levels + 1), range(1, n_levels + 1)
    return (
        "move",
        "spread",
        *(f"bid_gap_{k}" for k in deeper),
        *(f"ask_gap_{k}" for k in deeper),
        *(f"bid_size_{k}" for k in levels),
        *(f"ask_size_{k}" for k in levels),
        "volume",
        "sign",
        "touch_kept",
        *(f"bid_kept_{k}" for k in levels),
        *(f"ask_kept_{k}" for k in levels),
    )


def next_variance(variance: jax.Array, move: jax.Array) -> jax.Array:
    """float32[P] the trailing mean of squared moves after one more (exponentially weighted)."""
    return _DECAY * variance + (1 - _DECAY) * jnp.square(move.astype(jnp.float32))


def fit(training: MarketData) -> Representation:
    """Fit scales and marginals on the training part; deterministic. Raises InputError where it is too short."""
    parts, joined = decompose(training)
    if joined.sum() < _FEWEST_STEPS:
        raise InputError(
            f"the training part has {int(joined.sum())} steps that continue the one before; "
            f"the generator needs at least {_FEWEST_STEPS}"
        )
    moves = np.asarray(parts.move, np.float64)[joined]
    # A product that never moves keeps a scale of one half tick.
    long_run = np.maximum(np.mean(moves**2, 0), 0.25).astype(np.float32)
    variance = _trailing_variance(parts.move, joined, long_run)
    trailing = variance[joined].astype(np.float64)
    # A coarse lattice does not stretch: there, rescaled moves would be rounded up more than down.
    clustering = _slope(moves**2, trailing) * long_run / (long_run + 12 * _LATTICE)
    regime_edges = np.quantile(trailing, np.arange(1, N_REGIMES) / N_REGIMES, axis=0).T
    # Means, because the expected square of a move is linear in the trailing variance.
    thirds = np.array_split(np.sort(trailing, axis=0), N_REGIMES)
    typical = np.stack([third.mean(0) for third in thirds], -1)
    scale = np.sqrt(long_run + clustering * (trailing - long_run) + _LATTICE)
    scale_bounds = np.stack([scale.min(0), scale.max(0)])
    mid = np.asarray(training.double_mid).astype(np.int64)
    low, high = mid.min(0), mid.max(0)
    # Prices that are positive stay so, within an eighth and eightfold of what was seen.
    positive = np.stack([np.maximum(low // 8, 2), high * 8])
    bounds = np.where(low > 0, positive, 8 * np.array([[-1], [1]]) * abs(mid).max(0))
    everywhere = np.ones(mid.shape)
    everywhere[joined] = scale
    values = values_of(parts, joined, everywhere, np.random.default_rng(0))[joined]
    # A product that never moves has no sizes to tell apart.
    sizes = [np.abs(x[x != 0]) if (x != 0).any() else np.zeros(1) for x in moves.T]
    move_edges = np.stack([np.quantile(x, SIZES).astype(np.int32) for x in sizes])
    marginals = fit_marginals(in_columns(values, np.asarray(parts.move)[joined], move_edges, long_run < _COARSE))
    seconds = np.asarray(training.seconds, np.float64)
    return Representation(
        marginals=marginals,
        move_edges=jnp.asarray(move_edges),
        holding=holding_of(marginals, training.n_levels),
        long_run=jnp.asarray(long_run),
        clustering=jnp.asarray(clustering, jnp.float32),
        scale_bounds=jnp.asarray(scale_bounds, jnp.float32),
        mid_bounds=jnp.asarray(np.clip(bounds, -_LARGEST_MID, _LARGEST_MID), jnp.int32),
        regime_edges=jnp.asarray(regime_edges, jnp.float32),
        regime_variance=jnp.asarray(typical, jnp.float32),
        step_seconds=jnp.float32(np.median(np.diff(seconds)[joined[1:]])),
        session_seconds=jnp.float32(seconds.max()),
        features=fit_features(training, DERIVED),
        products=training.products,
        n_levels=training.n_levels,
    )


def _deep(values: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
    """Gaps [..., 2, K-1], at least 1, and sizes [..., 2, K] of values [..., C+1]; nothing behind an absent level."""
    gaps = jnp.maximum(values[..., 2 : 2 * k].reshape(*values.shape[:-1], 2, k - 1), 1)
    sizes = jnp.maximum(values[..., 2 * k : 4 * k].reshape(*values.shape[:-1], 2, k), 0)
    sizes = sizes.at[..., 0].max(1)
    there = jnp.cumprod(jnp.round(sizes) > 0, axis=-1)
    return jnp.where(there[..., 1:] > 0, gaps, 1), sizes * there


def _slope(y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """float64[P] least-squares slope of y on x [N, P], held within 0..0.95."""
    centred = x - x.mean(0)
    return np.clip(np.mean(centred * y, 0) / np.maximum(np.mean(centred**2, 0), 1e-12), 0.0, 0.95)


def _trailing_variance(move: Numbers, joined: np.ndarray, long_run: np.ndarray) -> np.ndarray:
    """float32[T, P], of the rows before each; starts from the long run wherever a row does not continue the last."""

    return np.asarray(_scan_variance(jnp.asarray(move), jnp.asarray(joined), jnp.asarray(long_run)))


@jax.jit
def _scan_variance(move: jax.Array, joined: jax.Array, long_run: jax.Array) -> jax.Array:
    def step(variance: jax.Array, now: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        moved, continues = now
        before = jnp.where(continues, variance, long_run)
        return next_variance(before, moved), before

    return jax.lax.scan(step, long_run, (move, joined))[1]
