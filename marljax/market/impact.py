"""Square-root impact: what an order costs beyond the depth that is displayed."""

import jax
import jax.numpy as jnp


def square_root_impact(
    filled: jax.Array, coefficient: jax.Array, volatility: jax.Array, typical_volume: jax.Array
) -> jax.Array:
    """Temporary impact after the square-root law, coefficient * volatility * sqrt(filled / volume) per lot.

    Liquidity behind the displayed levels backs away from an order in proportion to volatility and to the square root
    of its share of what usually trades (Toth et al., Physical Review X 1, 021006, 2011; Almgren et al., 2005).

    Args:
        filled: int32[] lots, >= 0.
        coefficient: float32[] dimensionless, of order one for a metaorder; 0 switches impact off.
        volatility: float32[] ticks per step.
        typical_volume: float32[] lots per step, > 0.

    Returns:
        float32[] ticks x lots.
    """
    size = filled.astype(jnp.float32)
    return coefficient * volatility * size * jnp.sqrt(size / typical_volume)
