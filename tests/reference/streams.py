"""A small market, its features and an untrained generator of it: all that a stream of sessions needs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from marljax.envs import stream
from marljax.envs.replay import ReplayParams
from marljax.envs.tapes import CostConfig, Rows, TradingConfig, cost_models, replay_params
from marljax.features import FeatureConfig, fit, transform, warm_up_steps
from marljax.generative import representation
from marljax.generative.stitching import make_generator
from marljax.generative.wgan_gp import GanConfig, init, make_dataset
from tests.reference.generative import toy_market

GAN = GanConfig(window=16, context=8, hidden=16, latents=1, batch=8)
FEATURES = FeatureConfig(
    names=("log_return", "order_flow_imbalance", "relative_value", "time_of_session"),
    volatility_window=4,
    long_volatility_window=8,
    z_score_window=4,
    flow_window=4,
    liquidity_window=6,
    session_seconds=300.0,
)
CLOSING = 2


@functools.cache
def market(n_products: int):
    """The data, a fitted feature pipeline and an untrained generator."""
    data = toy_market(3, n_products=n_products, n_levels=2)
    learned = representation.fit(data)
    dataset, encoded = make_dataset(learned, data, GAN, 0)
    generator = make_generator(init(jax.random.key(0), dataset, GAN), dataset, encoded)
    return data, fit(data, FEATURES), generator


def source(n_products: int = 2, n_sessions: int = 4, every: int = 1, episode_steps: int = 12) -> stream.Source:
    _, pipeline, generator = market(n_products)
    return stream.source(
        generator,
        pipeline,
        n_sessions=n_sessions,
        every=every,
        warm_up=warm_up_steps(FEATURES),
        closing_rows=CLOSING,
        episode_steps=episode_steps,
    )


def real_params(n_products: int, episode_steps: int) -> ReplayParams:
    """Of the real rows alone, leaves [P, ...]."""
    data, pipeline, _ = market(n_products)
    trading = TradingConfig(closing_rows=CLOSING, no_trade_band=0.0)
    return replay_params(
        Rows.of(data, jnp.asarray(transform(pipeline, data)), warm_up_steps(FEATURES), CLOSING),
        costs=cost_models(data, CostConfig()),
        max_position=np.full(n_products, 5, np.int32),
        trading=trading,
        episode_steps=episode_steps,
    )
