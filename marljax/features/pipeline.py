"""Named features of MarketData, and the scaling that a policy sees: `fit` on the training part, `transform` anywhere.

A feature at step t is a function of data up to t, with statistics that begin anew with every session. What has to be
learnt from data (scales, the relative-value relation, the length of a session) is a leaf of the fitted pipeline.

>>> pipeline = fit(train, FeatureConfig())
>>> features = transform(pipeline, test)  # float32[T, P, F]
"""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from marljax.data.schema import MarketData
from marljax.features.registry import REGISTRY, FeatureConfig, ProductView
from marljax.features.relative_value import RelativeValue, fit_relative_value, no_relative_value, residuals
from marljax.features.returns import MINIMUM_COUNT
from marljax.features.windows import session_age

CLIP = 5.0
"""Scaled features lie within this many training deviations of the training mean."""

_TAIL = 0.005
_WHOLE_DAY = 86_400.0


@struct.dataclass
class Reference:
    """What features know of the training part."""

    relative_value: RelativeValue
    session_seconds: jax.Array  # float32[] length of a session [s]


@struct.dataclass
class FeaturePipeline:
    """A fitted pipeline: features, what they know of the training part, and the training part's scales."""

    reference: Reference
    mean: jax.Array  # float32[P, F]
    scale: jax.Array  # float32[P, F] standard deviation, 0 where the training part was constant
    config: FeatureConfig = struct.field(pytree_node=False)

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names along the last axis."""
        return self.config.names


@partial(jax.jit, static_argnames="config")
def compute(data: MarketData, config: FeatureConfig, reference: Reference | None = None) -> jax.Array:
    """float32[T, P, F] unscaled features, each finite for any valid data; windows not yet full are partial.

    Leaves may be float32 instead of int32, and gradients flow to them. Without a reference nothing has been fitted:
    `relative_value` is 0 and `time_of_session` is the fraction of `session_seconds`, or of a whole day.
    """
    chex.assert_rank(data.bid_price, 3)
    if reference is None:
        seconds = jnp.float32(config.session_seconds or _WHOLE_DAY)
        reference = Reference(no_relative_value(data.n_products), seconds)

    view = ProductView(
        bid_price=data.bid_price,
        ask_price=data.ask_price,
        bid_size=data.bid_size,
        ask_size=data.ask_size,
        trade_volume=data.trade_volume,
        trade_imbalance=data.trade_imbalance,
        residual=residuals(data.double_mid, reference.relative_value),
        age=_ages(data),
        seconds=data.seconds,
        session_seconds=reference.session_seconds,
    )
    per_product = jax.tree.map(lambda _: 1, view)._replace(seconds=None, session_seconds=None)

    def one_product(view: ProductView) -> jax.Array:
        return jnp.stack([REGISTRY[name].compute(view, config) for name in config.names], axis=-1)

    return jax.vmap(one_product, in_axes=(per_product,), out_axes=1)(view)


def fit(train: MarketData, config: FeatureConfig) -> FeaturePipeline:
    """The pipeline whose relations, means and scales are those of the training part, per product and feature.

    Mean and scale are those of observed rows with enough history, winsorised at the outer 0.5% on either side, so
    that a few wild rows do not flatten the rest.
    """
    reference = Reference(
        fit_relative_value(train, config.relative_value_horizon, config.relative_value_ridge),
        jnp.float32(config.session_seconds or _longest_session(train)),
    )
    raw = np.asarray(compute(train, config, reference), np.float64)
    known = np.asarray(_known(train, config)) & np.asarray(train.valid)[..., None]
    mean, scale = np.zeros(raw.shape[1:]), np.zeros(raw.shape[1:])
    for product, feature in np.ndindex(*mean.shape):
        values = raw[known[:, product, feature], product, feature]
        if values.size:
            mean[product, feature], scale[product, feature] = _robust_mean_and_scale(values)
    return FeaturePipeline(reference, jnp.asarray(mean, jnp.float32), jnp.asarray(scale, jnp.float32), config)


@jax.jit
def transform(pipeline: FeaturePipeline, data: MarketData) -> jax.Array:
    """float32[T, P, F] features in training deviations from the training mean, within -5..5.

    0 where the training part was constant, and where a session has fewer than `returns.MINIMUM_COUNT` steps behind a
    window: nothing is known there, and the training mean is the best guess.
    """
    raw = compute(data, pipeline.config, pipeline.reference)
    varies = pipeline.scale > 0
    scaled = jnp.where(varies, (raw - pipeline.mean) / jnp.where(varies, pipeline.scale, 1.0), 0.0)
    return jnp.where(_known(data, pipeline.config), jnp.clip(scaled, -CLIP, CLIP), 0.0)


@partial(jax.jit, static_argnames="config")
def _known(data: MarketData, config: FeatureConfig) -> jax.Array:
    """bool[T, P, F] whether a session is old enough for the feature's windows to mean something."""
    needed = [min(REGISTRY[name].window(config), MINIMUM_COUNT) for name in config.names]
    return _ages(data)[..., None] >= jnp.array(needed)


def _ages(data: MarketData) -> jax.Array:
    """int32[T, P] steps since each product's session began."""
    return jax.vmap(session_age, in_axes=(None, 1), out_axes=1)(data.session, data.valid)


def _longest_session(data: MarketData) -> float:
    seconds, session = np.asarray(data.seconds), np.asarray(data.session)
    last = np.flatnonzero(np.append(session[1:] != session[:-1], True))
    return max(float(seconds[last].max()), 1e-6)


def _robust_mean_and_scale(values: np.ndarray) -> tuple[float, float]:
    """Winsorised mean and standard deviation, the plain ones where only the tails vary; scale 0 for a constant."""
    for low, high in (np.quantile(values, (_TAIL, 1 - _TAIL)), (values.min(), values.max())):
        inner = np.clip(values, low, high)
        mean, scale = float(inner.mean()), float(inner.std())
        if scale > 1e-5 * abs(mean):
            return mean, scale
    return mean, 0.0
