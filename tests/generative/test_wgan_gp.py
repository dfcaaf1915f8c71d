"""Training: the penalty's formula, determinism, exact resumption, divergence, and that it learns."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marljax.data.schema import InputError
from marljax.generative import wgan_gp
from marljax.generative.representation import fit
from marljax.generative.spectral import spectrally_normalised
from marljax.generative.stitching import generate_sessions, make_generator
from marljax.generative.wgan_gp import CAUSES, GanConfig, gradient_penalty, init, make_dataset, relative_spread, update
from tests.reference.generative import toy_market

SMALL = GanConfig(
    window=16, context=8, stride=2, hidden=16, latents=1, batch=32, steps_per_chunk=5, chunks=2, derived=False
)

LESS_USUAL = ({"spectral_norm": False}, {"half_lives": (0.0, 64.0)})


@functools.cache
def small():
    data = toy_market(0, n_products=2, n_levels=1)
    representation = fit(data)
    return representation, *make_dataset(representation, data, SMALL, 0)


def fresh(config: GanConfig = SMALL, seed: int = 0):
    return init(jax.random.key(seed), small()[1], config)


def host(state):
    """Every leaf on the host, keys as their words."""
    return jax.device_get(state.replace(key=jax.random.key_data(state.key)))


def test_gradient_penalty_matches_finite_differences():
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((12, 5))

    def score(x: np.ndarray, module=np):
        return module.sum(module.tanh(x.reshape(-1) @ weights) * module.arange(1.0, 6.0))

    real, fake, mix = rng.standard_normal((4, 3, 4)), rng.standard_normal((4, 3, 4)), rng.random(4)
    expected = []
    for x, y, share in zip(real, fake, mix, strict=True):
        at = share * x + (1 - share) * y
        slope = np.zeros(at.shape)
        for i in np.ndindex(at.shape):
            step = np.zeros(at.shape)
            step[i] = 1e-5
            slope[i] = (score(at + step) - score(at - step)) / 2e-5
        expected.append((np.linalg.norm(slope) - 1) ** 2)
    given = gradient_penalty(lambda i, x: score(x, jnp), *map(jnp.float32, (real, fake, mix)))
    np.testing.assert_allclose(given, np.mean(expected), rtol=1e-3)


def test_gradient_penalty_is_zero_for_a_critic_of_slope_one():
    direction = jnp.full(9, 1 / 3)
    real, fake = jnp.zeros((5, 9)), jnp.ones((5, 9))
    assert gradient_penalty(lambda i, x: x @ direction, real, fake, jnp.linspace(0, 1, 5)) < 1e-10


@pytest.mark.nightly
def test_one_seed_gives_one_training_and_another_seed_another():
    one, two, other = (update(fresh(seed=s), small()[1]) for s in (0, 0, 1))
    chex.assert_trees_all_equal(host(one[0]), host(two[0]))
    chex.assert_trees_all_equal(one[1], two[1])
    assert one[1]["wasserstein"] != other[1]["wasserstein"]


@pytest.mark.nightly
@pytest.mark.parametrize("change", [{}, *(pytest.param(x, marks=pytest.mark.nightly) for x in LESS_USUAL)])
def test_a_critic_starts_with_slopes_of_one(change):
    """A chain of normalised layers is nearly flat: unscaled, its first penalty would be near 1."""
    config = dataclasses.replace(SMALL, steps_per_chunk=1, critic_steps=1, **change)
    assert update(fresh(config), small()[1])[1]["gradient_penalty"] < 0.1


def test_resuming_from_the_host_is_bit_exact():
    dataset = small()[1]
    undisturbed = update(update(fresh(), dataset)[0], dataset)[0]
    saved = host(update(fresh(), dataset)[0])
    restored = jax.tree.map(jnp.asarray, saved)
    restored = restored.replace(key=jax.random.wrap_key_data(restored.key))
    chex.assert_trees_all_equal(host(update(restored, dataset)[0]), host(undisturbed))


def test_every_kernel_of_a_trained_critic_stays_normalised():
    state = fresh()
    for _ in range(6):
        state, _ = update(state, small()[1])
    bounded = spectrally_normalised(state.critic, state.singular)
    for path, kernel in jax.tree_util.tree_leaves_with_path(bounded):
        if path[-1].key == "kernel":
            assert abs(np.linalg.svd(kernel, compute_uv=False)[0] - 1) < 0.01


@pytest.mark.parametrize(
    ("change", "cause"),
    [({"penalty": jnp.nan}, "not finite"), ({"blow_up": 1e-6}, "blew up"), ({"least_spread": 5.0}, "collapse")],
)
def test_divergence_is_named_and_keeps_the_last_good_state(change, cause):
    dataset = small()[1]
    good = update(fresh(), dataset)[0]
    before, sound = host(good), good.config
    broken = good.replace(config=sound.replace(**{name: jnp.float32(x) for name, x in change.items()}))
    after, metrics = update(broken, dataset)
    assert cause in CAUSES[int(metrics["diverged"])]
    for field in ("generator", "critic", "generator_average", "singular", "critic_optimiser", "step", "key"):
        chex.assert_trees_all_equal(getattr(host(after), field), getattr(before, field))
    final, metrics = update(after.replace(config=sound), dataset)
    assert cause in CAUSES[int(metrics["diverged"])], "a training that diverged does not go on"
    assert final.step == before.step


def test_collapsed_windows_have_no_spread_and_fresh_ones_have_that_of_real_ones():
    real, other = jax.random.normal(jax.random.key(0), (2, 64, 16, 4))
    assert abs(float(relative_spread(real, other)) - 1) < 0.05
    assert float(relative_spread(real, jnp.tile(other[:1], (64, 1, 1)))) == 0
    assert float(relative_spread(real, jnp.tile(other[:4], (16, 1, 1)))) == 0


@pytest.mark.nightly
@pytest.mark.parametrize("change", [{"derived": True}, *LESS_USUAL])
def test_every_static_choice_of_the_networks_acts(change):
    config = dataclasses.replace(SMALL, **change)
    metrics = update(fresh(config), small()[1])[1]
    assert metrics["diverged"] == 0
    assert metrics["wasserstein"] != update(fresh(), small()[1])[1]["wasserstein"]


def test_learning_rates_fall_in_a_straight_line_to_their_final_share():
    """With a final share of 0 the last of a training's steps changes nothing to speak of; with 1 it does."""
    moved = []
    for share in (0.0, 1.0):
        config = dataclasses.replace(SMALL, final_rates=share)
        state = fresh(config).replace(step=jnp.int32(SMALL.chunks * SMALL.steps_per_chunk))
        before = host(state).generator
        after = host(update(state, small()[1])[0]).generator
        moved.append(max(np.abs(a - b).max() for a, b in zip(*map(jax.tree.leaves, (after, before)), strict=True)))
    assert moved[0] == 0
    assert moved[1] > 1e-5


@pytest.mark.nightly
def test_rates_train_side_by_side():
    """Hyperparameters are leaves: one program trains with several of them."""
    rates = jnp.array([1e-4, 1e-3])
    start = jax.vmap(lambda rate: init(jax.random.key(0), small()[1], SMALL.replace(generator_rate=rate)))(rates)
    np.testing.assert_allclose(start.config.generator_rate, rates)
    np.testing.assert_array_equal(*start.config.penalty)


def test_metrics_are_finite_scalars_of_a_healthy_chunk():
    state, metrics = update(fresh(), small()[1])
    assert metrics["diverged"] == 0
    assert state.step == SMALL.steps_per_chunk
    for value in metrics.values():
        assert value.shape == ()
        assert jnp.isfinite(value)


@pytest.mark.nightly
def test_update_traces_once_whatever_the_rates():
    chex.clear_trace_counter()
    traced = jax.jit(chex.assert_max_traces(update.__wrapped__, n=1))
    state = fresh()
    for rate in (1e-4, 1e-3):
        state = state.replace(config=state.config.replace(generator_rate=jnp.float32(rate)))
        state, _ = traced(state, small()[1])
    assert state.step == 2 * SMALL.steps_per_chunk


def test_data_without_a_whole_window_and_synthetic_data_are_refused():
    data = toy_market(0, n_levels=1)
    representation = small()[0]
    with pytest.raises(InputError, match="no unbroken stretch"):
        make_dataset(representation, data.rows(0, 20), SMALL, 0)
    with pytest.raises(InputError, match="synthetic data"):
        make_dataset(representation, data.replace(origin="synthetic"), SMALL, 0)


def lead(data) -> float:
    """How far product 0's move foretells product 1's next one."""
    one, two = (np.diff(np.asarray(data.double_mid)[:, p].astype(float)) for p in (0, 1))
    bound = [np.quantile(np.abs(x), 0.99) for x in (one, two)]
    one, two = (np.clip(x, -b, b) for x, b in zip((one, two), bound, strict=True))
    return float(np.corrcoef(one[:-1], two[1:])[0, 1])


@pytest.mark.nightly
def test_training_learns_that_one_product_leads_the_other():
    """The initial generator is the best diagonal autoregression, which knows no lead: training has to find it."""
    data = toy_market(0, n_steps=3000, n_levels=1, lead=0.9, n_sessions=1)
    representation = fit(data)
    config = dataclasses.replace(
        SMALL, chunks=3, steps_per_chunk=100, generator_rate=1e-3, critic_rate=2e-3, average_decay=0.98
    )
    dataset, encoded = make_dataset(representation, data, config, 0)
    state = init(jax.random.key(0), dataset, config)

    def drawn() -> float:
        generator = make_generator(state, dataset, encoded)
        return lead(generate_sessions(generator, jax.random.key(1), 1, 3000))

    untrained = drawn()
    for _ in range(config.chunks):
        state, metrics = update(state, dataset)
    assert metrics["diverged"] == 0
    assert lead(data) > 0.8
    assert abs(untrained) < 0.1
    assert drawn() > 0.5


@pytest.mark.nightly
def test_seeds_train_side_by_side():
    keys, dataset = jax.random.split(jax.random.key(0), 2), small()[1]
    states, metrics = jax.jit(jax.vmap(lambda k: wgan_gp.train(k, dataset, SMALL)))(keys)
    assert metrics["wasserstein"].shape == (2, SMALL.chunks)
    assert states.step.tolist() == [SMALL.chunks * SMALL.steps_per_chunk] * 2
    assert len(set(metrics["wasserstein"][:, -1].tolist())) == 2


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("window", 0),
        ("context", -1),
        ("critic_steps", 0),
        ("batch", 1),
        ("chunks", 0),
        ("critic_rate", 0.0),
        ("penalty", -1.0),
        ("context_dropout", 1.1),
    ],
)
def test_an_impossible_setting_is_refused_by_name(name, value):
    with pytest.raises(InputError, match=f"{name} must be .*, got {value}"):
        GanConfig(**{name: value})
