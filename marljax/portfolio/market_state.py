"""What the allocator knows of the market at each rebalance: covariance, and risk parity on it.

It depends on recorded prices alone, never on what an agent does, so it is computed once per tape and not once per
environment. Causal: the state of a block uses the rows up to its first.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from marljax.data.schema import MarketData
from marljax.portfolio import covariance
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
    correlation: jax.Array  # float32[N] mean pairwise correlation (0 for one product)


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
    returns: jax.Array, blocks: Blocks, half_life: jax.Array, shrinkage: jax.Array, rows_per_block: int
) -> MarketState:
    """The allocator's view at every block.

    Args:
        returns: float32[T, P] see `row_returns`.
        blocks: N blocks that tile the rows.
        half_life: float32[] of the covariance [rows].
        shrinkage: float32[] in [0, 1], weight of the diagonal.
        rows_per_block: the rebalancing interval the blocks were cut with.
    """
    n_products = returns.shape[1]

    def block(state: covariance.CovarianceState, block: Blocks) -> tuple[covariance.CovarianceState, jax.Array]:
        def row(state: covariance.CovarianceState, i: jax.Array) -> tuple[covariance.CovarianceState, jax.Array]:
            updated = covariance.update(state, returns[block.start + i], half_life)
            state = jax.tree.map(lambda new, old: jnp.where(i < block.length, new, old), updated, state)
            return state, covariance.covariance(state, shrinkage)

        state, matrices = jax.lax.scan(row, state, jnp.arange(rows_per_block))
        return state, matrices[0]

    _, matrices = jax.lax.scan(block, covariance.init(n_products), blocks)
    volatility = jnp.sqrt(jnp.diagonal(matrices, axis1=1, axis2=2))
    correlations = matrices / (volatility[:, :, None] * volatility[:, None, :])
    pairs = max(n_products * (n_products - 1), 1)
    mean_correlation = (jnp.sum(correlations, (1, 2)) - n_products) / pairs
    return MarketState(base=jax.vmap(risk_parity)(matrices), volatility=volatility, correlation=mean_correlation)
