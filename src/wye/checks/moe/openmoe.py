"""Check of OpenMoE: routing follows token ids, settles early, and drops late positions under shift.

Paper: arXiv 2402.01739. The Base recipe scaled down: ids of SmolLM2's tokenizer, the 2,000 most
frequent of the training text and one for all others; 4 layers of width 128, every second a residual
mixture of 8 experts of width 256, two per token; 600 steps of 8 sequences of 256 tokens of Python
source and documentation. Routing is recorded on held-out Python source before training and at 5,
10, 25, 50 and 100% of it, and on shifted text (German manual pages where installed) at the end. Ids
and changes are measured without drops, drops with the training capacity 1.25.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from wye.checks.base import CheckContext, CheckError, CheckResult, Claim
from wye.checks.moe.corpus import english, python_source, shifted
from wye.checks.moe.smollm import tokens_of
from wye.checks.moe.trials import run_trials
from wye.core import Plan
from wye.moe.base import routed_layers
from wye.moe.build import Shape
from wye.moe.diagnostics import drops_by_position, joined, routing_change, token_identity
from wye.moe.learning.training import Step, train
from wye.moe.models.language_model import LanguageModel
from wye.moe.openmoe import next_token_and_output_z
from wye.moe.parts.selection import Capped
from wye.moe.recording import record
from wye.moe.router import ComposedRouter

SHAPE = Shape(n_layers=4, width=128, hidden=256, n_experts=8, k=2)
IDS, STEPS, BATCH, LENGTH = 2_000, 600, 8, 256
PYTHON_BYTES, DOCS_BYTES, HELD_OUT_BYTES = 14_000_000, 6_000_000, 400_000
PROBE, BIN, FACTOR = 160, 64, 1.25
MARKS = (5, 10, 25, 50, 100)
TIMES_SHUFFLED, OVER_CHANCE = 3.0, 0.2


@dataclass(frozen=True)
class Texts:
    """Ids below `IDS + 1`: training `[n]`, and whole sequences `[P, L]` of each probe."""

    train: Tensor
    python: Tensor
    shifted: Tensor


def check(context: CheckContext) -> CheckResult:
    """Token identity, change between checkpoints, drops by position on held-out and shifted text.

    Raises:
        CheckError: the tokenizer's extra or weights, or the text, are missing.
    """
    seeds = context.seeds[:2]
    context.progress("tokenising")
    texts, name = read_texts()
    done = run_trials(partial(trial, texts), ["openmoe"], seeds, context)
    runs = [done["openmoe", seed] for seed in seeds]
    names = [f"layer {i} NMI" for i in range(2, SHAPE.n_layers + 1, 2)]
    ratio = [run[nmi] / run[f"{nmi}, shuffled"] for run in runs for nmi in names]
    early, late = "agreement 5% to 100%", "agreement 50% to 100%"
    claims = (
        Claim("NMI(id; expert) over shuffled, worst", min(ratio), ">=", TIMES_SHUFFLED),
        Claim(
            "agreement(50%, 100%) - agreement(5%, 100%), worst seed",
            min(run[late] - run[early] for run in runs),
            ">=",
            0.0,
        ),
        Claim(
            "agreement(50%, 100%), worst seed",
            min(run[late] for run in runs),
            ">=",
            1 / SHAPE.n_experts + OVER_CHANCE,
        ),
        Claim(
            "drop ratio, shifted - held-out Python, worst seed",
            min(run["drops, shifted"] - run["drops, python"] for run in runs),
            ">=",
            0.0,
        ),
        Claim(
            "last less first quarter's drop ratio, shifted - held-out Python, worst seed",
            min(
                run["last less first quarter, shifted"] - run["last less first quarter, python"]
                for run in runs
            ),
            ">=",
            0.0,
        ),
    )
    figures = {key: float(np.mean([run[key] for run in runs])) for key in runs[0]}
    return CheckResult(
        claims,
        figures,
        seeds,
        f"Python source and its documentation; shifted text: {name}. Agreement is that of first "
        "choices, mean over layers. An untrained router depends on the id as well: its NMI is "
        "among the figures.",
    )


def read_texts() -> tuple[Texts, str]:
    """The ids that the check runs on, and the name of the shifted text."""
    source = python_source(PYTHON_BYTES) + b"\n" + english(DOCS_BYTES)
    other, name = shifted(HELD_OUT_BYTES, part="held_out")
    held_out = python_source(HELD_OUT_BYTES, part="held_out")
    train_ids = _ids(source)
    kept = torch.bincount(train_ids).topk(IDS).indices.sort().values
    return (
        Texts(
            _restricted(train_ids, kept),
            _sequences(_restricted(_ids(held_out), kept)),
            _sequences(_restricted(_ids(other), kept)),
        ),
        name,
    )


def trial(texts: Texts, arm: str, seed: int) -> dict[str, float]:
    """Train one model and measure it: figures by name."""
    model = LanguageModel.build(
        arm, SHAPE, length=LENGTH, vocabulary=IDS + 1, n_heads=4, options={"every": 2}
    )
    marks = {max(1, round(STEPS * mark / 100)): mark for mark in MARKS}
    kept = {0: routing(model, texts.python, None)}

    def probe(step: Step) -> None:
        if step.number in marks:
            kept[marks[step.number]] = routing(model, texts.python, None)

    train(
        model,
        texts.train,
        steps=STEPS,
        batch=BATCH,
        length=LENGTH,
        seed=seed,
        objective=next_token_and_output_z,
        progress=probe,
    )
    ids = texts.python.flatten().numpy()
    return {
        **_identity(kept[0], kept[100], ids, seed),
        **_changes(kept, ids),
        **_drops(routing(model, texts.python, FACTOR), "python"),
        **_drops(routing(model, texts.shifted, FACTOR), "shifted"),
    }


@torch.no_grad()
def routing(model: nn.Module, ids: Tensor, factor: float | None) -> list[Plan]:
    """The plan of each routed layer on whole sequences, with a capacity factor or without limit."""
    was = model.training
    model.eval()
    limits = []
    for layer in routed_layers(model).values():
        if not isinstance(layer.router, ComposedRouter) or not isinstance(
            layer.router.selection, Capped
        ):
            raise CheckError("expected layers whose selection has a capacity")
        limits.append((layer.router.selection, layer.router.selection.eval_factor))
        layer.router.selection.eval_factor = factor
    try:
        with record(model) as trace:
            for some in torch.split(ids, BATCH):
                model(some)
    finally:
        for selection, before in limits:
            selection.eval_factor = before
        model.train(was)
    return [joined(trace[name]) for name in trace]


def _identity(
    untrained: list[Plan], trained: list[Plan], ids: object, seed: int
) -> dict[str, float]:
    figures = {}
    for place, (before, after) in enumerate(zip(untrained, trained, strict=True)):
        layer = f"layer {2 * place + 2}"
        found = token_identity(after, ids, seed=seed)
        figures[f"{layer} NMI"] = found.information.share
        figures[f"{layer} NMI, shuffled"] = found.information.chance_share
        figures[f"{layer} relative entropy"] = found.relative_entropy
        first = token_identity(before, ids, seed=seed)
        figures[f"{layer} NMI, untrained"] = first.information.share
        figures[f"{layer} NMI, untrained, shuffled"] = first.information.chance_share
    return figures


def _changes(kept: dict[int, list[Plan]], ids: object) -> dict[str, float]:
    pairs = dict.fromkeys([*pairwise((0, *MARKS)), *((mark, 100) for mark in (0, *MARKS[:-1]))])
    figures = {}
    for before, after in pairs:
        found = [routing_change(a, b, ids) for a, b in zip(kept[before], kept[after], strict=True)]
        words = f"{before}% to {after}%"
        figures[f"agreement {words}"] = float(np.mean([c.same_first for c in found]))
        figures[f"cosine {words}"] = float(np.mean([c.cosine for c in found]))
    return figures


def _drops(plans: list[Plan], name: str) -> dict[str, float]:
    found = [drops_by_position(plan, LENGTH, SHAPE.k, bin_width=BIN) for plan in plans]
    figures = {
        f"drops, {name}": float(np.mean([d.total for d in found])),
        f"last less first quarter, {name}": float(np.mean([d.last_less_first for d in found])),
        f"slope per position, {name}": float(np.mean([d.slope for d in found])),
    }
    for place, start in enumerate(found[0].start.tolist()):
        share = float(np.mean([d.share[place] for d in found]))
        figures[f"drops from position {start}, {name}"] = share
    return figures


def _ids(text: bytes) -> Tensor:
    words = text.decode("utf-8", errors="replace")
    starts = range(0, len(words), 1_000_000)
    return torch.cat([tokens_of(words[start : start + 1_000_000]) for start in starts])


def _restricted(ids: Tensor, kept: Tensor) -> Tensor:
    """Places in `kept`, and `IDS` for every other id."""
    place = torch.searchsorted(kept, ids).clamp(max=kept.shape[0] - 1)
    return torch.where(kept[place] == ids, place, IDS)


def _sequences(ids: Tensor) -> Tensor:
    n = min(PROBE, ids.shape[0] // LENGTH)
    return ids[: n * LENGTH].reshape(n, LENGTH)
