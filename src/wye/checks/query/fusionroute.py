"""FusionRoute: a router's logits added to a chosen expert repair text that no expert covers.

Paper: arXiv 2601.05106. Four language models over bytes (2 layers, width 96, 128 bytes of context):
three experts, trained on Python source, English documentation and German manual pages; and a router
trained on a mix of these and French manual pages, which no expert has seen. Stage 1 imitates and
routes; stage 2 prefers true continuations to such as a random expert writes. Against choosing alone
(the same router, its logits left out): bits per byte of held-out text.

The paper's routers are pretrained models of billions of weights and its measure is accuracy on
benchmarks; here all models are tiny and start from scratch, so that what is measured is the
mechanism: where no expert has coverage, choosing cannot help and adding logits can. The router
alone stands beside it, and may well be better where all its training went into these domains.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from wye.checks.base import CheckContext, CheckResult, Claim
from wye.checks.moe.corpus import Corpus, corpus
from wye.checks.moe.trials import run_trials
from wye.checks.query.byte_members import byte_member, dense_model
from wye.checks.query.decoding import Memory
from wye.checks.query.trials import averaged
from wye.lockstep import (
    Preferences,
    Texts,
    TokenFusion,
    choose_token,
    fit_cdpo,
    fit_sft,
    record_experts,
    routing_accuracy,
)
from wye.lockstep.fusionroute import Mode
from wye.moe.learning.text_windows import cut_windows, ids_of, windows
from wye.moe.learning.training import train
from wye.moe.models.language_model import LanguageModel

COVERED = ("python", "english", "german")
UNCOVERED = "french"
DOMAINS = (*COVERED, UNCOVERED)
LAYERS, WIDTH, LENGTH, BATCH = 2, 96, 128, 16
EXPERT_STEPS, ROUTER_STEPS, PREFERENCE_STEPS = 300, 500, 100
TRAIN_BYTES, HELD_OUT_BYTES = 600_000, 60_000
WINDOWS, PAIRS, MEASURED = 1024, 512, 96
RATE = 3e-4
GAIN, ACCURACY = 0.3, 0.6
ARMS: dict[str, Mode] = {
    "fusion": "fuse",
    "choosing alone": "select",
    "router alone": "router_only",
    "product of all": "uniform",
}


def check(context: CheckContext) -> CheckResult:
    """Bits per byte of the fused group against choosing alone, and how well it chooses."""
    results = run_trials(_trial, ["domains"], context.seeds, context)
    mean = averaged(list(results.values()))
    gain = mean["choosing alone, mean"] - mean["fusion, mean"]
    uncovered = mean[f"choosing alone, {UNCOVERED}"] - mean[f"fusion, {UNCOVERED}"]
    accuracy = mean.pop("routing accuracy")
    covered = [mean[f"router alone, {d}"] - mean[f"fusion, {d}"] for d in COVERED]
    mean["router alone - fusion, covered domains"] = sum(covered) / len(covered)
    return CheckResult(
        claims=(
            Claim("choosing alone - fusion, bits per byte, mean of domains", gain, ">=", 0.0),
            Claim(f"choosing alone - fusion, bits per byte, {UNCOVERED}", uncovered, ">=", GAIN),
            Claim("share of informative places sent to the best expert", accuracy, ">=", ACCURACY),
        ),
        figures=mean,
        seeds=context.seeds,
        text=(
            f"Experts of {LAYERS} layers and width {WIDTH}, {EXPERT_STEPS} steps each on "
            f"{', '.join(COVERED)}; a router of that size, {ROUTER_STEPS} steps of stage 1 and "
            f"{PREFERENCE_STEPS} of stage 2 on these and {UNCOVERED}. Bits per byte on "
            f"{MEASURED} held-out windows of {LENGTH} bytes of each domain."
        ),
    )


def _trial(arm: str, seed: int) -> dict[str, float]:
    texts = [corpus(name, TRAIN_BYTES, held_out=HELD_OUT_BYTES) for name in DOMAINS]
    held_out = {text.name: _held_out(text) for text in texts}
    experts = [_expert(text, seed * 10 + n) for n, text in enumerate(texts[: len(COVERED)])]
    torch.manual_seed(seed)
    router = dense_model(n_layers=LAYERS, width=WIDTH, length=LENGTH)
    fusion = TokenFusion(byte_member(router), [byte_member(model) for model in experts])
    generator = torch.Generator().manual_seed(seed)
    mix = [_ids(text.train) for text in texts]
    ids = torch.cat([windows(part, WINDOWS, LENGTH, generator) for part in mix])
    learned = Texts.of(fusion, ids)
    fit_sft(fusion, learned, steps=ROUTER_STEPS, batch=BATCH, rate=RATE, seed=seed)
    figures = {
        f"fusion after stage 1, {name}": _bits(fusion, held_out[name], "fuse") for name in DOMAINS
    }
    pairs = _pairs(mix, experts, generator)
    fit_cdpo(fusion, learned, pairs, steps=PREFERENCE_STEPS, batch=BATCH, rate=RATE, seed=seed)
    for label, mode in ARMS.items():
        for name in DOMAINS:
            figures[f"{label}, {name}"] = _bits(fusion, held_out[name], mode)
    figures |= _best_single(fusion, held_out)
    for label in (*ARMS, "best single expert", "fusion after stage 1"):
        each = [figures[f"{label}, {name}"] for name in DOMAINS]
        figures[f"{label}, mean"] = sum(each) / len(each)
    return figures | _routing(fusion, held_out)


def _ids(text: bytes) -> Tensor:
    return ids_of(text, LENGTH)


def _held_out(text: Corpus) -> Tensor:
    ids = _ids(text.held_out)
    starts = torch.linspace(0, len(ids) - LENGTH - 1, MEASURED, dtype=torch.float64).long()
    return cut_windows(ids, starts, LENGTH)


def _expert(text: Corpus, seed: int) -> LanguageModel:
    torch.manual_seed(seed)
    model = dense_model(n_layers=LAYERS, width=WIDTH, length=LENGTH)
    train(model, text.train, steps=EXPERT_STEPS, batch=BATCH, length=LENGTH, seed=seed)
    return model.eval()


def _pairs(
    mix: Sequence[Tensor], experts: Sequence[LanguageModel], generator: torch.Generator
) -> Preferences:
    """True second halves of windows against what a random expert writes behind the first."""
    each = PAIRS // len(mix)
    true = torch.cat([windows(part, each, LENGTH - 1, generator) for part in mix])
    start = LENGTH // 2
    written = true.clone()
    writer = torch.randint(len(experts), (len(true),), generator=generator)
    for number, model in enumerate(experts):
        rows = (writer == number).nonzero()[:, 0]
        if len(rows):
            written[rows] = _continued(model, true[rows, :start], generator)
    counted = (torch.arange(1, LENGTH) >= start).expand(len(true), -1)
    return Preferences(true, written, counted, counted)


@torch.no_grad()
def _continued(model: LanguageModel, prompts: Tensor, generator: torch.Generator) -> Tensor:
    """Prompts lengthened to `LENGTH` by draws from the model."""
    memory = Memory(model, len(prompts), LENGTH)
    ids = prompts
    logits = memory.read(prompts)[:, -1]
    while True:
        byte = choose_token(logits, temperature=1.0, generator=generator)
        ids = torch.cat([ids, byte[:, None]], dim=1)
        if ids.shape[1] == LENGTH:
            return ids
        logits = memory.step(byte, torch.full((len(ids),), ids.shape[1] - 1))


@torch.no_grad()
def _bits(fusion: TokenFusion, ids: Tensor, mode: Mode) -> float:
    return _bits_of(fusion.eval()(ids[:, :-1], mode=mode).logits, ids)


def _bits_of(logits: Tensor, ids: Tensor) -> float:
    law = torch.log_softmax(logits.float(), dim=-1)
    return float(-law.gather(-1, ids[:, 1:, None]).mean()) / math.log(2)


@torch.no_grad()
def _best_single(fusion: TokenFusion, held_out: dict[str, Tensor]) -> dict[str, float]:
    """The expert that is best on the average of the domains, on each of them."""
    each = [
        {name: _bits_of(e.read(ids[:, :-1]).logits, ids) for name, ids in held_out.items()}
        for e in fusion.experts
    ]
    best = min(each, key=lambda bits: sum(bits.values()))
    return {f"best single expert, {name}": value for name, value in best.items()}


@torch.no_grad()
def _routing(fusion: TokenFusion, held_out: dict[str, Tensor]) -> dict[str, float]:
    ids = torch.cat(list(held_out.values()))
    record = record_experts(fusion.experts, ids)
    _, scores = fusion.route(ids[:, :-1])
    share = torch.bincount(scores.argmax(-1).flatten(), minlength=len(fusion.experts))
    return {
        "routing accuracy": routing_accuracy(scores, record),
        "informative places": float(record.informative.float().mean()),
        "share of the busiest expert": float(share.max() / share.sum()),
    }
