"""What the venue and the broker charge a taker."""

import jax


def taker_fee(filled: jax.Array, notional: jax.Array, rate: jax.Array, per_lot: jax.Array) -> jax.Array:
    """Fee of a fill: a fraction of its notional plus an amount per lot, float32[] currency.

    Args:
        filled: int32[] lots, >= 0.
        notional: float32[] currency, the fill's value at the mid, >= 0.
        rate: float32[] fraction of notional (1e-4 is one basis point).
        per_lot: float32[] currency per lot.
    """
    return rate * notional + per_lot * filled
