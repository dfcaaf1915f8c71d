"""A trained agent outside the learning loop: two lines load it and let it act, one exports it for serving.

    agent = TrainedPolicy.load("runs/demo/policies/ALPHA")
    action, memory = agent.act(observation, agent.init_carry())

A folder holds `policy.json`, the form of the policy, and `policy.npz`, what it learned. `export` adds a program in
StableHLO, which needs neither this package nor its network code to run: `jax.export.deserialize(bytes).call(...)`.
"""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax
import jax.export
import jax.numpy as jnp

from marljax.agents.agent_set import AgentSet
from marljax.agents.attention import Attention
from marljax.agents.memory import GRU
from marljax.agents.networks import MLP, Carry
from marljax.agents.policy import CategoricalPolicy, PolicyParams, TanhGaussianPolicy
from marljax.data.schema import InputError
from marljax.runtime.artefacts import load_tree, read_json, save_tree, write_atomic, write_json

POLICIES = {form.__name__: form for form in (TanhGaussianPolicy, CategoricalPolicy)}
NETWORKS = {form.__name__: form for form in (MLP, GRU, Attention, AgentSet)}
PLATFORMS = ("cpu", "cuda", "tpu")
"""An exported program runs on all of them."""


@dataclasses.dataclass(frozen=True, eq=False)
class TrainedPolicy:
    """One agent: the form of its policy and what it learned."""

    policy: TanhGaussianPolicy | CategoricalPolicy
    params: PolicyParams

    @property
    def obs_size(self) -> int:
        """Entries of its observation."""
        return self.params.scaler.mean.shape[-1]

    def init_carry(self) -> Carry:
        """Its memory at an episode's beginning; () if it has none."""
        return self.policy.init_carry()

    def act(self, obs: jax.Array, carry: Carry = None, key: jax.Array | None = None) -> tuple[jax.Array, Carry]:
        """Its action at float32[..., obs_size] and its memory after: float32[..., A] in [-1, 1], or int32[...].

        Without a memory it begins an episode. Without a key it does what it holds best, with one it explores as in
        training. Raises ValueError for an observation of another size.
        """
        obs = jnp.asarray(obs, jnp.float32)
        if obs.shape[-1:] != (self.obs_size,):
            raise ValueError(f"observations have {self.obs_size} entries, got shape {obs.shape}")
        if carry is None:
            carry = jax.tree.map(lambda c: jnp.broadcast_to(c, (*obs.shape[:-1], *c.shape)), self.init_carry())
        drawn = jax.random.key(0) if key is None else key
        return _compiled(self.policy)(self.params, obs, carry, drawn, key is None)

    def save(self, folder: str | Path) -> None:
        """Write the folder that `load` reads."""
        network = self.policy.network
        form = {
            "policy": {"form": type(self.policy).__name__, **_fields(self.policy)},
            "network": {"form": type(network).__name__, **_fields(network)},
            "obs_size": self.obs_size,
        }
        write_json(Path(folder) / "policy.json", form)
        save_tree(Path(folder) / "policy.npz", self.params)

    @classmethod
    def load(cls, folder: str | Path) -> "TrainedPolicy":
        """The agent saved in a folder. Raises InputError that names the file where something is missing or wrong."""
        path = Path(folder) / "policy.json"
        said = read_json(path)
        try:
            network = _made(NETWORKS, said["network"])
            policy = _made(POLICIES, {**said["policy"], "network": network})
            like = jax.eval_shape(lambda key: policy.init(key, said["obs_size"]), jax.random.key(0))
        except KeyError as error:
            raise InputError(f"does not describe a policy: no {error} is known there", file=path) from error
        except (AttributeError, TypeError, ValueError) as error:
            raise InputError(f"does not describe a policy: {error}", file=path) from error
        return cls(policy, load_tree(Path(folder) / "policy.npz", like))

    def export(self, path: str | Path) -> None:
        """Write a program of what it holds best, for any number of observations at once, to a file.

        It maps float32[b, obs_size] to actions [b, ...]; of a policy with memory, (observations, memory [b, H]) to
        (actions, memory). Raises InputError where the package `flatbuffers` is not installed (extra `export`).
        """
        (batch,) = jax.export.symbolic_shape("b")
        obs = jax.ShapeDtypeStruct((batch, self.obs_size), jnp.float32)

        def best(obs: jax.Array, carry: Carry) -> tuple[jax.Array, Carry]:
            distribution, carry = self.policy.forward(self.params, obs, carry)
            return distribution.act(distribution.best()), carry

        if self.policy.network.recurrent:
            memory = jax.ShapeDtypeStruct((batch, *jnp.shape(self.init_carry())), jnp.float32)
            program = jax.export.export(jax.jit(best), platforms=PLATFORMS)(obs, memory)
        else:
            program = jax.export.export(jax.jit(lambda obs: best(obs, ())[0]), platforms=PLATFORMS)(obs)
        try:
            write_atomic(path, bytes(program.serialize()))
        except ImportError as error:
            raise InputError("exporting needs flatbuffers: install marljax with its extra `export`") from error


def trained_policies(policies: Any, params: Any) -> dict[str, TrainedPolicy]:
    """All agents of a learner, from its `policy` and `policy_params`, by role; "agent" where there are no roles.

    Agents with parameters of their own are found by role and number, "maker/0".
    """
    if not isinstance(policies, dict):
        policies, params = {"agent": policies}, {"agent": params}
    found = {}
    for role, policy in policies.items():
        own = params[role]
        if own.scaler.mean.ndim == 1:
            found[role] = TrainedPolicy(policy, own)
            continue
        for i in range(len(own.scaler.mean)):
            found[f"{role}/{i}"] = TrainedPolicy(policy, jax.tree.map(lambda x, i=i: x[i], own))
    return found


def _made(forms: dict[str, Any], said: dict[str, Any]) -> Any:
    """The frozen dataclass that a description names; JSON's lists are its tuples."""
    said = {name: tuple(value) if isinstance(value, list) else value for name, value in said.items()}
    return forms[said.pop("form")](**said)


def _fields(form: Any) -> dict[str, Any]:
    return {field.name: getattr(form, field.name) for field in dataclasses.fields(form) if field.name != "network"}


@functools.lru_cache
def _compiled(policy: Any) -> Any:
    # One program for all agents of one form.
    return jax.jit(policy.apply)
