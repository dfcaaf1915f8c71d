"""What the allocator knows of the market at each rebalance: covariance, and risk parity on it.

It depends on recorded prices alone, never on what an agent does, so it is computed once per tape and not once per
environment. Causal: the state of a block uses the rows up to its first.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from marljax.data.schema import MarketData
from marljax.portfolio import correlation_regimes, covariance
from marljax.portfolio.correlation_regimes import Regimes
from marljax.portfolio.risk_parity import risk_parity


@struct.dataclass
class Blocks:
    """The rows between two rebalances. Blocks tile every session; a session's last one may be shorter."""

    start: jax.Array  # int32[N] first row
    length: jax.Array  # int32[N] rows, at most the rebalancing interval


@struct.dataclass
class MarketState:
    """Known at the first row of each block."""

    base: jax.Array  # float32[N, P] risk-parity weights, summing to one
    volatility: jax.Array  # float32[N, P] standard deviation of a product's return per row
    covariance: jax.Array  # float32[N, P, P] of the products' returns per row
    correlation: jax.Array  # float32[N] mean pairwise correlation (0 for one product)
    correlation_change: jax.Array  # float32[N] how far it stands above its own average with the covariance's half-life
    regime: jax.Array  # float32[N] -1 calm, 0 usual or unknown, 1 turbulent, by volatility or by correlation


def cut_blocks(session: np.ndarray, rows_per_block: int) -> Blocks:
    """Tile every session of `session` (int[T], never decreasing) with blocks of `rows_per_block` rows."""
    session = np.asarray(session)
    _, counts = np.unique(session, return_counts=True)
    ends = np.cumsum(counts)
    starts, lengths = np.empty(0, int), np.empty(0, int)
    for end, n in zip(ends, counts, strict=True):
        first = np.arange(end - n, end, rows_per_block)
        starts, lengths = np.append(starts, first), np.append(lengths, np.minimum(rows_per_block, end - first))
    return Blocks(jnp.asarray(starts, jnp.int32), jnp.asarray(lengths, jnp.int32))


def row_returns(data: MarketData) -> jax.Array:
    """Log return of the mid from the row before, float32[T, P]; 0 on a session's first row.

    A mid below half a tick counts as half a tick.
    """
    mid = jnp.maximum(data.double_mid, 1)
    returns = jnp.log1p(jnp.diff(mid, axis=0, prepend=mid[:1]) / jnp.roll(mid, 1, axis=0))
    first = jnp.diff(data.session, prepend=data.session[:1] - 1) != 0
    return jnp.where(first[:, None], 0.0, returns)


@partial(jax.jit, static_argnames="rows_per_block")
def market_state(
    returns: jax.Array,
    blocks: Blocks,
    half_life: jax.Array,
    shrinkage: jax.Array,
    rows_per_block: int,
    regimes: jax.Array | None = None,
    assumed: Regimes | None = None,
) -> MarketState:
    """The allocator's view at every block.

    Args:
        returns: float32[T, P] see `row_returns`.
        blocks: N blocks that tile the rows.
        half_life: float32[] of the covariance [rows].
        shrinkage: float32[] in [0, 1], weight of the diagonal.
        rows_per_block: the rebalancing interval the blocks were cut with.
        regimes: float32[T] the volatility regime known at each row, -1 to 1; left out it is unknown.
        assumed: of regimes of correlation, whose covariance then takes the place of the exponentially weighted one. A
            probability p of stress is a regime of at least 2 p - 1.
    """
    n_products = returns.shape[1]

    def seen(state: Any, row: jax.Array) -> Any:
        if assumed is None:
            return covariance.update(state, row, half_life)
        return correlation_regimes.update(state, row, assumed)

    def known(state: Any) -> tuple[jax.Array, jax.Array]:
        if assumed is None:
            return covariance.covariance(state, shrinkage), jnp.float32(0.0)
        return correlation_regimes.covariance(state, shrinkage), state.probability

    def block(state: Any, block: Blocks) -> tuple[Any, tuple[jax.Array, jax.Array]]:
        def row(state: Any, i: jax.Array) -> tuple[Any, None]:
            updated = seen(state, returns[block.start + i])
            return jax.tree.map(lambda new, old: jnp.where(i < block.length, new, old), updated, state), None

        state, _ = row(state, jnp.int32(0))
        return jax.lax.scan(row, state, jnp.arange(1, rows_per_block))[0], known(state)

    nothing = covariance if assumed is None else correlation_regimes
    _, (matrices, stress) = jax.lax.scan(block, nothing.init(n_products), blocks)
    volatility = jnp.sqrt(jnp.diagonal(matrices, axis1=1, axis2=2))
    correlations = matrices / (volatility[:, :, None] * volatility[:, None, :])
    pairs = max(n_products * (n_products - 1), 1)
    mean_correlation = (jnp.sum(correlations, (1, 2)) - n_products) / pairs
    turbulent = jnp.zeros(returns.shape[0]) if regimes is None else regimes
    return MarketState(
        base=jax.vmap(risk_parity)(matrices),
        volatility=volatility,
        covariance=matrices,
        correlation=mean_correlation,
        correlation_change=mean_correlation - _average(mean_correlation, 0.5 ** (rows_per_block / half_life)),
        regime=jnp.maximum(turbulent[blocks.start], 2.0 * stress - 1.0),
    )


def _average(values: jax.Array, decay: jax.Array) -> jax.Array:
    """The exponentially weighted mean of float32[N] up to each of them; `decay` float32[] is the weight of the past."""

    def step(carry: tuple[jax.Array, jax.Array], value: jax.Array) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
        total, weight = decay * carry[0] + value, decay * carry[1] + 1.0
        return (total, weight), total / weight

    zero = jnp.zeros((), values.dtype)
    return jax.lax.scan(step, (zero, zero), values)[1]
