"""Heads as experts: their sum is the layer, and each computes on its own tokens alone."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from wye.core import Plan
from wye.moe.base import Context, MoEError
from wye.moe.models.compacted_attention import compacted_attention
from wye.moe.models.language_model import Attention
from wye.moe.models.rotary import rotary_turns, turned
from wye.moe.surgery.decompose_attention import HeadWeights, decompose_attention

pytestmark = pytest.mark.torch


class Grouped(nn.Module):
    """Projections of a decoder with grouped keys and values, biases everywhere."""

    def __init__(self, width: int = 12, n_heads: int = 6, n_groups: int = 2, head: int = 4) -> None:
        super().__init__()
        self.head_dim = head
        self.q_proj = nn.Linear(width, n_heads * head)
        self.k_proj = nn.Linear(width, n_groups * head)
        self.v_proj = nn.Linear(width, n_groups * head)
        self.o_proj = nn.Linear(n_heads * head, width)


def plan_of(chosen_SH: Tensor, weight_SH: Tensor) -> Plan:
    source, target = chosen_SH.nonzero(as_tuple=True)
    return Plan(source, target, weight_SH[source, target], *chosen_SH.shape)


def naive(
    x_SD: Tensor, w: HeadWeights, chosen: Tensor, weight: Tensor, context: Context, causal: bool
) -> Tensor:
    """Token by token and head by head."""
    turns = rotary_turns(torch.arange(context.length), w.head_width)
    sequence, position = context.sequence(), context.position()
    per_group = w.n_heads // w.n_groups

    def project(t: int, rows: Tensor, bias: Tensor | None, rotate: bool) -> Tensor:
        made = rows @ x_SD[t] + (0 if bias is None else bias)
        return turned(made, turns[position[t]]) if rotate else made

    rows = []
    for t in range(x_SD.shape[0]):
        total = torch.zeros(w.width) if w.output_bias is None else w.output_bias
        for h in range(w.n_heads):
            if not chosen[t, h]:
                continue
            g = h // per_group
            served = chosen[:, g * per_group : (g + 1) * per_group].any(dim=1)
            keys = [
                j
                for j in range(x_SD.shape[0])
                if served[j]
                and sequence[j] == sequence[t]
                and (not causal or position[j] <= position[t])
            ]
            bias = [
                None if b is None else b[i]
                for b, i in zip((w.query_bias, w.key_bias, w.value_bias), (h, g, g), strict=True)
            ]
            q = project(t, w.query[h], bias[0], True)
            k = torch.stack([project(j, w.key[g], bias[1], True) for j in keys])
            v = torch.stack([project(j, w.value[g], bias[2], False) for j in keys])
            p = torch.softmax(k @ q * w.scale, dim=0)
            total = total + weight[t, h] * (w.output[h] @ (p @ v))
        rows.append(total)
    return torch.stack(rows)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("padded", [True, False])
def test_every_head_computes_on_its_own_tokens(
    causal: bool, padded: bool, generator: torch.Generator
) -> None:
    torch.manual_seed(0)
    module = Grouped()
    place = torch.tensor([0, 1, 3, 4, 5, 7, 8]) if padded else None
    context = Context(batch=2, length=5, place=place)
    x = torch.randn(7 if padded else 10, 12, generator=generator, requires_grad=True)
    chosen = torch.rand(len(x), 6, generator=generator) < 0.5
    weight = torch.rand(len(x), 6, generator=generator)
    w = decompose_attention(module)
    turns = rotary_turns(torch.arange(5), 4)
    got = compacted_attention(x, w, plan_of(chosen, weight), context, turns=turns, causal=causal)
    expected = naive(x, w, chosen, weight, context, causal)
    assert torch.allclose(got, expected, atol=1e-5)
    inputs = [x, *module.parameters()]
    cotangent = torch.randn(got.shape, generator=generator)
    for ours, theirs in zip(
        torch.autograd.grad(got, inputs, cotangent),
        torch.autograd.grad(expected, inputs, cotangent),
        strict=True,
    ):
        assert torch.allclose(ours, theirs, atol=1e-4)


@pytest.mark.parametrize("causal", [True, False])
def test_all_heads_on_all_tokens_are_the_dense_layer(causal: bool) -> None:
    torch.manual_seed(0)
    attention = Attention(16, 4, causal)
    x = torch.randn(3, 7, 16)
    turns = rotary_turns(torch.arange(7), 4)
    dense, _ = attention(x, turns, None, False)
    everyone = torch.ones(21, 4)
    got = compacted_attention(
        x.view(21, 16),
        decompose_attention(attention),
        plan_of(everyone.bool(), everyone),
        Context(batch=3, length=7),
        turns=turns,
        causal=causal,
    )
    assert torch.allclose(got.view(3, 7, 16), dense, atol=1e-6)


def test_slices_are_views_whose_gradients_reach_the_layer() -> None:
    attention = Attention(8, 2, True)
    w = decompose_attention(attention)
    assert w.query.data_ptr() == attention.input.weight.data_ptr()
    (w.value[1].sum() + w.output[0].sum()).backward()
    grad = attention.input.weight.grad
    assert grad is not None
    assert grad.view(3, 2, 4, 8)[2, 1].eq(1).all()
    assert grad.sum() == 32
    assert attention.output.weight.grad is not None
    assert attention.output.weight.grad[:, :4].eq(1).all()


def test_turning_is_relative() -> None:
    q, k = torch.randn(2, 8)
    turns = rotary_turns(torch.tensor([3, 5, 103, 105]), 8)
    near = turned(q, turns[0]) @ turned(k, turns[1])
    far = turned(q, turns[2]) @ turned(k, turns[3])
    assert math.isclose(float(near), float(far), abs_tol=1e-4)
    assert not math.isclose(float(near), float(turned(q, turns[1]) @ turned(k, turns[1])))


def test_no_tokens_and_no_pairs() -> None:
    w = decompose_attention(Grouped())
    empty = torch.zeros(0, 6)
    context = Context(batch=0, length=5)
    none = compacted_attention(torch.zeros(0, 12), w, plan_of(empty.bool(), empty), context)
    assert none.shape == (0, 12)
    unserved = torch.zeros(4, 6)
    got = compacted_attention(
        torch.ones(4, 12), w, plan_of(unserved.bool(), unserved), Context(batch=1, length=4)
    )
    assert w.output_bias is not None
    assert torch.equal(got, w.output_bias.expand(4, 12))


def test_bad_input_is_refused() -> None:
    with pytest.raises(MoEError, match="expected linear layers"):
        decompose_attention(nn.Linear(2, 2))
    normalised = Grouped()
    normalised.q_norm = nn.RMSNorm(4)
    with pytest.raises(MoEError, match="normalises its queries"):
        decompose_attention(normalised)
    uneven = Grouped()
    uneven.head_dim = 5
    with pytest.raises(MoEError, match="head_dim=5"):
        decompose_attention(uneven)
    one = torch.ones(1, 3)
    with pytest.raises(MoEError, match="expected 1 tokens and 6 heads"):
        compacted_attention(
            torch.ones(1, 12),
            decompose_attention(Grouped()),
            plan_of(one.bool(), one),
            Context(batch=1, length=1),
        )
