"""The small models against scikit-learn, and on features that are constant, copied or separable."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import roc_auc_score

from marljax.generative.scores import linear


def standard(x):
    return (x - x.mean(0)) / x.std(0)


def test_ridge_matches_scikit_learn():
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (200, 4))
    y = x @ [1.0, -2.0, 0.0, 0.5] + 3 + 0.1 * rng.standard_normal(200)
    expected = Ridge(alpha=0.05 * 200).fit(standard(x), y)
    model = linear.fit_ridge(x, y, penalty=0.05)
    np.testing.assert_allclose(model(x), expected.predict(standard(x)), rtol=1e-9)


def test_logistic_matches_scikit_learn():
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (300, 3))
    label = x @ [2.0, -1.0, 0.0] + 0.3 + rng.logistic(size=300) > 0
    inputs = np.concatenate([np.ones((300, 1)), standard(x)], 1)
    expected = LogisticRegression(C=1 / (300 * 0.02), fit_intercept=False, tol=1e-10).fit(inputs, label)
    model = linear.fit_logistic(x, label, penalty=0.02)
    np.testing.assert_allclose(model(x), expected.decision_function(inputs), atol=1e-4)


def test_area_under_the_curve_matches_scikit_learn_with_ties():
    rng = np.random.default_rng(0)
    score, label = rng.integers(0, 6, 200).astype(float), rng.random(200) < 0.3
    assert linear.area_under_curve(score, label) == pytest.approx(roc_auc_score(label, score))
    assert linear.area_under_curve(np.zeros(200), label) == 0.5
    assert np.isnan(linear.area_under_curve(score, np.zeros(200, bool)))


def test_constant_copied_and_wild_features_and_separable_classes_stay_finite():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((100, 1))
    features = np.concatenate([x, x, np.full((100, 1), 0.1), 1e12 * x], 1)
    for model in (linear.fit_ridge(features, x[:, 0]), linear.fit_logistic(features, x[:, 0] > 0)):
        assert np.isfinite(model(features)).all()
        assert np.isfinite(model(features * 1e30)).all()
        assert np.corrcoef(model(features), x[:, 0])[0, 1] > 0.95
    # What was constant while learning may not decide later on, however little it changes.
    features[:, 2] = np.where(x[:, 0] > 0, 0.1, np.nextafter(0.1, 1))
    model = linear.fit_logistic(features, x[:, 0] > 0)
    np.testing.assert_allclose(model(features + np.array([0, 0, 1e-12, 0])), model(features), atol=1e-6)


def test_a_judge_cannot_tell_equals_and_always_tells_strangers():
    rng = np.random.default_rng(0)
    one, two, far = (rng.standard_normal((800, 4)) + shift for shift in (0.0, 0.0, 6.0))
    assert linear.judge_error(one, two) < 0.06
    assert linear.judge_error(one, far) > 0.49
    assert linear.judge_error(one, 3 * two) > 0.3
    assert linear.judge_error(one, 0.4 + two[:60]) > 0.15, "a small class counts as much as a large one"
