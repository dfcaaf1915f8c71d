"""What product agents may learn from, and in which order."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marljax.data.schema import InputError, MarketData, Product
from marljax.data.splits import Split
from marljax.envs.stream import opened
from marljax.envs.tapes import Rows
from marljax.generative import representation, wgan_gp
from marljax.generative.stitching import make_generator
from marljax.runtime.artefacts import named_leaves
from marljax.runtime.stages import Artefact, Stage
from stages.generator import SyntheticConfig, stored_generator
from stages.market import Market
from stages.meta import Portfolio
from stages.training import CurriculumConfig, Evaluation, SearchConfig, chunks, worlds
from tests.reference.streams import GAN, market, real_params, source

N_REAL, SESSIONS, EPISODE = market(2)[0].n_steps, 8, 8
SOURCE = source(n_sessions=SESSIONS, episode_steps=EPISODE)


def rows(n_steps, sessions, size, seed):
    """A random market of two products whose later sessions move more; session s moves by up to 1 + size * s ticks."""
    rng = np.random.default_rng(seed)
    session = np.repeat(np.arange(sessions), n_steps // sessions)
    moves = rng.integers(-1, 2, size=(n_steps, 2)) * (1 + size * session[:, None])
    mid = 10_000 + np.cumsum(moves, axis=0)
    data = MarketData.build(
        bid_price=mid[..., None] - 1,
        ask_price=mid[..., None] + 1,
        bid_size=np.full((n_steps, 2, 1), 9),
        ask_size=np.full((n_steps, 2, 1), 9),
        trade_volume=np.full((n_steps, 2), 4),
        trade_imbalance=np.zeros((n_steps, 2), int),
        pnl=np.full((n_steps, 2), np.nan),
        valid=np.ones((n_steps, 2), bool),
        seconds=np.arange(n_steps) % (n_steps // sessions),
        session=session,
        products=tuple(Product(f"P{i}", asset_class="equity") for i in range(2)),
        origin="simulated",
    )
    return Rows.of(data, jnp.zeros((n_steps, 2, 3)), 2, 2)


@pytest.fixture(scope="module")
def found():
    params = opened(real_params(2, EPISODE), SOURCE, 0.25)
    return params, *worlds(params, SOURCE, CurriculumConfig(calm=0.25, stress=0.25, stressed_costs=3.0), 8)


def sessions_of(starts):
    return set(((np.asarray(starts) - N_REAL) // SOURCE.n_steps).ravel().tolist())


def at(phases, params, chunk):
    one = jax.tree.map(lambda x: x[0], (phases, params))
    return one[0].at(one[1], jnp.int32(chunk))


def test_the_calmer_sessions_come_first_then_the_wilder_at_stressed_costs_then_the_real_market(found):
    params, _, phases = found
    calm, stress, real = (at(phases, params, chunk) for chunk in (0, 2, 4))
    # Of a stream's sessions the calmest lie first.
    assert sessions_of(calm.synthetic_starts) == set(range(SESSIONS // 2))
    assert sessions_of(stress.synthetic_starts) == set(range(SESSIONS // 2, SESSIONS))
    assert sessions_of(real.synthetic_starts) == set(range(SESSIONS))
    assert (float(calm.synthetic_fraction), float(stress.synthetic_fraction)) == (1.0, 1.0)
    assert float(real.synthetic_fraction) == 0.25
    for name in ("impact_coefficient", "latency_mean"):
        assert float(getattr(stress.costs, name)) == pytest.approx(3.0 * float(getattr(calm.costs, name)))
        assert float(getattr(real.costs, name)) == float(getattr(params.costs, name)[0])


def test_trials_learn_on_all_fresh_sessions_and_on_no_real_row(found):
    params, searched, _ = found
    for chunk in (0, 3, 7):
        world = at(searched, params, chunk)
        assert sessions_of(world.synthetic_starts) == set(range(SESSIONS))
        assert float(world.synthetic_fraction) == 1.0
        assert int(world.synthetic_starts.min()) >= N_REAL


def test_the_stored_generator_is_the_one_that_was_trained():
    data, pipeline, _ = market(2)
    books = Market(data, None, Split(slice(0, 800), slice(800, 1000), slice(1000, 1200)), (), pipeline, 2)
    dataset, encoded = wgan_gp.make_dataset(representation.fit(books.train), books.train, GAN, 3)
    trained = make_generator(wgan_gp.init(jax.random.key(5), dataset, GAN), dataset, encoded)
    arrays = {f"params{name}": np.asarray(x) for name, x in named_leaves(trained.params).items()}
    found = stored_generator(Stage(Artefact(arrays, {}), "", 0.0, True), books, GAN, 3)
    chex.assert_trees_all_equal(found, trained)


def test_synthetic_data_are_refused_wherever_something_is_judged():
    real = rows(N_REAL, 1, 0, 0)
    generated = dataclasses.replace(real, data=real.data.replace(origin="synthetic"))
    parts = Split(slice(0, 40), slice(42, 50), slice(52, 60))
    for part in ("validation", "test"):
        assert Market(real.data, real, parts, (), None, 2).part(part).data.n_steps == 8
        for data, of_rows in ((generated.data, real), (real.data, generated)):
            wrong = Market(data, of_rows, parts, (), None, 2)
            # Meta-controller, joint tuning and backtest are all judged on what a Portfolio hands out.
            for use in (wrong.part, Portfolio(None, wrong, None, None, None).params):
                with pytest.raises(InputError, match=f"synthetic data may not be used for {part}"):
                    use(part)
    real_episodes = real_params(2, EPISODE)
    assert Evaluation(real_episodes, 1, EPISODE, 0).every == 1
    with pytest.raises(InputError, match="synthetic episodes may not be used for validation"):
        Evaluation(opened(real_episodes, SOURCE, 0.25), 1, EPISODE, 0)


def test_env_steps_must_be_whole_chunks():
    learner = type("Learner", (), {"steps_per_chunk": 128})
    assert chunks(learner, 512, "x") == 4
    with pytest.raises(InputError, match=r"agents\.env-steps of ppo, 500, are no whole number of chunks of 128 steps"):
        chunks(learner, 500, "agents.env-steps of ppo")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CurriculumConfig(calm=0.7, stress=0.4), "take 1.1 of the time"),
        (lambda: CurriculumConfig(stressed_costs=0.0), "stressed_costs must be"),
        (lambda: SearchConfig(trials=0), "trials must be"),
        (lambda: SyntheticConfig(sessions=0), "sessions must be"),
        (lambda: SyntheticConfig(fresh_sessions=0), "fresh_sessions must be"),
        (lambda: SyntheticConfig(fresh_every=-1), "fresh_every must"),
        (lambda: SyntheticConfig(fraction=1.5), "fraction must be"),
    ],
)
def test_impossible_settings_are_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_training_rows_that_reach_into_validation_are_refused():
    real = rows(N_REAL, 1, 0, 0)
    market = Market(real.data, real, Split(slice(0, 40), slice(42, 50), slice(52, 60)), (), None, 2)
    assert market.training_rows().data.n_steps == 40
    leaky = dataclasses.replace(market, split=Split(slice(0, 45), slice(42, 50), slice(52, 60)))
    with pytest.raises(AssertionError, match="validation begins"):
        leaky.training_rows()
