"""What the numbers of a run say in plain words: how figures are written, the headline, and what is not established."""

import math
from collections.abc import Sequence
from html import escape

from marljax.evaluation.report_inputs import Backtest, Interval, JointTuning, ReportInputs

NOT_MEANINGFUL = 10.0
"""An annual rate above this fraction is an extrapolation that nobody should read: it is shown as a bound."""


def number(value: float, digits: int = 3) -> str:
    """`value` with `digits` significant digits, thousands separated, a true minus sign; "–" where it is not finite."""
    if not math.isfinite(value):
        return "–"
    if value == 0:
        return "0"
    places = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{value:,.{min(places, 10)}f}".replace("-", "−")


def label(name: str) -> str:
    """A name from the code as a reader sees it."""
    return name.replace("_", " ")


def exact(value: float) -> str:
    """`value` as it was given, thousands separated: for tick sizes and amounts of money that someone chose."""
    return f"{value:,.10g}".replace("-", "−")


def percent(value: float, *, signed: bool = False) -> str:
    """A fraction as a percentage, with two decimals or, below 0.1 %, two significant digits."""
    if not math.isfinite(value):
        return "–"
    scaled = 100 * value
    text = f"{scaled:,.2f}" if abs(scaled) >= 0.1 else number(scaled, 2)
    sign = "+" if signed and scaled > 0 else ""
    return f"{sign}{text} %".replace("-", "−")


def annual(value: float) -> str:
    """An annualised rate: as `percent`, but only as a bound where it is an extrapolation without meaning."""
    return f"> {100 * NOT_MEANINGFUL:,.0f} %" if value > NOT_MEANINGFUL else percent(value)


def span(seconds: float) -> str:
    """A length of time in the unit that suits it."""
    for unit, size in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{number(seconds / size, 2)} {unit}"
    return f"{number(seconds, 2)} seconds"


def established(interval: Interval) -> bool:
    """Whether an interval excludes zero."""
    return interval[0] > 0 or interval[2] < 0


def verdict(interval: Interval) -> str:
    """`better, established`, `worse, established` or `not established`."""
    if not established(interval):
        return "not established"
    return "better, established" if interval[0] > 0 else "worse, established"


def more_data(interval: Interval) -> str:
    """How much longer a test must be to establish the estimate of an interval that spans zero, in words."""
    low, estimate, high = interval
    if estimate == 0 or high == low:
        return "No difference shows at all."
    times = ((high - low) / 2 / abs(estimate)) ** 2
    if times > 1000:
        return "The estimate is so near zero that no test of realistic length would tell."
    return f"If the estimate were true, it would take a test about {number(max(times, 1.1), 2)} times as long to tell."


def joint_tuning(joint: JointTuning) -> str:
    """What came of tuning all agents together, in two sentences."""
    low, estimate, high = joint.interval
    told = (
        "The product agents and the meta-controller were then tuned together on the training part. On validation data "
        f"the Sharpe ratio changes by {number(estimate)} ({100 * joint.confidence:.0f} % interval {number(low)} to "
        f"{number(high)}): "
    )
    if joint.adopted:
        return told + "the tuned agents are better, and they are the ones tested below."
    if established(joint.interval):
        return told + "tuning made them worse, so all agents stay as they were."
    return told + "it is not established that tuning helps, so all agents stay as they were."


def tested_seconds(backtest: Backtest) -> float:
    """Trading time that the test covers, sessions joined [s]."""
    total = 0.0
    for session in dict.fromkeys(int(s) for s in backtest.session):
        own = [float(t) for t, s in zip(backtest.seconds, backtest.session, strict=True) if s == session]
        total += own[-1] - own[0]
    return total


def headline(inputs: ReportInputs) -> str:
    """The result of the run in two or three sentences."""
    backtest = inputs.backtest
    if backtest is None:
        return "The backtest has not been run, so there is no result yet."
    tested = backtest.strategies[0]
    market = "simulated market" if inputs.origin == "simulated" else "recorded market"
    result = tested.metrics["total_return"]
    idle = tested.metrics.get("turnover") == 0
    moved = (
        "never traded"
        if idle
        else "earned nothing and lost nothing"
        if result == 0
        else f"{'earned' if result > 0 else 'lost'} {percent(abs(result))}"
    )
    costs = sum(tested.costs.values())
    paid = (
        "" if idle else f" after paying {number(costs)} {inputs.currency} in costs" if tested.costs else " net of costs"
    )
    first = (
        f"Over {span(tested_seconds(backtest))} of {market} that was held out from all learning, "
        f"{label(tested.name)} {moved}{'' if idle else paid}."
    )
    return f"{first} {_comparison(backtest)}"


def _comparison(backtest: Backtest) -> str:
    words = {label(name): verdict(difference["sharpe"]) for name, difference in backtest.differences.items()}
    groups = {kind: [name for name, word in words.items() if word == kind] for kind in dict.fromkeys(words.values())}
    if not groups:
        return ""
    if set(groups) == {"not established"}:
        return (
            "Measured by the Sharpe ratio, no difference from any baseline is established: "
            "this test cannot tell the strategy from luck."
        )
    parts = []
    if better := groups.get("better, established"):
        parts.append(f"it is better than {listed(better)}")
    if worse := groups.get("worse, established"):
        parts.append(f"it is worse than {listed(worse)}")
    if unclear := groups.get("not established"):
        parts.append(f"against {listed(unclear)} no difference is established")
    return f"Measured by the Sharpe ratio, {'; '.join(parts)}."


def listed(names: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def not_established(inputs: ReportInputs) -> list[str]:
    """What a reader must not conclude from this run, one paragraph each, composed from its facts."""
    told: list[str] = []
    if inputs.origin == "simulated":
        told.append(
            "<b>Anything about real markets.</b> The order books come from an exchange simulator. What works against "
            "its rules need not work against people; read the result as a test of the software."
        )
    if inputs.backtest is None:
        return [*told, "<b>Any result.</b> The backtest has not been run.", *inputs.notes]
    backtest = inputs.backtest
    open_questions = {k: d["sharpe"] for k, d in backtest.differences.items() if not established(d["sharpe"])}
    for baseline, interval in open_questions.items():
        told.append(
            f"<b>Whether it differs from {escape(label(baseline))}.</b> The {100 * backtest.confidence:.0f} % interval "
            f"of the difference in Sharpe ratio, {number(interval[0])} to {number(interval[2])}, spans zero. "
            f"{more_data(interval)}"
        )
    periods = len(backtest.seconds) - 1
    sessions = len({int(s) for s in backtest.session})
    share = periods / backtest.periods_per_year
    told.append(
        f"<b>That it would last.</b> The test is {span(tested_seconds(backtest))} long, {sessions} "
        f"trading session{'s' if sessions > 1 else ''}: one draw of market conditions. Intervals tell how much this "
        "stretch could have differed by chance; they know nothing of regimes that it does not contain."
    )
    if share < 0.5:
        told.append(
            f"<b>Annual figures.</b> The test covers {percent(share)} of a trading year. Annualised growth, "
            "volatility and ratios continue it unchanged for a whole year, which makes them comparable, not likely."
        )
    capital = float(backtest.strategies[0].equity[0])
    told.append(
        f"<b>Other amounts of money.</b> The account starts with {exact(capital)} {escape(inputs.currency)}. "
        "Costs do not scale: a larger account walks deeper into the book and moves the price more."
    )
    told.append(
        "<b>How others would have reacted.</b> The books are replayed as they were. Orders pay the spread, the visible "
        "depth, modelled impact, latency and fees, but nobody answers them, and no resting order waits in a queue."
    )
    if len(backtest.differences) > 1:
        told.append(
            f"<b>All comparisons at once.</b> Each of the {len(backtest.differences)} intervals is meant to cover with "
            f"{100 * backtest.confidence:.0f} %; that all of them do is less certain."
        )
    if backtest.deflated_sharpe is not None:
        tried = "1 configuration was" if backtest.n_trials == 1 else f"{backtest.n_trials} configurations were"
        told.append(
            f"<b>Freedom from selection.</b> {tried} tried. The deflated Sharpe ratio, the probability of skill after "
            f"so many tries, is {percent(backtest.deflated_sharpe)}; above 95 % is usually asked for."
        )
    told.append(
        f"<b>That another training run agrees.</b> All agents were trained from one seed ({inputs.seed}). "
        "Reinforcement learning varies from seed to seed, and these intervals do not contain that."
    )
    return [*told, *inputs.notes]
