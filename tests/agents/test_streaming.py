"""Learning in a stream: no market changes under an episode, nothing is lost at a stop, real rows stay real."""

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marljax.agents.ppo import PPO
from marljax.agents.ppo_config import PPOConfig
from marljax.agents.sac import SAC, SACConfig
from marljax.agents.streaming import InStream, Streamed, streamed
from marljax.envs import stream
from marljax.envs.replay import ReplayEnv
from marljax.runtime.progress import run_chunks
from tests.reference.streams import market, real_params, source

N_REAL = market(2)[0].n_steps
EPISODE = 12
"""Two and a half of a chunk's rollouts, so that episodes end within chunks and run over several."""

PPO_CONFIG = PPOConfig(n_envs=8, n_steps=5, n_minibatches=1, n_epochs=1, hidden=(8,))
SAC_CONFIG = SACConfig(n_envs=8, n_iterations=5, batch_size=8, capacity=128, warmup_steps=2, hidden=(8,))


class Training:
    """Agents of every product and of two seeds side by side in one stream."""

    def __init__(self, learner, fraction=1.0, n_products=2, **options):
        self.learner, self.source = learner, source(n_products, episode_steps=EPISODE, **options)
        self.params = stream.opened(real_params(n_products, EPISODE), self.source, fraction)
        self.keys = jax.random.split(jax.random.key(7), (2, n_products))

        def update(runners, slots, params):
            one = lambda runner, slots, params: InStream(learner, slots).update(runner, params)  # noqa: E731
            return jax.vmap(jax.vmap(one), in_axes=(0, None, None))(runners, slots, params)

        self.update = streamed(update, N_REAL)

    def begin(self):
        first = jax.jit(stream.begin)(self.source, jax.random.key(3))
        one = lambda key, slots, params: InStream(self.learner, slots).init(key, params)  # noqa: E731
        runners = jax.jit(jax.vmap(jax.vmap(one), in_axes=(0, None, None)))(
            self.keys, first.slots(self.source), self.params
        )
        return Streamed(runners, first)

    def run(self, n_chunks, **options):
        return run_chunks(
            self.update,
            self.begin(),
            n_chunks,
            operands=(self.source, self.params),
            name="stream",
            log=lambda line: None,
            **options,
        )

    def chunks(self, n):
        """The state before and after each of n chunks, on the host, and rows that stood in either."""
        step = jax.jit(self.update, donate_argnums=0)
        state = self.begin()
        for _ in range(n):
            before = host(state)
            state, _ = step(state, self.source, self.params)
            yield before, host(state)


def host(tree):
    return jax.tree.map(
        lambda x: np.array(jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x), tree
    )


PPO_LEARNER, SAC_LEARNER = PPO(ReplayEnv(EPISODE), PPO_CONFIG), SAC(ReplayEnv(EPISODE), SAC_CONFIG)


@pytest.mark.parametrize(
    "learner", [pytest.param(PPO_LEARNER, id="ppo"), pytest.param(SAC_LEARNER, id="sac", marks=pytest.mark.nightly)]
)
def test_no_market_changes_under_an_episode_however_long_it_is(learner):
    """Every chunk draws as soon as it may; what an episode has seen and will see stays what it was at its start."""
    training = Training(learner)
    opened = []
    for before, after in training.chunks(12):
        opened.append(int(after.stream.open))
        time, elapsed = (getattr(before.runners.worlds.state, name) for name in ("time", "elapsed"))
        assert elapsed.max() <= EPISODE
        for p in range(2):
            for start in np.unique((time - elapsed)[:, p]) - N_REAL:
                seen = slice(start, start + EPISODE + 1)
                assert start >= 0, "all episodes are synthetic"
                for name in ("tape", "features"):
                    rows = (
                        jax.tree.map(lambda x, p=p, seen=seen: x[p, seen], getattr(state.stream, name))
                        for state in (before, after)
                    )
                    chex.assert_trees_all_equal(*rows)
    assert sum(a != b for a, b in itertools.pairwise(opened)) >= 3, "halves change roles all the while"


def test_what_an_agent_sees_is_a_row_of_the_stream_of_its_moment():
    *_, (_, after) = Training(PPO_LEARNER).chunks(4)
    time = after.runners.worlds.state.time - N_REAL
    for seed, product, env in np.ndindex(time.shape):
        row = after.stream.features[product, time[seed, product, env]]
        np.testing.assert_array_equal(after.runners.worlds.obs[seed, product, env, :-1], row)


@pytest.mark.parametrize("fraction", [0.0, 1.0])
def test_a_share_of_none_or_all_is_exact(fraction):
    for _, after in Training(PPO_LEARNER, fraction).chunks(6):
        assert ((after.runners.worlds.state.time >= N_REAL) == bool(fraction)).all()


@pytest.mark.nightly
def test_without_synthetic_episodes_learning_is_that_on_real_rows_alone():
    training = Training(PPO_LEARNER, fraction=0.0)
    *_, (_, in_stream) = training.chunks(4)
    params = real_params(2, EPISODE)
    runners = jax.jit(jax.vmap(jax.vmap(PPO_LEARNER.init), in_axes=(0, None)))(training.keys, params)
    update = jax.jit(jax.vmap(jax.vmap(PPO_LEARNER.update), in_axes=(0, None)))
    for _ in range(4):
        runners, _ = update(runners, params)
    chex.assert_trees_all_close(in_stream.runners, host(runners), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(in_stream.runners.worlds.state.time, runners.worlds.state.time)


@pytest.mark.nightly
def test_a_stopped_training_of_one_product_ends_with_the_same_bits(tmp_path):
    def training():
        return Training(PPO_LEARNER, fraction=0.5, n_products=1)

    whole = training().run(9)
    training().run(5, checkpoint_dir=tmp_path)
    resumed = training().run(9, checkpoint_dir=tmp_path)
    assert len(resumed.rows) == 9
    chex.assert_trees_all_equal(host(resumed.runner), host(whole.runner))
    drawn = [row["sessions_drawn"] for row in whole.rows]
    assert drawn[4] > drawn[0], "sessions were drawn before the stop"
    assert drawn[8] > drawn[4], "and after it"
    assert drawn == [row["sessions_drawn"] for row in resumed.rows]
    assert whole.runner.stream.features.shape[0] == 1


def test_memory_does_not_grow_and_a_chunk_is_traced_once():
    training = Training(PPO_LEARNER)
    step = jax.jit(chex.assert_max_traces(training.update, n=1), donate_argnums=0)
    state, held = training.begin(), []
    for _ in range(8):
        state, _ = step(state, training.source, training.params)
        jax.block_until_ready(state)
        held.append(sum(x.nbytes for x in jax.live_arrays() if not jnp.issubdtype(x.dtype, jax.dtypes.prng_key)))
    assert len(set(held[1:])) == 1
    mark = state.stream.tape.mark
    assert mark.shape[1] == 2 * training.source.half


@pytest.mark.nightly
def test_agents_side_by_side_do_not_multiply_the_market():
    """Real and generated rows stand in the chunk once for each product, however many seeds learn from them."""
    training = Training(PPO_LEARNER)
    compiled = jax.jit(training.update).lower(training.begin(), training.source, training.params).compile()
    training.keys = jax.random.split(jax.random.key(7), (20, 2))
    many = jax.jit(training.update).lower(training.begin(), training.source, training.params).compile()
    temporary = [x.memory_analysis().temp_size_in_bytes for x in (compiled, many)]
    market_bytes = sum(x.nbytes for x in jax.tree.leaves((training.params.tape, training.params.features)))
    assert temporary[1] - temporary[0] < 9 * market_bytes, "18 more seeds, and fewer than 9 more markets"
