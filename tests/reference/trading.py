"""A slow, obvious account: Python integers, one level at a time, cash and position instead of itemised PnL."""

import math
from dataclasses import dataclass


@dataclass
class Book:
    bids: list[tuple[int, int]]
    """(price in ticks, size in lots), best first; a size of 0 is an absent level."""
    asks: list[tuple[int, int]]
    tradable: bool = True

    @property
    def double_mid(self) -> int:
        return self.bids[0][0] + self.asks[0][0]


@dataclass
class Costs:
    tick_value: float
    fee_rate: float
    fee_per_lot: float
    impact: float
    volatility: float
    typical_volume: float


@dataclass
class CashAccount:
    cash_ticks: int = 0
    """What was received for sales less what was paid for purchases [ticks x lots]."""
    position: int = 0
    charges: float = 0.0
    """Fees and impact so far [currency]."""

    def trade(self, target: int, decided: Book, met: Book, costs: Costs) -> int:
        """Trade toward the target against `met`; returns the lots bought (negative: sold)."""
        order = target - self.position
        left, paid = abs(order), 0
        if met.tradable:
            for price, size in met.asks if order > 0 else met.bids:
                lots = min(left, size)
                paid += lots * price
                left -= lots
        filled = abs(order) - left
        sign = 1 if order > 0 else -1
        self.cash_ticks -= sign * paid
        self.position += sign * filled
        impact = costs.impact * costs.volatility * math.sqrt(filled / costs.typical_volume) * filled * costs.tick_value
        notional = abs(decided.double_mid) / 2 * filled * costs.tick_value
        self.charges += impact + costs.fee_rate * notional + costs.fee_per_lot * filled
        return sign * filled

    def net(self, mark: Book, costs: Costs) -> float:
        """Equity less the opening capital: cash + position x mark - charges [currency]."""
        return (self.cash_ticks + self.position * mark.double_mid / 2) * costs.tick_value - self.charges
