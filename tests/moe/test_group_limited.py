"""Group-limited top-k against its definition, token by token."""

import pytest
import torch

from wye.moe import Context, MoEError, TopK
from wye.moe.parts.group_limited import GroupLimitedTopK
from wye.moe.parts.selection import Candidates

pytestmark = pytest.mark.torch


def candidates(affinity: torch.Tensor, bias: torch.Tensor | None = None) -> Candidates:
    context = Context(batch=1, length=affinity.shape[0])
    return Candidates(affinity, affinity, affinity, context, bias)


@pytest.mark.parametrize("with_bias", [False, True])
def test_it_chooses_as_the_definition_says(with_bias: bool) -> None:
    torch.manual_seed(0)
    affinity = torch.rand(40, 12)
    bias = torch.randn(12) if with_bias else None
    plan = GroupLimitedTopK(3, groups=4, kept=2)(candidates(affinity, bias))
    ranked = affinity if bias is None else affinity + bias
    for token in range(40):
        row = ranked[token]
        groups = [range(3 * g, 3 * g + 3) for g in range(4)]
        score = [sum(sorted((float(row[e]) for e in g), reverse=True)[:2]) for g in groups]
        kept = sorted(range(4), key=lambda g: -score[g])[:2]
        experts = sorted((e for g in kept for e in groups[g]), key=lambda e: -float(row[e]))[:3]
        mine = plan.source == token
        assert plan.target[mine].tolist() == experts
        assert torch.equal(plan.weight[mine], affinity[token, experts])


def test_a_token_uses_no_more_groups_than_are_kept() -> None:
    torch.manual_seed(0)
    plan = GroupLimitedTopK(4, groups=8, kept=2)(candidates(torch.rand(100, 16)))
    used = [len(set((plan.target[plan.source == t] // 2).tolist())) for t in range(100)]
    assert max(used) == 2


def test_with_all_groups_kept_it_is_plain_top_k() -> None:
    torch.manual_seed(0)
    affinity = torch.rand(50, 8)
    limited = GroupLimitedTopK(3, groups=4, kept=4)(candidates(affinity))
    assert torch.equal(limited.dense(), TopK(3)(candidates(affinity)).dense())


def test_no_tokens_give_an_empty_plan() -> None:
    assert len(GroupLimitedTopK(2, groups=2, kept=1)(candidates(torch.zeros(0, 4)))) == 0


@pytest.mark.parametrize(
    ("k", "groups", "kept"), [(0, 2, 1), (1, 0, 1), (1, 2, 3), (2.0, 2, 1), (True, 2, 1)]
)
def test_numbers_that_make_no_sense_are_refused(k: int, groups: int, kept: int) -> None:
    with pytest.raises(MoEError, match="expected"):
        GroupLimitedTopK(k, groups=groups, kept=kept)


@pytest.mark.parametrize(("k", "groups", "kept"), [(1, 3, 1), (3, 4, 1)])
def test_experts_that_do_not_fit_the_groups_are_refused(k: int, groups: int, kept: int) -> None:
    with pytest.raises(MoEError, match="8 experts"):
        GroupLimitedTopK(k, groups=groups, kept=kept)(candidates(torch.rand(2, 8)))
