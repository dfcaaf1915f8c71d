"""A background whose every message is written down, so that a test knows what the book will do."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import struct

from marljax.envs.opening import order_book_params
from marljax.envs.order_book import OrderBookEnv
from marljax.envs.order_book_types import Opening, OrderBookConfig, OrderBookParams
from marljax.envs.roles.role import Scales
from marljax.lob.flows import flow
from marljax.lob.messages import nothing, stack
from marljax.lob.types import Book, BookConfig, Messages
from marljax.market.fees import FeeSchedule, fee_schedule
from marljax.market.latency import Latency, constant
from marljax.market.randomisation import randomisation

BID, ASK, LOTS = 9_995, 10_005, 50


@struct.dataclass
class Script:
    """T steps of n messages, one each 1 / n seconds, the last at the end of its second."""

    messages: Messages  # [T, n]


@struct.dataclass
class Draws:
    seconds: jax.Array  # float32[n]
    messages: Messages  # [n]


@dataclasses.dataclass(frozen=True)
class ScriptedFlow:
    """The script; behind its end nothing more happens. It starts with one bid and one ask."""

    def initial_book(self, key: jax.Array, params: Script, config: BookConfig) -> Book:
        return flow.filled(config, jnp.array([[BID], [ASK]]), jnp.full((2, 1), LOTS))

    def initial_state(self, params: Script) -> jax.Array:
        return jnp.zeros((), jnp.int32)

    def prepare(self, key, state, params, stress, n):
        count = params.messages.kind.shape[0]
        rows = jax.tree.map(lambda x: x[jnp.minimum(state, count - 1)], params.messages)
        rows = dataclasses.replace(rows, kind=jnp.where((state < count) & (stress.halted < 0.5), rows.kind, 0))
        return Draws(jnp.arange(1, n + 1) / n, rows), state + 1

    def message(self, draw: Draws, book: Book) -> Messages:
        return draw.messages

    halts = staticmethod(flow.never_halts)
    ends = staticmethod(flow.never_ends)


def scripted(
    *steps: list[Messages],
    latency: Latency | list[float] = 0.0,
    fees: FeeSchedule | None = None,
    roles: dict | None = None,
    desk: float = 0.0,
    **config,
) -> tuple[OrderBookEnv, OrderBookParams]:
    """An env with four background messages in a step of one second, those given and otherwise nothing.

    Args:
        steps: of the first steps, three at most, their messages.
        latency: seconds of each agent.
        fees: none by default.
        roles, desk: as in `order_book_params`.
    """
    env = OrderBookEnv(ScriptedFlow(), OrderBookConfig(**{"messages": 4, "slots": 16, "episode_steps": 20} | config))
    # Scripts of one length: envs of equal shape share their compiled step.
    rows = [stack((step + [nothing()] * 4)[:4]) for step in (*steps, [], [], [])[:3]]
    script = Script(jax.tree.map(lambda *x: jnp.stack(x), *rows))
    book = env.flow.initial_book(jax.random.key(0), script, env.config.book)
    opening = jax.tree.map(lambda x: x[None], Opening(book, env.flow.initial_state(script)))
    each = jnp.broadcast_to(jnp.asarray(latency, jnp.float32), (env.config.agents,))
    delay = dataclasses.replace(jax.tree.map(lambda x: jnp.full_like(each, x), constant(0.0)), floor=each)
    terms = fees or fee_schedule()
    conditions = randomisation({"calm": 1.0}, fees=(terms, terms), latency=(delay, delay))
    scales = Scales(jnp.float32(10.0), jnp.float32(50.0), jnp.float32(1.0))
    return env, order_book_params(
        env, script, opening, scales, roles=roles, conditions=conditions, tick_value=0.01, desk=desk
    )
