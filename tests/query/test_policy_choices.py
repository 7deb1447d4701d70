"""Quality and utility, names and specs, and what all policies share."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from wye.query.base import Estimate
from wye.query.policies import (
    Abstain,
    Budget,
    Cascade,
    Explore,
    Quality,
    Threshold,
    Utility,
    get_policy,
    parse_policy,
    policy_names,
)
from wye.query.policies.choosing import best_target, targets_of
from wye.query.policy import PolicyError
from wye.testing.policy import check_policy, example_estimate


def estimate_of(quality, cost=None, latency=None, models=None):
    quality = np.atleast_2d(np.asarray(quality, dtype=float))
    shape = quality.shape
    return Estimate(
        models=tuple(models or (f"m{k}" for k in range(shape[1]))),
        quality=quality,
        quality_std=np.full(shape, 0.05),
        cost=np.broadcast_to(np.full(shape, np.nan) if cost is None else np.asarray(cost), shape),
        latency=np.broadcast_to(
            np.full(shape, np.nan) if latency is None else np.asarray(latency), shape
        ),
        novelty=np.zeros(shape[0]),
    )


@pytest.mark.parametrize(
    "policy",
    [
        Quality(),
        Utility(),
        Utility(cost_weight=80, latency_weight=0.1),
        Threshold(quality=0.5),
        Threshold(cutoff=float("inf")),
        Abstain(max_novelty=0.5),
        Abstain(inner=Utility(cost_weight=10), default="large", max_novelty=0.9, max_std=0.05),
        Explore(epsilon=0.3),
        Cascade(cost_weight=20),
        Budget(total=0.05),
        Budget(total=0.05, horizon=40),
        Budget(total=0.05, horizon=40, epsilon=0.2, shortage="abstain"),
    ],
    ids=lambda p: p.describe(),
)
def test_every_policy_keeps_the_contract(policy):
    check_policy(policy)


class Forbidden(Quality):
    def choose(self, estimate, *, allowed=None, generator=None):
        return super().choose(estimate, generator=generator)


def test_the_conformance_suite_finds_a_policy_that_ignores_what_is_allowed():
    with pytest.raises(AssertionError, match="forbidden"):
        check_policy(Forbidden())


@given(
    hnp.arrays(float, (5, 4), elements=st.sampled_from([0.1, 0.5, 0.9, -np.inf])),
    hnp.arrays(float, (5, 4), elements=st.sampled_from([1.0, 2.0, np.nan])),
)
def test_the_best_target_is_the_naive_one(score, cost):
    expected = []
    for row, price in zip(score, cost, strict=True):
        ranked = sorted(
            range(4), key=lambda m: (-row[m], np.inf if np.isnan(price[m]) else price[m], m)
        )
        expected.append(ranked[0] if row[ranked[0]] > -np.inf else -1)
    assert best_target(score, cost).tolist() == expected
    alone = [best_target(score[i : i + 1], cost[i : i + 1]).tolist() for i in range(5)]
    assert alone == [[column] for column in expected]


def test_a_tie_in_quality_goes_to_the_cheaper_model_and_says_so():
    choice = Quality().choose(estimate_of([0.7, 0.7, 0.2], cost=[3.0, 1.0, 0.5]))
    assert targets_of(choice).tolist() == [1]
    assert "cheaper" in choice.reasons[0][0]


def test_utility_is_quality_minus_weighted_cost_and_latency():
    estimate = example_estimate(200)
    choice = Utility(cost_weight=60, latency_weight=0.03).choose(estimate)
    expected = estimate.quality - 60 * estimate.cost - 0.03 * estimate.latency
    np.testing.assert_allclose(choice.score, expected)
    assert (targets_of(choice) == expected.argmax(axis=1)).all()


@given(st.floats(0, 500), st.floats(0, 500))
def test_a_higher_cost_weight_never_spends_more(one, other):
    estimate = example_estimate(60)
    rows = np.arange(60)

    def spent(weight):
        return estimate.cost[rows, targets_of(Utility(cost_weight=weight).choose(estimate))].sum()

    low, high = sorted((one, other))
    assert spent(high) <= spent(low) + 1e-12


def test_an_unknown_cost_is_refused_by_name_unless_the_model_is_not_allowed():
    estimate = estimate_of([[0.9, 0.8]], cost=[[np.nan, 0.1]], models=("secret", "open"))
    with pytest.raises(PolicyError, match=r"cost of \['secret'\] is unknown; give their prices"):
        Utility(cost_weight=1).choose(estimate)
    only_open = np.array([False, True])
    assert targets_of(Utility(cost_weight=1).choose(estimate, allowed=only_open)).tolist() == [1]
    assert targets_of(Utility().choose(estimate)).tolist() == [0]


def test_reasons_carry_the_figures_that_decided():
    estimate = estimate_of([0.8, 0.79], cost=[0.01, 0.0001], models=("big", "little"))
    first, second = Utility(cost_weight=10).choose(estimate).reasons[0]
    assert first.startswith("little has the highest utility, 0.789")
    assert "expected quality 0.790 - 10 x $0.000100" in first
    assert second.startswith("next is big with 0.700")


def test_a_spec_builds_the_policy_it_describes():
    assert parse_policy("quality").describe() == "quality()"
    assert parse_policy("utility:cost_weight=50,latency_weight=0.5").latency_weight == 0.5
    nested = parse_policy("abstain:default=large,max_std=none,inner=explore:epsilon=0.2")
    assert isinstance(nested, Abstain)
    assert nested.max_std is None
    assert nested.inner.epsilon == 0.2
    assert parse_policy("budget:total=2,horizon=100,shortage=abstain").shortage == "abstain"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("utilty:cost_weight=1", r"unknown policy 'utilty' \(did you mean 'utility'\?\); known:"),
        ("utility:weight=1", r"no parameter 'weight'.*cost_weight, latency_weight"),
        ("utility:50", "'50' is not name=value"),
        ("utility:cost_weight=high", "cost_weight='high', expected a number"),
        ("utility:cost_weight=-1", "at least 0"),
        ("threshold:quality=2", "from 0 to 1"),
        ("budget", "total"),
        ("explore:inner=budget:total=1", "budget keeps account"),
    ],
)
def test_a_wrong_spec_says_what_was_expected(spec, message):
    with pytest.raises(PolicyError, match=message):
        parse_policy(spec)


def test_every_listed_policy_can_be_had_by_name():
    needed = {"budget": {"total": 1.0}}
    for name in policy_names():
        assert get_policy(name, **needed.get(name, {})).name == name


def test_a_policy_of_a_third_party_is_found_by_its_entry_point(monkeypatch):
    from importlib.metadata import EntryPoint

    from wye.query.policies import registry

    entry = EntryPoint("forbidden", f"{__name__}:Forbidden", registry.GROUP)
    monkeypatch.setattr(EntryPoint, "load", lambda self: Forbidden)
    monkeypatch.setattr(registry, "entry_points", lambda group: [entry])
    assert "forbidden" in policy_names()
    assert isinstance(parse_policy("forbidden"), Forbidden)
