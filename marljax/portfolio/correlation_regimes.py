"""Covariance that knows two regimes of correlation, calm and stressed: causal, online, always positive definite.

An average that remembers long enough to be precise notices too late that correlations have jumped. So, as in Pelletier
(2006, J. Econometrics 131), each regime has correlations of its own, and those in use are mixed by the probability that
Hamilton's filter (1989, Econometrica 57) gives the regimes. Volatility, which moves faster, has its own half-life.

The evidence is the direction of a step's standardised returns: its density, with equal correlations as in Engle and
Kelly (2012, J. Business & Economic Statistics 30), is the angular Gaussian of Tyler (1987, Biometrika 74), the same for
every elliptical distribution. How large a step was tells nothing, so that neither fat tails nor a burst of volatility
pass for correlation. A regime's correlations are those of the steps that the filter gave to it, by their probability
(online EM; Cappe and Moulines 2009, J. Royal Statistical Society B 71).
"""

import jax
import jax.numpy as jnp
from flax import struct

from marljax.data.schema import InputError
from marljax.portfolio import covariance as moments

_MOST_CORRELATION = 0.95
"""Of calm, as the filter sees it: between this and one no jump is left to be told apart."""


@struct.dataclass
class Regimes:
    """What is assumed of the regimes: numbers, float32[]."""

    volatility_halflife: jax.Array | float = 20.0  # steps
    correlation_halflife: jax.Array | float = 250.0  # steps, for the correlations of either regime
    jump: jax.Array | float = 0.5  # in (0, 1): how far calm correlations are taken toward one when stress begins
    evidence: jax.Array | float = 20.0  # steps of stress that weigh as much as this assumption
    calm_duration: jax.Array | float = 250.0  # steps expected, above one
    stress_duration: jax.Array | float = 50.0  # steps expected, above one
    warm_up: jax.Array | float = 60.0  # first steps, all given to calm: what calm is must be known first


@struct.dataclass
class Correlations:
    """Weighted second moments of standardised returns, of the steps that were given to one regime."""

    moments: jax.Array  # float32[P, P]
    weight: jax.Array  # float32[] sum of the steps' weights


@struct.dataclass
class RegimeState:
    """Everything seen so far, and what it says of the next step. P products."""

    single: moments.CovarianceState  # mean and variance: P states of one product each
    calm: Correlations
    stressed: Correlations
    probability: jax.Array  # float32[] in [0, 1], that the next step is of the stressed regime
    correlation: jax.Array  # float32[P, P] expected of the next step: those of both regimes, mixed by it
    steps: jax.Array  # int32[] seen


def checked(regimes: Regimes) -> Regimes:
    """`regimes` itself, on the host. Raises InputError naming the number that means nothing."""
    above = {"volatility_halflife": 0, "correlation_halflife": 0, "jump": 0, "evidence": 0}
    above |= {"calm_duration": 1, "stress_duration": 1, "warm_up": -1}
    for name, low in above.items():
        value = float(getattr(regimes, name))
        if not value > low:
            raise InputError(f"{name} of the correlation regimes must be above {low}, got {value:g}")
    if not regimes.jump < 1:
        raise InputError(f"jump of the correlation regimes must be below 1, got {float(regimes.jump):g}")
    return regimes


def init(n_products: int) -> RegimeState:
    """The state before any return was seen: calm, nothing known."""
    nothing = Correlations(jnp.zeros((n_products, n_products), jnp.float32), jnp.zeros((), jnp.float32))
    return RegimeState(
        single=jax.vmap(lambda _: moments.init(1))(jnp.arange(n_products)),
        calm=nothing,
        stressed=nothing,
        probability=jnp.zeros((), jnp.float32),
        correlation=jnp.eye(n_products, dtype=jnp.float32),
        steps=jnp.zeros((), jnp.int32),
    )


def update(state: RegimeState, returns: jax.Array, regimes: Regimes) -> RegimeState:
    """The state after one more row of returns float32[P], finite, any unit. The regimes may change with the steps."""
    single = jax.vmap(moments.update, (0, 0, None))(state.single, returns[:, None], regimes.volatility_halflife)
    standard = _standardise(returns - state.single.mean[:, 0], single)
    is_stressed = _filter(state, standard, regimes)
    calm = _add(state.calm, standard, 1.0 - is_stressed, regimes.correlation_halflife)
    stressed = _add(state.stressed, standard, is_stressed, regimes.correlation_halflife)
    ahead = is_stressed * (1.0 - 1.0 / regimes.stress_duration) + (1.0 - is_stressed) / regimes.calm_duration

    assumed = _jumped(_correlation(calm), regimes.jump)
    learned = stressed.weight / (stressed.weight + regimes.evidence)
    under_stress = learned * _correlation(stressed) + (1.0 - learned) * assumed
    return RegimeState(
        single=single,
        calm=calm,
        stressed=stressed,
        probability=ahead,
        correlation=(1.0 - ahead) * _correlation(calm) + ahead * under_stress,
        steps=state.steps + 1,
    )


def scan(state: RegimeState, returns: jax.Array, regimes: Regimes) -> RegimeState:
    """The state after each row of `returns` float32[T, P]: a RegimeState with a leading axis T, each causal."""

    def step(state: RegimeState, row: jax.Array) -> tuple[RegimeState, RegimeState]:
        state = update(state, row, regimes)
        return state, state

    return jax.lax.scan(step, state, returns)[1]


def covariance(
    state: RegimeState,
    shrinkage: jax.Array | float = 0.1,
    floor: jax.Array | float = 1e-4,
    volatility_floor: jax.Array | float = 1e-8,
    target: moments.Target = "diagonal",
) -> jax.Array:
    """The covariance to use for the next step, positive definite. float32[P, P].

    Arguments are those of `covariance.covariance`, so that either module may stand in for the other.
    """
    correlation = moments.with_unit_diagonal(state.correlation)
    volatility = jax.vmap(moments.volatility, (0, None))(state.single, volatility_floor)[:, 0]
    return moments.rescale(moments.shrink(correlation, shrinkage, target), volatility, floor)


def _standardise(surprise: jax.Array, single: moments.CovarianceState) -> jax.Array:
    """`surprise` float32[P] over a volatility that knows this very step, so that no product outweighs the others."""
    moved = single.covariance[:, 0, 0] > 0
    volatility = jax.vmap(moments.volatility, (0, None))(single, 0.0)[:, 0]
    return jnp.where(moved, surprise / jnp.where(moved, volatility, 1.0), 0.0)


def _filter(state: RegimeState, standard: jax.Array, regimes: Regimes) -> jax.Array:
    """Probability float32[] that the step with standardised returns float32[P] was of the stressed regime."""
    calm = jnp.clip(moments.mean_correlation(_correlation(state.calm)), 0.0, _MOST_CORRELATION)
    evidence = _log_density(standard, _jumped(calm, regimes.jump)) - _log_density(standard, calm)
    probability = jax.nn.sigmoid(jax.scipy.special.logit(state.probability) + evidence)
    return jnp.where(state.steps >= regimes.warm_up, probability, 0.0)


def _jumped(correlation: jax.Array, jump: jax.Array | float) -> jax.Array:
    return correlation + jump * (1.0 - correlation)


def _log_density(standard: jax.Array, correlation: jax.Array) -> jax.Array:
    """Of the direction of `standard` float32[P], all pairs having `correlation` float32[] in [0, 1); less a constant.

    -log|R|/2 - P/2 log(u'R^-1 u), with the eigenvalues of R: one along the mean of the products, one across it.
    """
    n_products = standard.shape[0]
    squared = jnp.sum(standard**2)
    seen = squared > 0
    along = jnp.square(standard.sum()) / (n_products * jnp.where(seen, squared, 1.0))
    high, low = 1.0 + (n_products - 1) * correlation, 1.0 - correlation
    log_size = jnp.log(high) + (n_products - 1) * jnp.log(low)
    log_distance = jnp.log(along / high + jnp.maximum(1.0 - along, 0.0) / low)
    return jnp.where(seen, -0.5 * log_size - 0.5 * n_products * log_distance, 0.0)


def _add(regime: Correlations, standard: jax.Array, share: jax.Array, halflife: jax.Array | float) -> Correlations:
    """One more step, `share` of which was of this regime. What it knew fades in the other regime, too."""
    weight = regime.weight * moments.kept(halflife) + share
    gain = share / jnp.maximum(weight, jnp.finfo(weight.dtype).tiny)
    return Correlations(regime.moments + gain * (jnp.outer(standard, standard) - regime.moments), weight)


def _correlation(regime: Correlations) -> jax.Array:
    """float32[P, P], the identity where nothing was seen."""
    variance = jnp.diagonal(regime.moments)
    scale = jnp.sqrt(jnp.where(variance > 0, variance, 1.0))
    return moments.with_unit_diagonal(regime.moments / jnp.outer(scale, scale))
