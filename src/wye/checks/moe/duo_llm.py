"""Check of Duo-LLM: what the best route per token gains over all big, and over chance.

Paper: arXiv 2410.10846. A byte model of 6 layers, each with a big network (384) and a small one
(24), learns on Python source with random routes; then all 64 routes run on 16 held-out sequences,
one route for a whole sequence at a time, and the least loss per token is taken at every budget.
Routers are trained on the frozen model for a third and a half of big. Printed beside it: a plain
dense model of the big size, and at every budget the null oracle, a minimum over as many passes of
the best fixed route whose final hidden states have Gaussian noise of matched size.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from wye.checks.base import CheckContext, CheckResult, Claim
from wye.checks.moe.corpus import Corpus, corpus
from wye.checks.moe.trials import run_trials
from wye.core import Plan
from wye.moe.base import Context, Routing, routed_layers
from wye.moe.build import Shape
from wye.moe.diagnostics.route_oracle import Oracle, all_routes, null_oracle, oracle
from wye.moe.duo_llm import BIG, learn_routes
from wye.moe.experts import FeedForward
from wye.moe.learning.training import train
from wye.moe.models.language_model import LanguageModel
from wye.moe.recording import override

Floats = NDArray[np.float64]

LAYERS, WIDTH, INNER_BIG, INNER_SMALL = 6, 96, 384, 24
STEPS, ROUTER_STEPS, BATCH, LENGTH, SEQUENCES = 600, 200, 16, 128, 16
TARGETS = {2: 1 / 3, 3: 1 / 2}
REGRET, SLACK = 0.05, 0.03


def check(context: CheckContext) -> CheckResult:
    """Oracle, null oracle, fixed and random routes, all big, trained routers and a dense model."""
    seeds = context.seeds[:2]
    text = corpus("python", 3_000_000)
    done = run_trials(partial(trial, text), ["duo", "dense"], seeds, context)
    runs = [done["duo", seed] | done["dense", seed] for seed in seeds]
    figures = {name: float(np.mean([run[name] for run in runs])) for name in runs[0]}
    best = [int(np.argmin([run[f"b={b} oracle"] for b in range(LAYERS + 1)])) for run in runs]
    regret = [run[f"b={b} router"] - run[f"b={b} oracle"] for run in runs for b in TARGETS]
    off = [abs(run[f"b={b} router's share of big"] - TARGETS[b]) for run in runs for b in TARGETS]
    claims = (
        Claim(
            "all big - oracle(b=1), worst seed",
            min(run[f"b={LAYERS} fixed"] - run["b=1 oracle"] for run in runs),
            ">=",
            0.0,
        ),
        Claim("budget of the oracle's minimum, least of the seeds", min(best), ">=", 2),
        Claim("budget of the oracle's minimum, largest of the seeds", max(best), "<=", 4),
        Claim("router - oracle at its budget, nats, worst", min(regret), ">=", REGRET),
        Claim("share of big off the target, worst", max(off), "<=", SLACK),
    )
    return CheckResult(
        claims,
        figures,
        seeds,
        f"Nats per byte on {SEQUENCES} held-out sequences of Python source; the null oracle is the "
        "same minimum over passes that differ by noise alone, so oracle less null is what routes "
        "tell. The oracle reads the label: it is a bound and no policy.",
    )


def trial(text: Corpus, arm: str, seed: int) -> dict[str, float]:
    """One model with one seed: figures by name."""
    ids = _held_out(text.held_out)
    if arm == "dense":
        model = _model([FeedForward(WIDTH, INNER_BIG) for _ in range(LAYERS)])
        _train(model, text, STEPS, seed)
        return {"dense model of the big size": float(token_losses(model, ids).mean())}
    shape = Shape(n_layers=LAYERS, width=WIDTH, hidden=INNER_BIG, n_experts=2, k=1)
    model = LanguageModel.build(
        "duo-llm", shape, length=LENGTH, n_heads=4, options={"small": INNER_SMALL}
    )
    _train(model, text, STEPS, seed)
    model.eval()
    figures = _of_routes(model, ids, seed)
    for budget, target in TARGETS.items():
        learner = copy.deepcopy(model)
        torch.manual_seed(seed)
        learn_routes(learner, target=target)
        _train(learner, text, ROUTER_STEPS, seed)
        figures[f"b={budget} router"] = float(token_losses(learner.eval(), ids).mean())
        shares = [
            float((layer.last.plan.target == BIG).double().mean())
            for layer in routed_layers(learner).values()
        ]
        figures[f"b={budget} router's share of big"] = float(np.mean(shares))
    return figures


@torch.no_grad()
def token_losses(model: nn.Module, ids: Tensor) -> Floats:
    """Loss of every predicted token, `[N]`."""
    logits = model(ids[:, :-1]).flatten(0, 1)
    losses = F.cross_entropy(logits, ids[:, 1:].flatten(), reduction="none")
    return np.asarray(losses.double().numpy())


def on_route(model: nn.Module, ids: Tensor, route: NDArray[np.int64]) -> Floats:
    """Loss of every token with the whole of each sequence on one route."""
    choices = {
        name: partial(_everyone_to, int(target))
        for name, target in zip(routed_layers(model), route, strict=True)
    }
    with override(model, choices):
        return token_losses(model, ids)


def _everyone_to(target: int, routing: Routing, x_SD: Tensor, context: Context) -> Plan:
    plan = routing.plan
    n = plan.n_sources
    source = torch.arange(n, device=x_SD.device)
    ones = torch.ones(n, device=x_SD.device)
    return Plan(source, torch.full_like(source, target), ones, n, plan.n_targets)


def _of_routes(model: LanguageModel, ids: Tensor, seed: int) -> dict[str, float]:
    routes = all_routes(LAYERS)
    big = (routes == BIG).sum(axis=1).astype(np.float64)
    found = oracle(routes, lambda route: on_route(model, ids, route), cost=big)
    figures: dict[str, float] = {}
    for b in range(LAYERS + 1):
        some = found.of(b)
        null = null_oracle(_noisy(model, ids, some, seed), float(some.losses.var(axis=0).mean()))
        figures |= {
            f"b={b} oracle": some.oracle_loss,
            f"b={b} null oracle": float(null.mean()),
            f"b={b} random": some.random_loss,
            f"b={b} fixed": some.fixed_loss,
        }
        for layer, share in enumerate(some.share(BIG)):
            figures[f"b={b} oracle's share of big, layer {layer + 1}"] = float(share)
    return figures


def _noisy(model: LanguageModel, ids: Tensor, some: Oracle, seed: int) -> Callable[[float], Floats]:
    """Losses of as many passes as there are routes, of the best fixed one with noise of a size."""
    hidden: list[Tensor] = []

    def keep(module: nn.Module, given: Any, out: Tensor) -> None:
        hidden.append(out)

    handle = model.norm.register_forward_hook(keep)
    try:
        on_route(model, ids, some.fixed_route)
    finally:
        handle.remove()
    h = hidden[0].flatten(0, 1)
    wanted = ids[:, 1:].flatten()

    @torch.no_grad()
    def losses(size: float) -> Floats:
        generator = torch.Generator().manual_seed(seed)
        rows = []
        for _ in range(some.routes.shape[0]):
            noisy = h + size * torch.randn(h.shape, generator=generator)
            logits = F.linear(noisy, model.embedding.weight)
            rows.append(F.cross_entropy(logits, wanted, reduction="none").double().numpy())
        return np.stack(rows)

    return losses


def _model(layers: list[nn.Module]) -> LanguageModel:
    return LanguageModel(layers, width=WIDTH, length=LENGTH, n_heads=4)


def _train(model: nn.Module, text: Corpus, steps: int, seed: int) -> None:
    train(model, text.train, steps=steps, batch=BATCH, length=LENGTH, seed=seed)


def _held_out(text: bytes) -> Tensor:
    ids = torch.frombuffer(bytearray(text), dtype=torch.uint8).long()
    starts = torch.linspace(0, ids.shape[0] - LENGTH - 1, SEQUENCES, dtype=torch.float64).long()
    return ids[starts[:, None] + torch.arange(LENGTH + 1)]
