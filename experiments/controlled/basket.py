"""Relative value on recorded books: trained agents against a fixed z-score rule and against not trading.

    python experiments/controlled/basket.py --path DATA/prosperity/p2/round3 [--preset quick]

IMC Prosperity 2, round 3: a gift basket and what it is made of, three simulated days. Agents see how far the basket's
price strays from its parts', trade it in the replay env with all costs that the record holds (the spread and the depth
of the book), learn on days 0 and 1 and are judged on day 2. The rule trades the same feature at the same times and
costs; its two thresholds are those that earned most on the days the agents learn from. `--judge validation` learns on
what comes before the last 4,000 rows of day 1 and judges on those: choices are made there, never on day 2.

`estimate` and `interval` are of what the agents earn more than the rule on day 2 [currency], by a bootstrap of seeds
and of blocks of time; `met` asks for an interval above zero against the rule and against not trading.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import plotly.graph_objects as go
from picture import CLOSED_FORM, LEARNED, seed_lines, write_picture
from proof import ProofConfig, Verdict, prove, train_seeds

from marljax.agents.ppo import PPO
from marljax.agents.ppo_config import PPOConfig
from marljax.data.clean import CleaningConfig
from marljax.data.limits import require_counts
from marljax.data.schema import InputError, MarketData
from marljax.envs import rewards
from marljax.envs.environment import Discrete, Step
from marljax.envs.replay import ReplayEnv, ReplayParams, ReplayState, observe
from marljax.envs.tapes import (
    CostConfig,
    Rows,
    TradingConfig,
    cost_models,
    default_capital,
    position_limits,
    replay_params,
)
from marljax.evaluation.figure_style import styled
from marljax.evaluation.statistics import optimal_block_length, stationary_bootstrap
from marljax.features import FeatureConfig, fit, transform
from marljax.features.relative_value import RelativeValue, residuals
from marljax.market.slippage import Account
from marljax.runtime.stages import StageCache
from stages.market import DataConfig, data_stage

PRODUCT = "GIFT_BASKET"
DAYS = 3
VALIDATION_ROWS = 4_000
BOOTSTRAP = 1
"""Folded into the seed for resamples."""
STANCES = (-1.0, 0.0, 1.0, float("nan"))
"""Targets as a share of the position limit; NaN keeps the position."""
RECORDED_COSTS = CostConfig(fee_rate=0.0, impact=0.0, latency_floor=0.0, latency_mean=0.0)
ENTRIES, EXITS = (0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 2.5), (-1.0, -0.5, -0.25, 0.0, 0.25, 0.5)
"""Thresholds of the rule that are tried [training standard deviations]."""


@dataclasses.dataclass(frozen=True)
class BasketConfig(ProofConfig):
    """Where the books are and how agents trade and learn."""

    path: Path = Path("../shared/data/prosperity/p2/round3")
    """Folder of the price files of three days."""
    judge: Literal["test", "validation"] = "test"
    """Judge on day 2, or on the end of day 1, for choices."""
    rows_per_decision: int = 25
    """Rows between two decisions of agents and rule alike [rows]."""
    episode_decisions: int = 100
    """Length of a training episode [decisions]."""
    block_decisions: int = 20
    """Shortest mean length of a block of the bootstrap; longer where the data ask for it [decisions]."""
    hedged_marks: bool = True
    """Learn from moves of the basket less those of its parts, which are noise to it; what is judged is not hedged."""
    resamples: int = 2000
    """Of the bootstrap [count]."""
    features: FeatureConfig = FeatureConfig(names=("relative_value",))
    trading: TradingConfig = TradingConfig(no_trade_band=0.0, risk_aversion=0.0, max_loss=1.0)
    ppo: PPOConfig = PPOConfig(
        n_envs=32, n_steps=64, hidden=(16, 16), discount=0.98, learning_rate=1e-3, normalise_returns=True
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require_counts(self, "rows_per_decision", "episode_decisions", "block_decisions", "resamples")
        if "relative_value" not in self.features.names or self.features.names[0] != "relative_value":
            raise InputError("features.names must begin with relative_value, which the rule trades on")


@dataclasses.dataclass(frozen=True)
class StanceEnv(ReplayEnv):
    """The replay env with four actions, int32[]: all short, flat, all long, or keep what is held.

    Keeping is an action of its own, so that trying another costs one trade and not a trade at every step.
    """

    def action_space(self, params: ReplayParams) -> Any:
        return Discrete(len(STANCES))

    def step_env(self, key: jax.Array, state: ReplayState, action: jax.Array, params: ReplayParams) -> Step:
        return super().step_env(key, state, jnp.array(STANCES)[action], params)


@dataclasses.dataclass(frozen=True)
class ZScore:
    """A rule of the form of a policy: short above the entry, long below minus it, flat once the z-score, the first
    entry of an observation, is back at the exit on its way; its parameters are (entry, exit)."""

    def init_carry(self) -> tuple[()]:
        return ()

    def apply(
        self, params: jax.Array, obs: jax.Array, carry: tuple[()], key: jax.Array, deterministic: Any
    ) -> tuple[jax.Array, tuple[()]]:
        entry, leave = params
        z, held = obs[0], obs[-1]
        # What speaks for the position held; below the exit nothing does any more.
        done = -jnp.sign(held) * z < leave
        wanted = jnp.where(jnp.abs(z) >= entry, -jnp.sign(z), jnp.where((held != 0) & done, 0.0, jnp.nan))
        return wanted[None], carry


def read_days(config: BasketConfig, folder: Path) -> MarketData:
    """Clean books of three days. Raises InputError where they are not there or others are."""
    cache = StageCache(folder, context={"seed": config.seed})
    data = data_stage(
        cache, DataConfig(source="prosperity", path=(config.path,)), CleaningConfig(), check_days, folder
    ).value.data
    return data


def check_days(data: MarketData) -> None:
    """Raise InputError unless there are three days of the basket."""
    if PRODUCT not in [product.name for product in data.products]:
        raise InputError(f"no product {PRODUCT} among {[product.name for product in data.products]}")
    if (days := len(np.unique(np.asarray(data.session)))) != DAYS:
        raise InputError(f"{days} days, {DAYS} are needed: two to learn on and one to be judged on")


def parts(data: MarketData, judge: str) -> tuple[slice, slice]:
    """Rows to learn on and rows to be judged on."""
    _, first = np.unique(np.asarray(data.session), return_index=True)
    if judge == "test":
        return slice(0, int(first[2])), slice(int(first[2]), data.n_steps)
    begin = int(first[2]) - VALIDATION_ROWS
    return slice(0, begin), slice(begin, int(first[2]))


def decisions(data: MarketData, features: jax.Array, every: int, offset: int) -> Rows:
    """Every so many rows of each session from its row `offset` on; flat before a session ends."""
    session = np.asarray(data.session)
    _, first = np.unique(session, return_index=True)
    since = np.arange(len(session)) - first[np.searchsorted(session[first], session)]
    index = np.flatnonzero((since >= offset) & ((since - offset) % every == 0))
    return Rows.of(jax.tree.map(lambda x: x[index], data), features[index], warm_up=0, closing_rows=1)


def joined(stretches: list[Rows]) -> Rows:
    """One after the other, their sessions told apart."""
    sessions, last = [], -1
    for rows in stretches:
        session = np.asarray(rows.data.session)
        sessions.append(session - session[0] + last + 1)
        last = int(sessions[-1][-1])
    data = jax.tree.map(lambda *x: jnp.concatenate(x), *(rows.data for rows in stretches))
    data = dataclasses.replace(data, session=jnp.asarray(np.concatenate(sessions), jnp.int32))
    return Rows(
        data,
        jnp.concatenate([rows.features for rows in stretches]),
        np.concatenate([rows.warm for rows in stretches]),
        np.concatenate([rows.flat for rows in stretches]),
    )


@dataclasses.dataclass(frozen=True)
class Market:
    """What is learned on and what is judged on: the basket's decisions, offset by offset, day by day."""

    shown: ReplayParams
    """To learn from, moves hedged or not."""
    train: ReplayParams
    """The same rows as they were."""
    judged: ReplayParams
    limit: int
    """Position limit [lots]."""
    n_judged: int
    """Decisions of one offset that are judged [decisions]."""


def market(config: BasketConfig, data: MarketData) -> Market:
    """Features, scales, costs and limits come from the rows to learn on alone."""
    learn, judge = parts(data, config.judge)
    train = data.rows(learn.start, learn.stop)
    pipeline = fit(train, config.features)
    features = transform(pipeline, data)
    product = [p.name for p in data.products].index(PRODUCT)
    limits = position_limits(train, default_capital(train))
    every = config.rows_per_decision

    def stretches(part: slice) -> Rows:
        rows = data.rows(part.start, part.stop)
        return joined([decisions(rows, features[part], every, offset) for offset in range(every)])

    learned, judged = stretches(learn), stretches(judge)
    costs = cost_models(learned.data, RECORDED_COSTS)

    def params(rows: Rows) -> ReplayParams:
        made = replay_params(
            rows,
            costs=costs,
            max_position=limits,
            trading=config.trading,
            episode_steps=config.episode_decisions,
        )
        return jax.tree.map(lambda x: x[product], made)

    shown, n_judged = params(learned), (judge.stop - judge.start) // every
    if config.hedged_marks:
        moves = hedged_moves(learned.data.double_mid, pipeline.reference.relative_value, product)
        shown = shown.replace(tape=shown.tape.replace(mark=shown.tape.mark.at[:, 1].set(moves)))
    return Market(shown, params(learned), params(judged), int(limits[product]), n_judged)


def hedged_moves(double_mid: jax.Array, relation: RelativeValue, product: int) -> jax.Array:
    """int32[T] moves of a product's mid to the next row less what the others' moves explain [half ticks]; the last is
    0. `double_mid` int32[T, P] half ticks."""
    residual = residuals(double_mid, relation)[:, product] * relation.scale[product]
    return jnp.round(jnp.diff(residual, append=residual[-1:]) * double_mid[:, product]).astype(jnp.int32)


def trade_along(env: ReplayEnv, policy: Any, params: Any, market: ReplayParams) -> jax.Array:
    """float32[T - 1] what a policy earns by each decision [currency], from the first row to the last; it is flat
    between days."""
    n_steps = market.features.shape[0] - 1
    start = ReplayState(
        time=jnp.int32(0),
        elapsed=jnp.int32(0),
        account=Account.open(),
        path=rewards.start(market.rewards, market.capital / market.reward_scale),
    )

    def step(carry: Any, key: jax.Array) -> tuple[Any, jax.Array]:
        state, memory = carry
        obs = observe(state.time, state.account.position, market)
        action, memory = policy.apply(params, obs, memory, key, True)
        _, state, _, _, _, info = env.step_env(key, state, action, market)
        return (state, memory), info["earned"]

    keys = jax.random.split(jax.random.key(0), n_steps)
    return jax.lax.scan(step, (start, policy.init_carry()), keys)[1]


def choose_rule(market: ReplayParams) -> tuple[jax.Array, np.ndarray, np.ndarray]:
    """The thresholds that earned most, all that were tried float32[K, 2], and what each earned [currency]."""
    tried = np.array([(e, x) for e in ENTRIES for x in EXITS if x < e], np.float32)
    totals = jax.jit(jax.vmap(lambda params: trade_along(ReplayEnv(), ZScore(), params, market).sum()))(tried)
    return jnp.asarray(tried[int(np.argmax(totals))]), tried, np.asarray(totals)


def interval(earned: np.ndarray, config: BasketConfig) -> tuple[float, float, float]:
    """Low, estimate and high of the total over time of the seeds' mean, 95 %: a bootstrap of seeds and blocks of time.

    `earned` is float64[seeds, T].
    """
    n_seeds, n_steps = earned.shape
    block = max(optimal_block_length(earned.mean(axis=0)), float(config.block_decisions))

    def resample(key: jax.Array) -> jax.Array:
        time_key, seed_key = jax.random.split(key)
        index, _ = stationary_bootstrap(time_key, n_steps, block)
        count = jnp.zeros(n_steps).at[index].add(1.0)
        seeds = jax.random.randint(seed_key, (n_seeds,), 0, n_seeds)
        return (jnp.asarray(earned, jnp.float32) @ count)[seeds].mean()

    keys = jax.random.split(jax.random.fold_in(jax.random.key(config.seed), BOOTSTRAP), config.resamples)
    totals = np.asarray(jax.jit(lambda keys: jax.lax.map(resample, keys))(keys))
    low, high = np.quantile(totals, (0.025, 0.975))
    return float(low), float(earned.sum(axis=1).mean()), float(high)


def main(config: BasketConfig, folder: Path) -> tuple[Verdict, Mapping[str, Any]]:
    """Choose the rule, train the agents, judge both."""
    books = market(config, read_days(config, folder))
    env = StanceEnv(config.episode_decisions)
    learner = PPO(env, config.ppo)
    runners = train_seeds("basket", learner, books.shown, config, folder, show=("reward", "entropy"))
    rule, tried, totals = choose_rule(books.train)

    def judged(env: ReplayEnv, policy: Any, params: Any) -> np.ndarray:
        """float64[policies, T] by decision, the mean of all offsets."""
        earned = jax.jit(jax.vmap(lambda params: trade_along(env, policy, params, books.judged)))(params)
        earned = np.pad(np.asarray(earned, np.float64), ((0, 0), (0, 1)))
        return earned.reshape(len(earned), config.rows_per_decision, books.n_judged).mean(axis=1)

    agents = judged(env, learner.policy(books.train), jax.vmap(learner.policy_params)(runners))
    by_rule = judged(ReplayEnv(), ZScore(), rule[None])
    against_rule, against_none = interval(agents - by_rule, config), interval(agents, config)
    in_training = jax.jit(
        jax.vmap(lambda params: trade_along(env, learner.policy(books.train), params, books.train).sum())
    )(jax.vmap(learner.policy_params)(runners))
    draw(folder / "basket.html", agents, by_rule[0], against_rule)
    low, estimate, high = against_rule
    met = low > 0.0 and against_none[0] > 0.0
    return Verdict("basket", estimate, (low, high), 0.0, met), {
        "judged_on": config.judge,
        "agents": against_none,
        "agents_by_seed": agents.sum(axis=1),
        "agents_in_training": np.asarray(in_training) / config.rows_per_decision,
        "rule": interval(by_rule, config),
        "agents_less_rule": against_rule,
        "rule_thresholds": {
            "entry": rule[0],
            "exit": rule[1],
            "tried": len(tried),
            "earned_in_training": totals.max() / config.rows_per_decision,
        },
        "position_limit": books.limit,
    }


def draw(path: Path, agents: np.ndarray, rule: np.ndarray, difference: tuple[float, float, float]) -> None:
    """Net PnL over the judged day, a thin line for each seed."""
    x = np.arange(1, agents.shape[1] + 1)
    plot = go.Figure(seed_lines(x, list(agents.cumsum(axis=1)), "agents, a line per seed", legend=True))
    plot.add_scatter(x=x, y=agents.mean(axis=0).cumsum(), name="their mean", line={"color": LEARNED, "width": 3})
    plot.add_scatter(x=x, y=rule.cumsum(), name="z-score rule", line={"color": CLOSED_FORM, "width": 3})
    plot.update_xaxes(title_text="decision").update_yaxes(title_text="net PnL [currency]")
    styled(plot, 460, n_lines=3, top=40)
    low, estimate, high = difference
    headline = f"Agents less rule: {estimate:,.0f}, 95 % from {low:,.0f} to {high:,.0f}"
    caption = "Net of the spread and the depth of the recorded books; the mean over the rows at which decisions begin."
    write_picture(path, "Gift basket against its parts", headline, [(plot, caption)])


PRESETS = {
    "full": BasketConfig(chunks=80),
    "quick": BasketConfig(preset="quick", seeds=2, chunks=2, resamples=100),
}

if __name__ == "__main__":
    prove(main, "basket", PRESETS, __doc__)
