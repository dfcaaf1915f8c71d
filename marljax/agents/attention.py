"""Attention over products (Vaswani et al. 2017): every product looks at all others before it is decided on.

An observation of P products is a vector of P equal parts. Each becomes a token, with a learned embedding of which
product it is; blocks of attention and perceptron in the pre-norm form (Xiong et al. 2020) follow.
"""

import dataclasses

import jax
import jax.numpy as jnp

from marljax.agents.networks import Params, dense, init_dense
from marljax.data.schema import InputError


@dataclasses.dataclass(frozen=True)
class Attention:
    """Feed-forward; each width of `hidden` is a block, and all widths are the same.

    Where n_out is a multiple of `tokens`, every token speaks for itself: output k of token p stands at k * tokens + p,
    so that the first `tokens` outputs are the first of each. Else the mean over tokens is read.
    """

    hidden: tuple[int, ...] = (64,)
    tokens: int = 1
    heads: int = 2
    pooled: bool = False
    """Whether the mean over tokens is read whatever n_out."""

    def __post_init__(self) -> None:
        if len(set(self.hidden)) != 1 or self.hidden[0] % self.heads:
            raise InputError(f"attention needs blocks of one width that {self.heads} heads divide, got {self.hidden}")

    @property
    def recurrent(self) -> bool:
        return False

    def init(self, key: jax.Array, n_in: int, n_out: int, final_scale: float) -> Params:
        """Raises InputError where the observation does not fall into `tokens` equal parts."""
        if n_in % self.tokens:
            raise InputError(f"an observation of {n_in} entries is not {self.tokens} equal parts, one for each product")
        width = self.hidden[0]
        embed_key, which_key, head_key, *block_keys = jax.random.split(key, 3 + len(self.hidden))
        speaks_each = not self.pooled and n_out % self.tokens == 0
        n_head = n_out // self.tokens if speaks_each else n_out

        def block(key: jax.Array) -> Params:
            keys = jax.random.split(key, 4)
            return {
                "mixing": init_dense(keys[0], width, 3 * width, 1.0),
                "mixed": init_dense(keys[1], width, width, 1.0),
                "widening": init_dense(keys[2], width, 2 * width, 2.0**0.5),
                "narrowing": init_dense(keys[3], 2 * width, width, 1.0),
            }

        return {
            "embedding": init_dense(embed_key, n_in // self.tokens, width, 1.0),
            "which": 0.1 * jax.random.normal(which_key, (self.tokens, width)),
            "blocks": tuple(block(k) for k in block_keys),
            "each" if speaks_each else "pooled": init_dense(head_key, width, n_head, final_scale),
        }

    def init_carry(self) -> tuple[()]:
        return ()

    def apply(self, params: Params, x: jax.Array, carry: tuple[()]) -> tuple[jax.Array, tuple[()]]:
        width = self.hidden[0]
        batch = x.shape[:-1]
        h = dense(params["embedding"], x.reshape(*batch, self.tokens, -1)) + params["which"]
        for block in params["blocks"]:
            query, key, value = (
                part.reshape(*batch, self.tokens, self.heads, -1)
                for part in jnp.split(dense(block["mixing"], _standardised(h)), 3, -1)
            )
            score = jnp.einsum("...phd,...qhd->...hpq", query, key) / (width // self.heads) ** 0.5
            mixed = jnp.einsum("...hpq,...qhd->...phd", jax.nn.softmax(score), value)
            h = h + dense(block["mixed"], mixed.reshape(*batch, self.tokens, width))
            h = h + dense(block["narrowing"], jnp.tanh(dense(block["widening"], _standardised(h))))
        h = _standardised(h)
        if "each" in params:
            return jnp.swapaxes(dense(params["each"], h), -1, -2).reshape(*batch, -1), carry
        return dense(params["pooled"], h.mean(-2)), carry


def _standardised(h: jax.Array) -> jax.Array:
    """Layer normalisation without parameters, which the next kernel would repeat."""
    h = h - h.mean(-1, keepdims=True)
    return h * jax.lax.rsqrt((h**2).mean(-1, keepdims=True) + 1e-5)
