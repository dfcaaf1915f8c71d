"""A rebalance told in words: what was observed, what the policy asked for, what the guardrails made of it and why."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from marljax.envs.portfolio import Decision
from marljax.portfolio.interventions import describe
from marljax.portfolio.limits import Limits
from marljax.portfolio.meta_controller import AGENT_FEATURES, PORTFOLIO_FEATURES, split

_PER_BASIS_POINT = 1e4


def tell(decision: Decision, limits: Limits, names: Sequence[str], class_names: Sequence[str] | None = None) -> str:
    """One decision as lines of text; claims, bids and prices are basis points of capital per block.

    Args:
        decision: of one rebalance; take it out of a batch first (`decision_at`).
        limits: the portfolio's.
        names: of the A agents.
        class_names: of the asset classes with a cap, in the order of their labels.
    """
    agents, portfolio = (np.asarray(part) for part in split(decision.observation))
    columns = ("base", "before", "asked", "granted")
    weights = np.stack([np.asarray(getattr(decision, column)) for column in columns], axis=-1)
    width = max(len("agent"), *map(len, names))
    seen = ", ".join(f"{name} {value:.2f}" for name, value in zip(PORTFOLIO_FEATURES, portfolio, strict=True))
    heads = [*columns, *AGENT_FEATURES]
    table = np.concatenate([weights, agents], axis=-1)
    if decision.offer is not None:
        offer = {field.name: getattr(decision.offer, field.name) for field in dataclasses.fields(decision.offer)}
        heads += [f"{name}_bp" for name in offer]
        bids = _PER_BASIS_POINT * np.stack([np.asarray(x) for x in offer.values()], axis=-1)
        table = np.concatenate([table, bids], axis=-1)
    lines = [f"equity {float(decision.equity):,.0f}; {seen}", f"{'agent':<{width}} " + " ".join(heads)]
    for name, row in zip(names, table, strict=True):
        cells = " ".join(f"{value:>{len(head)}.2f}" for head, value in zip(heads, row, strict=True))
        lines.append(f"{name:<{width}} {cells}")
    why = reasons(decision, limits, names, class_names)
    return "\n".join([*lines, f"guardrails: {'; '.join(why) if why else 'granted as asked'}"])


def entry(
    decision: Decision, limits: Limits, names: Sequence[str], class_names: Sequence[str] | None = None
) -> dict[str, Any]:
    """One decision as JSON values, arguments as of `tell`: what was observed, and by agent what it had, what was asked
    for and granted [fractions of equity], with the guardrails' reasons; what was bid, where agents bid [return]."""
    agents, portfolio = (np.asarray(part, np.float64) for part in split(decision.observation))

    def by_agent(values: Any) -> dict[str, float]:
        return dict(zip(names, np.asarray(values, np.float64).tolist(), strict=True))

    told = {
        "equity": float(decision.equity),
        "observed": {
            "portfolio": dict(zip(PORTFOLIO_FEATURES, portfolio.tolist(), strict=True)),
            "agents": {
                name: dict(zip(AGENT_FEATURES, row.tolist(), strict=True))
                for name, row in zip(names, agents, strict=True)
            },
        },
        **{column: by_agent(getattr(decision, column)) for column in ("base", "before", "asked", "granted")},
        "moved": float(decision.intervention.distance),
        "why": reasons(decision, limits, names, class_names),
    }
    if decision.offer is not None:
        bids = {field.name: getattr(decision.offer, field.name) for field in dataclasses.fields(decision.offer)}
        told["bids"] = {name: by_agent(values) for name, values in bids.items()}
    return told


def reasons(
    decision: Decision, limits: Limits, names: Sequence[str], class_names: Sequence[str] | None = None
) -> list[str]:
    """What the guardrails did, a phrase for every limit that acted; arguments as of `tell`."""
    granted, before = np.asarray(decision.granted), np.asarray(decision.before)
    return describe(decision.intervention, granted, before, limits, names, class_names)


def decision_at(decisions: Decision, *index: int) -> Decision:
    """One decision of a batch with leaves [..., *its own shape], such as a backtest's record."""
    return jax.tree.map(lambda x: np.asarray(x)[index], decisions)
