"""Diagnostics give the known figure where the answer is known."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import mutual_info_score

from wye.core import Plan, PlanTrace, top_k
from wye.moe import Experts, MoEError, MoELayer, get_router, record
from wye.moe.diagnostics import (
    between_layers,
    domain_specialisation,
    drops_by_position,
    first_choice,
    joined,
    mutual_information,
    report_loads,
    report_model,
    report_trace,
    routing_change,
    token_identity,
)

pytestmark = pytest.mark.torch


def _to(target: np.ndarray, n_experts: int) -> Plan:
    n = target.shape[0]
    return Plan(np.arange(n), target, np.ones(n), n, n_experts)


def test_plans_of_several_passes_join_in_order_whatever_their_library() -> None:
    one = top_k(torch.tensor([[0.1, 0.9], [0.8, 0.2]]))
    other = top_k(np.array([[0.7, 0.3]]), 2)
    plan = joined([one, other])
    assert plan.source.tolist() == [0, 1, 2, 2]
    assert plan.target.tolist() == [1, 0, 0, 1]
    with pytest.raises(MoEError, match="number of experts"):
        joined([one, top_k(np.eye(3))])
    with pytest.raises(MoEError, match="at least one plan"):
        joined([])


def test_the_first_choice_is_that_of_largest_weight_whatever_the_order_of_the_pairs() -> None:
    plan = Plan(
        np.array([2, 0, 2, 0]), np.array([1, 2, 0, 1]), np.array([0.3, 0.2, 0.7, 0.8]), 4, 3
    )
    assert first_choice(plan).tolist() == [1, -1, 0, -1]
    tied = Plan(np.array([0, 0]), np.array([2, 1]), np.array([0.5, 0.5]), 1, 3)
    assert first_choice(tied).tolist() == [1]


def test_information_equals_its_definition_and_is_nothing_for_independent_labels() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 5, 4000), rng.integers(0, 7, 4000)
    c = (a + (rng.random(4000) < 0.3) * rng.integers(0, 5, 4000)) % 5
    table = np.zeros((5, 5))
    np.add.at(table, (a, c), 1 / 4000)
    marginal = table.sum(1, keepdims=True) * table.sum(0, keepdims=True)
    by_hand = float((table * np.log(table / marginal)).sum())
    found = mutual_information(a, c)
    assert found.plain == pytest.approx(by_hand, rel=1e-9)
    assert found.entropy_a == pytest.approx(mutual_info_score(a, a))
    independent = mutual_information(a, b, shuffles=20)
    # The plug-in bias is (5 - 1)(7 - 1) / (2 * 4000).
    assert independent.chance == pytest.approx(24 / 8000, rel=0.25)
    assert abs(independent.corrected) < 5 * independent.chance_deviation
    assert mutual_information(a, a).share == pytest.approx(1.0)
    assert mutual_information(a, np.zeros(4000, int)).share == 0.0


def test_layers_that_repeat_each_other_share_all_information_and_others_none() -> None:
    rng = np.random.default_rng(1)
    first = _to(rng.integers(0, 4, 3000), 4)
    permuted = _to(np.array([2, 3, 1, 0])[first.target], 4)
    unrelated = _to(rng.integers(0, 4, 3000), 4)
    same, other = between_layers([first, permuted, unrelated])
    assert same.share == pytest.approx(1.0)
    assert abs(other.corrected) < 0.005
    with pytest.raises(MoEError, match="the same ones"):
        between_layers([first, _to(np.zeros(3, int), 4)])


def test_token_identity_is_one_for_a_hash_and_nothing_for_chance() -> None:
    rng = np.random.default_rng(2)
    ids = rng.integers(0, 40, 8000)
    by_id = token_identity(_to(ids % 8, 8), ids)
    assert by_id.information.share == pytest.approx(1.0)
    assert by_id.relative_entropy == pytest.approx(0.0, abs=1e-12)
    assert by_id.covered == 1.0
    by_chance = token_identity(_to(rng.integers(0, 8, 8000), 8), ids)
    assert by_chance.information.share == pytest.approx(
        by_chance.information.chance_share, abs=0.005
    )
    assert by_chance.relative_entropy > 0.98
    assert by_chance.spread < by_id.spread


def test_rare_ids_and_tokens_without_expert_do_not_count() -> None:
    ids = np.array([7] * 60 + [9] * 3)
    plan = _to(np.zeros(63, int), 2).where(np.arange(63) != 0)
    found = token_identity(plan, ids)
    assert found.ids.tolist() == [7]
    assert found.covered == pytest.approx(59 / 63)
    with pytest.raises(MoEError, match="occurs 100 times"):
        token_identity(plan, ids, least=100)
    with pytest.raises(MoEError, match="60 token ids were given for 63 tokens"):
        token_identity(plan, ids[:60])
    with pytest.raises(MoEError, match="expected integers"):
        token_identity(plan, ids / 2)


def test_ids_may_come_as_batches_of_tensors() -> None:
    ids = torch.arange(120).reshape(2, 3, 20) % 2
    whole = token_identity(_to(ids.flatten().numpy(), 2), list(ids))
    assert whole.information.share == pytest.approx(1.0)


def test_change_between_checkpoints_counts_first_choices_sets_and_directions() -> None:
    ids = np.arange(400) % 4
    before = _to(ids % 4, 4)
    assert routing_change(before, before, ids).same_first == 1.0
    target = ids % 4
    target[:100] = (target[:100] + 1) % 4
    after = routing_change(before, _to(target, 4), ids)
    assert after.same_first == pytest.approx(0.75)
    assert after.changed_sets == pytest.approx(0.25)
    assert after.overlap == pytest.approx(0.75)
    # Every r_v goes from (1, 0) to (0.75, 0.25).
    assert after.cosine == pytest.approx(0.75 / math.hypot(0.75, 0.25))
    assert math.isnan(routing_change(before, before).cosine)
    scores = np.random.default_rng(0).random((50, 4))
    swapped = routing_change(top_k(scores, 2), top_k(scores, 2, bias=np.zeros(4)))
    assert swapped.changed_sets == 0.0
    with pytest.raises(MoEError, match="the same tokens"):
        routing_change(before, _to(target[:3], 4))


def test_drops_by_position_are_counted_where_they_are() -> None:
    full = Plan.from_rows(np.tile([0, 1], (16, 1)), np.ones((16, 2)), 4)
    # Two sequences of 8: the second choice of positions 6 and 7 is dropped.
    position = full.source % 8
    kept = full.where((position < 6) | (full.target == 0))
    found = drops_by_position(kept, 8, 2, bin_width=2)
    assert found.start.tolist() == [0, 2, 4, 6]
    assert found.share.tolist() == [0.0, 0.0, 0.0, 0.5]
    assert found.total == pytest.approx(0.125)
    assert found.last_less_first == pytest.approx(0.5)
    assert found.slope == pytest.approx(np.polyfit([1, 3, 5, 7], [0, 0, 0, 0.5], 1)[0])
    assert drops_by_position(full, 8, 2).total == 0.0
    uneven = drops_by_position(full.where(full.source < 16), 8, 2, bin_width=3)
    assert uneven.start.tolist() == [0, 3, 6]
    for length, k, words in ((5, 2, "whole sequences"), (8, 1, "at most k=1")):
        with pytest.raises(MoEError, match=words):
            drops_by_position(full, length, k)


def test_domains_that_use_other_experts_are_told_apart_whatever_their_size() -> None:
    code, prose = _to(np.arange(300) % 2, 4), _to(2 + np.arange(3000) % 2, 4)
    apart = domain_specialisation({"code": code, "prose": [prose]})
    assert apart.information.plain == pytest.approx(math.log(2))
    assert apart.top_share.tolist() == [0.5, 0.5]
    assert apart.histogram.sum(axis=1).tolist() == [1.0, 1.0]
    alike = domain_specialisation({"a": code, "b": _to(np.arange(3000) % 2, 4)}, shuffles=10)
    assert abs(alike.information.corrected) < 0.01
    for bad in ({"code": code}, {"code": code, "x": _to(np.arange(4), 9)}):
        with pytest.raises(MoEError):
            domain_specialisation(bad)


def test_the_table_of_a_trace_and_of_a_live_model_tell_the_same() -> None:
    torch.manual_seed(0)
    layer = MoELayer(get_router("top_k", 8, 4), Experts(4, 8, 4)).eval()
    model = torch.nn.Sequential(layer)
    with record(model) as trace:
        model(torch.randn(40, 8))
    from_trace, live = report_trace(trace).layers[0], report_model(model).layers[0]
    assert from_trace.name == live.name == "0"
    assert from_trace.load.tolist() == live.load.tolist()
    assert live.fan_out == 2.0
    assert live.retained == pytest.approx(1.0)
    assert live.max_violation == pytest.approx(live.load.max() / live.load.mean() - 1)
    assert from_trace.unrouted == 0.0
    assert report_trace(trace).to_dict()["layers"][0]["retained"] is None
    with pytest.raises(MoEError, match="no routed layer"):
        report_model(torch.nn.Linear(2, 2))
    with pytest.raises(MoEError, match="no routed layer"):
        report_trace(PlanTrace())


def test_collapse_in_different_layers_does_not_cancel() -> None:
    found = report_loads({"a": [8, 0], "b": [0, 8]}, {"a": 8, "b": 8})
    assert [layer.max_violation for layer in found.layers] == [1.0, 1.0]
    assert [layer.dead for layer in found.layers] == [1, 1]
