"""What money costs while it stands: cash earns a rate, a loan and a short position pay one.

A short sale's proceeds stay as collateral, so what is free is equity less gross exposure; below zero it is a loan.
Interest is simple, and booked row by row for the time until the next row, on what stands then.
"""

import jax
import jax.numpy as jnp
from flax import struct

from marljax.data.schema import InputError

SECONDS_PER_YEAR = 365.0 * 86_400.0


@struct.dataclass
class Rates:
    """Simple rates, fractions per year. Build it with `rates`."""

    cash: jax.Array  # float32[] earned on free cash
    loan: jax.Array  # float32[] paid on what is borrowed
    short: jax.Array  # float32[] paid on the value of short positions


@struct.dataclass
class Financing:
    """What a portfolio of A accounts was financed with so far, item by item."""

    interest: jax.Array  # float32[] currency earned on cash
    loans: jax.Array  # float32[] currency paid for loans
    shorts: jax.Array  # float32[A] currency paid for each account's short positions

    @classmethod
    def none(cls, n_accounts: int) -> "Financing":
        """Nothing yet."""
        zero = jnp.zeros((), jnp.float32)
        return cls(zero, zero, jnp.zeros(n_accounts, jnp.float32))

    def net(self) -> jax.Array:
        """float32[] currency: interest less what loans and shorts cost."""
        return self.interest - self.loans - jnp.sum(self.shorts)


def rates(cash: float = 0.0, loan: float = 0.0, short: float = 0.0) -> Rates:
    """Checked rates, fractions per year. Raises InputError for one that is not within -1 to 1, and where a loan costs
    less than its cash would earn."""
    for name, value in {"cash": cash, "loan": loan, "short": short}.items():
        if not -1 <= value <= 1:
            raise InputError(f"rates: {name} must lie within -1 and 1 per year, got {value!r}")
    if loan < cash:
        raise InputError(
            f"rates: a loan at {loan:g} and cash at {cash:g} conflict: borrowing would earn money; raise the loan's "
            "rate or lower that of cash"
        )
    return Rates(jnp.float32(cash), jnp.float32(loan), jnp.float32(short))


def without_each(rates: Rates, equity: jax.Array, values: jax.Array, years: jax.Array) -> jax.Array:
    """What a row's time would earn more, or its loans cost less, were an account's position cash: float32[A] currency,
    of each account in turn. Arguments as of `accrue`."""
    free = equity - jnp.sum(jnp.abs(values))

    def earned(free: jax.Array) -> jax.Array:
        interest, loans = _on_cash(rates, free, years)
        return interest - loans

    return earned(free + jnp.abs(values)) - earned(free)


def accrue(financing: Financing, rates: Rates, equity: jax.Array, values: jax.Array, years: jax.Array) -> Financing:
    """The items once a row's time has passed.

    Args:
        financing: before.
        rates: of the portfolio.
        equity: float32[] currency.
        values: float32[A] currency, what each account's position is worth at the mark, signed.
        years: float32[] that passed.
    """
    interest, loans = _on_cash(rates, equity - jnp.sum(jnp.abs(values)), years)
    return Financing(
        interest=financing.interest + interest,
        loans=financing.loans + loans,
        shorts=financing.shorts + years * rates.short * jnp.maximum(-values, 0.0),
    )


def _on_cash(rates: Rates, free: jax.Array, years: jax.Array) -> tuple[jax.Array, jax.Array]:
    """What cash earns and what loans cost in a row's time, float32[...] currency each; `free` is cash, or less than
    none."""
    return years * rates.cash * jnp.maximum(free, 0.0), years * rates.loan * jnp.maximum(-free, 0.0)
