"""Chunks of consecutive tokens: what belongs together, what they need, running them."""

import pytest
import torch

from wye.core import Plan, PlanError, top_k
from wye.moe.base import Context, MoEError
from wye.moe.experts import Experts
from wye.moe.parts.chunks import chunks_of, consecutive, run_by_chunk, union_over_chunks

pytestmark = pytest.mark.torch

CPU = torch.device("cpu")


def test_chunks_hold_consecutive_tokens_of_one_sequence():
    chunks = chunks_of(Context(batch=2, length=5), 2, CPU)
    assert chunks.index.tolist() == [0, 0, 1, 1, 2, 3, 3, 4, 4, 5]
    assert chunks.size.tolist() == [2, 2, 1, 2, 2, 1]


def test_padding_that_was_taken_out_leaves_no_empty_chunk():
    place = torch.tensor([0, 1, 2, 3, 8, 9])
    chunks = chunks_of(Context(batch=2, length=5, place=place), 2, CPU)
    assert chunks.index.tolist() == [0, 0, 1, 1, 2, 3]
    assert chunks.size.tolist() == [2, 2, 1, 1]


def test_documents_part_chunks_and_neighbours():
    ids = torch.tensor([5, 0, 5, 5, 0, 5])
    context = Context(batch=1, length=6, token_ids=ids)
    assert chunks_of(context, 4, CPU, boundary=0).index.tolist() == [0, 0, 1, 1, 2, 3]
    assert consecutive(context, CPU, boundary=0).tolist() == [0, 2, 3]
    assert consecutive(context, CPU).tolist() == [0, 1, 2, 3, 4]


def test_neighbours_are_of_one_sequence_with_no_gap_between():
    place = torch.tensor([0, 1, 3, 4, 5, 6])
    context = Context(batch=2, length=5, place=place)
    assert consecutive(context, CPU).tolist() == [0, 2, 4]
    assert consecutive(Context(batch=1, length=0), CPU).tolist() == []


def test_a_boundary_needs_token_ids():
    with pytest.raises(MoEError, match="token_ids"):
        chunks_of(Context(batch=1, length=4), 2, CPU, boundary=0)
    with pytest.raises(MoEError, match="at least 1"):
        chunks_of(Context(batch=1, length=4), 0, CPU)


def random_plan(n_tokens, n_experts, seed=0):
    generator = torch.Generator().manual_seed(seed)
    taken = torch.rand(n_tokens, n_experts, generator=generator) < 0.3
    source, target = taken.nonzero(as_tuple=True)
    weight = torch.randn(len(source), generator=generator)
    return Plan(source, target, weight, n_tokens, n_experts)


def test_the_union_is_that_of_the_tokens_of_each_chunk():
    plan = random_plan(13, 6)
    chunks = chunks_of(Context(batch=1, length=13), 4, CPU)
    union = union_over_chunks(plan, chunks).validate(distinct=True)
    active = plan.dense() != 0
    for chunk in range(chunks.number):
        pairs = active[chunks.index == chunk].sum(dim=0)
        assert union.dense()[chunk].tolist() == pairs.tolist()


@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("length", [1, 3, 100])
def test_running_by_chunk_equals_running_by_expert(gated, bias, length):
    torch.manual_seed(0)
    experts = Experts(6, width=8, hidden=5, gated=gated, bias=bias)
    x = torch.randn(20, 8, requires_grad=True)
    plan = random_plan(20, 6)
    chunks = chunks_of(Context(batch=2, length=10), length, CPU)
    one, other = experts(x, plan), run_by_chunk(x, plan, experts, chunks)
    assert torch.allclose(one, other, atol=1e-6)
    z = torch.randn_like(one)
    for a, b in zip(
        torch.autograd.grad((one * z).sum(), [x, *experts.parameters()]),
        torch.autograd.grad((other * z).sum(), [x, *experts.parameters()]),
        strict=True,
    ):
        assert torch.allclose(a, b, atol=1e-5)


def test_tokens_without_experts_get_zero():
    experts = Experts(3, width=4, hidden=2)
    none = torch.zeros(0, dtype=torch.int64)
    plan = Plan(none, none, torch.zeros(0), 5, 3)
    chunks = chunks_of(Context(batch=1, length=5), 2, CPU)
    assert torch.equal(run_by_chunk(torch.randn(5, 4), plan, experts, chunks), torch.zeros(5, 4))


def test_chunks_of_other_tokens_are_refused():
    chunks = chunks_of(Context(batch=1, length=4), 2, CPU)
    with pytest.raises((MoEError, PlanError), match="same tokens"):
        union_over_chunks(top_k(torch.rand(5, 3)), chunks)
