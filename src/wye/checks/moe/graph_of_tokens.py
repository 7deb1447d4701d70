"""Graph of Tokens (arXiv 2505.00792): is routing over attention steadier, and as good to train?

A. Real attention, no training: MiniLM on 240 docstrings of the standard library, see
   `wye.checks.moe.token_graphs`. Averaging alone steadies scores: the bar is a random graph.
B. Training: scikit-learn's digits as 16 patches, 4 blocks of width 64 with 8 experts of width 64,
   top 2, balance weight 0.01, 20 epochs of AdamW at 1e-3; routers without a graph, with attention,
   with similarity, share 0.5. Fluctuation is the share of held-out patches whose two experts differ
   between the last two epochs; it is printed without a claim, since nothing says that it must fall
   at this size.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from torch import Tensor, nn
from torch.nn import functional as F

from wye.checks.base import CheckResult, Claim
from wye.core import Plan
from wye.moe.build import Shape, routed_stack
from wye.moe.diagnostics import first_choice, mutual_information, routing_change
from wye.moe.graph_of_tokens import build
from wye.moe.models.vision import VisionTransformer, cut
from wye.moe.parts.balance import LoadBalanceLoss
from wye.moe.recording import record
from wye.moe.router import ComposedRouter
from wye.moe.top_k import router as top_k_router

if TYPE_CHECKING:
    from wye.checks.base import CheckContext

ARMS = ("smoe", "attention", "similarity")
SHAPE = Shape(n_layers=4, width=64, hidden=64, n_experts=8, k=2)
EPOCHS, BATCH, RATE, NOISE = 20, 64, 1e-3, 0.5
STEADIER, MEANING = 0.9, 0.75
CLEAN, NOISY, CONTENT = 0.02, 0.01, 0.5


def check(context: CheckContext) -> CheckResult:
    """Both parts; part B is held to its means over the seeds."""
    from wye.checks.moe.token_graphs import NOISES, measure_graphs
    from wye.checks.moe.trials import run_trials

    seeds = context.seeds[:4]
    context.progress("MiniLM on docstrings")
    graphs = measure_graphs(seeds)
    trained = run_trials(train_digits, ARMS, seeds, context)

    def mean(arm: str, name: str) -> float:
        return float(np.mean([trained[arm, seed][name] for seed in seeds]))

    claims: list[Claim] = []
    for noise in NOISES:
        changed = f"top-2 changed at noise {noise}"
        attention = graphs["attention", 0.5][changed]
        plain, random = graphs["plain", 0.0][changed], graphs["random", 0.5][changed]
        claims += [
            Claim(f"A: {changed}, attention / plain", attention / plain, "<=", STEADIER),
            Claim(f"A: {changed}, attention - random", attention - random, "<=", 0.0),
        ]
    kept, by_chance = (graphs[name, 0.5]["MI/H"] for name in ("attention", "random"))
    claims += [
        Claim("A: MI/H with attention", kept, ">=", MEANING),
        Claim("A: MI/H with attention - random", kept - by_chance, ">=", 0.0),
    ]
    for arm in ARMS[1:]:
        clean = mean(arm, "clean accuracy") - mean("smoe", "clean accuracy")
        noisy = mean(arm, "noisy accuracy") - mean("smoe", "noisy accuracy")
        content = mean(arm, "I(patch; expert)") / mean("smoe", "I(patch; expert)")
        claims += [
            Claim(f"B: clean accuracy, {arm} - smoe", clean, ">=", -CLEAN),
            Claim(f"B: noisy accuracy, {arm} - smoe", noisy, ">=", -NOISY),
            Claim(f"B: I(patch; expert), {arm} / smoe", content, ">=", CONTENT),
        ]
    figures = {
        f"A: {name}, share {share}: {figure}": value
        for (name, share), found in graphs.items()
        for figure, value in found.items()
    }
    figures |= {
        f"B: {arm}: {name}": mean(arm, name) for arm in ARMS for name in trained[arm, seeds[0]]
    }
    text = (
        "A: smoothed routing of MiniLM's tokens under noise, no training. B: vision transformers "
        f"on digits, {EPOCHS} epochs; fluctuation carries no claim."
    )
    return CheckResult(tuple(claims), figures, seeds, text)


def train_digits(arm: str, seed: int, *, epochs: int = EPOCHS) -> dict[str, float]:
    """Train one arm on digits and measure it.

    Args:
        arm: one of `ARMS`.
        seed: of weights and batches.
        epochs: of training, at least 2.
    """
    from wye.checks.moe.digits import digits

    data = digits()
    patches, held_out = cut(data.train, 2), cut(data.held_out, 2)
    torch.manual_seed(seed)
    model = VisionTransformer(_layers(arm), patch=4, length=16, width=SHAPE.width)
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.AdamW(model.parameters(), RATE)
    plans: list[list[Plan]] = []
    for _ in range(epochs):
        model.train()
        order = torch.randperm(len(patches), generator=generator)
        for some in torch.split(order, BATCH):
            loss = F.cross_entropy(model(patches[some]), data.train_labels[some])
            optimiser.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            optimiser.step()
        plans = [*plans[-1:], _routing(model, held_out)]
    noise = torch.randn(held_out.shape, generator=torch.Generator().manual_seed(0))
    return {
        "clean accuracy": _accuracy(model, held_out, data.held_out_labels),
        "noisy accuracy": _accuracy(model, held_out + NOISE * noise, data.held_out_labels),
        "fluctuation": float(
            np.mean([routing_change(a, b).changed_sets for a, b in zip(*plans, strict=True)])
        ),
        "I(patch; expert)": _content(plans[-1], held_out),
        "largest load": max(float(p.load().max() / p.load().sum()) for p in plans[-1]),
    }


def _layers(arm: str) -> list[nn.Module]:
    if arm == "attention":
        return build(SHAPE, graph="attention", causal=False)
    if arm == "similarity":
        return build(SHAPE, graph="similarity", causal=False)

    def plain(_: int) -> ComposedRouter:
        router = top_k_router(SHAPE.width, SHAPE.n_experts, k=SHAPE.k)
        router.balance.append(LoadBalanceLoss(0.01))
        return router

    return routed_stack(SHAPE, plain)


@torch.no_grad()
def _routing(model: VisionTransformer, patches: Tensor) -> list[Plan]:
    """The plan of every layer on the given patches."""
    model.eval()
    with record(model) as trace:
        model(patches)
    return [trace[name][0] for name in trace]


@torch.no_grad()
def _accuracy(model: VisionTransformer, patches: Tensor, labels: Tensor) -> float:
    model.eval()
    return float((model(patches).argmax(dim=1) == labels).float().mean())


def _content(plans: list[Plan], patches: Tensor) -> float:
    """Mean over layers of I(cluster of the patch; first expert) in nats."""
    clusters = _clusters(patches)
    return float(
        np.mean([mutual_information(clusters, first_choice(p), shuffles=0).plain for p in plans])
    )


def _clusters(patches: Tensor) -> NDArray[np.int64]:
    """k-means cluster of every held-out patch, of as many clusters as there are experts."""
    labels = _fitted().predict(patches.reshape(-1, patches.shape[-1]).numpy())
    return np.asarray(labels, dtype=np.int64)


@lru_cache(maxsize=1)
def _fitted() -> KMeans:
    from wye.checks.moe.digits import digits

    patches = cut(digits().train, 2)
    return KMeans(SHAPE.n_experts, n_init=4, random_state=0).fit(patches.reshape(-1, 4).numpy())
