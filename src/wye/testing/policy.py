"""The conformance suite of policies: what every policy, ours and third parties', must keep."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import TYPE_CHECKING

import numpy as np

from wye.query.base import Estimate
from wye.query.policies.choosing import targets_of
from wye.query.policy import Choice, Policy, PolicyError

if TYPE_CHECKING:
    from wye.query.base import BoolArray

_MODELS = ("small", "middle", "large", "odd")


def check_policy(policy: Policy | Callable[[], Policy]) -> None:
    """Raise AssertionError, with what was expected, where `policy` breaks the contract.

    Checked: shapes and ranges of the choice; only allowed models; probabilities that agree with the
    propensity, where they are told; nothing allowed means nowhere; the same seed gives the same
    choice; no query or a single one; permuted queries (policies without state); the estimate is
    left as it was; reasons in words; parameters in `describe`; a wrong `allowed` is refused.

    Args:
        policy: as it comes from its constructor, or a function that makes one. It must work with
            the models `small`, `middle`, `large` and `odd`, whose costs and latencies are known.

    Example:
        >>> from wye.query.policies import Quality
        >>> check_policy(Quality())
    """
    make: Callable[[], Policy] = (
        (lambda: deepcopy(policy)) if isinstance(policy, Policy) else policy
    )
    _check_choice(make)
    _check_allowed(make)
    _check_probabilities(make)
    _check_seed(make)
    _check_sizes(make)
    _check_inputs_untouched(make)
    _check_description(make)
    _check_refusals(make)
    if not make().stateful:
        _check_permutation(make)


def example_estimate(n_queries: int = 40, *, seed: int = 0) -> Estimate:
    """An estimate of the four models of the suite: dearer models are better, `odd` is not."""
    rng = np.random.default_rng(seed)
    level = np.array([0.45, 0.6, 0.75, 0.3])
    quality = np.clip(level + rng.normal(0.0, 0.15, (n_queries, 4)), 0.01, 0.99)
    price = np.array([0.0002, 0.001, 0.004, 0.002])
    return Estimate(
        models=_MODELS,
        quality=quality,
        quality_std=rng.uniform(0.01, 0.1, (n_queries, 4)),
        cost=price * rng.uniform(0.5, 1.5, (n_queries, 4)),
        latency=rng.uniform(0.2, 2.0, (n_queries, 4)),
        novelty=rng.uniform(0.0, 1.0, n_queries),
    )


def _choose(
    policy: Policy, estimate: Estimate, allowed: BoolArray | None = None, seed: int = 0
) -> Choice:
    return policy.choose(estimate, allowed=allowed, generator=np.random.default_rng(seed))


def _check_choice(make: Callable[[], Policy]) -> None:
    estimate = example_estimate()
    choice = _choose(make(), estimate)
    n, m = len(estimate), len(estimate.models)
    plan = choice.plan
    plan.validate(distinct=True)
    assert (plan.n_sources, plan.n_targets) == (n, m), (
        f"the plan is of {plan.n_sources} sources and {plan.n_targets} targets, expected {n}, {m}"
    )
    sources = np.asarray(plan.source)
    assert np.unique(sources).size == sources.size, "a query has more than one target"
    assert choice.score.shape == (n, m), f"score is {choice.score.shape}, expected {(n, m)}"
    assert not np.isnan(choice.score).any(), "score holds NaN"
    assert choice.propensity.shape == (n,), f"propensity is {choice.propensity.shape}"
    assert ((choice.propensity > 0) & (choice.propensity <= 1)).all(), (
        "propensity must lie in (0, 1]"
    )
    assert len(choice.reasons) == n, f"{len(choice.reasons)} reasons for {n} queries"
    for reasons in choice.reasons:
        assert reasons, "a choice without a reason"
        assert all(isinstance(r, str) and r.strip() for r in reasons), f"empty reason: {reasons}"


def _check_probabilities(make: Callable[[], Policy]) -> None:
    policy = make()
    if policy.stateful:
        return
    estimate = example_estimate()
    rng = np.random.default_rng(2)
    allowed = rng.random((len(estimate), 4)) < 0.7
    choice = _choose(policy, estimate, allowed)
    if choice.probabilities is None:
        return
    law, target = choice.probabilities, targets_of(choice)
    assert law.shape == allowed.shape, f"probabilities are {law.shape}, expected {allowed.shape}"
    assert (law >= 0).all(), "a probability is negative"
    assert (law.sum(axis=1) < 1.0 + 1e-9).all(), "the probabilities of a query exceed 1"
    assert (law[~allowed] == 0).all(), "a forbidden model has a probability"
    at_target = np.where(target >= 0, law[np.arange(len(target)), target], 1.0 - law.sum(axis=1))
    assert np.allclose(choice.propensity, at_target), (
        "propensity must be the probability of the choice that was made"
    )


def _check_allowed(make: Callable[[], Policy]) -> None:
    estimate = example_estimate()
    rng = np.random.default_rng(1)
    allowed = rng.random((len(estimate), 4)) < 0.5
    allowed[0] = False
    choice = _choose(make(), estimate, allowed)
    target = targets_of(choice)
    chosen = target >= 0
    assert allowed[np.flatnonzero(chosen), target[chosen]].all(), "a forbidden model was chosen"
    assert target[0] == -1, "a query with no allowed model must go nowhere"
    assert np.isneginf(choice.score[~allowed]).all(), "the score of a forbidden model must be -inf"
    columns = np.array([True, False, True, True])
    flat = targets_of(_choose(make(), estimate, columns))
    full = targets_of(_choose(make(), estimate, np.tile(columns, (len(estimate), 1))))
    assert (flat == full).all(), "allowed [M] must mean the same for every query"


def _check_seed(make: Callable[[], Policy]) -> None:
    estimate = example_estimate()
    first, second = _choose(make(), estimate, seed=7), _choose(make(), estimate, seed=7)
    assert (targets_of(first) == targets_of(second)).all(), "the same seed gave other targets"
    assert (first.propensity == second.propensity).all(), "the same seed gave other propensities"


def _check_sizes(make: Callable[[], Policy]) -> None:
    empty = _choose(make(), example_estimate(0))
    assert len(empty.plan) == 0, "no query must give an empty plan"
    assert empty.score.shape == (0, 4), f"score of no query is {empty.score.shape}"
    assert len(empty.reasons) == 0, "no query must give no reason"
    one = _choose(make(), example_estimate(1))
    assert len(one.plan) <= 1, "one query has more than one target"


def _check_inputs_untouched(make: Callable[[], Policy]) -> None:
    estimate = example_estimate()
    before = deepcopy(estimate)
    allowed = np.ones((len(estimate), 4), dtype=np.bool_)
    _choose(make(), estimate, allowed)
    for name in ("quality", "quality_std", "cost", "latency", "novelty"):
        same = np.array_equal(getattr(before, name), getattr(estimate, name))
        assert same, f"estimate.{name} was changed"
    assert allowed.all(), "allowed was changed"


def _check_description(make: Callable[[], Policy]) -> None:
    policy = make()
    assert policy.name, "a policy needs a name"
    assert policy.describe().startswith(policy.name), (
        f"describe() is {policy.describe()!r}, expected it to start with {policy.name!r}"
    )
    assert policy.describe() == make().describe(), "describe() must depend on parameters alone"


def _check_refusals(make: Callable[[], Policy]) -> None:
    estimate = example_estimate()
    wrong = np.ones((len(estimate), 3), dtype=np.bool_)
    try:
        _choose(make(), estimate, wrong)
    except PolicyError:
        return
    raise AssertionError("allowed of a wrong shape must raise PolicyError")


def _check_permutation(make: Callable[[], Policy]) -> None:
    estimate = example_estimate()
    order = np.random.default_rng(2).permutation(len(estimate))
    permuted = Estimate(
        estimate.models,
        estimate.quality[order],
        estimate.quality_std[order],
        estimate.cost[order],
        estimate.latency[order],
        estimate.novelty[order],
    )
    straight, shuffled = _choose(make(), estimate), _choose(make(), permuted)
    if bool((straight.propensity == 1.0).all()):
        assert (targets_of(straight)[order] == targets_of(shuffled)).all(), (
            "the order of the queries changed the choice of a policy without state"
        )
