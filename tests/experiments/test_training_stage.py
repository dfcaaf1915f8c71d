"""What product agents may learn from, and in which order."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marljax.data.schema import InputError, MarketData, Product
from marljax.data.splits import Split
from marljax.envs.tapes import CostConfig, Rows, TradingConfig, cost_models, replay_params
from stages.market import Market
from stages.training import CurriculumConfig, SearchConfig, chunks, volatility, worlds

N_REAL, SESSIONS, LENGTH, EPISODE = 60, 8, 20, 8


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
    real, synthetic = rows(N_REAL, 1, 0, 0), rows(SESSIONS * LENGTH, SESSIONS, 2, 1)
    params = replay_params(
        real,
        costs=cost_models(real.data, CostConfig()),
        max_position=np.array([5, 5], np.int32),
        trading=TradingConfig(),
        episode_steps=EPISODE,
        synthetic=synthetic,
        synthetic_fraction=0.25,
    )
    config = CurriculumConfig(calm=0.25, stress=0.25, stressed_costs=3.0)
    return params, synthetic, *worlds(params, synthetic, N_REAL, config, SearchConfig(judged=0.25), 8)


def sessions_of(starts):
    return set(((np.asarray(starts) - N_REAL) // LENGTH).ravel().tolist())


def at(phases, params, chunk):
    one = jax.tree.map(lambda x: x[0], (phases, params))
    return one[0].at(one[1], jnp.int32(chunk))


def test_the_calmer_sessions_come_first_then_the_wilder_at_stressed_costs_then_the_real_market(found):
    params, _, _, phases, _ = found
    calm, stress, real = (at(phases, params, chunk) for chunk in (0, 2, 4))
    assert sessions_of(calm.synthetic_starts) == set(range(SESSIONS // 2))
    assert sessions_of(stress.synthetic_starts) == set(range(SESSIONS // 2, SESSIONS))
    assert (float(calm.synthetic_fraction), float(stress.synthetic_fraction)) == (1.0, 1.0)
    assert float(real.synthetic_fraction) == 0.25
    for name in ("impact_coefficient", "latency_mean"):
        assert float(getattr(stress.costs, name)) == pytest.approx(3.0 * float(getattr(calm.costs, name)))
        assert float(getattr(real.costs, name)) == float(getattr(params.costs, name)[0])


def test_trials_learn_on_some_generated_sessions_and_are_judged_on_others(found):
    params, synthetic, searched, _, judged = found
    for chunk in (0, 3, 7):
        world = at(searched, params, chunk)
        assert sessions_of(world.synthetic_starts) == set(range(6))
        assert float(world.synthetic_fraction) == 1.0
    assert set(np.unique(np.asarray(judged.data.session))) == {6, 7}
    np.testing.assert_array_equal(judged.data.bid_price, synthetic.data.bid_price[6 * LENGTH :])


def test_wildness_is_that_of_the_moves():
    assert (np.diff(volatility(rows(SESSIONS * LENGTH, SESSIONS, 2, 1))) > 0).all()


def test_a_search_with_nothing_to_learn_on_is_refused(found):
    params, synthetic, *_ = found
    with pytest.raises(InputError, match="leaves no generated session to learn on"):
        worlds(params, synthetic, N_REAL, CurriculumConfig(), SearchConfig(judged=0.99), 8)


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
        (lambda: SearchConfig(judged=1.0), "judged must be"),
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
