"""What the guardrails did to what was asked for, as arrays inside a program and as words outside of it."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from marljax.portfolio.limits import Limits


@struct.dataclass
class Intervention:
    """Which limits bound at a rebalance and how far they moved the weights, of P products in C classes."""

    invalid: jax.Array  # bool[P] the weight asked for was not a number, or beyond a million times equity
    long_cap: jax.Array  # bool[P] held at max_weight
    short_cap: jax.Array  # bool[P] held at -max_short; for long-only, a short position was refused
    risk_budget: jax.Array  # bool[P] held at the weight that its risk budget allows
    class_cap: jax.Array  # bool[C] gross exposure in the class held at its cap; C is zero without classes
    long_leverage: jax.Array  # bool[] sum of long positions held at long_leverage
    short_leverage: jax.Array  # bool[] sum of short positions held at short_leverage
    leverage: jax.Array  # bool[] gross exposure held at leverage
    cash: jax.Array  # bool[] gross exposure held at what the cash floor leaves
    turnover: jax.Array  # bool[] not all of the trade was allowed
    volatility: jax.Array  # float32[] factor that the volatility target put on all weights, at most one
    brake: jax.Array  # bool[] everything was sold in a drawdown
    overdraft: jax.Array  # float32[] turnover beyond its limit that the other limits forced [fraction of equity]
    moved: jax.Array  # float32[P] granted less asked for, or less held where what was asked for is invalid
    distance: jax.Array  # float32[] Euclidean length of `moved` [fraction of equity]

    @property
    def any(self) -> jax.Array:
        """bool[] whether any limit changed the weights."""
        products = jnp.any(self.invalid | self.long_cap | self.short_cap | self.risk_budget)
        sums = jnp.any(self.class_cap) | self.long_leverage | self.short_leverage | self.leverage | self.cash
        return products | sums | self.turnover | (self.volatility < 1) | self.brake


def describe(
    done: Intervention,
    granted: np.ndarray,
    previous: np.ndarray,
    limits: Limits,
    names: Sequence[str],
    class_names: Sequence[str] | None = None,
) -> list[str]:
    """One intervention in words, a phrase for every limit that acted, in the order in which the guardrails act.

    `granted` and `previous` float32[P] are what `guard` returned and was given, `names` and `class_names` those of
    products and classes (numbers without). On the host, for one rebalance: take it out of a batch first.
    """
    granted, previous = np.asarray(granted, np.float64), np.asarray(previous, np.float64)
    previous = np.where(np.isfinite(previous), previous, 0.0)
    asked = granted - np.asarray(done.moved, np.float64)
    factor = float(done.volatility)
    if bool(done.brake):
        return [f"everything sold by brake: gross from {np.abs(asked).sum():.2f} to 0.00"]
    # Where nothing is granted, what the projection left of the wish is not known any more.
    projected = granted / factor if factor > 0 else asked

    def acted_on(flags: jax.Array) -> list[int]:
        return [int(i) for i in np.flatnonzero(flags)]

    def change(what: str, before: float, after: float, limit: str) -> str:
        return f"{what} from {round(before, 2) + 0.0:.2f} to {round(after, 2) + 0.0:.2f} by {limit}"

    words = [f"{names[i]} held at {asked[i]:.2f}: no number was asked for" for i in acted_on(done.invalid)]
    for flags, limit in (
        (done.risk_budget, "risk_budget"),
        (done.long_cap, "max_weight"),
        (done.short_cap, "max_short"),
    ):
        words += [change(f"{names[i]} cut", asked[i], projected[i], limit) for i in acted_on(flags)]
    for label in acted_on(done.class_cap):
        inside = np.asarray(limits.classes) == label
        name = label if class_names is None else class_names[label]
        before, after = (np.abs(weights[inside]).sum() for weights in (asked, projected))
        words.append(change(f"gross of class {name}", before, after, "class_cap"))
    for acted, what, limit, measure in (
        (done.long_leverage, "long positions", "long_leverage", lambda w: np.maximum(w, 0).sum()),
        (done.short_leverage, "short positions", "short_leverage", lambda w: np.maximum(-w, 0).sum()),
        (done.leverage, "gross", "leverage", lambda w: np.abs(w).sum()),
        (done.cash, "gross", "cash_floor", lambda w: np.abs(w).sum()),
        (done.turnover, "turnover", "turnover", lambda w: np.abs(w - previous).sum()),
    ):
        if bool(acted):
            words.append(change(what, measure(asked), measure(projected), limit))
    if factor < 1:
        words.append(change("gross", np.abs(projected).sum(), np.abs(granted).sum(), "volatility_target"))
    if float(done.overdraft) > 0:
        words.append(f"turnover {float(done.overdraft):.2f} beyond its limit, forced by the others")
    return words
