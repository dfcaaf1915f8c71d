"""Monotone maps between a channel's values and standard normal scores, fitted to the channel's marginal.

The quantile function is tabulated at normal scores evenly spaced from one tail to the other, so that the tails are
resolved as finely as the middle, and continued as a straight line beyond the largest and smallest value seen.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.scipy.special import ndtri
from jax.scipy.stats import norm

_N_KNOTS = 65


@struct.dataclass
class Marginals:
    """One monotone map per product and channel."""

    knots: jax.Array  # float32[P, C, Q] values at normal scores evenly spaced over -reach..reach
    tail_slope: jax.Array  # float32[2, P, C] value per normal score below the first and above the last knot
    reach: jax.Array  # float32[] the last knot's normal score

    def to_scores(self, values: np.ndarray) -> np.ndarray:
        """Normal scores float64[T, P, C] of values float64[T, P, C], on the host; NaN stays NaN."""
        knots, slopes = np.asarray(self.knots, np.float64), np.asarray(self.tail_slope, np.float64)
        grid = np.linspace(-float(self.reach), float(self.reach), _N_KNOTS)
        scores = np.zeros(values.shape)
        for p, c in np.ndindex(knots.shape[:2]):
            x, at = values[:, p, c], knots[p, c]
            beyond = np.minimum(x - at[0], 0) / slopes[0, p, c] + np.maximum(x - at[-1], 0) / slopes[1, p, c]
            scores[:, p, c] = np.interp(x, at, grid) + beyond
        return scores

    def to_values(self, scores: jax.Array) -> jax.Array:
        """Values float32[..., P, C] of normal scores float32[..., P, C]; jittable. NaN counts as the median."""
        # Row by row: fused into what uses the values, the look-up would be done again for every use.
        return jax.lax.map(self._of_row, scores) if scores.ndim == 3 else self._of_row(scores)

    def _of_row(self, scores: jax.Array) -> jax.Array:
        scores = jnp.nan_to_num(scores, nan=0.0, posinf=1e6, neginf=-1e6)
        place = jnp.clip((scores + self.reach) * ((_N_KNOTS - 1) / (2 * self.reach)), 0, _N_KNOTS - 1)
        below = jnp.clip(jnp.floor(place), 0, _N_KNOTS - 2).astype(jnp.int32)
        product, channel = jnp.ogrid[: self.knots.shape[0], : self.knots.shape[1]]
        lower, upper = self.knots[product, channel, below], self.knots[product, channel, below + 1]
        inside = lower + (upper - lower) * (place - below)
        under, over = jnp.minimum(scores + self.reach, 0), jnp.maximum(scores - self.reach, 0)
        return inside + under * self.tail_slope[0] + over * self.tail_slope[1]


def fit_marginals(values: np.ndarray) -> Marginals:
    """The maps of values float64[N, P, C], missing ones NaN."""
    ordered = np.sort(values, axis=0)
    n = np.isfinite(ordered).sum(0)
    reach = float(ndtri(1 - 0.5 / len(ordered)))
    uniform = np.asarray(norm.cdf(np.linspace(-reach, reach, _N_KNOTS)), np.float64)[:, None, None]
    last = np.maximum(n - 1, 0)
    place = np.clip(uniform * n - 0.5, 0, last)
    below = np.floor(place).astype(np.int64)
    lower = np.take_along_axis(ordered, below, 0)
    upper = np.take_along_axis(ordered, np.minimum(below + 1, last), 0)
    # A channel without one value (a product that never trades has no sign) has no marginal either: a coin's will do.
    lower, upper = (np.where(n > 0, x, 2 * uniform - 1) for x in (lower, upper))
    knots = np.maximum.accumulate(lower + (upper - lower) * (place - below), 0)
    spacing, median = 2 * reach / (_N_KNOTS - 1), knots[_N_KNOTS // 2]
    # A tail is at least as steep as the way to it, or a value just beyond the last knot would have an absurd score.
    lower_slope = np.maximum((knots[1] - knots[0]) / spacing, (median - knots[0]) / reach)
    upper_slope = np.maximum((knots[-1] - knots[-2]) / spacing, (knots[-1] - median) / reach)
    return Marginals(
        knots=jnp.asarray(np.moveaxis(knots, 0, -1), jnp.float32),
        tail_slope=jnp.asarray(np.maximum(np.stack([lower_slope, upper_slope]), 1e-3), jnp.float32),
        reach=jnp.float32(reach),
    )
