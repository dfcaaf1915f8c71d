import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from marljax.agents.buffers import PrioritisedReplay, ReplayBuffer, SumTree

both = pytest.mark.parametrize("kind", [ReplayBuffer, PrioritisedReplay])


def bits(seed, n):
    return jax.random.bits(jax.random.key(seed), (n,))


def with_priorities(priorities, capacity=None):
    """A prioritised replay of the items 0, 1, ... and their priorities."""
    n = len(priorities)
    replay = PrioritisedReplay.empty(jnp.int32(-1), capacity or n).add(jnp.arange(n))
    return replay.reprioritise(jnp.arange(n), jnp.float32(priorities))


@both
def test_holds_the_last_items_once_full(kind):
    buffer = kind.empty(jnp.float32(0), 6)
    for begin in range(0, 16, 2):
        buffer = buffer.add(jnp.arange(begin, begin + 2, dtype=jnp.float32))
    assert sorted(np.asarray(buffer.items)) == [10, 11, 12, 13, 14, 15]
    assert int(buffer.size) == 6


@both
def test_samples_uniformly_and_only_what_was_added(kind):
    sample = kind.empty(jnp.int32(-1), 64).add(jnp.arange(8)).sample(bits(0, 8000), 0.5)
    counts = np.bincount(np.asarray(sample.items), minlength=8)
    assert len(counts) == 8
    assert np.abs(counts / 1000 - 1).max() < 0.12
    np.testing.assert_array_equal(sample.slot, sample.items)
    np.testing.assert_array_equal(sample.weight, 1.0)


@both
def test_a_refused_batch_changes_nothing(kind):
    before = kind.empty(jnp.float32(0), 4).add(jnp.ones(2))
    after = before.add(jnp.full(2, jnp.nan), accept=jnp.bool(False))
    jax.tree.map(np.testing.assert_array_equal, before, after)


@both
def test_a_batch_that_would_wrap_is_an_error(kind):
    with pytest.raises(ValueError, match="not a multiple"):
        kind.empty(jnp.float32(0), 5).add(jnp.ones(2))


@pytest.mark.parametrize("n", [1, 4, 5, 37, 300])
def test_the_tree_sums_and_finds_as_a_running_sum_does(n):
    rng = np.random.default_rng(n)
    # Whole numbers: sums are exact in float32, so the comparison is too.
    values = np.zeros(n)
    tree = SumTree.zeros(n)
    put = jax.jit(SumTree.put)
    for _ in range(4):
        index = rng.integers(0, n, 16)
        new = rng.integers(0, 9, 16)
        values[index] = 0
        np.maximum.at(values, index, new)
        tree = put(tree, jnp.asarray(index), jnp.float32(new))
    assert float(tree.total) == values.sum()
    np.testing.assert_array_equal(tree[jnp.arange(n)], values)
    target = np.arange(0.0, values.sum(), 0.5)
    np.testing.assert_array_equal(tree.find(jnp.float32(target)), np.searchsorted(np.cumsum(values), target, "right"))


def test_no_target_however_rounded_finds_a_zero():
    tree = SumTree.zeros(64).put(jnp.array([3, 17, 18]), jnp.float32([0.1, 0.7, 1e-7]))
    target = jnp.float32(tree.total) * jnp.float32([0.0, 0.125, 0.5, 1.0, 1.0001, 2.0])
    assert np.isin(tree.find(target), [3, 17, 18]).all()


def test_the_value_of_a_place_met_twice_is_the_larger_in_any_order():
    index = jnp.array([5, 2, 5, 5])
    one = SumTree.zeros(8).put(index, jnp.float32([1.0, 7.0, 3.0, 2.0]))
    other = SumTree.zeros(8).put(index, jnp.float32([3.0, 7.0, 2.0, 1.0]))
    jax.tree.map(np.testing.assert_array_equal, one, other)
    assert float(one[jnp.array([5])][0]) == 3.0
    assert float(one.total) == 10.0


def test_items_are_drawn_as_often_as_their_priority_says():
    rng = np.random.default_rng(0)
    priorities = rng.exponential(size=300) ** 2 + 1e-3
    replay = with_priorities(priorities, capacity=600)
    sample, draws = jax.jit(PrioritisedReplay.sample), 400
    # Strata leave less to chance than independent draws, so the test's statistic is too small if anything.
    index = np.concatenate([np.asarray(sample(replay, bits(i, 256), 0.5).slot) for i in range(draws)])
    counts = np.bincount(index, minlength=300)
    assert len(counts) == 300, "nothing beyond what is held"
    expected = priorities / priorities.sum() * 256 * draws
    few = expected < 5
    observed = np.append(counts[~few], counts[few].sum())
    wanted = np.append(expected[~few], expected[few].sum())
    assert scipy.stats.chisquare(observed, wanted * observed.sum() / wanted.sum()).pvalue > 0.01
    flat = np.full(300, len(index) / 300)
    assert scipy.stats.chisquare(counts, flat).pvalue < 1e-12, "and the test would notice"


def test_strata_leave_less_to_chance_than_independent_draws():
    priorities = np.random.default_rng(1).uniform(0.5, 1.5, 64)
    replay = with_priorities(priorities)
    expected = priorities / priorities.sum() * 256
    for seed in range(5):
        counts = np.bincount(np.asarray(replay.sample(bits(seed, 256), 1.0).slot), minlength=64)
        assert np.abs(counts - expected).max() < 2.0


@pytest.mark.parametrize("beta", [0.0, 0.4, 1.0])
def test_weights_make_up_for_the_probability_to_the_power_of_beta(beta):
    priorities = np.array([1.0, 2.0, 4.0, 0.5])
    sample = with_priorities(priorities).sample(bits(3, 64), beta)
    probability = priorities / priorities.sum()
    raw = (4 * probability[np.asarray(sample.slot)]) ** -beta
    np.testing.assert_allclose(sample.weight, raw / raw.max(), rtol=1e-5)


def test_at_beta_one_weighted_draws_average_like_uniform_ones():
    rng = np.random.default_rng(2)
    priorities, value = rng.uniform(0.2, 3.0, 128), rng.normal(1.0, 1.0, 128)
    replay, total, weights = with_priorities(priorities), 0.0, 0.0
    sample = jax.jit(PrioritisedReplay.sample)
    for seed in range(100):
        drawn = sample(replay, bits(seed, 256), 1.0)
        # Weights of a batch are relative to its largest; undo that.
        weight = np.asarray(drawn.weight) / priorities[np.asarray(drawn.slot)].min()
        total += (weight * value[np.asarray(drawn.slot)]).sum()
        weights += weight.sum()
    assert total / weights == pytest.approx(value.mean(), abs=0.03)
    assert abs((priorities * value).sum() / priorities.sum() - value.mean()) > 0.03, "without weights it is another"


def test_what_overwrites_an_item_has_the_largest_priority():
    replay = with_priorities([0.1, 0.2, 8.0, 0.3])
    replay = replay.reprioritise(jnp.array([2]), jnp.float32([0.5]))
    np.testing.assert_allclose(replay.priorities[jnp.arange(4)], [0.1, 0.2, 0.5, 0.3])
    replay = replay.add(jnp.array([10, 11]))
    np.testing.assert_allclose(replay.priorities[jnp.arange(4)], [8.0, 8.0, 0.5, 0.3])
    assert float(replay.priorities.total) == pytest.approx(16.8)


def test_a_priority_that_is_not_a_number_is_not_taken():
    before = with_priorities([1.0, 2.0, 3.0, 4.0])
    after = before.reprioritise(jnp.arange(3), jnp.float32([jnp.nan, jnp.inf, 9.0]))
    np.testing.assert_array_equal(after.priorities[jnp.arange(4)], [1.0, 2.0, 9.0, 4.0])
    assert float(after.largest) == 9.0


def test_sums_do_not_drift_over_many_updates():
    replay = with_priorities(np.ones(64))

    @jax.jit
    def churn(replay, key):
        def once(replay, key):
            index_key, value_key = jax.random.split(key)
            index = jax.random.randint(index_key, (32,), 0, 64)
            return replay.reprioritise(index, jnp.exp(8 * jax.random.normal(value_key, (32,)))), None

        return jax.lax.scan(once, replay, jax.random.split(key, 2000))[0]

    tree = churn(replay, jax.random.key(0)).priorities
    assert float(tree.total) == pytest.approx(float(np.sum(np.asarray(tree.levels[-1]), dtype=np.float64)), rel=1e-6)
