"""HyPER: gains add up, budgets are kept and nested, and order is without effect."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from wye.embed import get_embedder
from wye.query import RouterError
from wye.query.hybrid_preferences import STRATEGIES, AnnotatorRouter, knapsack
from wye.query.learning.preference_features import (
    InstanceFeatures,
    binned_features,
    bins,
    lexical_features,
    percentile_ranks,
    rouge_l,
    tag_features,
)
from wye.query.learning.set_outcome import SetOutcome, shares_of

Runs = list[tuple[frozenset[str], float]]


def made(n: int = 60, seed: int = 0) -> tuple[InstanceFeatures, Runs]:
    """Instances, and runs whose metric has a linear and a product part and noise."""
    generator = np.random.default_rng(seed)
    active = generator.random((n, 5)) < 0.4
    active[0] = False
    features = InstanceFeatures(tuple(f"i{k}" for k in range(n)), tuple("abcde"), active)
    sets = AnnotatorRouter(seed=seed).propose_runs(features, 40)
    row = {name: k for k, name in enumerate(features.ids)}
    x = shares_of(active, [np.array(sorted(row[i] for i in s), np.intp) for s in sets])
    y = 0.5 + x @ np.array([0.5, 0.2, 0.0, -0.3, 0.1]) + x[:, 0] * x[:, 1]
    noise = generator.normal(0, 0.002, len(y))
    return features, list(zip(sets, (y + noise).tolist(), strict=True))


def test_the_metric_of_a_mix_is_the_intercept_plus_the_gains_of_its_instances() -> None:
    features, runs = made()
    router = AnnotatorRouter(outcome="linear").fit(features, runs)
    gain = dict(zip(features.ids, router.gains(features), strict=True))
    for chosen, _ in runs[:5]:
        total = router.outcome_.intercept_ + sum(gain[i] for i in chosen) / len(features)
        assert router.predict(features, chosen) == pytest.approx(total, abs=1e-12)


@pytest.mark.parametrize("outcome", ["linear", "quadratic"])
def test_a_reference_does_not_matter_to_a_linear_form_alone(outcome: str) -> None:
    features, runs = made()
    plain = AnnotatorRouter(outcome=outcome).fit(features, runs)  # type: ignore[arg-type]
    at_mix = AnnotatorRouter(outcome=outcome, reference=0.5).fit(features, runs)  # type: ignore[arg-type]
    same = np.allclose(plain.gains(features), at_mix.gains(features))
    assert same == (outcome == "linear")


def test_the_marginal_gain_is_the_difference_of_two_predictions() -> None:
    features, runs = made()
    outcome = AnnotatorRouter(outcome="quadratic", reference=0.3).fit(features, runs)
    mix = 0.3 * features.active.mean(axis=0)
    n = len(features)
    joined = outcome.outcome_.predict((mix + features.active[7] / n)[None])[0]
    expected = n * (joined - outcome.outcome_.predict(mix[None])[0])
    assert outcome.gains(features)[7] == pytest.approx(expected)


@pytest.mark.parametrize("outcome", ["linear", "quadratic"])
def test_an_instance_without_features_gains_nothing(outcome: str) -> None:
    features, runs = made()
    router = AnnotatorRouter(outcome=outcome).fit(features, runs)  # type: ignore[arg-type]
    assert router.gains(features)[0] == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_no_budget_is_all_machine_and_the_plan_keeps_its_capacity(strategy: str) -> None:
    features, runs = made()
    router = AnnotatorRouter(strategy=strategy, draws=20).fit(features, runs)  # type: ignore[arg-type]
    assert router.choose(features, 0) == frozenset()
    assert len(router.choose(features, 0.25)) <= 15
    plan = router.plan(features, 0.25)
    assert plan.load().sum() == len(features)
    assert plan.load()[1] == len(router.choose(features, 0.25))
    if strategy in ("topk", "simulated"):
        assert len(router.choose(features, 0.25)) == 15
        assert router.choose(features, 1.0) == set(features.ids)
        assert router.choose(features, len(features) + 5) == set(features.ids)


def test_larger_budgets_keep_what_smaller_ones_chose() -> None:
    features, runs = made()
    router = AnnotatorRouter(strategy="topk").fit(features, runs)
    chosen = [router.choose(features, b) for b in range(len(features) + 1)]
    assert all(a < b for a, b in pairwise(chosen))
    gain = dict(zip(features.ids, router.gains(features), strict=True))
    assert min(gain[i] for i in chosen[20]) >= max(gain[i] for i in chosen[-1] - chosen[20]) - 1e-9


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_order_of_the_instances_is_without_effect(strategy: str) -> None:
    features, runs = made()
    order = np.random.default_rng(1).permutation(len(features))
    moved = InstanceFeatures(
        tuple(features.ids[i] for i in order), features.names, features.active[order]
    )
    router = AnnotatorRouter(strategy=strategy, draws=20).fit(features, runs)  # type: ignore[arg-type]
    again = AnnotatorRouter(strategy=strategy, draws=20).fit(moved, runs)  # type: ignore[arg-type]
    assert router.choose(features, 17) == again.choose(moved, 17)
    assert router.propose_runs(features, 3) == router.propose_runs(moved, 3)


def test_what_is_worth_it_is_what_gains() -> None:
    features, runs = made()
    positive = AnnotatorRouter(outcome="linear", strategy="optimal_pos").fit(features, runs)
    gain = positive.gains(features)
    worth = {i for i, g in zip(features.ids, gain, strict=True) if g > 1e-9}
    assert positive.choose(features) == worth
    strict = AnnotatorRouter(outcome="linear", strategy="optimal_grad", epsilon=0.3)
    chosen = strict.fit(features, runs).choose(features)
    assert chosen == {i for i, g in zip(features.ids, gain, strict=True) if g > 0.3}
    assert 0 < len(chosen) < len(worth)


def test_the_simulated_mix_is_the_best_of_its_draws() -> None:
    features, runs = made()
    few = AnnotatorRouter(strategy="simulated", draws=3).fit(features, runs)
    many = AnnotatorRouter(strategy="simulated", draws=60).fit(features, runs)
    values = [r.predict(features, r.choose(features, 20)) for r in (few, many)]
    assert values[1] >= values[0]
    assert 0 <= len(many.choose(features)) <= len(features)


def test_the_form_that_made_the_outcomes_is_found() -> None:
    features, runs = made(n=120, seed=3)
    error = {}
    for outcome in ("linear", "quadratic"):
        router = AnnotatorRouter(outcome=outcome).fit(features, runs[:30])  # type: ignore[arg-type]
        rest = [router.predict(features, s) - y for s, y in runs[30:]]
        error[outcome] = np.sqrt(np.mean(np.square(rest)))
    spread = np.std([y for _, y in runs[30:]])
    assert error["quadratic"] < 0.2 * spread
    assert error["linear"] < 0.5 * spread


def test_any_regressor_will_do() -> None:
    from sklearn.tree import DecisionTreeRegressor

    features, runs = made()
    router = AnnotatorRouter(outcome=DecisionTreeRegressor(random_state=0)).fit(features, runs)
    assert router.predict(features, runs[0][0]) == pytest.approx(runs[0][1])
    assert len(router.choose(features, 10)) == 10


def test_a_gain_is_split_by_feature() -> None:
    features, runs = made()
    router = AnnotatorRouter(outcome="linear").fit(features, runs)
    name = features.ids[5]
    parts = router.explain(features, name)
    assert set(parts) == {features.names[j] for j in np.flatnonzero(features.active[5])}
    assert sum(parts.values()) == pytest.approx(router.gains(features)[5])


def test_a_knapsack_takes_whole_features_first() -> None:
    generator = np.random.default_rng(4)
    active = np.zeros((20, 2), bool)
    active[:6, 0], active[6:12, 1] = True, True
    for _ in range(10):
        rows = set(knapsack(active, 6, generator).tolist())
        assert rows in ({*range(6)}, {*range(6, 12)})
    assert set(knapsack(active, 12, generator).tolist()) == {*range(12)}
    assert len(set(knapsack(active, 15, generator).tolist())) == 15
    assert knapsack(active, 0, generator).size == 0


def test_every_value_is_in_exactly_one_bin() -> None:
    values = np.array([0.0, 1 / 3, 0.5, 2 / 3, 1.0])
    assert bins(values).sum(axis=1).tolist() == [1] * 5
    assert bins(values).argmax(axis=1).tolist() == [0, 1, 1, 2, 2]
    ranks = percentile_ranks(np.array([5.0, 1.0, 1.0, 9.0]))
    np.testing.assert_allclose(percentile_ranks(ranks), ranks)


def test_lexical_features_of_texts() -> None:
    answers = [("a b c", "a b c"), ("one two three four five", "x"), ("red", "green blue")]
    features = lexical_features(
        ["p", "q", "r"], ["hi", "hi there", "a b c"], answers, get_embedder("static")
    )
    assert len(features.names) == 18
    assert features.active.sum(axis=1).tolist() == [6, 6, 6]
    on = {features.names[j] for j in np.flatnonzero(features.active[0])}
    assert {"ROUGE-L: high", "cosine: high", "prompt length: low"} <= on
    assert rouge_l("a x b y c", "a b c") == pytest.approx(0.75)
    tagged = features.joined(tag_features(["p", "q", "r"], {"q": ["safety"]}))
    assert tagged.active[:, -1].tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda f, r: AnnotatorRouter(strategy="luck"), "strategy is 'luck'"),
        (lambda f, r: AnnotatorRouter(outcome="cubic"), "kind is 'cubic'"),
        (lambda f, r: AnnotatorRouter(reference=2.0), "reference is 2.0"),
        (lambda f, r: AnnotatorRouter().choose(f, 3), "not fitted"),
        (lambda f, r: AnnotatorRouter().fit(f, r).choose(f), "topk needs a budget"),
        (lambda f, r: AnnotatorRouter().fit(f, r).choose(f, 1.5), "share 1.5"),
        (lambda f, r: AnnotatorRouter().fit(f, r).choose(f, -1), "-1 instances"),
        (lambda f, r: AnnotatorRouter().fit(f, r).predict(f, ["zz"]), "unknown instances"),
        (lambda f, r: AnnotatorRouter().fit(f, [(["i1"], 1.0)]), "at least two sets"),
        (lambda f, r: AnnotatorRouter().fit(f, [*r, (["i1"], np.nan)]), "must be finite"),
        (lambda f, r: AnnotatorRouter().propose_runs(f, 0), "at least 1"),
        (lambda f, r: SetOutcome().predict(np.zeros((1, 2))), "not learned yet"),
        (lambda f, r: binned_features(["a"], {"v": np.array([2.0])}), "from 0 to 1"),
        (lambda f, r: InstanceFeatures(("a", "a"), (), np.zeros((2, 0), bool)), "must differ"),
    ],
)
def test_bad_use_is_named(act, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(RouterError, match=message):
        act(*made())
