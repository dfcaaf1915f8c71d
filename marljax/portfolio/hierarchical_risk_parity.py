"""Hierarchical risk parity (Lopez de Prado 2016, J. Portfolio Management 42) in a fixed program.

Products are put in the order of a single-linkage tree of their correlations, and capital is halved along this order,
each half by the inverse of its variance. The tree is the maximum spanning tree of correlations: Prim's algorithm finds
it and Kruskal's order of its edges merges it, loops of P steps both. The distance is sqrt((1 - correlation) / 2) of the
pair itself, as in skfolio, not the distance between columns of distances.

Of two clusters the one formed first stands left, as in SciPy, but of two single products the less volatile one, so that
the order of the products decides nothing.
"""

import jax
import jax.numpy as jnp

from marljax.portfolio.risk_parity import normalise, standardise

_APART = -2.0
"""Below every correlation: what a product without budget has with all."""


def hierarchical_risk_parity(covariance: jax.Array, budget: jax.Array | None = None) -> jax.Array:
    """Weights by recursive bisection of the products' tree. float32[P], >= 0, sum 1.

    `covariance` float32[P, P], symmetric positive definite, any unit; where it has NaN, so have the weights. `budget`
    float32[P], >= 0 and not all zero, any scale; None is equal: it tilts a half's share by its mean budget. A product
    with budget zero gets weight zero, as if it were not there. Derivatives hold the order fast.
    """
    budget, active, volatility, correlation = standardise(covariance, budget)
    volatility = jnp.where(active, volatility, jnp.inf)
    place = _places(*jax.lax.stop_gradient((correlation, volatility)), active)
    capital = jnp.where(active, budget * jnp.square(jnp.min(volatility) / volatility), 0.0)
    risk = jnp.where(active, capital * volatility, 0.0)
    both = active[:, None] & active
    shared = jnp.where(both, correlation, 0.0) * jnp.outer(risk, risk)

    def halve(state: tuple[jax.Array, jax.Array, jax.Array], _: None):
        weights, first, end = state
        middle = first + (end - first) // 2
        left = place < middle
        together = both & (first[:, None] == first)
        own = together & (left[:, None] == left)
        weights = weights * _share(own, together & ~own, shared, capital, budget)
        splits = end - first > 1
        return (weights, jnp.where(left | ~splits, first, middle), jnp.where(left & splits, middle, end)), None

    # A single product is never halved: what is no number in it must be seen here.
    known = jnp.where(jnp.isnan(capital), jnp.nan, 1.0)
    whole = (known, jnp.zeros_like(place), jnp.full_like(place, jnp.sum(active)))
    (weights, _, _), _ = jax.lax.scan(halve, whole, length=(place.shape[0] - 1).bit_length())
    return normalise(weights, active)


def _share(own: jax.Array, other: jax.Array, shared: jax.Array, capital: jax.Array, budget: jax.Array) -> jax.Array:
    """What each product's half gets of the capital of both. float32[P], one where there is no other half.

    `own` and `other` bool[P, P] say which products are in a product's half and in the other. `shared` float32[P, P]
    are the terms of the variance of `capital` float32[P], which holds the products of a half by inverse variance.
    """
    risk = jnp.sum(jnp.where(own, shared, 0.0), 1)

    def appeal(half: jax.Array) -> jax.Array:
        """Mean budget over variance."""
        half = half.astype(risk.dtype)
        return half @ budget * jnp.square(half @ capital) / (half @ risk * half.sum(1))

    alone = ~other.any(1)
    mine, others = appeal(own), appeal(other | alone[:, None])
    return jnp.where(alone, 1.0, mine / (mine + others))


def _places(correlation: jax.Array, volatility: jax.Array, active: jax.Array) -> jax.Array:
    """int32[P] place of every product in the order of the tree's leaves; those without budget stand last."""
    n_products = volatility.shape[0]
    both = active[:, None] & active
    similarity = jnp.where(both, correlation, _APART)
    seniority = jnp.argsort(jnp.argsort(volatility)).astype(jnp.int32)
    start, end, strength = _spanning_tree(similarity, jnp.argmin(seniority))
    strongest_first = jnp.argsort(-strength)

    def merge(state: tuple[jax.Array, jax.Array], edge: tuple[jax.Array, jax.Array, jax.Array]):
        cluster, place = state
        one, other, name = cluster[edge[0]], cluster[edge[1]], edge[2]
        in_left, in_right = cluster == jnp.minimum(one, other), cluster == jnp.maximum(one, other)
        place = place + jnp.where(in_right, jnp.sum(in_left), 0)
        return (jnp.where(in_left | in_right, name, cluster), place), None

    names = n_products + jnp.arange(n_products - 1, dtype=jnp.int32)
    edges = (start[strongest_first], end[strongest_first], names)
    (_, place), _ = jax.lax.scan(merge, (seniority, jnp.zeros(n_products, jnp.int32)), edges)
    return jnp.argsort(jnp.argsort(jnp.where(active, place, n_products))).astype(jnp.int32)


def _spanning_tree(similarity: jax.Array, root: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Ends int32[P - 1], int32[P - 1] and similarities float32[P - 1] of the maximum spanning tree's edges (Prim)."""
    n_products = similarity.shape[0]

    def grow(state: tuple[jax.Array, jax.Array, jax.Array], _: None):
        in_tree, nearest, best = state
        joined = jnp.argmax(jnp.where(in_tree, -jnp.inf, best))
        edge = (nearest[joined], joined, best[joined])
        in_tree = in_tree.at[joined].set(True)
        nearer = similarity[joined] > best
        return (in_tree, jnp.where(nearer, joined, nearest), jnp.maximum(best, similarity[joined])), edge

    begun = (jnp.arange(n_products) == root, jnp.full(n_products, root), similarity[root])
    return jax.lax.scan(grow, begun, length=n_products - 1)[1]
