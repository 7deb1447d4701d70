"""Global-batch LBL: a loss that asks for balance over the step lets experts specialise by domain.

Paper: arXiv 2501.11873. A byte model of 4 layers (D = 96, 16 experts of width 48, top 2) on four
kinds of text: Python source, C headers, English documentation, German manual pages (where they are
not installed, three kinds). Every micro-batch has 4 sequences of 128 bytes of one kind; every step
has one micro-batch of each kind, in random order. The loss weighs 0.05 in all arms, and counts over
the micro-batch, over the step so far, or over the whole step. I(domain; expert) is the mutual
information of the kind of text and the first expert of its tokens, in nats, on 64 held-out
sequences of each kind; the mean over the layers counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wye.checks.base import CheckResult, Claim
from wye.checks.moe.corpus import domains, has_german
from wye.checks.moe.experiment import Arm, Results, run_arms
from wye.core import max_violation
from wye.moe.base import routed_layers
from wye.moe.build import Shape
from wye.moe.learning.training import next_token_loss

if TYPE_CHECKING:
    from wye.checks.base import CheckContext
    from wye.moe.learning.training import TrainingLog
    from wye.moe.models.language_model import LanguageModel

SEEDS, BYTES, STEPS, BATCH, LENGTH = 2, 1_000_000, 400, 4, 128
SHAPE = Shape(n_layers=4, width=96, hidden=48, n_experts=16, k=2)
WEIGHT = 0.05
SEQUENCES = 64
NAMES = ("python", "c", "english", "german")
HELD_OUT = 100_000


def measured(
    model: LanguageModel, log: TrainingLog, text: bytes | Tensor, seed: int
) -> Mapping[str, float]:
    """Loss by domain, mutual information, MaxVio over the corpus and within micro-batches."""
    flat = torch.frombuffer(bytearray(bytes(text)), dtype=torch.uint8).long()
    layers = routed_layers(model)
    first: dict[str, list[NDArray[np.float64]]] = {name: [] for name in layers}
    corpus: dict[str, list[NDArray[np.float64]]] = {name: [] for name in layers}
    within: dict[str, list[float]] = {name: [] for name in layers}
    losses = []
    for part in torch.split(flat, HELD_OUT):
        starts = torch.linspace(0, len(part) - LENGTH - 1, SEQUENCES).long()
        windows = part[starts[:, None] + torch.arange(LENGTH + 1)]
        total = {name: np.zeros(SHAPE.n_experts) for name in layers}
        top = {name: np.zeros(SHAPE.n_experts) for name in layers}
        loss = 0.0
        for some in torch.split(windows, BATCH):
            with torch.no_grad():
                loss += float(next_token_loss(model, some, torch.Generator())) * len(some)
            for name, layer in layers.items():
                plan = layer.last.plan
                load = plan.load().numpy()
                total[name] += load
                within[name].append(max_violation(load))
                best = plan.target.view(-1, SHAPE.k)[:, 0]
                top[name] += torch.bincount(best, minlength=SHAPE.n_experts).numpy()
        losses.append(loss / SEQUENCES)
        for name in layers:
            first[name].append(top[name])
            corpus[name].append(total[name])
    figures = {f"loss {i}": value for i, value in enumerate(losses)}
    information = [mutual_information(np.stack(first[name])) for name in layers]
    figures |= {f"information layer {i}": value for i, value in enumerate(information)}
    return figures | {
        "domain_loss": float(np.mean(losses)),
        "information": float(np.mean(information)),
        "corpus_violation": float(max(max_violation(sum(c)) for c in corpus.values())),
        "micro_violation": float(np.mean([np.mean(w) for w in within.values()])),
    }


def mutual_information(counts: NDArray[np.float64]) -> float:
    """I of the row and the column of a table of counts, in nats."""
    joint = counts / counts.sum()
    apart = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
    some = joint > 0
    return float((joint[some] * np.log(joint[some] / apart[some])).sum())


ARMS = {
    scope: Arm("global-batch-lbl", {"scope": scope, "weight": WEIGHT}, measure=measured)
    for scope in ("micro", "buffer", "exact")
}


def check(context: CheckContext) -> CheckResult:
    """Specialisation, balance and loss of three counting scopes."""
    names = NAMES if has_german() else NAMES[:-1]
    results = run_arms(
        ARMS,
        context,
        text=domains(names, BYTES, held_out=HELD_OUT),
        seeds=context.seeds[:SEEDS],
        shape=SHAPE,
        steps=STEPS,
        batch=BATCH,
        length=LENGTH,
        micro_batches=len(names),
    )
    claims = (
        Claim("I(domain; expert), exact over micro", _ratio(results, "exact"), ">=", 1.3),
        Claim("I(domain; expert), buffer over micro", _ratio(results, "buffer"), ">=", 1.0),
        Claim(
            "MaxVio within micro-batches, exact less micro",
            -_most(results, "micro", "exact", "micro_violation"),
            ">=",
            0.0,
        ),
        Claim("MaxVio over the corpus, exact", results.worst("exact", "corpus_violation"), "<=", 1),
        Claim(
            "mean validation loss, exact less micro",
            _most(results, "exact", "micro", "domain_loss"),
            "<=",
            0.01,
        ),
    )
    text = (
        f"{', '.join(names)}: one kind per micro-batch, {STEPS} steps; claims hold the worst seed."
    )
    shown = ("domain_loss", "information", "corpus_violation", "micro_violation", "seconds")
    figures = results.figures(*shown)
    for arm in results.arms:
        for place, name in enumerate(names):
            figures[f"{arm} loss on {name}"] = results.mean(arm, f"loss {place}")
        for place in range(SHAPE.n_layers):
            key = f"information layer {place}"
            figures[f"{arm} {key}"] = results.mean(arm, key)
    return CheckResult(claims, figures, results.seeds, text)


def _ratio(results: Results, arm: str) -> float:
    pairs = zip(
        results.values(arm, "information"), results.values("micro", "information"), strict=True
    )
    return min(own / micro for own, micro in pairs)


def _most(results: Results, arm: str, less: str, figure: str) -> float:
    """Largest over the seeds of the figure of `arm` less that of `less`."""
    pairs = zip(results.values(arm, figure), results.values(less, figure), strict=True)
    return max(a - b for a, b in pairs)
