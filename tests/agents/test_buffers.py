import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marljax.agents.buffers import ReplayBuffer


def test_holds_the_last_items_once_full():
    buffer = ReplayBuffer.empty(jnp.float32(0), 6)
    for start in range(0, 16, 2):
        buffer = buffer.add(jnp.arange(start, start + 2, dtype=jnp.float32))
    assert sorted(np.asarray(buffer.items)) == [10, 11, 12, 13, 14, 15]
    assert int(buffer.size) == 6


def test_samples_uniformly_and_only_what_was_added():
    buffer = ReplayBuffer.empty(jnp.int32(-1), 64).add(jnp.arange(8))
    counts = np.bincount(np.asarray(buffer.sample(jax.random.bits(jax.random.key(0), 8000))), minlength=8)
    assert len(counts) == 8
    assert np.abs(counts / 1000 - 1).max() < 0.12


def test_a_refused_batch_changes_nothing():
    before = ReplayBuffer.empty(jnp.float32(0), 4).add(jnp.ones(2))
    after = before.add(jnp.full(2, jnp.nan), accept=jnp.bool(False))
    jax.tree.map(np.testing.assert_array_equal, before, after)


def test_a_batch_that_would_wrap_is_an_error():
    with pytest.raises(ValueError, match="not a multiple"):
        ReplayBuffer.empty(jnp.float32(0), 5).add(jnp.ones(2))
