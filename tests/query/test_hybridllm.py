"""HybridLLM's labels against all pairs of answers and all margins, and its rule as a policy."""

from __future__ import annotations

import numpy as np
import pytest

from wye.query import RouterError, get_router
from wye.query.hybridllm import best_margin, det_labels, prob_labels
from wye.query.learning.sufficiency import SufficiencyLine
from wye.query.policies.choosing import targets_of
from wye.testing import made_outcomes


def test_det_is_whether_the_small_model_is_as_good() -> None:
    assert det_labels(np.array([-0.1, 0.0, 0.4])).tolist() == [0.0, 1.0, 1.0]
    assert np.isnan(det_labels(np.array([np.nan]))).all()


def test_det_with_a_large_margin_labels_all_one() -> None:
    gap = np.random.default_rng(0).uniform(-1, 1, 50)
    assert det_labels(gap, margin=1.0).min() == 1.0


def test_prob_is_the_mean_over_all_pairs_of_answers() -> None:
    generator = np.random.default_rng(1)
    for _ in range(20):
        small, large = generator.integers(0, 2, 7), generator.integers(0, 2, 5)
        pairs = np.mean([[s >= g for g in large] for s in small])
        label = prob_labels(np.array([small.mean()]), np.array([large.mean()]))
        assert label[0] == pytest.approx(float(pairs))


def test_prob_on_single_answers_is_det_and_softer_with_a_temperature() -> None:
    small, large = np.array([0.0, 0.0, 1.0, 1.0]), np.array([0.0, 1.0, 0.0, 1.0])
    np.testing.assert_array_equal(prob_labels(small, large), det_labels(small - large))
    soft = prob_labels(small, large, temperature=0.1)
    assert soft[0] == soft[3] == 0.5
    assert soft[1] < 0.001
    assert soft[2] > 0.999


def test_trans_takes_the_margin_with_the_widest_spread_of_labels() -> None:
    generator = np.random.default_rng(2)
    gap = generator.normal(-0.3, 0.3, 40).clip(-1, 1)
    gap[3] = np.nan
    known = gap[np.isfinite(gap)]

    def spread(margin: float) -> float:
        y = det_labels(known, margin)
        naive = float(np.abs(y[:, None] - y[None, :]).mean())
        assert naive == pytest.approx(2 * y.mean() * (1 - y.mean()))
        return naive

    found = best_margin(gap)
    assert found >= 0
    assert spread(found) == pytest.approx(max(spread(t) for t in np.linspace(0, 2, 2001)))


def test_trans_never_asks_the_small_model_to_be_better() -> None:
    assert best_margin(np.array([0.1, 0.5, 0.9])) == 0.0
    assert best_margin(np.full(3, np.nan)) == 0.0


def test_losses_differ_where_quality_is_graded_and_agree_where_it_is_not() -> None:
    data = made_outcomes(80)
    det, prob = (get_router("hybridllm", loss=loss).fit(data) for loss in ("det", "prob"))
    texts = data.texts[:9]
    np.testing.assert_allclose(det.estimate(texts).quality, prob.estimate(texts).quality)
    soft = get_router("hybridllm", loss="prob", temperature=0.1).fit(data)
    assert not np.allclose(soft.estimate(texts).quality, det.estimate(texts).quality)


def test_the_line_keeps_means_and_orders_the_gap_by_the_probability() -> None:
    generator = np.random.default_rng(3)
    x = generator.random((200, 3))
    quality = (generator.random((200, 3)) < 0.2 + 0.6 * x).astype(float)
    quality[:, 2] = 1.0
    line = SufficiencyLine.fit(x, quality, strong=2)
    fitted = line.apply(x)
    np.testing.assert_allclose(fitted.mean(axis=0), quality.mean(axis=0))
    assert np.ptp(fitted[:, 2]) == 0.0
    assert (np.diff(fitted[np.argsort(x[:, 0]), 0]) > 0).all()
    flat = SufficiencyLine.fit(1.0 - x, quality, strong=2)
    assert (flat.slope > 0).all()


@pytest.mark.parametrize("threshold", [0.0, 0.4, 0.7, 1.0])
def test_the_policy_is_the_threshold_on_the_match_probability(threshold: float) -> None:
    data = made_outcomes(120).with_models(("generalist", "calculator"))
    router = get_router("hybridllm", loss="det").fit(data)
    strong = int(data.quality.mean(axis=0).argmax())
    assert strong == 0
    inputs = router._inputs(data.texts)  # type: ignore[attr-defined]
    small = router.estimators_["match"].sufficiency(inputs)[:, 1] >= threshold  # type: ignore[attr-defined]
    estimate = router.estimate(data.texts)
    chosen = targets_of(router.policy(threshold).choose(estimate))  # type: ignore[attr-defined]
    np.testing.assert_array_equal(chosen, np.where(small, 1, 0))


def test_bad_parameters_are_refused() -> None:
    data = made_outcomes(20)
    with pytest.raises(RouterError, match="loss is 'soft'"):
        get_router("hybridllm", loss="soft").fit(data)
    with pytest.raises(RouterError, match="temperature"):
        get_router("hybridllm", loss="prob", temperature=0.0).fit(data)
    with pytest.raises(RouterError, match="penalty"):
        get_router("hybridllm", penalty=-1.0).fit(data)
    with pytest.raises(RouterError, match="threshold"):
        get_router("hybridllm").fit(data).policy(1.5)  # type: ignore[attr-defined]


def test_the_policy_needs_the_strong_model() -> None:
    router = get_router("hybridllm").fit(made_outcomes(60))
    router.remove_model("calculator")  # type: ignore[attr-defined]
    assert set(router.policy(0.5).cutoff) == set(router.models_)  # type: ignore[attr-defined]
    router.remove_model("generalist")  # type: ignore[attr-defined]
    with pytest.raises(RouterError, match="left"):
        router.policy(0.5)  # type: ignore[attr-defined]
