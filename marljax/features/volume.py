"""What was traded, and by whom: volume against its own average, and the balance of buying and selling takers.

Functions take one product's lots [T] traded since the row before, int32 or float32. A session's first row belongs
to the time before it and counts for nothing. `age` int32[T] is the steps since the session began.
"""

import chex
import jax

from marljax.features.windows import flows, ratio, rolling_flow_mean, rolling_sum


def relative_volume(trade_volume: jax.Array, age: jax.Array, window: int, long_window: int) -> jax.Array:
    """float32[T] mean volume of the last `window` steps over that of the last `long_window`; 1 where nothing traded."""
    chex.assert_equal_shape([trade_volume, age])
    recent = rolling_flow_mean(trade_volume, age, window)
    return ratio(recent, rolling_flow_mean(trade_volume, age, long_window), otherwise=1.0)


def signed_flow(trade_volume: jax.Array, trade_imbalance: jax.Array, age: jax.Array, window: int) -> jax.Array:
    """float32[T] lots bought less lots sold by takers, over lots traded, in the last `window` steps; in -1..1."""
    chex.assert_equal_shape([trade_volume, trade_imbalance, age])
    net = rolling_sum(flows(trade_imbalance, age), age, window)
    return ratio(net, rolling_sum(flows(trade_volume, age), age, window))
