"""Union of Experts: the parts add up to the dense block, and a learned choice of them is worth it.

Paper: arXiv 2503.02495. First SmolLM2-135M: the feed-forward of its middle layer in 8 experts of
192, its attention in 9 heads in groups of 3, all selected, against the dense layer on real text.
Then byte language models of Python source: 4 layers, D 128, 8 heads, sequences of 128, 400 steps of
batch 16. Arms: dense with inner width 256; Switch (8 experts of 256); Union of Experts of a network
of inner width 512, every token at half of the heads and half of the tokens at every slice, by the
causal threshold; the same with a random choice by position that never changes; dense with inner
width 512, which costs more. FLOPs are counted from the plans, 2 per multiply-add.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from wye.checks.base import CheckResult, Claim
from wye.core import Plan
from wye.moe.base import Context, make_context
from wye.moe.build import Shape
from wye.moe.experts import FeedForward
from wye.moe.layer import MoELayer
from wye.moe.learning.training import TrainingLog, evaluate
from wye.moe.models.compacted_attention import (
    LanguageModelHeads,
    RoutedHeads,
    compacted_attention,
)
from wye.moe.models.language_model import LanguageModel
from wye.moe.models.rotary import rotary_turns
from wye.moe.parts.scores import NoScores
from wye.moe.parts.selection import Candidates, Selection
from wye.moe.parts.thresholds import chosen_where
from wye.moe.parts.unit_gate import UnitGate
from wye.moe.recording import record
from wye.moe.router import ComposedRouter
from wye.moe.surgery.decompose_attention import decompose_attention
from wye.moe.switch import build as switch
from wye.moe.union_of_experts import UnionMLP, build, route_heads, router

if TYPE_CHECKING:
    from wye.checks.base import CheckContext

WIDTH, HEADS, LENGTH, STEPS = 128, 8, 128, 400
UNION = Shape(n_layers=4, width=WIDTH, hidden=64, n_experts=8, k=4)
SWITCH = Shape(n_layers=4, width=WIDTH, hidden=256, n_experts=8, k=1)
EXACT, OVER_RANDOM, TO_DENSE = 1e-4, 0.01, 0.1
_SLICES, _LAYER, _TOKENS = 8, 15, 256
_EVALUATED = 4


def check(context: CheckContext) -> CheckResult:
    """Exactness on a real layer, then five arms."""
    from wye.checks.moe.corpus import corpus
    from wye.checks.moe.experiment import Arm, run_arms

    context.progress("one layer of SmolLM2-135M")
    mlp_gap, attention_gap = exactness()
    arms = {
        "union": Arm(build, measure=counted, prepare=with_heads),
        "random": Arm(random_slices, measure=counted, prepare=with_random_heads),
        "dense 256": Arm(dense, options={"inner": 256}, measure=counted),
        "switch": Arm(switch, measure=counted, shape=SWITCH),
        "dense 512": Arm(dense, options={"inner": 512}, measure=counted),
    }
    seeds = context.seeds[:2]
    results = run_arms(
        arms,
        context,
        text=corpus("python", 3_000_000),
        seeds=seeds,
        shape=UNION,
        steps=STEPS,
        length=LENGTH,
        n_heads=HEADS,
    )
    loss = {arm: results.values(arm, "loss") for arm in arms}
    gain = min(r - u for r, u in zip(loss["random"], loss["union"], strict=True))
    behind = max(u - d for u, d in zip(loss["union"], loss["dense 512"], strict=True))
    claims = (
        Claim(
            "feed-forward in 8 slices against dense, relative to its scale", mlp_gap, "<=", EXACT
        ),
        Claim("attention in 9 heads against dense, likewise", attention_gap, "<=", EXACT),
        Claim("loss(random selection) - loss(union), worse seed", gain, ">=", OVER_RANDOM),
        Claim("loss(union) - loss(dense 512), worse seed", behind, "<=", TO_DENSE),
    )
    figures = results.figures("loss", "megaflops", "unserved", "seconds_per_step")
    for arm in arms:
        for seed, value in zip(seeds, loss[arm], strict=True):
            figures[f"{arm} loss, seed {seed}"] = value
    text = (
        f"Byte language models of Python source, {STEPS} steps; megaflops per token forward, "
        "without embedding and output; unserved is the share of tokens that no slice took."
    )
    return CheckResult(claims, figures, seeds, text)


def exactness() -> tuple[float, float]:
    """Largest differences from the dense feed-forward and attention, over their largest values.

    Raises:
        CheckError: SmolLM2-135M cannot be loaded.
    """
    from wye.checks.moe.corpus import python_source
    from wye.checks.moe.smollm import load_smollm, tokens_of

    ids = tokens_of(python_source(20_000).decode(errors="replace"), _TOKENS)
    model: Any = load_smollm()
    layer = model.model.layers[_LAYER]
    seen: dict[str, tuple[Tensor, Tensor]] = {}
    hooks = [
        module.register_forward_hook(partial(_keep, seen, name), with_kwargs=True)
        for name, module in (("mlp", layer.mlp), ("attention", layer.self_attn))
    ]
    with torch.no_grad():
        model(ids[None])
        for hook in hooks:
            hook.remove()
        sliced = _summed_slices(layer.mlp, seen["mlp"][0])
        base = float(model.config.rope_parameters["rope_theta"])
        heads = _all_heads(layer.self_attn, seen["attention"][0], base)
    return _relative(sliced, seen["mlp"][1]), _relative(heads, seen["attention"][1])


def _keep(
    seen: dict[str, tuple[Tensor, Tensor]],
    name: str,
    module: nn.Module,
    positional: tuple[Tensor, ...],
    named: dict[str, Tensor],
    out: Any,
) -> None:
    x = positional[0] if positional else named["hidden_states"]
    seen[name] = x, out[0] if isinstance(out, tuple) else out


def _summed_slices(mlp: nn.Module, x: Tensor) -> Tensor:
    layer = UnionMLP(mlp, router(x.shape[-1], _SLICES, k=_SLICES, share=1.0)).eval()
    y: Tensor = layer(x)
    return y


def _all_heads(attention: nn.Module, x: Tensor, base: float) -> Tensor:
    heads = decompose_attention(attention)
    everyone = torch.ones(x.shape[1], heads.n_heads)
    y_SD = compacted_attention(
        x[0],
        heads,
        chosen_where(everyone > 0, everyone),
        make_context(x),
        turns=rotary_turns(torch.arange(x.shape[1]), heads.head_width, base=base),
    )
    return y_SD[None]


def _relative(got: Tensor, expected: Tensor) -> float:
    return float((got - expected).abs().max() / expected.abs().max())


def dense(shape: Shape, *, inner: int) -> list[nn.Module]:
    """Dense feed-forwards of inner width `inner`."""
    return [FeedForward(shape.width, inner) for _ in range(shape.n_layers)]


def with_heads(model: LanguageModel, seed: int) -> None:
    """Every token at half of the heads, by a learned gate."""
    route_heads(model)


class FixedByPosition(Selection):
    """A random choice by position that never changes: as large as the learned one.

    Args:
        n_experts: E.
        by_expert: every expert takes exactly half of the positions; else every position takes
            exactly half of the experts, and the first position all.
        seed: of the choice.
    """

    taken_LE: Tensor

    def __init__(self, n_experts: int, *, by_expert: bool, seed: int) -> None:
        super().__init__()
        draws = torch.rand(LENGTH, n_experts, generator=torch.Generator().manual_seed(seed))
        rank = draws.argsort(dim=0 if by_expert else 1).argsort(dim=0 if by_expert else 1)
        taken = rank < (LENGTH if by_expert else n_experts) // 2
        if not by_expert:
            taken[0] = True
        self.register_buffer("taken_LE", taken)

    def forward(self, candidates: Candidates) -> Plan:
        position_S = candidates.context.position(self.taken_LE.device)
        return chosen_where(self.taken_LE[position_S], torch.ones_like(candidates.affinity))


def _fixed_router(n: int, *, by_expert: bool, seed: int) -> ComposedRouter:
    return ComposedRouter(
        WIDTH,
        NoScores(n),
        gate=UnitGate(learned=False),
        selection=FixedByPosition(n, by_expert=by_expert, seed=seed),
    )


def random_slices(shape: Shape) -> list[nn.Module]:
    """Slices of inner width 512, each taking a fixed random half of the positions."""
    return [
        UnionMLP(
            FeedForward(shape.width, shape.n_experts * shape.hidden),
            _fixed_router(shape.n_experts, by_expert=True, seed=index),
        )
        for index in range(shape.n_layers)
    ]


def with_random_heads(model: LanguageModel, seed: int) -> None:
    """Every position at a fixed random half of the heads."""
    for index, block in enumerate(model.blocks):
        dense: nn.Module = block.attention  # type: ignore[assignment]
        fixed = _fixed_router(HEADS, by_expert=False, seed=1_000 + index)
        block.attention = LanguageModelHeads(RoutedHeads(dense, fixed))


def counted(
    model: LanguageModel, log: TrainingLog, text: bytes | Tensor, seed: int
) -> Mapping[str, float]:
    """Forward FLOPs per token, in millions, and the share of tokens without any expert."""
    if log.layers:
        with record(model) as trace:
            evaluate(model, text, batches=_EVALUATED, length=LENGTH)
        plans = {name: trace[name] for name in trace}
    else:
        plans = {}
    adds, unserved = 0.0, []
    blocks: Any = model.blocks
    for place, block in enumerate(blocks):
        heads = plans.get(f"blocks.{place}.attention.heads")
        adds += _attention_adds(heads)
        feed_forward = block.feed_forward
        if isinstance(feed_forward, MoELayer):
            routed = plans[f"blocks.{place}.feed_forward"]
            experts: Any = feed_forward.experts
            pairs = sum(len(plan) for plan in routed) / sum(plan.n_sources for plan in routed)
            # Positions need no gate; every other router is one matrix.
            gate = 0 if isinstance(feed_forward.router.scores, NoScores) else experts.n_experts
            adds += 3 * WIDTH * experts.hidden * pairs + WIDTH * gate
            fan_out = torch.cat([plan.fan_out() for plan in routed])
            unserved.append(float((fan_out == 0).double().mean()))
        else:
            adds += 3 * WIDTH * feed_forward.hidden
    return {
        "megaflops": 2 * adds / 1e6,
        "unserved": sum(unserved) / len(unserved) if unserved else 0.0,
    }


def _attention_adds(plans: tuple[Plan, ...] | None) -> float:
    """Multiply-adds per token of one attention layer; all heads where it is not routed."""
    if plans is None:
        return 4 * WIDTH**2 + WIDTH * (LENGTH + 1)
    total = tokens = 0.0
    width = WIDTH // HEADS
    for plan in plans:
        sequences = plan.n_sources // LENGTH
        row = Context(batch=sequences, length=LENGTH).sequence()[plan.source]
        count = torch.bincount(row * HEADS + plan.target, minlength=sequences * HEADS).double()
        total += float((4 * WIDTH * width * count + width * count * (count + 1)).sum())
        total += WIDTH * HEADS * plan.n_sources
        tokens += plan.n_sources
    return total / tokens
