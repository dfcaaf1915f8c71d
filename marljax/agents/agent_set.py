"""Networks over a set of agents: whoever allocates among agents treats them alike, however many they are.

Deep sets (Zaheer et al. 2017) whose context is pooled by attention (Lee et al. 2019): in every layer an agent sees
itself and what heads of attention read from all agents, under one set of kernels. No embedding says which agent a row
is, so that agents in another order give the same outputs in that order (permutation equivariance), parameters have no
axis of agents and fit any number of them, and the cost is linear in it. In the recurrent form the last layer is a gated
recurrent unit of every agent.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp

from marljax.agents.memory import init_recurrence, recur
from marljax.agents.networks import Carry, Params, dense, init_dense
from marljax.agents.normalisation import Moments, Scaler
from marljax.agents.policy import PolicyParams, TanhGaussianPolicy
from marljax.data.limits import require, require_counts
from marljax.data.schema import InputError
from marljax.portfolio.meta_controller import PORTFOLIO_FEATURES


@dataclasses.dataclass(frozen=True)
class AgentSet:
    """Each width of `hidden` is a layer. An observation is A equal parts, one of each agent, then `n_shared` entries.

    Where n_out is a multiple of A + 1, output k of agent a stands at k (A + 1) + a and that of the whole after the
    last agent's: the first A + 1 are a tilt for each agent and the gross exposure. These heads begin at zero, but for
    the bias behind the exposure, so that fresh outputs are the base itself at the exposure asked for. Else, as for a
    critic, outputs are of the whole alone. The carry is float32[..., A * hidden[-1]], agent by agent.
    """

    n_agents: int
    hidden: tuple[int, ...] = (64, 64)
    heads: int = 2
    recurrent: bool = False
    exposure: float = 0.95
    """Share of the largest gross exposure that fresh parameters ask for, within (0, 1): tanh of the output behind it
    is 2 exposure - 1, as `marljax.portfolio.meta_controller.ask` reads it."""
    n_shared: int = len(PORTFOLIO_FEATURES)

    def __post_init__(self) -> None:
        require_counts(self, "n_agents", "hidden", "heads")
        require(self, "above 0 and below 1", lambda x: 0 < x < 1, "exposure")
        if not self.hidden:
            raise InputError(f"a network over agents needs a layer, got hidden {self.hidden}")

    def init(self, key: jax.Array, n_in: int, n_out: int, final_scale: float) -> Params:
        """Raises InputError where the observation does not fall into equal parts and what is shared."""
        if n_in <= self.n_shared or (n_in - self.n_shared) % self.n_agents:
            raise InputError(
                f"an observation of {n_in} entries is not {self.n_agents} equal parts, one for each agent, "
                f"and {self.n_shared} entries of the portfolio"
            )
        n_row = (n_in - self.n_shared) // self.n_agents + self.n_shared
        head_key, *layer_keys = jax.random.split(key, 1 + len(self.hidden))
        sizes = (n_row, *self.hidden)
        layers = tuple(
            self._init_layer(k, n_from, n_to, recurs=self.recurrent and i == len(self.hidden) - 1)
            for i, (k, n_from, n_to) in enumerate(zip(layer_keys, sizes[:-1], sizes[1:], strict=True))
        )
        width, params = self.hidden[-1], {"layers": layers}
        score_key, whole_key = jax.random.split(head_key)
        params["score"] = init_dense(score_key, width, self.heads, 1.0)
        if n_out % (self.n_agents + 1):
            return params | {"whole": init_dense(whole_key, self.heads * width, n_out, final_scale)}
        n_each = n_out // (self.n_agents + 1)
        still = init_dense(whole_key, self.heads * width, n_each, 0.0)
        start = math.atanh(2.0 * self.exposure - 1.0)
        return params | {
            "each": init_dense(whole_key, width, n_each, 0.0),
            "whole": still._replace(bias=still.bias.at[0].set(start)),
        }

    def init_carry(self) -> Carry:
        return jnp.zeros(self.n_agents * self.hidden[-1]) if self.recurrent else ()

    def apply(self, params: Params, x: jax.Array, carry: Carry) -> tuple[jax.Array, Carry]:
        batch = x.shape[:-1]
        rows = x[..., : -self.n_shared].reshape(*batch, self.n_agents, -1)
        shared = x[..., None, -self.n_shared :]
        h = jnp.concatenate([rows, jnp.broadcast_to(shared, (*batch, self.n_agents, self.n_shared))], -1)
        for layer in params["layers"]:
            context = _pooled(layer["score"], h)[..., None, :]
            if "recurrence" in layer:
                seen = jnp.tanh(dense(layer["own"], h) + dense(layer["context"], context))
                h = recur(layer["recurrence"], seen, carry.reshape(*batch, self.n_agents, -1))
                carry = h.reshape(*batch, -1)
            else:
                h = jnp.tanh(dense(layer["own"], h) + dense(layer["context"], context))
        whole = dense(params["whole"], _pooled(params["score"], h))
        if "each" not in params:
            return whole, carry
        outputs = jnp.concatenate([dense(params["each"], h), whole[..., None, :]], -2)
        return jnp.swapaxes(outputs, -1, -2).reshape(*batch, -1), carry

    def pooled(self, moments: Moments) -> Moments:
        """Moments of an observation's entries, every agent's part replaced by what all agents' are together: scaled by
        them agents remain alike, and scales fit any number of agents."""
        count, n = moments.count, self.n_shared

        def spread(by_agent: jax.Array, shared: jax.Array) -> jax.Array:
            return jnp.concatenate([jnp.tile(by_agent, self.n_agents), shared])

        mean, squares = (x[:-n].reshape(self.n_agents, -1) for x in (moments.mean, moments.squares))
        return Moments(
            count,
            spread(mean.mean(0), moments.mean[-n:]),
            spread(squares.mean(0) + count * mean.var(0), moments.squares[-n:]),
        )

    def _init_layer(self, key: jax.Array, n_from: int, n_to: int, recurs: bool) -> Params:
        score_key, own_key, context_key, recurrence_key = jax.random.split(key, 4)
        layer = {
            "score": init_dense(score_key, n_from, self.heads, 1.0),
            "own": init_dense(own_key, n_from, n_to, 1.0),
            "context": init_dense(context_key, self.heads * n_from, n_to, 1.0),
        }
        return layer | {"recurrence": init_recurrence(recurrence_key, n_to, n_to)} if recurs else layer


def resized(policy: TanhGaussianPolicy, params: PolicyParams, n_agents: int) -> tuple[TanhGaussianPolicy, PolicyParams]:
    """A trained policy over agents for another number of them: its form, and what it has learned.

    The network's parameters are the same arrays; of the scales of observations every agent gets the one they share.
    `params` may carry leading axes, of seeds for example. Raises InputError for a policy that is not over agents.
    """
    network = policy.network
    if not isinstance(network, AgentSet):
        raise InputError(f"only a policy over agents fits another number of them, got {network}")
    n, n_before = network.n_shared, network.n_agents

    def scaled(x: jax.Array) -> jax.Array:
        n_own = (x.shape[-1] - n) // n_before
        own = jnp.tile(x[..., :n_own], n_agents)
        return jnp.concatenate([own, x[..., x.shape[-1] - n :]], -1)

    scaler = Scaler(scaled(params.scaler.mean), scaled(params.scaler.std), params.scaler.limit)
    form = TanhGaussianPolicy(n_agents + 1, dataclasses.replace(network, n_agents=n_agents))
    return form, dataclasses.replace(params, scaler=scaler)


def _pooled(score: Params, h: jax.Array) -> jax.Array:
    """float32[..., heads * W] what each head of attention reads from the agents' float32[..., A, W]."""
    attention = jax.nn.softmax(dense(score, h), axis=-2)
    read = jnp.einsum("...ah,...aw->...hw", attention, h)
    return read.reshape(*read.shape[:-2], -1)
