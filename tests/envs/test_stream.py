"""Fresh sessions: the ones that a generator draws, in order of volatility, and never changed under an episode."""

import dataclasses
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marljax.data.schema import InputError
from marljax.envs import stream
from marljax.envs.replay import ReplayEnv
from marljax.envs.tapes import Rows, tape
from marljax.features import transform, warm_up_steps
from marljax.generative.stitching import draw_conditions, generate, join_sessions
from tests.reference.streams import CLOSING, FEATURES, market, real_params, source

EPISODE = 12
SOURCE = source()
N_REAL = market(2)[0].n_steps
NOBODY = jnp.zeros((3, 2, 4), jnp.int32)

begin = jax.jit(stream.begin)


@jax.jit
@chex.assert_max_traces(n=1)
def refresh(now, source, rows):
    return stream.refresh(now, source, rows, N_REAL)


def halves(now):
    """Rows of the first and of the second half."""
    return [
        jax.tree.map(lambda x, h=h: np.asarray(x[:, h * SOURCE.half : (h + 1) * SOURCE.half]), (now.tape, now.features))
        for h in range(2)
    ]


def differ(one, other):
    return not np.array_equal(one[0].mark, other[0].mark) and not np.array_equal(one[1], other[1])


def standing(half, session=0):
    """One of many episodes stands in this half, on the first row of a session or on its last."""
    row = N_REAL + half * SOURCE.half + session * SOURCE.n_steps
    return NOBODY.at[2, 1, 3].set(row if session == 0 else row + SOURCE.n_steps - 1)


def by_hand(key):
    """What `draw` is to return, from whole sessions on the host; and the sessions themselves, as drawn."""
    condition_key, draw_key = jax.random.split(key)
    n, length = SOURCE.n_sessions, SOURCE.n_steps
    conditions = draw_conditions(SOURCE.generator, condition_key, n, length)
    keys = jax.random.split(draw_key, n)
    sessions = jax.jit(jax.vmap(partial(generate, SOURCE.generator, n_steps=length)))(keys, conditions)
    books = join_sessions(sessions)
    rows = Rows.of(books, transform(SOURCE.pipeline, books), warm_up_steps(FEATURES), CLOSING)
    mid = np.asarray(books.double_mid, np.float64).reshape(n, length, -1)
    spread = np.diff(mid, axis=1).std(axis=1)
    order = np.argsort((spread / spread.mean(axis=0)).mean(axis=1))
    take = np.concatenate([np.arange(s * length, (s + 1) * length) for s in order])
    made = [tape(books.rows(s * length, (s + 1) * length)) for s in order]
    return (
        jax.tree.map(lambda *x: np.moveaxis(np.concatenate(x), 1, 0), *made),
        np.moveaxis(np.asarray(rows.features)[take], 1, 0),
        rows.flat,
        order,
    )


def test_sessions_are_those_of_the_generator_with_features_of_the_real_pipeline_calmest_first():
    orders = []
    for key in jax.random.split(jax.random.key(4), 3):
        tapes, features = jax.jit(stream.draw)(SOURCE, key)
        wanted_tapes, wanted_features, flat, order = by_hand(key)
        chex.assert_trees_all_equal(jax.tree.map(np.asarray, tapes), wanted_tapes)
        np.testing.assert_allclose(features, wanted_features, atol=2e-4)
        assert float(np.std(wanted_features)) > 0.5
        np.testing.assert_array_equal(begin(SOURCE, key).slots(SOURCE).flat, np.tile(flat, (2, 2)))
        orders.append(tuple(order))
    assert len(set(orders)) > 1, "sessions were drawn in another order than that of their volatility"


def test_a_half_that_nobody_is_in_is_drawn_anew_and_opened_and_the_other_stays():
    now = begin(SOURCE, jax.random.key(0))
    assert (int(now.open), int(now.drawn)) == (0, SOURCE.n_sessions)
    for turn in range(1, 5):
        after = refresh(now, SOURCE, standing(int(now.open)))
        assert int(after.open) == turn % 2
        assert int(after.drawn) == (turn + 1) * SOURCE.n_sessions
        assert differ(halves(after)[int(after.open)], halves(now)[int(after.open)])
        chex.assert_trees_all_equal(halves(after)[int(now.open)], halves(now)[int(now.open)])
        now = after


@pytest.mark.parametrize("session", [0, SOURCE.n_sessions - 1])
def test_one_episode_in_the_closed_half_keeps_it_as_it_is(session):
    now = begin(SOURCE, jax.random.key(0))
    for _ in range(3):
        after = refresh(now, SOURCE, standing(1, session))
        assert (int(after.open), int(after.drawn)) == (0, SOURCE.n_sessions)
        chex.assert_trees_all_equal(halves(after), halves(now))
        now = after
    assert int(refresh(now, SOURCE, NOBODY).open) == 1, "once it is free"


def test_no_two_drawings_are_alike_and_the_same_key_draws_the_same():
    def marks(key):
        now, seen = begin(SOURCE, jax.random.key(key)), []
        for _ in range(4):
            now = refresh(now, SOURCE, NOBODY)
            seen.append(np.asarray(halves(now)[int(now.open)][0].mark))
        return seen

    first, again, other = marks(0), marks(0), marks(1)
    np.testing.assert_array_equal(first, again)
    assert len({x.tobytes() for x in first + other}) == 8


@pytest.mark.parametrize(("every", "wanted"), [(0, [1] * 7), (1, [2, 3, 4, 5, 6, 7, 8]), (3, [1, 1, 2, 2, 2, 3, 3])])
def test_every_says_after_how_many_chunks_sessions_are_drawn(every, wanted):
    paced = dataclasses.replace(SOURCE, every=jnp.int32(every))
    now, drawn = begin(paced, jax.random.key(0)), []
    for _ in wanted:
        now = refresh(now, paced, NOBODY)
        drawn.append(int(now.drawn) // SOURCE.n_sessions)
    assert drawn == wanted


def test_real_rows_stay_as_they_are_bit_for_bit_and_episodes_start_in_the_open_half():
    real = real_params(2, EPISODE)
    with_room = stream.opened(real, SOURCE, 1.0)
    env = ReplayEnv(EPISODE)
    now = begin(SOURCE, jax.random.key(0))
    for half in (0, 1):
        world = jax.vmap(stream.entered)(with_room, now.slots(SOURCE))
        for name in ("tape", "features", "flat"):
            before, after = (jax.tree.map(np.asarray, getattr(x, name)) for x in (real, world))
            chex.assert_trees_all_equal(jax.tree.map(lambda x: x[:, :N_REAL], after), before)
        np.testing.assert_array_equal(world.features[:, N_REAL:], now.features)
        one = jax.tree.map(lambda x: x[0], world)
        _, state = jax.vmap(env.reset, in_axes=(0, None))(jax.random.split(jax.random.key(1), 500), one)
        within = np.asarray(state.time) - N_REAL - half * SOURCE.half
        assert set(within // SOURCE.n_steps) == set(range(SOURCE.n_sessions))
        assert (within % SOURCE.n_steps >= SOURCE.warm_up).all()
        assert (within % SOURCE.n_steps + EPISODE < SOURCE.n_steps).all()
        now = refresh(now, SOURCE, NOBODY)


@pytest.mark.parametrize("fraction", [0.0, 1.0, 0.25])
def test_the_share_of_fresh_episodes_is_the_one_asked_for(fraction):
    world = stream.opened(real_params(2, EPISODE), SOURCE, fraction)
    world = jax.vmap(stream.entered)(world, begin(SOURCE, jax.random.key(0)).slots(SOURCE))
    one = jax.tree.map(lambda x: x[1], world)
    reset = jax.vmap(ReplayEnv(EPISODE).reset, in_axes=(0, None))
    _, state = reset(jax.random.split(jax.random.key(1), 4000), one)
    share = float((np.asarray(state.time) >= N_REAL).mean())
    assert share == (fraction if fraction in (0.0, 1.0) else pytest.approx(fraction, abs=0.03))


def test_a_stream_that_cannot_be_is_refused():
    for wrong in ({"n_sessions": 0}, {"every": -1}):
        with pytest.raises(InputError, match="needs one session at least"):
            source(**wrong)
