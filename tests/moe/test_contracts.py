"""The contracts on any module: what keeps them passes, what breaks one is found out."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from wye.core import Plan, capped, top_k
from wye.testing import (
    ContractError,
    PlanContractError,
    check_batch_invariant,
    check_causal,
    check_padding,
    check_plan,
)

pytestmark = pytest.mark.torch


def _x(batch: int = 3, length: int = 9, width: int = 4) -> Tensor:
    return torch.randn(batch, length, width, generator=torch.Generator().manual_seed(0))


def _ids() -> Tensor:
    return torch.arange(27).reshape(3, 9) % 7


def test_a_causal_module_passes_on_hidden_states_ids_and_made_input() -> None:
    check_causal(nn.GRU(4, 5, batch_first=True), _x())
    check_causal(nn.Embedding(7, 3), _ids())
    check_causal(
        lambda x: x.cumsum(dim=1), lambda g: torch.randn(1, 6, 2, generator=g), cuts=[2, 5]
    )


@pytest.mark.parametrize(
    "module",
    [
        lambda x: x - x.mean(dim=1, keepdim=True),
        lambda x: x.flip(1),
        lambda x: x + torch.cat([x[:, 1:], x[:, -1:]], dim=1),
        lambda x: x * (1 + 1e-3 * x[:, -1:].sum()),
    ],
)
def test_a_module_that_sees_the_future_is_found_out(module) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ContractError, match=r"not causal: .* position \d+ of sequence \d+ by"):
        check_causal(module, _x())


def test_expert_choice_over_a_sequence_is_found_out_by_its_discrete_change() -> None:
    def module(x: Tensor) -> Tensor:
        score = x.sum(dim=-1)
        best = score.topk(3, dim=1).indices
        return x * torch.zeros_like(score).scatter(1, best, 1.0)[..., None]

    with pytest.raises(ContractError, match="not causal"):
        check_causal(module, _x())


def test_the_first_changed_position_is_named() -> None:
    def module(x: Tensor) -> Tensor:
        y = x.clone()
        y[:, 3] += x[:, 5]
        return y

    with pytest.raises(ContractError, match="position 3 of sequence 0"):
        check_causal(module, _x(), cuts=[4])
    check_causal(module, _x(), cuts=[6])


@pytest.mark.parametrize(
    "module", [lambda x: torch.zeros_like(x), lambda x: torch.ones(*x.shape[:2], 1)]
)
def test_a_module_on_which_nothing_depends_is_not_passed(module) -> None:  # type: ignore[no-untyped-def]
    for check in (check_causal, check_batch_invariant):
        with pytest.raises(ContractError, match="the check says nothing"):
            check(module, _x())
    with pytest.raises(ContractError, match="the check says nothing"):
        check_padding(lambda x, mask: module(x), _x())


def test_noise_nan_and_other_shapes_are_reported_as_such() -> None:
    with pytest.raises(ContractError, match="the same input gave outputs that differ"):
        check_causal(lambda x: x + torch.rand_like(x), _x())
    with pytest.raises(ContractError, match="NaN"):
        check_causal(lambda x: x / 0, _x())
    with pytest.raises(ContractError, match=r"expected \[3, 9, \.\.\.\]"):
        check_causal(lambda x: x.sum(dim=1), _x())
    for x, words in (
        (_x()[0], "expected floats"),
        (_x(length=1), "at least 2 positions"),
        (torch.ones(2, 4, dtype=torch.int64), "all ids"),
    ):
        with pytest.raises(ContractError, match=words):
            check_causal(lambda x: x, x)
    with pytest.raises(ContractError, match="cuts"):
        check_causal(lambda x: x, _x(), cuts=[9])


def test_dropout_is_off_and_the_mode_comes_back() -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5)).train()
    module[0].eval()
    check_causal(module, _x())
    assert module.training
    assert module[1].training
    assert not module[0].training


def test_batch_mates_that_matter_are_found_out() -> None:
    check_batch_invariant(nn.LSTM(4, 3, batch_first=True), _x())
    with pytest.raises(ContractError, match="replacing the other sequences changed"):
        check_batch_invariant(lambda x: x - x.mean(dim=0, keepdim=True), _x())
    with pytest.raises(ContractError, match="leaving out the other sequences"):
        check_batch_invariant(lambda x: x * x.shape[0], _x())

    def first_of_three(x: Tensor) -> Tensor:
        y = x.clone()
        y[0] += float(len(x) == 3 and x[0, 0, 0] != _x()[0, 0, 0])
        return y

    with pytest.raises(ContractError, match="reversing the order"):
        check_batch_invariant(first_of_three, _x())


def test_padding_that_matters_is_found_out() -> None:
    def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
        weight = mask[..., None].float()
        return x + (x * weight).sum(dim=1, keepdim=True) / weight.sum(dim=1, keepdim=True)

    check_padding(masked_mean, _x())
    check_padding(
        lambda x, attention_mask: masked_mean(x, attention_mask), _x(), mask_name="attention_mask"
    )
    with pytest.raises(ContractError, match="on the right changed the output"):
        check_padding(lambda x, mask: x + x.mean(dim=1, keepdim=True), _x())
    with pytest.raises(ContractError, match="changed the output"):
        check_padding(lambda x, mask: x * x.shape[1], _x())

    def counts_positions(x: Tensor, mask: Tensor) -> Tensor:
        return x + torch.arange(x.shape[1])[:, None]

    check_padding(counts_positions, _x(), sides=["right"])
    with pytest.raises(ContractError, match="on the left"):
        check_padding(counts_positions, _x())


def _scores() -> Tensor:
    return torch.rand(20, 5, generator=torch.Generator().manual_seed(1))


def test_a_good_plan_passes_in_both_libraries() -> None:
    scores = _scores()
    for s in (scores, scores.numpy()):
        check_plan(
            top_k(s, 2, weight="share"), fan_out=2, weights_sum_to=1.0, scores=s, capacity=20
        )
    kept = capped(top_k(scores, 2), 5)
    check_plan(kept, capacity=5, fan_out=2, coverage=0.5, scores=None)


def test_each_broken_promise_of_a_plan_is_found_out() -> None:
    scores = _scores().numpy()
    plan = top_k(scores, 2)
    worst = top_k(-scores, 2)
    parts = (plan.source, plan.target, plan.weight)
    twice = Plan(*(np.concatenate([a, a[:1]]) for a in parts), 20, 5)
    empty = plan.where(np.zeros(len(plan), dtype=bool))
    for bad, asked, words in (
        (plan, {"capacity": 3}, "expected at most 3"),
        (plan, {"capacity": np.array([40, 0, 40, 40, 40])}, "target 1 has"),
        (plan, {"fan_out": 3}, "source 0 has 2 pairs"),
        (plan, {"fan_out": (3, 4)}, "expected 3 to 4"),
        (plan, {"weights_sum_to": 1.0}, "sum to"),
        (worst, {"scores": scores}, "which has a free place"),
        (twice, {}, "more than once"),
        (empty, {}, "0.0000 of 20 sources"),
        (plan.where(plan.source != 7), {}, "first without: 7"),
        (plan.with_weight(plan.weight * np.nan), {}, "NaN"),
        (Plan(plan.source, plan.target + 3, plan.weight, 20, 5), {}, "expected 0 to 4"),
        (plan, {"scores": scores[:3]}, "scores have shape"),
        (plan, {"capacity": -1}, "each >= 0"),
    ):
        with pytest.raises(PlanContractError, match=words):
            check_plan(bad, **asked)
    check_plan(empty, coverage=0.0, capacity=0)
    check_plan(Plan(np.zeros(0, int), np.zeros(0, int), np.zeros(0), 0, 5))


def test_the_contracts_load_nothing_of_the_expert_scale() -> None:
    code = (
        "import sys; from wye.testing import check_causal, check_batch_invariant, check_padding, "
        "check_plan; print([m for m in sys.modules if m.startswith('wye.moe')])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
