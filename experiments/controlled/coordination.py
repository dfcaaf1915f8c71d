"""Agents who learn with regard to each other beat those who learn apart: two products under one risk limit, and a desk.

    python experiments/controlled/coordination.py [--preset quick]

Two agents trade correlated products under a joint risk limit, each seeing its own product alone. With a critic that
sees both in training (MAPPO) they are compared with independent learning, critics of their own, from the same seeds,
with the same networks, environment steps and number of settings tried; settings are chosen from other seeds than those
that are judged. `estimate` is what the shared critic earns more, as a share of a bound that no pair can pass.

A desk of an alpha and an execution agent, trained together, is compared with the same agents trained apart: alpha with
equal slices for execution, execution on random parents. `met` asks that the shared critic earns more and that the desk
has a lower implementation shortfall and a higher information ratio, each with an interval that excludes zero.
"""

import dataclasses
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import plotly.graph_objects as go
from picture import write_picture
from proof import ProofConfig, Verdict, prove, train_seeds

from marljax.agents.evaluate import JointPolicy, play
from marljax.agents.learner import train
from marljax.agents.ppo import PPO
from marljax.agents.ppo_config import PPOConfig
from marljax.data.limits import require_counts, require_positive
from marljax.data.schema import InputError
from marljax.envs.controlled.desk import (
    Desk,
    DeskParams,
    Expected,
    best_desk,
    expected,
    expected_of_rule,
    garleanu_pedersen,
)
from marljax.envs.controlled.two_products import (
    SignalGrid,
    TwoProducts,
    TwoProductsParams,
    best_rule,
    expected_reward,
)
from marljax.evaluation.figure_style import STRATEGY_COLOURS, styled, translucent
from marljax.evaluation.seeds import seed_interval
from marljax.runtime.progress import print_line

PRODUCTS = TwoProductsParams()
DESK = DeskParams()
CRITICS = ("own", "shared")
SEARCH, FRESH = 1, 2
"""Folded into the seed: for the seeds that settings are chosen from, and for the episodes that judge."""


@dataclasses.dataclass(frozen=True)
class CoordinationConfig(ProofConfig):
    """How agents learn in both worlds."""

    learning_rates: tuple[float, ...] = (1e-3, 3e-3)
    """Tried for either critic, with each of the discounts [1]."""
    discounts: tuple[float, ...] = (0.1, 0.5)
    """Tried for either critic; positions have no consequence beyond their step [1]."""
    desk_chunks: int = 60
    """Updates of every learner of the desk [count]."""
    search_seeds: int = 3
    """Seeds that settings are chosen from [count]."""
    episodes: int = 1000
    """Fresh episodes that every agent is judged by [count]."""
    products: PPOConfig = PPOConfig(
        n_envs=8, n_steps=32, hidden=(32,), separate=("agent",), entropy_coefficient=0.0, normalise_returns=True
    )
    desk: PPOConfig = PPOConfig(
        n_envs=32, n_steps=60, hidden=(32,), critic="shared", learning_rate=3e-3, entropy_coefficient=0.0
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require_counts(self, "desk_chunks", "search_seeds", "episodes")
        require_positive(self, "learning_rates", "discounts")
        if not (self.learning_rates and self.discounts):
            raise InputError("learning_rates and discounts must name a setting at least")

    @property
    def settings(self) -> list[dict[str, float]]:
        """All that are tried for either critic."""
        pairs = itertools.product(self.learning_rates, self.discounts)
        return [{"learning_rate": rate, "discount": discount} for rate, discount in pairs]


def products_learner(config: CoordinationConfig, critic: str, values: Mapping[str, Any]) -> PPO:
    """At one of the settings."""
    return PPO(TwoProducts(), dataclasses.replace(config.products, critic=critic, **values))


def products_earned(learner: PPO, params: Any, key: jax.Array, episodes: int) -> jax.Array:
    """float32[] what a pair earns per step on fresh episodes [currency], clients' income left out: it is the same for
    all pairs."""
    env, traded_alone = learner.env, dataclasses.replace(PRODUCTS, income=0.0)
    policy = JointPolicy(learner.policy(PRODUCTS), env.observation_space(PRODUCTS))
    keys, steps = jax.random.split(key, episodes), env.episode_steps
    return play(env, policy, params, keys, traded_alone, max_steps=steps, deterministic=True).returns.mean() / steps


def search(config: CoordinationConfig, critic: str) -> tuple[dict[str, float], np.ndarray]:
    """The best of the settings on seeds that are not judged, and what each came to there, float64[settings, seeds]."""
    settings = config.settings
    if len(settings) == 1:
        return settings[0], np.zeros((1, 0))
    keys = jax.random.split(_key(config, SEARCH), config.search_seeds)

    def trial(values: Mapping[str, jax.Array], key: jax.Array) -> jax.Array:
        train_key, play_key = jax.random.split(key)
        learner = products_learner(config, critic, values)
        runner, _ = train(learner, train_key, PRODUCTS, config.chunks)
        return products_earned(learner, learner.policy_params(runner), play_key, config.episodes)

    print_line(f"[critic {critic}] trying {len(settings)} settings from {config.search_seeds} seeds")
    stacked = {name: jnp.array([one[name] for one in settings]) for name in settings[0]}
    scores = np.asarray(jax.jit(jax.vmap(jax.vmap(trial, (None, 0)), (0, None)))(stacked, keys), np.float64)
    return settings[int(scores.mean(axis=1).argmax())], scores


def compare_critics(config: CoordinationConfig, folder: Path) -> dict[str, Any]:
    """What pairs earn with either critic, and how the two differ seed by seed."""
    grid = SignalGrid.of(PRODUCTS)
    rule = best_rule(PRODUCTS, grid)
    bound = float(expected_reward(rule, rule, PRODUCTS, grid))
    earned, chosen, scores = {}, {}, {}
    for critic in CRITICS:
        chosen[critic], scores[critic] = search(config, critic)
        learner = products_learner(config, critic, chosen[critic])
        name = f"critic {critic}"
        runners = train_seeds(name, learner, PRODUCTS, config, folder, seeds_of="critic")

        def judge(params: Any, learner: PPO = learner) -> jax.Array:
            return products_earned(learner, params, _key(config, FRESH), config.episodes)

        params = jax.vmap(learner.policy_params)(runners)
        earned[critic] = np.asarray(jax.jit(jax.vmap(judge))(params), np.float64) / bound
    return {
        "bound": bound,
        "share_of_bound": {critic: seed_interval(values) for critic, values in earned.items()},
        "by_seed": earned,
        "difference": seed_interval(earned["shared"] - earned["own"]),
        "env_steps_of_each_seed": config.chunks * config.products.n_envs * config.products.n_steps,
        "settings": {"tried": config.settings, "chosen": chosen, "search": scores},
    }


def desk_on_fresh_episodes(policies: Any, params: Any, key: jax.Array, episodes: int) -> dict[str, jax.Array]:
    """What a desk comes to: per slice its reward and profit [currency], the shortfall per unit of parent [price], the
    information ratio of an episode's profit, and how much of a parent is done after each slice [share]."""
    env = Desk()
    policy = JointPolicy(policies, env.observation_space(DESK))
    n_slices = env.n_parents * env.n_slices

    def episode(key: jax.Array) -> dict[str, jax.Array]:
        reset_key, key = jax.random.split(key)
        obs, state = env.reset(reset_key, DESK)

        def step(carry: Any, key: jax.Array) -> tuple[Any, Any]:
            obs, state = carry
            action, _ = policy.apply(params, obs, policy.init_carry(), key, True)
            obs, state, reward, _, _, info = env.step_env(key, state, action, DESK)
            return (obs, state), (reward["alpha"][0], info["profit"], info["shortfall"], info["decided"], left(obs))

        def left(obs: Any) -> jax.Array:
            return jnp.abs(obs["execution"][0, 0]) * DESK.max_position

        keys = jax.random.split(key, env.n_parents * (env.n_slices + 1))
        reward, profit, shortfall, decided, rest = jax.lax.scan(step, (obs, state), keys)[1]
        after = rest.reshape(env.n_parents, -1).sum(axis=0)
        return {
            "reward": reward.sum(),
            "profit": profit.sum(),
            "shortfall": shortfall.sum(),
            "parent": decided.sum(),
            "left": after,
        }

    sums = jax.vmap(episode)(jax.random.split(key, episodes))
    profit = sums["profit"]
    return {
        "reward": sums["reward"].mean() / n_slices,
        "profit": profit.mean() / n_slices,
        "shortfall": sums["shortfall"].sum() / sums["parent"].sum(),
        "information_ratio": profit.mean() / profit.std(),
        "done": 1.0 - sums["left"].sum(axis=0) / sums["parent"].sum(),
    }


def compare_desks(config: CoordinationConfig, folder: Path) -> dict[str, Any]:
    """What desks trained together and apart come to, how they differ seed by seed, and what is known to be best."""
    trained, config_desk = {}, dataclasses.replace(config, chunks=config.desk_chunks)
    desks = {"together": Desk(), "alpha apart": Desk(execution="twap"), "execution apart": Desk(alpha="random")}
    for name, env in desks.items():
        learner = PPO(env, config.desk)
        show = ("alpha.episode_return",)
        runners = train_seeds(f"desk {name}", learner, DESK, config_desk, folder, seeds_of="desk", show=show)
        trained[name] = jax.vmap(learner.policy_params)(runners)
    policies = PPO(Desk(), config.desk).policy(DESK)
    apart = {"alpha": trained["alpha apart"]["alpha"], "execution": trained["execution apart"]["execution"]}

    def judge(params: Any) -> dict[str, jax.Array]:
        return desk_on_fresh_episodes(policies, params, _key(config, FRESH), config.episodes)

    judged = jax.jit(jax.vmap(judge))
    results = {
        name: jax.tree.map(np.asarray, judged(p)) for name, p in (("together", trained["together"]), ("apart", apart))
    }
    measures = ("reward", "profit", "shortfall", "information_ratio")
    n_slices = Desk().n_slices
    linear, twap = best_desk(DESK, n_slices), best_desk(DESK, n_slices, np.full(n_slices, 1.0 / n_slices))
    known = {
        "best_linear_desk": _known(expected(linear, DESK)) | {"schedule": linear.schedule},
        "best_linear_alpha_with_equal_slices": _known(expected(twap, DESK)),
        "garleanu_pedersen": _known(expected_of_rule(*garleanu_pedersen(DESK), DESK)),
    }
    return {
        **{name: {m: seed_interval(result[m]) for m in measures} for name, result in results.items()},
        "by_seed": {name: {m: result[m] for m in measures} for name, result in results.items()},
        "difference": {m: seed_interval(results["together"][m] - results["apart"][m]) for m in measures},
        "share_of_parent_done": {name: result["done"] for name, result in results.items()},
        "known": known,
        "env_steps_of_each_learner": config.desk_chunks * config.desk.n_envs * config.desk.n_steps,
    }


def main(config: CoordinationConfig, folder: Path) -> tuple[Verdict, Mapping[str, Any]]:
    """Both comparisons."""
    critics, desks = compare_critics(config, folder), compare_desks(config, folder)
    draw(folder / "coordination.html", critics, desks)
    low, estimate, high = critics["difference"]
    better = {
        "shared_critic_earns_more": low > 0.0,
        "desk_has_lower_shortfall": desks["difference"]["shortfall"][2] < 0.0,
        "desk_has_higher_information_ratio": desks["difference"]["information_ratio"][0] > 0.0,
    }
    verdict = Verdict("coordination", estimate, (low, high), 0.0, all(better.values()))
    return verdict, {"better": better, "critics": critics, "desks": desks}


def draw(path: Path, critics: Mapping[str, Any], desks: Mapping[str, Any]) -> None:
    """Both comparisons seed by seed, and how desks work a parent."""
    low, estimate, high = critics["difference"]
    headline = (
        f"A shared critic earns {100 * estimate:.1f} % of the bound more ({100 * low:.1f} to {100 * high:.1f}); "
        f"a desk trained together misses {-desks['difference']['shortfall'][1]:.2f} less per unit of its parents."
    )
    desk = desks["by_seed"]
    pairs = [
        (critics["by_seed"], "own", "shared", "share of the bound", "Two products: what a pair of agents earns."),
        (
            {name: desk[name]["shortfall"] for name in desk},
            "apart",
            "together",
            "price",
            "The desk: shortfall per unit.",
        ),
        (
            {name: desk[name]["information_ratio"] for name in desk},
            "apart",
            "together",
            "mean over deviation of an episode",
            "The desk: information ratio.",
        ),
    ]
    plots = [
        (paired(values, first, second, unit), f"{caption} A line joins a seed's two results.")
        for values, first, second, unit, caption in pairs
    ]
    done, schedule = desks["share_of_parent_done"], desks["known"]["best_linear_desk"]["schedule"]
    work = go.Figure()
    for (name, seeds), colour in zip(done.items(), STRATEGY_COLOURS, strict=False):
        for line in np.asarray(seeds):
            work.add_scatter(y=line, showlegend=False, line={"color": translucent(colour, 0.3), "width": 1})
        work.add_scatter(y=np.mean(seeds, axis=0), name=f"trained {name}", line={"color": colour, "width": 3})
    best = np.concatenate([[0.0], np.cumsum(schedule)])
    work.add_scatter(y=best, name="best linear desk", line={"color": "#1c2530", "width": 2, "dash": "dash"})
    work.update_xaxes(title_text="slice").update_yaxes(title_text="share of the parent done")
    plots.append((styled(work, 380, n_lines=3, top=40), "How a parent is worked; thin lines are seeds."))
    write_picture(path, "Learning with regard to each other", headline, plots)


def paired(values: Mapping[str, Any], first: str, second: str, unit: str) -> go.Figure:
    """Two results of every seed, joined."""
    figure = go.Figure()
    for one, other in zip(values[first], values[second], strict=True):
        colour = translucent(STRATEGY_COLOURS[0], 0.6)
        figure.add_scatter(x=[first, second], y=[one, other], mode="lines+markers", line={"color": colour})
    figure.update_yaxes(title_text=unit)
    return styled(figure, 300, n_lines=0, top=20, hover="closest")


def _key(config: CoordinationConfig, purpose: int) -> jax.Array:
    return jax.random.fold_in(jax.random.key(config.seed), purpose)


def _known(found: Expected) -> dict[str, float]:
    per_unit = found.shortfall / found.parent if found.parent else None
    return {"reward": found.reward, "profit": found.profit} | ({} if per_unit is None else {"shortfall": per_unit})


PRESETS = {
    "full": CoordinationConfig(chunks=60),
    "quick": CoordinationConfig(
        preset="quick", seeds=2, chunks=2, desk_chunks=2, learning_rates=(3e-3,), discounts=(0.1,), episodes=16
    ),
}

if __name__ == "__main__":
    prove(main, "coordination", PRESETS, __doc__)
