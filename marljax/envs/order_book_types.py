"""What an order book env is made of: its shapes, its numbers, its state, and the door to the background's flow."""

import dataclasses
from typing import Any, Protocol

import jax
from flax import struct

from marljax.data.schema import InputError
from marljax.envs import ledger as accounts
from marljax.envs.ledger import Ledger
from marljax.envs.orders import Instructions, Standing
from marljax.envs.roles import ROLES
from marljax.envs.roles.role import Market, Scales
from marljax.envs.signal import Signal
from marljax.lob.stress import Stress
from marljax.lob.types import MAX_MESSAGES, Book, BookConfig, Messages
from marljax.market.randomisation import Conditions, Randomisation


class Flow(Protocol):
    """A model of background orders: a module of `marljax.lob.flows`, or a frozen object."""

    def initial_book(self, key: jax.Array, params: Any, config: BookConfig) -> Book:
        """A book to begin with."""
        ...

    def initial_state(self, params: Any) -> Any:
        """The model's state to begin with."""
        ...

    def prepare(self, key: jax.Array, state: Any, params: Any, stress: Stress, n: int) -> tuple[Any, Any]:
        """Draws of the next n messages, with `seconds` float32[n] since the step's start, ascending; and the state."""
        ...

    def message(self, draw: Any, book: Book) -> Messages:
        """One of them, given the book as it stands."""
        ...

    def halts(self, draws: Any) -> jax.Array:
        """bool[] whether trading is halted during the step of these draws."""
        ...

    def ends(self, state: Any, params: Any) -> jax.Array:
        """bool[] whether nothing more will come."""
        ...


@dataclasses.dataclass(frozen=True)
class OrderBookConfig:
    """What fixes the shapes of an order book env."""

    market_makers: int = 1
    """Market makers [count]."""
    directional: int = 0
    """Directional traders [count]."""
    executions: int = 1
    """Execution agents [count]."""
    messages: int = 100
    """Background messages in a step [count]."""
    slots: int = 100
    """Orders that can rest on one side [count]."""
    episode_steps: int = 1000
    """Length of an episode [steps]."""

    def __post_init__(self) -> None:
        for name in ("market_makers", "directional", "executions"):
            if getattr(self, name) < 0:
                raise InputError(f"OrderBookConfig.{name} must not be negative, got {getattr(self, name)!r}")
        for name in ("messages", "episode_steps"):
            if getattr(self, name) < 1:
                raise InputError(f"OrderBookConfig.{name} must be positive, got {getattr(self, name)!r}")
        if self.agents < 1:
            raise InputError("OrderBookConfig needs at least one agent, got none")
        if self.messages + 2 * self.agents > MAX_MESSAGES:
            raise InputError(
                f"OrderBookConfig.messages and two for each agent must be at most {MAX_MESSAGES}, got "
                f"{self.messages} and {self.agents} agents"
            )
        # What the book does not hold, the env does not either.
        _ = self.book

    @property
    def counts(self) -> dict[str, int]:
        """Agents by role, for the roles that have any."""
        counts = {
            "market_maker": self.market_makers,
            "directional": self.directional,
            "execution": self.executions,
        }
        return {name: counts[name] for name in ROLES if counts[name] > 0}

    @property
    def agents(self) -> int:
        """How many there are; agent i is owner i + 1, and owner 0 is the background."""
        return self.market_makers + self.directional + self.executions

    @property
    def book(self) -> BookConfig:
        return BookConfig(slots=self.slots, owners=1 + self.agents)

    def by_role(self, agents: Any) -> dict[str, Any]:
        """Leaves [agents, ...] cut into those of each role."""
        cut, first = {}, 0
        for name, count in self.counts.items():
            cut[name] = jax.tree.map(lambda x, first=first, count=count: x[first : first + count], agents)
            first += count
        return cut


@struct.dataclass
class Opening:
    """A market at the beginning of an episode."""

    book: Book
    flow: Any  # the flow model's state


@struct.dataclass
class OrderBookParams:
    """Every number of an order book env."""

    flow: Any  # the flow model's params
    openings: Opening  # [B] an episode starts from one of them
    randomisation: Randomisation  # fees [2, ...] of all or [2, owners]; latency [2, agents]
    signal: Signal
    roles: dict[str, Any]  # by role, leaves [agents of the role]
    scales: Scales
    tick_value: jax.Array  # float32[] currency of one tick on one lot
    variance_decay: jax.Array  # float32[] per second, of the variance that agents see
    halt_seconds: jax.Array  # float32[] a step in a trading halt in which the flow's clock stands still
    desk: jax.Array  # float32[] 0..1, how far directional traders and execution agents share their rewards


@struct.dataclass
class OrderBookState:
    elapsed: jax.Array  # int32[] steps since the episode's start
    seconds: jax.Array  # float32[] since the episode's start
    book: Book
    flow: Any
    conditions: Conditions  # what this episode takes place under
    ledger: Ledger
    instructions: Instructions  # [agents, 2]
    standing: Standing  # [agents, 2]
    market: Market
    memory: dict[str, Any]  # by role, leaves [agents of the role]

    def net(self, tick_value: jax.Array) -> jax.Array:
        """float32[owners] currency earned since the start, net of fees."""
        return 0.5 * tick_value * accounts.equity(self.ledger, self.market.mark).value() - self.ledger.fees
