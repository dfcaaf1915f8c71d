"""Many agents in one order book: their orders wait, trade and move the market like everybody else's.

A step is one block of messages: `messages` of the background flow, and at most two of each agent, merged by their time
of arrival, at which each meets the book as it stands then. An agent decides on the book at the step's start, and its
instructions take their latency; what does not arrive within the step arrives in a later one (`marljax.envs.orders`). In
a trading halt, of the stress or on record, agents' instructions wait for its end.

Roles (`marljax.envs.roles`): any number of agents each. Observations, actions, rewards, `terminated` and `truncated`
are dicts from role to arrays with a leading axis of its agents; see the roles' modules for their entries.
Reward: float32[agents] currency net of fees, as the role defines it. `desk` joins the i-th directional trader and the
i-th execution agent: at 1 each receives the mean of both rewards, at 0 its own.
Info: `earned` float32[agents] currency by role; `seconds` float32[] that the step took; `messages`, all that met the
book, in order of arrival, fields [N] with N = messages + 2 agents, among them `Kind.NOTHING` for what did not arrive;
and `arrived` float32[N] when, in seconds since the step's start.
Termination: of an agent that has lost more than its `max_loss`. That ends the episode for all, the others are
truncated. Truncation: `episode_steps`, or the end of a recorded flow.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from marljax.envs import ledger as accounts
from marljax.envs import orders
from marljax.envs import signal as signals
from marljax.envs.environment import Box, Environment, Step
from marljax.envs.ledger import Ledger
from marljax.envs.order_book_types import Flow, OrderBookConfig, OrderBookParams, OrderBookState
from marljax.envs.orders import Arrival, Instructions, Quotes
from marljax.envs.roles import ROLES
from marljax.envs.roles.role import DEPTH, Market, Own
from marljax.lob.matching import process
from marljax.lob.snapshot import levels
from marljax.lob.types import MAX_SIZE, Book, Messages, Report, Turnover
from marljax.market.latency import merge, sample
from marljax.market.randomisation import draw
from marljax.market.regimes import stress_at


@dataclasses.dataclass(frozen=True)
class OrderBookEnv(Environment[OrderBookState, OrderBookParams]):
    """Agents of several roles in one book; see the module's docstring."""

    flow: Flow
    config: OrderBookConfig = OrderBookConfig()

    def observation_space(self, params: OrderBookParams) -> dict[str, Box]:
        return {
            name: Box(-jnp.inf, jnp.inf, (count, len(ROLES[name].OBSERVATION)))
            for name, count in self.config.counts.items()
        }

    def action_space(self, params: OrderBookParams) -> dict[str, Box]:
        return {name: Box(-1.0, 1.0, (count, len(ROLES[name].ACTION))) for name, count in self.config.counts.items()}

    def reset_env(self, key: jax.Array, params: OrderBookParams) -> tuple[dict[str, jax.Array], OrderBookState]:
        opening_key, conditions_key, signal_key, role_key, flow_key = jax.random.split(key, 5)
        count = params.openings.book.consumed.shape[0]
        chosen = jax.random.randint(opening_key, (), 0, count)
        opening = jax.tree.map(lambda x: x[chosen], params.openings)
        market = dataclasses.replace(first_market(opening.book, params), signal=jax.random.normal(signal_key))
        agents = self.config.agents
        state = OrderBookState(
            elapsed=jnp.zeros((), jnp.int32),
            seconds=jnp.zeros(()),
            book=opening.book,
            flow=opening.flow,
            conditions=draw(conditions_key, params.randomisation),
            ledger=Ledger.open(1 + agents),
            instructions=Instructions.none(agents),
            standing=orders.standing(opening.book, agents),
            market=market,
            memory={
                name: jax.vmap(ROLES[name].start, (0, None, 0))(keys, market, params.roles[name])
                for name, keys in self.config.by_role(jax.random.split(role_key, agents)).items()
            },
        )
        # Whether trading is halted is no matter of chance: what is drawn here the first step draws anew.
        _, _, halted = self._coming(flow_key, state, params)
        state = dataclasses.replace(state, market=dataclasses.replace(market, halted=halted))
        return self.observe(state, params), state

    def step_env(
        self, key: jax.Array, state: OrderBookState, action: dict[str, jax.Array], params: OrderBookParams
    ) -> Step:
        flow_key, latency_key, merge_key, signal_key, role_key = jax.random.split(key, 5)
        draws, flow, halt = self._coming(flow_key, state, params)
        halted = halt > 0.5
        # A halt lasts as long as its draws, or where the flow itself stands still, as long as it is told to.
        still = halted & (draws.seconds[-1] <= 0.0)
        seconds = jnp.where(still, params.halt_seconds, draws.seconds[-1])

        instructions = orders.send(
            state.instructions,
            self.quotes(state, action, params),
            state.standing,
            self._latency(latency_key, state),
        )
        arriving = instructions.waiting & (instructions.seconds <= seconds) & ~halted
        book, report, arrived = self._meet(merge_key, state, draws, instructions, arriving)
        later = jnp.maximum(instructions.seconds - seconds, 0.0)
        instructions = dataclasses.replace(instructions, seconds=later, waiting=instructions.waiting & ~arriving)

        market = dataclasses.replace(
            self._market(book, report.turnover, state.market, seconds, params),
            signal=signals.advance(signal_key, state.market.signal, params.signal, seconds),
            halted=halt,
            left=1.0 - (state.elapsed + 1) / self.config.episode_steps,
        )
        ledger = accounts.record(state.ledger, report.turnover, state.conditions.fees, params.tick_value)
        before = accounts.equity(state.ledger, state.market.mark)
        gained = accounts.equity(ledger, market.mark).minus(before).value()
        earned = 0.5 * params.tick_value * gained - (ledger.fees - state.ledger.fees)

        state = dataclasses.replace(
            state,
            elapsed=state.elapsed + 1,
            seconds=state.seconds + seconds,
            book=book,
            flow=flow,
            ledger=ledger,
            instructions=instructions,
            standing=orders.standing(book, self.config.agents),
            market=market,
        )
        state, reward = self._settle(role_key, state, earned[1:], params)
        terminated, truncated = self._over(state, params)
        info = {
            "earned": self.config.by_role(earned[1:]),
            "seconds": seconds,
            "messages": report.messages,
            "arrived": jnp.minimum(arrived, seconds),
        }
        return self.observe(state, params), state, reward, terminated, truncated, info

    def observe(self, state: OrderBookState, params: OrderBookParams) -> dict[str, jax.Array]:
        """What the agents of each role see, float32[agents of the role, entries]."""
        own = self.own(state)
        return {
            name: jax.vmap(ROLES[name].observe, (None, 0, 0, 0))(
                state.market, own[name], state.memory[name], params.roles[name]
            )
            for name in self.config.counts
        }

    def quotes(self, state: OrderBookState, action: dict[str, jax.Array], params: OrderBookParams) -> Quotes:
        """What the agents want to have in the book, leaves [agents, 2]; within what a message can say."""
        own = self.own(state)
        wanted = [
            jax.vmap(ROLES[name].quotes, (0, None, 0, 0, 0))(
                action[name], state.market, own[name], state.memory[name], params.roles[name]
            )
            for name in self.config.counts
        ]
        quotes = jax.tree.map(lambda *rows: jnp.concatenate(rows), *wanted)
        return lax.optimization_barrier(
            Quotes(
                price=jnp.clip(quotes.price, state.book.lowest, state.book.highest),
                size=jnp.minimum(quotes.size, MAX_SIZE),
                replaces=quotes.replaces,
            )
        )

    def own(self, state: OrderBookState) -> dict[str, Own]:
        """What agents know of themselves, by role, leaves [agents of the role, ...]."""
        return self.config.by_role(Own(state.ledger.position[1:], state.standing, state.instructions.waiting))

    def _coming(self, key: jax.Array, state: OrderBookState, params: OrderBookParams) -> tuple[Any, Any, jax.Array]:
        """The background's draws of the next step, its state behind them, and whether trading is halted meanwhile,
        float32[] 1 if so, else 0."""
        stress = stress_at(state.conditions.schedule, state.seconds)
        stress = signals.lean(stress, state.market.signal, params.signal)
        draws, flow = self.flow.prepare(key, state.flow, params.flow, stress, self.config.messages)
        return draws, flow, jnp.maximum(stress.halted, self.flow.halts(draws).astype(jnp.float32))

    def _latency(self, key: jax.Array, state: OrderBookState) -> jax.Array:
        """float32[agents, 2] seconds."""
        ratio = state.market.volatility / state.market.scales.volatility
        keys = jax.random.split(key, (self.config.agents, 2))
        return jax.vmap(jax.vmap(sample, (0, None, None)), (0, 0, None))(keys, state.conditions.latency, ratio)

    def _meet(
        self, key: jax.Array, state: OrderBookState, draws: Any, instructions: Instructions, arriving: jax.Array
    ) -> tuple[Book, Report, jax.Array]:
        """The book after all messages of a step have met it in order of arrival, the report of them, and when they
        arrived, float32[N] seconds since the step's start, infinite for what did not."""
        arrivals = orders.arrivals(instructions, state.standing, arriving)
        seconds = jnp.where(arriving, instructions.seconds, jnp.inf).reshape(-1)
        positions = merge(key, draws.seconds, seconds)
        rows = orders.threaded(positions, draws, arrivals)
        book, report = process(state.book, rows, self.config.book, functools.partial(_respond, self.flow))
        return book, report, jnp.sort(jnp.append(draws.seconds, seconds))

    def _market(
        self, book: Book, turnover: Turnover, last: Market, seconds: jax.Array, params: OrderBookParams
    ) -> Market:
        """What everybody sees of the book after a step that took `seconds`."""
        market = look(book, last)
        bought, sold = jnp.sum(turnover.lots[1], axis=-1)
        move = market.mark - last.mark
        # Exponentially weighted in time: a step of any length forgets as much as its parts would.
        kept = jnp.exp(-params.variance_decay * seconds)
        rate = (0.5 * move) ** 2 / jnp.maximum(seconds, 1e-6)
        return dataclasses.replace(
            market,
            move=move,
            pressure=(bought - sold) / jnp.maximum(bought + sold, 1),
            variance=kept * last.variance + (1.0 - kept) * rate,
            tick_value=params.tick_value,
            scales=params.scales,
        )

    def _settle(
        self, key: jax.Array, state: OrderBookState, earned: jax.Array, params: OrderBookParams
    ) -> tuple[OrderBookState, dict[str, jax.Array]]:
        own, profits = self.own(state), self.config.by_role(earned)
        keys = self.config.by_role(jax.random.split(key, self.config.agents))
        memory, reward = {}, {}
        for name in self.config.counts:
            memory[name], reward[name] = jax.vmap(ROLES[name].settle, (0, 0, None, 0, 0, 0))(
                keys[name], profits[name], state.market, own[name], state.memory[name], params.roles[name]
            )
        return dataclasses.replace(state, memory=memory), self._shared(reward, params.desk)

    def _shared(self, reward: dict[str, jax.Array], desk: jax.Array) -> dict[str, jax.Array]:
        """The rewards when pairs of directional traders and execution agents are a desk to the degree `desk`."""
        pairs = min(self.config.directional, self.config.executions)
        if pairs == 0:
            return reward
        trader, executor = reward["directional"], reward["execution"]
        flow = 0.5 * desk * (trader[:pairs] - executor[:pairs])
        return reward | {
            "directional": trader.at[:pairs].add(-flow),
            "execution": executor.at[:pairs].add(flow),
        }

    def _over(
        self, state: OrderBookState, params: OrderBookParams
    ) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
        net = self.config.by_role(state.net(params.tick_value)[1:])
        terminated = {name: net[name] < -params.roles[name].max_loss for name in net}
        bankrupt = functools.reduce(jnp.logical_or, [jnp.any(x) for x in terminated.values()])
        over = bankrupt | (state.elapsed >= self.config.episode_steps) | self.flow.ends(state.flow, params.flow)
        return terminated, {name: over & ~x for name, x in terminated.items()}


def _respond(flow: Flow, book: Book, row: tuple[jax.Array, Any, Arrival]) -> Messages:
    is_agents, draw, arrival = row
    theirs, ours = flow.message(draw, book), orders.message(arrival, book)
    # Computed here once, and not again for every slot that it is compared with.
    return lax.optimization_barrier(jax.tree.map(lambda a, b: jnp.where(is_agents, a, b), ours, theirs))


def look(book: Book, last: Market) -> Market:
    """The market with the book's touch, levels and mark; what the book does not tell is left as it was."""
    seen = levels(book, DEPTH)
    there = (seen.bid_size[0] > 0, seen.ask_size[0] > 0)
    bid, ask = jnp.where(there[0], seen.bid_price[0], last.bid), jnp.where(there[1], seen.ask_price[0], last.ask)
    deepest = [
        jnp.max(jnp.where(size > 0, jnp.abs(price - price[0]), 0))
        for price, size in ((seen.bid_price, seen.bid_size), (seen.ask_price, seen.ask_size))
    ]
    return dataclasses.replace(
        last,
        bid=bid,
        ask=ask,
        bid_size=seen.bid_size,
        ask_size=seen.ask_size,
        bid_depth=deepest[0],
        ask_depth=deepest[1],
        mark=jnp.where(there[0] & there[1], bid + ask, last.mark),
    )


def first_market(book: Book, params: OrderBookParams) -> Market:
    """What is seen at an episode's start: the typical variance, and nothing has happened."""
    zero, none = jnp.zeros((), jnp.int32), jnp.zeros(DEPTH, jnp.int32)
    blank = Market(
        bid=zero,
        ask=zero,
        bid_size=none,
        ask_size=none,
        bid_depth=zero,
        ask_depth=zero,
        mark=zero,
        move=zero,
        pressure=jnp.zeros(()),
        variance=params.scales.volatility**2,
        halted=jnp.zeros(()),
        signal=jnp.zeros(()),
        left=jnp.ones(()),
        tick_value=params.tick_value,
        scales=params.scales,
    )
    return look(book, blank)
