"""Market makers in closed form: Avellaneda & Stoikov (2008), and Gueant, Lehalle & Fernandez-Tapia (2013).

Both take the mid for a Brownian motion of volatility sigma and the rate of fills at a distance delta from it for
A exp(-k delta), and maximise the expected exponential utility of a maker with risk aversion gamma. Prices are in ticks,
sizes in lots, so gamma is per tick and lot.
"""

import abc
import dataclasses

import jax
import jax.numpy as jnp
from flax import struct

from marljax.envs.roles.market_maker import OBSERVATION, MarketMakerParams
from marljax.envs.roles.role import Scales, entries


@struct.dataclass
class MakerParams:
    """What the closed forms need."""

    risk_aversion: jax.Array  # float32[] gamma, per tick and lot, >= 0
    decay: jax.Array  # float32[] k, per tick, > 0
    intensity: jax.Array  # float32[] A, fills per second at the mid, > 0; Avellaneda & Stoikov do without
    horizon: jax.Array  # float32[] seconds from an episode's beginning to its end
    size: jax.Array  # float32[] lots of each quote
    rules: MarketMakerParams
    scales: Scales


class _Maker(abc.ABC):
    """A policy that quotes around the mid, of which a half width and a shift are known."""

    def init_carry(self) -> tuple[()]:
        return ()

    @abc.abstractmethod
    def quotes(self, params: MakerParams, inventory: jax.Array, volatility: jax.Array, left: jax.Array) -> jax.Array:
        """float32[2] half width and shift [ticks], of the inventory [lots], the volatility [ticks per root second] and
        the time left [seconds]."""

    def apply(
        self, params: MakerParams, obs: jax.Array, carry: tuple[()], key: jax.Array, deterministic: bool | jax.Array
    ) -> tuple[jax.Array, tuple[()]]:
        """float32[4] action at float32[O]."""
        seen, rules = entries(OBSERVATION, obs), params.rules
        half, shift = self.quotes(
            params,
            seen["inventory"] * rules.max_position,
            seen["volatility"] * params.scales.volatility,
            seen["left"] * params.horizon,
        )
        width = 2.0 * (half - rules.nearest) / (rules.furthest - rules.nearest) - 1.0
        size = 2.0 * params.size / rules.largest - 1.0
        action = jnp.stack([width, shift / rules.skew, size, size])
        return jnp.clip(action, -1.0, 1.0), carry


@dataclasses.dataclass(frozen=True)
class AvellanedaStoikov(_Maker):
    """Quotes about the reservation price, which inventory moves away from the mid, the less the nearer the end."""

    def quotes(self, params: MakerParams, inventory: jax.Array, volatility: jax.Array, left: jax.Array) -> jax.Array:
        """float32[2] half width and shift [ticks]: gamma sigma^2 tau / 2 + log(1 + gamma / k) / gamma, and
        -q gamma sigma^2 tau.

        Args:
            inventory: float32[] lots.
            volatility: float32[] ticks per root second.
            left: float32[] seconds, tau.
        """
        risk = params.risk_aversion * volatility**2 * left
        return jnp.stack([0.5 * risk + _markup(params.risk_aversion, params.decay), -inventory * risk])


@dataclasses.dataclass(frozen=True)
class GueantLehalleFernandezTapia(_Maker):
    """The same maker far from the end, where its quotes no longer depend on time."""

    def quotes(self, params: MakerParams, inventory: jax.Array, volatility: jax.Array, left: jax.Array) -> jax.Array:
        """float32[2] half width and shift [ticks]: with D the size of a quote and
        c = sqrt(sigma^2 gamma / (2 k A D) (1 + gamma D / k)^(1 + k / (gamma D))), they are
        log(1 + gamma D / k) / (gamma D) + c D / 2, and -q c (D = 1 in the paper of 2013; Gueant 2017 has any).

        Args:
            inventory: float32[] lots.
            volatility: float32[] ticks per root second.
            left: not looked at.
        """
        scaled = params.risk_aversion * params.size
        x = scaled / params.decay
        power = jnp.exp((1.0 + x) * params.decay * _markup(scaled, params.decay))
        urgency = volatility * jnp.sqrt(
            params.risk_aversion / (2.0 * params.decay * params.intensity * params.size) * power
        )
        return jnp.stack([_markup(scaled, params.decay) + 0.5 * urgency * params.size, -inventory * urgency])


def _markup(gamma: jax.Array, decay: jax.Array) -> jax.Array:
    """log(1 + gamma / k) / gamma, which is 1 / k without risk aversion."""
    x = gamma / decay
    small = x < 1e-4
    return jnp.where(small, 1.0 - 0.5 * x, jnp.log1p(x) / jnp.where(small, 1.0, x)) / decay
