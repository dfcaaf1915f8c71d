import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from arch.bootstrap import optimal_block_length as arch_block_length
from scipy import stats

from marljax.evaluation import statistics
from marljax.evaluation.metrics import sharpe_ratio

KEY = jax.random.key(0)


def market(rng, n_series, n_periods, *, phi=0.0, alpha=0.0, beta=0.0, sharpe=0.0):
    """AR(1) returns with GARCH(1,1) noise and a known Sharpe ratio per period, float64[n_series, n_periods]."""
    returns = np.zeros((n_series, n_periods))
    variance, shock, level = np.ones(n_series), np.zeros(n_series), np.zeros(n_series)
    for t in range(-200, n_periods):
        variance = (1 - alpha - beta) + alpha * shock**2 + beta * variance
        shock = np.sqrt(variance) * rng.standard_normal(n_series)
        level = phi * level + shock
        if t >= 0:
            returns[:, t] = level
    return 1e-4 * (returns * np.sqrt(1 - phi**2) + sharpe)


@pytest.mark.parametrize("phi", [0.2, 0.5, 0.9, -0.4])
@pytest.mark.parametrize("n", [400, 5000])
def test_block_length_is_that_of_the_published_rule(phi, n):
    series = market(np.random.default_rng(n), 1, n, phi=phi)[0]
    expected = arch_block_length(series)["stationary"].iloc[0]
    assert statistics.optimal_block_length(series) == pytest.approx(expected, rel=0.02)


def test_block_length_of_degenerate_series_is_defined():
    assert statistics.optimal_block_length(np.zeros(100)) == 1
    assert statistics.optimal_block_length(np.array([1.0, 2.0])) == 1
    assert 1 <= statistics.optimal_block_length(np.arange(100.0)) <= 34


def test_blocks_are_consecutive_and_have_the_mean_length_asked_for():
    n, length = 20_000, 12.0
    indices, starts = statistics.stationary_bootstrap(KEY, n, length)
    assert starts[0]
    inside = ~np.asarray(starts)[1:]
    np.testing.assert_array_equal(((indices[1:] - indices[:-1]) % n)[inside], 1)
    # A geometric length has a standard deviation of about its mean.
    assert n / int(starts.sum()) == pytest.approx(length, abs=4 * length / np.sqrt(n / length))


def test_every_period_is_drawn_equally_often():
    indices = jax.vmap(lambda key: statistics.stationary_bootstrap(key, 40, 5.0)[0])(jax.random.split(KEY, 4000))
    count = np.bincount(np.asarray(indices).ravel(), minlength=40)
    # A block makes neighbouring counts move together but not one period's own count across resamples.
    assert np.abs(count - 4000).max() < 5 * np.sqrt(4000) * 1.2


def test_error_of_the_mean_equals_the_average_of_squared_block_sums():
    series = jnp.asarray(market(np.random.default_rng(3), 1, 300, phi=0.5)[0], jnp.float32)
    series = series - series.mean()

    def squared_block_sums(key):
        indices, starts = statistics.stationary_bootstrap(key, 300, 50.0)
        sums = jax.ops.segment_sum(series[indices], jnp.cumsum(starts) - 1, 300)
        return jnp.sum(sums**2) / 300**2

    average = jnp.mean(jax.lax.map(squared_block_sums, jax.random.split(KEY, 4000), batch_size=500))
    assert float(statistics._variance_of_mean(series, 50.0)) == pytest.approx(float(average), rel=0.03)


def coverage(n_series, n_periods, confidence, n_resamples, **dependence):
    rng = np.random.default_rng(7)
    first = market(rng, n_series, n_periods, sharpe=0.1, **dependence)
    second = market(rng, n_series, n_periods, sharpe=0.05, **dependence)
    baseline = 0.5 * first + second
    truth = 0.1 - (0.05 + 0.05) / np.sqrt(1.25)
    covered = 0
    for i in range(n_series):
        low, _, high = statistics.difference(
            jax.random.key(i), first[i], baseline[i], 1.0, confidence=confidence, n_resamples=n_resamples
        )["interval"]
        covered += low <= truth <= high
    return covered / n_series


def test_interval_of_a_difference_covers_the_truth_as_often_as_it_says():
    share = coverage(150, 400, 0.9, 300, phi=0.2, alpha=0.1, beta=0.8)
    assert abs(share - 0.9) < 3 * np.sqrt(0.9 * 0.1 / 150) + 0.01


@pytest.mark.nightly
@pytest.mark.parametrize("confidence", [0.9, 0.95])
@pytest.mark.parametrize("n_periods", [500, 2000])
@pytest.mark.parametrize(
    "dependence", [{}, {"phi": 0.3}, {"phi": 0.2, "alpha": 0.1, "beta": 0.85}, {"phi": -0.3, "alpha": 0.1, "beta": 0.8}]
)
def test_intervals_cover_in_every_kind_of_dependence(confidence, n_periods, dependence):
    share = coverage(400, n_periods, confidence, 500, **dependence)
    # Block bootstraps undercover a little in finite samples; two points are allowed for it.
    assert abs(share - confidence) < 3 * np.sqrt(confidence * (1 - confidence) / 400) + 0.02


def test_a_large_difference_is_established_and_its_sign_kept():
    rng = np.random.default_rng(1)
    noise = market(rng, 1, 800)[0]
    better = statistics.difference(KEY, noise + 3e-5, noise, 252.0)
    worse = statistics.difference(KEY, noise - 3e-5, noise, 252.0)
    assert better["verdict"] == worse["verdict"] == "established"
    assert better["interval"][0] > 0 > worse["interval"][2]
    assert better["interval"][1] == pytest.approx(0.3 * np.sqrt(252), rel=0.1)


def test_pairing_narrows_the_interval_of_strategies_that_move_together():
    rng = np.random.default_rng(2)
    noise, other = market(rng, 2, 800)
    paired = statistics.difference(KEY, noise + 0.2 * other + 1e-5, noise, 252.0)["interval"]
    unpaired = statistics.difference(KEY, noise + 1e-5, other, 252.0)["interval"]
    assert (paired[2] - paired[0]) < 0.4 * (unpaired[2] - unpaired[0])


def test_noise_is_not_established():
    first, second = market(np.random.default_rng(4), 2, 800)
    assert statistics.difference(KEY, first, second, 252.0)["verdict"] == "not established"


def test_no_trade_against_no_trade_is_exactly_zero_and_not_established():
    result = statistics.difference(KEY, np.zeros(800), np.zeros((1, 800)), 252.0)
    assert result == {"interval": [0.0, 0.0, 0.0], "verdict": "not established"}


def test_replications_of_one_period_are_not_more_data():
    series = market(np.random.default_rng(5), 1, 800, sharpe=0.05)[0]
    alone = statistics.difference(KEY, series, 0 * series, 252.0, n_resamples=500)["interval"]
    copied = statistics.difference(KEY, np.tile(series, (16, 1)), 0 * series, 252.0, n_resamples=500)["interval"]
    np.testing.assert_allclose(copied, alone, rtol=1e-4)


def test_independent_noise_of_replications_averages_out():
    rng = np.random.default_rng(6)
    common = market(rng, 1, 800)[0]
    noisy = common + market(rng, 16, 800)
    one = statistics.difference(KEY, noisy[:1], 0 * common, 252.0, n_resamples=500)["interval"]
    all_of_them = statistics.difference(KEY, noisy, 0 * common, 252.0, n_resamples=500)["interval"]
    assert (all_of_them[2] - all_of_them[0]) < 0.85 * (one[2] - one[0])


def test_every_metric_gets_an_interval_around_its_estimate():
    returns = market(np.random.default_rng(8), 3, 800, sharpe=0.05)
    intervals = statistics.metric_intervals(KEY, returns, 252.0, n_resamples=300)
    assert set(intervals) == set(statistics.METRICS)
    for name in ("sharpe", "volatility", "total_return", "cagr", "hit_rate", "sortino"):
        low, estimate, high = intervals[name]
        assert low < estimate < high, name
    expected = np.mean([float(sharpe_ratio(jnp.asarray(row, jnp.float32), 252.0)) for row in returns])
    assert intervals["sharpe"][1] == pytest.approx(expected, rel=1e-4)


def test_same_key_gives_the_same_interval_and_a_wider_one_holds_a_narrower_one():
    series = market(np.random.default_rng(9), 1, 800)[0]
    ninety = statistics.difference(KEY, series, 0 * series, 1.0, confidence=0.9)["interval"]
    assert ninety == statistics.difference(KEY, series, 0 * series, 1.0, confidence=0.9)["interval"]
    ninety_nine = statistics.difference(KEY, series, 0 * series, 1.0, confidence=0.99)["interval"]
    assert ninety_nine[0] < ninety[0] < ninety[2] < ninety_nine[2]


def test_series_of_different_length_are_refused():
    with pytest.raises(ValueError, match="300 periods and a baseline of 299"):
        statistics.difference(KEY, np.zeros(300), np.zeros(299), 1.0)
    with pytest.raises(ValueError, match="at least two periods"):
        statistics.difference(KEY, np.zeros(1), np.zeros(1), 1.0)


def test_bootstrap_compiles_once_for_one_shape():
    inner = statistics._resample_sharpe_difference.__wrapped__
    traced = jax.jit(chex.assert_max_traces(inner, n=1), static_argnames="n_resamples")
    series = jnp.asarray(market(np.random.default_rng(10), 2, 90), jnp.float32)
    for length in (3.0, 7.5):
        traced(KEY, series[:1], series[1:], length, n_resamples=20)


def test_probabilistic_sharpe_ratio_of_the_formula():
    returns = stats.skewnorm.rvs(-4, size=250, random_state=0) + 0.9
    sharpe = returns.mean() / returns.std(ddof=1)
    kurtosis = stats.kurtosis(returns, fisher=False)
    error = np.sqrt(1 - stats.skew(returns) * sharpe + (kurtosis - 1) / 4 * sharpe**2)
    for threshold in (0.0, 0.1):
        expected = stats.norm.cdf((sharpe - threshold) * np.sqrt(249) / error)
        assert float(
            statistics.probabilistic_sharpe_ratio(jnp.asarray(returns, jnp.float32), threshold)
        ) == pytest.approx(expected, abs=1e-4)
    assert float(statistics.probabilistic_sharpe_ratio(jnp.zeros(50))) == 0.5


def test_largest_of_many_lucky_sharpe_ratios_is_foreseen():
    draws = np.random.default_rng(11).standard_normal((20_000, 50)) * 0.3
    assert float(statistics.expected_largest_sharpe(50, 0.09)) == pytest.approx(draws.max(axis=1).mean(), rel=0.02)
    assert float(statistics.expected_largest_sharpe(1, 0.09)) == 0


def test_the_best_of_many_trials_without_skill_is_not_credited():
    trials = np.random.default_rng(12).standard_normal((100, 250)).astype(np.float32)
    sharpes = trials.mean(axis=1) / trials.std(axis=1, ddof=1)
    best = jnp.asarray(trials[sharpes.argmax()])
    assert float(statistics.probabilistic_sharpe_ratio(best)) > 0.97
    assert float(statistics.deflated_sharpe_ratio(best, 100, sharpes.var())) < 0.9
    assert float(statistics.deflated_sharpe_ratio(best, 1, sharpes.var())) == pytest.approx(
        float(statistics.probabilistic_sharpe_ratio(best)), abs=1e-6
    )
