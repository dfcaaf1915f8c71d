"""Small instances of every registered env, ready to step."""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from marljax.agents.networks import MLP
from marljax.agents.policy import TanhGaussianPolicy
from marljax.data.schema import MarketData
from marljax.envs.controlled.almgren_chriss import AlmgrenChriss, AlmgrenChrissParams
from marljax.envs.controlled.avellaneda_stoikov import AvellanedaStoikov, AvellanedaStoikovParams
from marljax.envs.controlled.cart_pole import CartPole, CartPoleParams
from marljax.envs.controlled.desk import Desk, DeskParams
from marljax.envs.controlled.merton import Merton, MertonParams
from marljax.envs.controlled.return_streams import ReturnStreams, ReturnStreamsParams, return_streams_params
from marljax.envs.controlled.return_streams_laws import regime_streams
from marljax.envs.controlled.simple_spread import SimpleSpread, SimpleSpreadParams
from marljax.envs.controlled.two_products import TwoProducts, TwoProductsParams
from marljax.envs.environment import Environment
from marljax.envs.joint_portfolio import JointParams, JointPortfolioEnv
from marljax.envs.opening import order_book_params, run_in
from marljax.envs.order_book import OrderBookEnv
from marljax.envs.order_book_types import OrderBookConfig, OrderBookParams
from marljax.envs.portfolio import PortfolioEnv, PortfolioParams
from marljax.envs.quoting import QuotingConfig, QuotingEnv, quoting_params
from marljax.envs.replay import ReplayEnv
from marljax.envs.roles.execution import ExecutionParams
from marljax.envs.roles.market_maker import MarketMakerParams
from marljax.envs.tapes import (
    CostConfig,
    Rows,
    TradingConfig,
    cost_models,
    default_capital,
    position_limits,
    replay_params,
)
from marljax.envs.worlds import AllocationConfig, joint_params, portfolio_params
from marljax.lob.flows import zero_intelligence
from tests.reference.books import random_market

N_FEATURES = 4
POLICY = TanhGaussianPolicy(1, MLP((8, 8)))


def rows(data: MarketData, seed: int = 0, warm_up: int = 5) -> Rows:
    """The data with noise for features."""
    shape = (data.n_steps, data.n_products, N_FEATURES)
    features = jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)
    return Rows.of(data, features, warm_up=warm_up, closing_rows=3)


def policies(n_agents: int, seed: int = 0, boldness: float = 30.0) -> Any:
    """Untrained product agents, leaves [A, ...], their last layer enlarged so that they trade."""
    keys = jax.random.split(jax.random.key(seed), n_agents)
    params = jax.vmap(lambda key: POLICY.init(key, N_FEATURES + 1))(keys)
    *hidden, last = params.network
    return params.replace(network=(*hidden, jax.tree.map(lambda x: boldness * x, last)))


def portfolio(
    data: MarketData,
    part: slice | None = None,
    seed: int = 0,
    costs: CostConfig | None = None,
    product: list[int] | None = None,
    **allocation: Any,
) -> tuple[PortfolioEnv, PortfolioParams]:
    """A portfolio env of untrained agents over `part` of the data (all of it by default); a third of it trains.

    There is one agent for each product, or one for each entry of `product`.
    """
    part, train = part or slice(0, data.n_steps), data.rows(0, data.n_steps // 3)
    config = AllocationConfig(**{"rows_per_block": 5, "covariance_half_life": 30.0} | allocation)
    env = PortfolioEnv(POLICY, config.rows_per_block, 4, config.coordination)
    params = portfolio_params(
        data,
        part,
        rows(data, seed).part(part),
        train,
        policies=policies(data.n_products if product is None else len(product), seed),
        costs=cost_models(train, costs or CostConfig()),
        no_trade_band=0.1,
        capital=default_capital(train),
        config=config,
        episode_blocks=env.episode_blocks,
        product=None if product is None else np.array(product),
    )
    return env, params


@partial(jax.jit, static_argnums=0)
def episode(env: PortfolioEnv, params: PortfolioParams, actions: jax.Array, first: int = 0) -> Any:
    """(states, rewards, infos) after each of `actions` float32[N, A + 1], from the `first` permitted block on."""

    def one(state: Any, xs: Any) -> Any:
        i, action = xs
        _, state, reward, _, _, info = env.step_env(jax.random.fold_in(jax.random.key(0), i), state, action, params)
        return state, (state, reward, info)

    return jax.lax.scan(one, env.start(params.starts[first], params), (jnp.arange(len(actions)), actions))[1]


def joint_portfolio(
    data: MarketData, trading: TradingConfig | None = None, weight: float = 0.5, **settings: Any
) -> tuple[JointPortfolioEnv, JointParams]:
    """The env in which the agents of `portfolio` and its meta-controller learn together."""
    env, params = portfolio(data, **settings)
    env = dataclasses.replace(env, episode_blocks=3)
    return JointPortfolioEnv(env), joint_params(params, trading or TradingConfig(), weight)


def replay() -> tuple[Environment, Any]:
    """A replay env of one product."""
    data = random_market(n_products=1)
    params = replay_params(
        rows(data),
        costs=cost_models(data, CostConfig()),
        max_position=position_limits(data, default_capital(data)),
        trading=TradingConfig(),
        episode_steps=20,
    )
    return ReplayEnv(20), jax.tree.map(lambda x: x[0], params)


def quoting() -> tuple[Environment, Any]:
    """A market maker's env of one product."""
    data = random_market(n_products=1)
    params = quoting_params(
        rows(data),
        costs=cost_models(data, CostConfig(latency_mean=0.5)),
        max_position=position_limits(data, default_capital(data)),
        trading=TradingConfig(),
        quoting=QuotingConfig(),
        episode_steps=20,
    )
    return QuotingEnv(20), jax.tree.map(lambda x: x[0], params)


def order_book(max_loss: float = 1e6, **config: Any) -> tuple[OrderBookEnv, OrderBookParams]:
    """Two market makers, two directional traders and an execution agent in a small book of zero intelligence."""
    counts = {"market_makers": 2, "directional": 2, "executions": 1}
    env = OrderBookEnv(zero_intelligence, OrderBookConfig(**counts | {"messages": 20, "episode_steps": 20} | config))
    flow = zero_intelligence.typical()
    openings, scales = run_in(jax.random.key(0), zero_intelligence, flow, env.config.book, count=3, blocks=5)
    roles = {"market_maker": MarketMakerParams(max_loss=max_loss), "execution": ExecutionParams(parent=40, deadline=15)}
    return env, order_book_params(env, flow, openings, scales, roles=roles)


def return_streams() -> tuple[ReturnStreams, ReturnStreamsParams]:
    """Three agents whose correlations switch."""
    streams = regime_streams(
        mean=np.array([[0.002] * 3, [-0.002] * 3]),
        volatility=np.full((2, 3), 0.02),
        correlation=np.stack([np.eye(3), 0.1 * np.eye(3) + 0.9]),
        transition=np.array([[0.95, 0.05], [0.1, 0.9]]),
        turnover=0.1,
    )
    return ReturnStreams(periods=2, episode_steps=20, warmup_steps=3), return_streams_params(
        streams, np.full(3, 0.03), cost=0.001, rate=0.0002
    )


INSTANCES = {
    "replay": replay,
    "quoting": quoting,
    "portfolio": lambda: portfolio(random_market(n_products=3)),
    "joint portfolio": lambda: joint_portfolio(random_market(n_products=3)),
    "order book": order_book,
    "cart pole": lambda: (CartPole(episode_steps=15), CartPoleParams()),
    "simple spread": lambda: (SimpleSpread(), SimpleSpreadParams()),
    "avellaneda stoikov": lambda: (AvellanedaStoikov(n_steps=20), AvellanedaStoikovParams()),
    "almgren chriss": lambda: (AlmgrenChriss(), AlmgrenChrissParams(risk_aversion_range=3.0)),
    "merton": lambda: (Merton(), MertonParams(drift_range=0.1, volatility_range=1.5)),
    "two products": lambda: (TwoProducts(episode_steps=20), TwoProductsParams()),
    "desk": lambda: (Desk(n_slices=3, n_parents=4), DeskParams()),
    "return streams": return_streams,
}
"""Every name in the registry -> () -> (env, params)."""
