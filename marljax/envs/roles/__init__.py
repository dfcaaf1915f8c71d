"""The roles that agents play in an order book, by name; each is a module of the same five functions (see `Role`)."""

from marljax.envs.roles import directional, execution, market_maker
from marljax.envs.roles.role import Role

ROLES: dict[str, Role] = {"market_maker": market_maker, "directional": directional, "execution": execution}
"""Name -> module, in the order in which their agents are numbered."""
