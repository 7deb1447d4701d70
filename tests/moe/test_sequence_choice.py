"""Experts that choose tokens within sequences, and how many the share of masks gives them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from wye.core import Plan, SelectionError, expert_choice
from wye.moe.base import Context, MoEError
from wye.moe.parts.mask_schedules import PROFILES, MaskSchedule
from wye.moe.parts.selection import Candidates
from wye.moe.parts.sequence_choice import SequenceChoice, scattered_order

pytestmark = pytest.mark.torch


def choose(scores: Tensor, context: Context, k: float | MaskSchedule, **options: str) -> Plan:
    choice = SequenceChoice(k, **options)  # type: ignore[arg-type]
    return choice(Candidates(scores, scores, scores, context))


def drawn(n: int, experts: int, seed: int = 0) -> Tensor:
    return torch.rand(n, experts, generator=torch.Generator().manual_seed(seed))


def test_every_sequence_is_chosen_from_as_if_it_were_alone() -> None:
    scores = drawn(24, 4)
    plan = choose(scores, Context(batch=3, length=8), 2)
    for row in range(3):
        mine = plan.where((plan.source >= 8 * row) & (plan.source < 8 * row + 8))
        alone = expert_choice(scores[8 * row : 8 * row + 8], 4)
        assert torch.equal(mine.source - 8 * row, alone.source)
        assert torch.equal(mine.target, alone.target)
        assert torch.equal(mine.weight, alone.weight)


@pytest.mark.parametrize(("length", "experts", "k"), [(12, 4, 2), (9, 4, 1), (5, 8, 1), (16, 3, 3)])
def test_every_expert_gets_exactly_c_tokens_and_a_token_ec_over_s(
    length: int, experts: int, k: int
) -> None:
    plan = choose(drawn(2 * length, experts), Context(batch=2, length=length), k)
    places = max(1, length * k // experts)
    for row in range(2):
        of_row = plan.target[plan.source // length == row]
        assert torch.bincount(of_row, minlength=experts).tolist() == [places] * experts
    assert plan.fan_out().double().mean().item() == experts * places / length
    plan.validate(distinct=True)


def test_padding_leaves_the_places_of_the_valid_length() -> None:
    scores = drawn(9, 2)
    padded = Context(batch=3, length=6, place=torch.tensor([0, 1, 2, 3, 4, 5, 9, 10, 12]))
    plan = choose(scores, padded, 1)
    sequence = padded.sequence()[plan.source]
    for row, places in enumerate((3, 1, 1)):
        of_row = plan.target[sequence == row]
        assert torch.bincount(of_row, minlength=2).tolist() == [places] * 2
    alone = choose(scores[:6], Context(batch=1, length=6), 1)
    assert torch.equal(plan.source[sequence == 0], alone.source)


def test_every_sample_has_its_own_capacity() -> None:
    schedule = MaskSchedule(k_min=1, k_max=4)
    ratio = torch.tensor([0.0, 0.5, 1.0])
    context = Context(batch=3, length=8, mask_ratio=ratio)
    plan = choose(drawn(24, 4), context, schedule)
    load = torch.bincount(plan.source // 8 * 4 + plan.target, minlength=12).view(3, 4)
    assert load.tolist() == [[8] * 4, [4] * 4, [2] * 4]


def test_equal_scores_are_scattered_and_the_same_with_or_without_later_positions() -> None:
    tied = torch.zeros(64, 8)
    plan = choose(tied, Context(batch=1, length=64), 2)
    taken = [set(plan.source[plan.target == e].tolist()) for e in range(8)]
    assert len({frozenset(some) for some in taken}) == 8
    assert all(max(some) >= 32 for some in taken)
    long, short = (scattered_order(n, 8, tied.device) for n in (64, 20))
    for row in range(8):
        assert [p for p in long[row].tolist() if p < 20] == short[row].tolist()
        assert sorted(long[row].tolist()) == list(range(64))


def test_permuting_the_tokens_of_a_sequence_permutes_the_choice() -> None:
    scores, order = drawn(10, 4), torch.randperm(10, generator=torch.Generator().manual_seed(1))
    context = Context(batch=1, length=10)
    dense = choose(scores, context, 2).dense()
    assert torch.equal(choose(scores[order], context, 2).dense(), dense[order])


def test_the_bias_moves_the_choice_and_not_the_weight() -> None:
    scores = torch.tensor([[0.9], [0.1]])
    context = Context(batch=1, length=2)
    bias = torch.tensor([[0.0], [1.0]])
    for ranking in ("affinity", "logits"):
        plan = SequenceChoice(0.5, ranking=ranking)(
            Candidates(scores, scores, scores, context, bias)
        )
        assert plan.source.tolist() == [1]
        assert plan.weight.tolist() == [pytest.approx(0.1)]


def test_gradients_reach_the_chosen_affinities_alone() -> None:
    scores = torch.tensor([[0.9, 0.2], [0.6, 0.4], [0.2, 0.8]], requires_grad=True)
    plan = choose(scores, Context(batch=1, length=3), 1)
    plan.weight.sum().backward()
    assert scores.grad is not None
    assert scores.grad.tolist() == [[1, 0], [0, 0], [0, 1]]


def test_empty_sequences_and_no_tokens() -> None:
    none = choose(torch.zeros(0, 3), Context(batch=0, length=4), 1)
    assert (len(none), none.n_sources, none.n_targets) == (0, 0, 3)
    one = choose(drawn(2, 3), Context(batch=2, length=2, place=torch.tensor([2, 3])), 3)
    assert one.load().tolist() == [2, 2, 2]


def test_bad_input_is_refused() -> None:
    context = Context(batch=1, length=2)
    with pytest.raises(MoEError, match="k=0"):
        SequenceChoice(0)
    with pytest.raises(MoEError, match="ranking='score'"):
        SequenceChoice(1, ranking="score")  # type: ignore[arg-type]
    with pytest.raises(SelectionError, match="NaN"):
        choose(torch.tensor([[torch.nan], [1.0]]), context, 1)
    schedule = MaskSchedule(k_min=1, k_max=2)
    with pytest.raises(MoEError, match="mask_ratio has shape None"):
        choose(drawn(2, 2), context, schedule)
    wrong = Context(batch=1, length=2, mask_ratio=torch.zeros(3))
    with pytest.raises(MoEError, match=r"mask_ratio has shape \(3,\)"):
        choose(drawn(2, 2), wrong, schedule)


@pytest.mark.parametrize("profile", PROFILES)
def test_every_profile_costs_the_same_and_keeps_its_bounds(profile: str) -> None:
    schedule = MaskSchedule(k_min=8, k_max=32, profile=profile)  # type: ignore[arg-type]
    ratio = torch.linspace(0, 1, 1001)
    k = schedule(ratio)
    assert k.min() == 8
    assert k.max() == 32
    middle = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000
    tolerance = 0.0015 if "gaussian" in profile else 1e-6
    assert abs(float(schedule.share(middle).mean()) - 0.5) < tolerance
    assert schedule.mean() == pytest.approx(20.0, abs=0.05)


def test_a_reversed_profile_is_the_complement() -> None:
    ratio = torch.linspace(0, 1, 11, dtype=torch.float64)
    for base in ("linear", "cosine", "gaussian"):
        share, reverse = (
            MaskSchedule(k_min=1, k_max=2, profile=p).share(ratio)  # type: ignore[arg-type]
            for p in (base, base + "_reverse")
        )
        assert torch.allclose(share + reverse, torch.ones(11, dtype=torch.float64))
        assert share[0] == pytest.approx(0.0)
    cosine = MaskSchedule(k_min=1, k_max=2, profile="cosine_reverse").share(ratio)
    assert torch.allclose(cosine, (1 + torch.cos(torch.pi * ratio)) / 2)


def test_schedules_refuse_bad_input() -> None:
    with pytest.raises(MoEError, match="k_min=3 and k_max=2"):
        MaskSchedule(k_min=3, k_max=2)
    with pytest.raises(MoEError, match="profile='step'"):
        MaskSchedule(k_min=1, k_max=2, profile="step")  # type: ignore[arg-type]
    with pytest.raises(MoEError, match="sigma=0"):
        MaskSchedule(k_min=1, k_max=2, sigma=0)
    for ratio in (1.5, torch.nan):
        with pytest.raises(MoEError, match=r"expected shares in \[0, 1\]"):
            MaskSchedule(k_min=1, k_max=2)(torch.tensor([ratio]))
