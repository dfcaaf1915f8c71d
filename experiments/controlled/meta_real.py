"""Capital among rules that trade 25 futures, 2010 to 2022: the meta-controller against nine other allocations.

    python experiments/controlled/meta_real.py [--preset quick] [--data FOLDER]

Eighteen agents (futures_agents.py) trade daily and pay for it; every five sessions capital is allocated among them. The
meta-controller walks forward: for each fold of three years it is trained anew on the six years before, from several
seeds, and the folds are joined to one account. All are under the same guardrails and pay the same for moving capital;
an allocation is decided on closes up to one session and earns from there on. How it learns was chosen in markets of
known law (meta_learner.py), all else on what lies before 2010 (`--part development`: trained on 2002 to 2007, judged on
2008 and 2009), and nothing by a judged fold.

`estimate` is the annual Sharpe ratio of the meta-controller, mean over seeds, less that of risk parity, its base, net
of costs; `interval` is of paired block bootstrap over weeks, all seeds on the same weeks. `met` asks that it lies above
zero. Rates are of excess returns: futures need no capital, and cash earns nothing here.
"""

import dataclasses
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

from futures_world import (
    COST,
    EXPOSURE,
    WEEK,
    WEEKS_A_YEAR,
    WORLD,
    Study,
    asked_by_others,
    fold_at,
    judged_world,
    study,
    training_worlds,
)
from meta_learner import LEARNER
from meta_real_picture import META, draw
from proof import ProofConfig, Verdict, prove, train_seeds
from stream_accounts import Account, follow, hold

from marljax.agents.ppo import PPO
from marljax.agents.ppo_config import PPOConfig
from marljax.data.limits import require_counts
from marljax.envs.controlled.return_streams import ReturnStreamsParams
from marljax.evaluation.metrics import cagr, max_drawdown, volatility
from marljax.evaluation.statistics import deflated_sharpe_ratio, difference, metric_intervals

TASK = "meta_real"
REFERENCES = "risk_parity", "equal_weight"
"""The first reference decides."""
PPO_OF_FUTURES = dataclasses.replace(LEARNER, n_steps=32, exposure=EXPOSURE)


@dataclasses.dataclass(frozen=True)
class RealConfig(ProofConfig):
    """How the meta-controller learns, and on what."""

    seeds: int = 10
    """Agents trained side by side on every fold, from different seeds [count]."""
    chunks: int = 60
    """Updates of the learner on every fold [count]."""
    data: Path = Path("../shared/data/daily")
    """Folder with the files of the futures."""
    part: Literal["judged", "development"] = "judged"
    """What is walked over: the folds that judge, or the one before them that settings were chosen on."""
    ppo: PPOConfig = PPO_OF_FUTURES
    """How it learns; the learning rate falls to zero over the chunks."""
    resamples: int = 2000
    """Of the bootstrap [count]."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_counts(self, "resamples")


def learn(worlds: ReturnStreamsParams, config: RealConfig, folder: Path) -> tuple[PPO, Any]:
    """The learner, and what it learned in `worlds`, leaves [folds, ...], as leaves [seeds, folds, ...]."""
    learner = PPO(WORLD, dataclasses.replace(config.ppo, learning_rate_decay=1.0 / config.chunks))
    runners = train_seeds(f"{TASK}_{config.part}", learner, worlds, config, folder, swept=True, show=("reward",))
    return learner, learner.policy_params(runners)


def accounts(
    part: Study, learner: PPO, params: Any, typical_volatility: jax.Array
) -> tuple[dict[str, Account], Account]:
    """What every strategy did over the judged weeks, leaves [1, N, ...], of the meta-controller [seeds, N, ...], whose
    observations are in units of `typical_volatility` float32[folds, A].

    The second is the meta-controller's tilts at an exposure of one, which tells them apart from its exposure.
    """
    env, world = judged_world(part, WORLD)
    asked = asked_by_others(part, env, world)
    policy = learner.policy(world)
    own = jax.jit(lambda params: follow(env, world, policy, params, fold_at(part), typical_volatility))(params)
    tilted = np.asarray(own.granted, np.float64)
    tilted /= np.maximum(tilted.sum(-1, keepdims=True), 1e-9)
    table = jnp.asarray(np.concatenate([np.stack(list(asked.values())), tilted]), jnp.float32)
    held, _ = jax.jit(lambda table: hold(env, world, table))(table)

    def rows(begin: int, end: int) -> Account:
        return jax.tree.map(lambda x: x[begin:end], held)

    n_others = len(asked)
    return {META: own} | {name: rows(i, i + 1) for i, name in enumerate(asked)}, rows(n_others, len(table))


def summarise(account: Account, part: Study, key: jax.Array, resamples: int) -> dict[str, Any]:
    """A strategy's results a year, means over seeds; `sharpe` is low, estimate and high."""
    returns = np.expm1(np.asarray(account.log_growth, np.float64))

    def mean(metric: Any) -> float:
        return float(jax.vmap(lambda row: metric(row, WEEKS_A_YEAR))(jnp.asarray(returns)).mean())

    granted = np.asarray(account.granted, np.float64)
    agents = part.records.cost[part.judged].reshape(-1, WEEK, granted.shape[-1]).sum(1)
    turnover = np.asarray(account.turnover, np.float64)
    return {
        "annual_return": mean(cagr),
        "volatility": mean(volatility),
        "sharpe": metric_intervals(key, jnp.asarray(returns), WEEKS_A_YEAR, n_resamples=resamples)["sharpe"],
        "max_drawdown": mean(max_drawdown),
        "turnover": WEEKS_A_YEAR * float(turnover.mean()),
        "cost_of_reallocation": WEEKS_A_YEAR * COST * float(turnover.mean()),
        "cost_of_agents": WEEKS_A_YEAR * float((granted * agents).sum(-1).mean()),
        "gross": float(granted.sum(-1).mean()),
        "guarded": float(jax.vmap(jax.vmap(lambda done: done.any))(account.intervention).mean()),
    }


def judge(all_accounts: Mapping[str, Account], part: Study, config: RealConfig) -> tuple[Verdict, dict[str, Any]]:
    """The verdict, and every strategy's results and its differences to the references."""
    key = jax.random.key(config.seed)
    returns = {name: jnp.expm1(account.log_growth) for name, account in all_accounts.items()}

    def against(name: str, reference: str) -> Any:
        return difference(key, returns[name], returns[reference], WEEKS_A_YEAR, n_resamples=config.resamples)

    results = {name: summarise(account, part, key, config.resamples) for name, account in all_accounts.items()}
    for name, result in results.items():
        result |= {f"sharpe_less_{other}": against(name, other) for other in REFERENCES if name != other}
    each = np.array([result["sharpe"][1] for result in results.values()]) / WEEKS_A_YEAR**0.5
    best = max(results, key=lambda name: results[name]["sharpe"][1])
    luck = deflated_sharpe_ratio(returns[best].mean(0), len(results), float(each.var(ddof=1)))
    low, estimate, high = results[META][f"sharpe_less_{REFERENCES[0]}"]["interval"]
    more = {
        "part": config.part,
        "weeks": [str(part.weeks[0]), str(part.weeks[-1]), len(part.weeks)],
        "folds": len(part.cut),
        "strategies": results,
        "sharpe_by_seed": [
            float(x.mean() / x.std(ddof=1)) * WEEKS_A_YEAR**0.5 for x in np.asarray(returns[META], np.float64)
        ],
        "best": {"name": best, "deflated_sharpe_ratio": float(luck)},
    }
    return Verdict(TASK, estimate, (low, high), 0.0, low > 0.0), more


def main(config: RealConfig, folder: Path) -> tuple[Verdict, Mapping[str, Any]]:
    """Walk, judge, draw."""
    part = study(config.data, config.part)
    worlds = training_worlds(part)
    learner, params = learn(worlds, config, folder)
    all_accounts, tilts = accounts(part, learner, params, worlds.typical_volatility)
    verdict, more = judge(all_accounts, part, config)
    reference = {name: all_accounts[name] for name in REFERENCES}
    more["tilts_alone"] = judge({META: tilts} | reference, part, config)[1]["strategies"][META]
    draw(folder / "picture.html", all_accounts, part, verdict, more)
    return verdict, more


PRESETS = {
    "full": RealConfig(),
    "quick": RealConfig(
        preset="quick",
        seeds=2,
        chunks=2,
        part="development",
        ppo=dataclasses.replace(PPO_OF_FUTURES, n_envs=4, n_steps=8),
        resamples=200,
    ),
}

if __name__ == "__main__":
    prove(main, TASK, PRESETS, __doc__)
