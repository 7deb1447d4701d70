"""Token and chunk sparsity, fan-out, experts alive: against their definitions."""

import math
from itertools import pairwise

import pytest
import torch

from wye.core import Plan, top_k
from wye.moe.base import Context, MoEError
from wye.moe.diagnostics.sparsity import alive_experts, chunk_sparsity, fan_out, token_sparsity

pytestmark = pytest.mark.torch

B, L, E = 3, 20, 7


def plan_of(active):
    source, target = active.nonzero(as_tuple=True)
    return Plan(source, target, torch.ones(len(source)), *active.shape)


@pytest.fixture
def active():
    return torch.rand(B * L, E, generator=torch.Generator().manual_seed(0)) < 0.15


def test_chunk_sparsity_is_that_of_every_window_of_a_sequence(active):
    context = Context(batch=B, length=L)
    grid = active.view(B, L, E)
    for length in (1, 2, 5, 20):
        windows = [
            grid[b, start : start + length].any(dim=0)
            for b in range(B)
            for start in range(L - length + 1)
        ]
        wanted = 1 - float(torch.stack(windows).double().mean())
        assert chunk_sparsity(plan_of(active), context, length) == pytest.approx(wanted)


def test_windows_of_one_token_are_token_sparsity_and_longer_ones_never_sparser(active):
    context = Context(batch=B, length=L)
    values = [chunk_sparsity(plan_of(active), context, n) for n in range(1, L + 1)]
    assert values[0] == pytest.approx(token_sparsity(plan_of(active)))
    assert all(later <= earlier + 1e-12 for earlier, later in pairwise(values))


def test_windows_never_reach_over_padding_that_was_taken_out(active):
    place = torch.tensor([0, 1, 3, 4, 20, 21])
    some = active[place]
    context = Context(batch=B, length=L, place=place)
    pairs = [some[0:2].any(0), some[2:4].any(0), some[4:6].any(0)]
    wanted = 1 - float(torch.stack(pairs).double().mean())
    assert chunk_sparsity(plan_of(some), context, 2) == pytest.approx(wanted)


def test_no_window_gives_nan(active):
    assert math.isnan(chunk_sparsity(plan_of(active), Context(batch=B, length=L), L + 1))


def test_fan_out_counts_every_token(active):
    found = fan_out(plan_of(active))
    count = active.sum(dim=1).double()
    assert found.mean == pytest.approx(float(count.mean()))
    assert found.deviation == pytest.approx(float(count.std(correction=0)))
    assert found.single == pytest.approx(float((count == 1).double().mean()))
    assert sum(found.histogram) == B * L
    assert found.histogram[2] == int((count == 2).sum())


def test_alive_experts_are_those_that_tokens_use():
    active = torch.zeros(10, 4, dtype=torch.bool)
    active[:, 0] = True
    active[0, 2] = True
    assert alive_experts(plan_of(active)) == 2
    assert alive_experts(plan_of(active), least=0.1) == 1


def test_plans_of_other_tokens_or_of_none_are_refused():
    plan = top_k(torch.rand(5, 3))
    with pytest.raises(MoEError, match="the context has 6 tokens"):
        chunk_sparsity(plan, Context(batch=1, length=6), 2)
    with pytest.raises(MoEError, match="length=0"):
        chunk_sparsity(plan, Context(batch=1, length=5), 0)
    empty = top_k(torch.rand(0, 3))
    for measure in (fan_out, token_sparsity, alive_experts):
        with pytest.raises(MoEError, match="no token"):
            measure(empty)
