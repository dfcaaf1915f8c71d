"""Modes of coordination that learn no policy, on the episodes that judge the meta-controller.

Agents bid for capital, or risk parity is held as far as gross exposure may go, as in the portfolio env's modes of the
same names; what they ask for stands under the guardrails of the world.
"""

from functools import partial
from typing import Any

import jax
import numpy as np
from meta_streams import JUDGED, MetaConfig, Played
from stream_accounts import seen
from stream_strategies import Bidders

from marljax.envs.controlled.return_streams import ReturnStreams, ReturnStreamsParams
from marljax.portfolio.bidding import AuctionConfig

MODES = ("risk_parity", "auction")


def hold_modes(env: ReturnStreams, world: ReturnStreamsParams, config: MetaConfig) -> Played:
    """What each of MODES did in the episodes of `meta_streams.play`, with the same returns; modes stand for seeds."""
    rules = AuctionConfig().rules(float(world.risk_aversion / world.reward_scale))

    def episode(mode: str, key: jax.Array) -> Any:
        reset_key, key = jax.random.split(key)

        def step(carry: Any, key: jax.Array) -> tuple[Any, Any]:
            state, bidders = carry
            if mode == "auction":
                bidders, asked = bidders.bid(seen(state), rules, world.rails)
            else:
                asked = world.gross * state.market.base
            _, state, _, _, _, info = env.rebalance(key, state, asked, world)
            return (state, bidders), info

        state = env.reset_env(reset_key, world)[1]
        start = state, Bidders.start(world.typical_volatility.shape[0])
        return jax.lax.scan(step, start, jax.random.split(key, config.steps))[1]

    keys = jax.random.split(jax.random.fold_in(jax.random.key(config.seed), JUDGED), config.episodes)
    infos = [jax.jit(jax.vmap(partial(episode, mode)))(keys) for mode in MODES]
    own = (
        np.stack([np.asarray(info[name], np.float64) for info in infos])
        for name in ("granted", "log_growth", "turnover")
    )
    shared = (np.asarray(infos[0][name], np.float64) for name in ("base", "growth", "returns", "regime"))
    return Played(*own, *shared)
