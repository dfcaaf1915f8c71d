"""A small gated recurrent network and its training, the common core of the judges and of the predictive score.

The cell is the one of Cho et al. (2014), reset before the product with the state, as the published judges use it. A
training is one `lax.scan` for one key; callers map over keys.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from flax import struct

from marljax.data.schema import InputError


@struct.dataclass
class RecurrentConfig:
    """Size and training of one recurrent network."""

    hidden: int = struct.field(pytree_node=False)
    """Width of the state [count]."""
    steps: int = struct.field(pytree_node=False)
    """Updates [count]."""
    batch: int = struct.field(pytree_node=False)
    """Windows of each class in an update [count]."""
    seeds: int = struct.field(pytree_node=False)
    """Independent trainings: initial weights and order of batches [count]."""
    learning_rate: float = 1e-3
    """Adam's rate at the start [1]."""
    final_rate: float = 1.0
    """Rate of the last update in units of the first, reached along a cosine [0 to 1]."""

    def __post_init__(self) -> None:
        for name in ("hidden", "steps", "batch", "seeds"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} of a recurrent network must be at least 1, got {getattr(self, name)}")


@struct.dataclass
class Recurrent:
    """Weights of a gated recurrent unit with H states over C inputs, and of a linear readout."""

    gates_input: jax.Array  # float32[C, 2H] to reset and update
    gates_state: jax.Array  # float32[H, 2H]
    gates_bias: jax.Array  # float32[2H]
    new_input: jax.Array  # float32[C, H] to the candidate state
    new_state: jax.Array  # float32[H, H]
    new_bias: jax.Array  # float32[H]
    readout: jax.Array  # float32[H]
    readout_bias: jax.Array  # float32[]


Loss = Callable[[Recurrent, jax.Array], jax.Array]
"""float32[] loss of weights on the batch that a key draws."""


def init(key: jax.Array, n_inputs: int, hidden: int) -> Recurrent:
    """Glorot-uniform weights; gates start at one half open and above, so that memory is there from the beginning."""
    keys = jax.random.split(key, 5)
    glorot = jax.nn.initializers.glorot_uniform()
    return Recurrent(
        gates_input=glorot(keys[0], (n_inputs, 2 * hidden)),
        gates_state=glorot(keys[1], (hidden, 2 * hidden)),
        gates_bias=jnp.ones(2 * hidden),
        new_input=glorot(keys[2], (n_inputs, hidden)),
        new_state=glorot(keys[3], (hidden, hidden)),
        new_bias=jnp.zeros(hidden),
        readout=glorot(keys[4], (hidden, 1))[:, 0],
        readout_bias=jnp.zeros(()),
    )


def states(weights: Recurrent, windows: jax.Array) -> jax.Array:
    """float32[W, N, H] states after each row of windows float32[N, W, C], from a state of 0."""
    rows = jnp.swapaxes(windows, 0, 1)
    gates = rows @ weights.gates_input + weights.gates_bias
    candidates = rows @ weights.new_input + weights.new_bias

    def step(state: jax.Array, now: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        gate, candidate = now
        reset, keep = jnp.split(jax.nn.sigmoid(gate + state @ weights.gates_state), 2, axis=-1)
        state = keep * state + (1 - keep) * jnp.tanh(candidate + (reset * state) @ weights.new_state)
        return state, state

    start = jnp.zeros((windows.shape[0], weights.new_bias.shape[0]))
    return jax.lax.scan(step, start, (gates, candidates))[1]


def read(weights: Recurrent, state: jax.Array) -> jax.Array:
    """float32[...] readout of states float32[..., H]."""
    return state @ weights.readout + weights.readout_bias


def train(key: jax.Array, n_inputs: int, config: RecurrentConfig, loss: Loss) -> Recurrent:
    """Weights after `config.steps` updates of Adam on `loss`; `key` typed."""
    rate = optax.cosine_decay_schedule(config.learning_rate, config.steps, config.final_rate)
    optimiser = optax.adam(rate)
    first, batches = jax.random.split(key)
    weights = init(first, n_inputs, config.hidden)

    def step(carry: tuple[Recurrent, optax.OptState], key: jax.Array) -> tuple[tuple[Recurrent, optax.OptState], None]:
        weights, state = carry
        updates, state = optimiser.update(jax.grad(loss)(weights, key), state)
        return (optax.apply_updates(weights, updates), state), None

    keys = jax.random.split(batches, config.steps)
    return jax.lax.scan(step, (weights, optimiser.init(weights)), keys)[0][0]
