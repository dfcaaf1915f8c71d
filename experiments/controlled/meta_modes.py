"""Modes of coordination that learn no policy, on the episodes that judge the meta-controller.

Agents bid for capital, or risk parity is held as far as gross exposure may go, as in the portfolio env's modes of the
same names; what they ask for stands under the guardrails of the world.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from meta_streams import JUDGED, MetaConfig, Played

from marljax.envs.controlled.return_streams import ReturnStreams, ReturnStreamsParams, ReturnStreamsState
from marljax.portfolio.bidding import AuctionConfig, claims, offer
from marljax.portfolio.calibration import Calibration

MODES = ("risk_parity", "auction")


def hold_modes(env: ReturnStreams, world: ReturnStreamsParams, config: MetaConfig) -> Played:
    """What each of MODES did in the episodes of `meta_streams.play`, with the same returns; modes stand for seeds."""
    rules = AuctionConfig().rules(float(world.risk_aversion / world.reward_scale))
    n_agents = world.typical_volatility.shape[0]

    def bid(memory: Any, state: ReturnStreamsState) -> tuple[jax.Array, Any]:
        calibration, claimed, before = memory
        everybody = jnp.ones(n_agents, bool)
        calibration = calibration.update(claimed, state.record.last, before, everybody, rules.decay)
        asked, _ = offer(state.record.mean, state.covariance, calibration, rules, world.rails)
        volatility = jnp.sqrt(jnp.diagonal(state.covariance))
        return asked, (calibration, claims(state.record.mean, volatility, rules), volatility)

    def episode(mode: str, key: jax.Array) -> Any:
        reset_key, key = jax.random.split(key)
        start = Calibration.start(n_agents), jnp.zeros(n_agents), jnp.ones(n_agents)

        def step(carry: Any, key: jax.Array) -> tuple[Any, Any]:
            state, memory = carry
            if mode == "auction":
                asked, memory = bid(memory, state)
            else:
                asked = world.gross * state.market.base
            _, state, _, _, _, info = env.rebalance(key, state, asked, world)
            return (state, memory), info

        state = env.reset_env(reset_key, world)[1]
        return jax.lax.scan(step, (state, start), jax.random.split(key, config.steps))[1]

    keys = jax.random.split(jax.random.fold_in(jax.random.key(config.seed), JUDGED), config.episodes)
    infos = [jax.jit(jax.vmap(partial(episode, mode)))(keys) for mode in MODES]
    own = (
        np.stack([np.asarray(info[name], np.float64) for info in infos])
        for name in ("granted", "log_growth", "turnover")
    )
    shared = (np.asarray(infos[0][name], np.float64) for name in ("base", "growth", "returns", "regime"))
    return Played(*own, *shared)
