"""What learning is held against: actions drawn evenly from their space, whatever is seen."""

import dataclasses
from typing import Any

import jax

from marljax.envs.environment import Arrays, Space, sample


@dataclasses.dataclass(frozen=True)
class RandomPolicy:
    """Of all agents of an environment."""

    space: Space | dict[str, Space]
    """Of their actions."""

    def init_carry(self) -> tuple[()]:
        return ()

    def apply(
        self, params: Any, obs: Arrays, carry: tuple[()], key: jax.Array, deterministic: Any
    ) -> tuple[Arrays, tuple[()]]:
        return sample(key, self.space), carry
