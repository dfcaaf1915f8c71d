"""What a product is worth given the others: a regression of its log mid on theirs, and how far it strays from it.

An ETF strays from its basket, a future from its spot, and comes back (Engle and Granger, 1987). Loadings come from
changes, not levels: a regression of one wandering level on others always finds something (Granger and Newbold, 1974),
and its residual drifts off in the next period. What is fitted on changes has to prove itself on levels: the relation
is used only where its residual passes for stationary. Fitted on a training part only, in float64 on the host.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from marljax.data.schema import MarketData
from marljax.features.returns import log_ratio
from marljax.features.windows import linear_recurrence, session_age

_CRITICAL = -3.12
"""2.5% quantile of the Dickey-Fuller statistic with a constant (MacKinnon, 2010)."""
_BLOCKS = 1000
_LAGS = 4


@struct.dataclass
class RelativeValue:
    """One fitted relation per product; a product without one has a row of zeros."""

    anchor: jax.Array  # float32[P] half ticks, the double mid that log mids are taken relative to
    loadings: jax.Array  # float32[P, P] elasticity of the row's product to the column's, diagonal 1 or 0
    offset: jax.Array  # float32[P] the training mean of the loaded sum
    scale: jax.Array  # float32[P] standard deviation of the training residual, 0 without a relation


def fit_relative_value(train: MarketData, horizon: int, ridge: float) -> RelativeValue:
    """Ridge regressions of each product's log mid change over `horizon` steps on the other products'.

    `ridge` is the penalty relative to the unit variance of a regressor. A product takes part if its mid is always
    positive and moves; its relation is kept if the residual of its levels rejects a unit root at 2.5%.
    """
    double_mid = np.asarray(train.double_mid).astype(np.float64)
    n_products = train.n_products
    anchor = np.maximum(double_mid[0], 1.0).astype(np.float32)
    log_mid = np.log(np.maximum(double_mid, 1.0) / anchor)
    age = np.asarray(_youngest_age(train.session, train.valid))
    level = log_mid[age > 0]
    later = np.flatnonzero(age >= horizon)
    change = log_mid[later] - log_mid[later - horizon]
    deviation = change.std(axis=0) if len(change) else np.zeros(n_products)
    taking_part = (double_mid > 0).all(axis=0) & (deviation > 0)
    loadings, offset, scale = np.zeros((n_products, n_products)), np.zeros(n_products), np.zeros(n_products)
    for product in np.flatnonzero(taking_part):
        others = np.flatnonzero(taking_part & (np.arange(n_products) != product))
        if not others.size:
            continue
        x = change[:, others] / deviation[others]
        beta = np.linalg.solve(x.T @ x + ridge * len(x) * np.eye(others.size), x.T @ change[:, product])
        row = np.zeros(n_products)
        row[product], row[others] = 1.0, -beta / deviation[others]
        residual = level @ row
        if _passes_for_stationary(residual):
            loadings[product], offset[product], scale[product] = row, residual.mean(), residual.std()
    as_float32 = (jnp.asarray(a, jnp.float32) for a in (anchor, loadings, offset, scale))
    return RelativeValue(*as_float32)


def no_relative_value(n_products: int) -> RelativeValue:
    """No relation for any of `n_products` products."""
    zeros = jnp.zeros(n_products)
    return RelativeValue(jnp.ones(n_products), jnp.zeros((n_products, n_products)), zeros, zeros)


def residuals(double_mid: jax.Array, relation: RelativeValue) -> jax.Array:
    """float32[T, P] residual in training standard deviations, 0 without a relation. `double_mid` [T, P] half ticks."""
    log_mid = log_ratio(double_mid, relation.anchor.astype(double_mid.dtype))
    residual = jnp.einsum("tj,ij->ti", log_mid, relation.loadings, precision="highest") - relation.offset
    related = relation.scale > 0
    return jnp.where(related, residual / jnp.where(related, relation.scale, 1.0), 0.0)


def residual_z_score(residual: jax.Array, age: jax.Array, span: int) -> jax.Array:
    """float32[T] residual around its slow mean, an exponential average of this span that a session begins at 0.

    0 is the training mean: the first row of a session already tells cheap from dear, and a relation that has drifted
    since is forgotten at the pace of the span. `residual` float32[T] is one column of `residuals`.
    """
    weight = 2 / (span + 1)
    decay = jnp.where(age > 0, jnp.float32(1 - weight), 0.0)
    return residual - linear_recurrence(decay, weight * residual)


@jax.jit
def _youngest_age(session: jax.Array, valid: jax.Array) -> jax.Array:
    """int32[T] steps since the last product's session began."""
    return jax.vmap(session_age, in_axes=(None, 1))(session, valid).min(axis=0)


def _passes_for_stationary(residual: np.ndarray) -> bool:
    """Augmented Dickey-Fuller test on block means, which bid-ask bounce does not fool. `residual` float64[N]."""
    block = max(1, len(residual) // _BLOCKS)
    level = residual[: len(residual) // block * block].reshape(-1, block).mean(axis=1)
    change = np.diff(level)
    n_rows = len(change) - _LAGS
    if n_rows < 20:
        return False
    lagged = [change[_LAGS - k : len(change) - k] for k in range(1, _LAGS + 1)]
    x = np.column_stack([level[_LAGS:-1] - level.mean(), np.ones(n_rows), *lagged])
    y = change[_LAGS:]
    beta = np.linalg.lstsq(x, y, rcond=None)[0]
    noise = ((y - x @ beta) ** 2).sum() / (n_rows - x.shape[1])
    error = np.sqrt(noise * np.linalg.pinv(x.T @ x)[0, 0])
    return bool(error > 0 and beta[0] / error < _CRITICAL)
