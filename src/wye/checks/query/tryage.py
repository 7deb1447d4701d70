"""Tryage: losses of small masked language models are predicted, and a price on size trades them.

Paper: arXiv 2308.11601. Six experts learn to restore bytes: one each of Python source, English
documentation, German manual pages, C headers and sums, and a generalist of twice the width on all.
(C headers are a fifth kind of text that every machine with a compiler has; French is not.) Queries
are windows of 96 bytes of held-out text, a fifth of them spliced from two kinds. The loss of an
expert is its cross-entropy on 15% hidden bytes, the mean of four draws that are the same for all
experts. Experts, windows and losses are made once, with the first seed; every seed divides the
windows anew and learns its own router. Baselines in the same run: a random expert, the best single
one, the expert that is best most often, a classifier of the kind of text by the nearest mean
vector, and the oracle.

A second line, printed alone: the same router on the log that the check is given, where the loss is
1 - quality and a choice counts as found where no model did better.

Shape letters: Q windows, M experts, L bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F

from wye.checks.base import CheckResult, Claim
from wye.checks.moe.corpus import c_headers, english, german, python_source
from wye.checks.query.tasks import draw
from wye.checks.query.trials import averaged, described, trials
from wye.moe.learning.masked_objective import MASK, SHARE, VOCABULARY, masked_loss
from wye.moe.learning.training import train
from wye.moe.models.language_model import LanguageModel

if TYPE_CHECKING:
    from wye.checks.base import CheckContext
    from wye.checks.query.trials import Trial
    from wye.data import RoutingData
    from wye.embed import Embedder

Floats = NDArray[np.float64]
KINDS = ("python", "english", "german", "c", "sums")
EXPERTS = (*KINDS, "generalist")
LENGTH, WIDTH, LAYERS = 96, 96, 2
STEPS, BATCH = 240, 16
LEARNED, TESTED, SPLICED = 4000, 1000, 0.2
DRAWS = 4
# Windows whose losses are taken together: more would leave the processor's cache.
AT_ONCE = 50
TEXT, HELD_OUT = 400_000, 120_000
WEIGHTS = (0.0, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 100.0)


def check(context: CheckContext) -> CheckResult:
    """Share of best experts found, loss, regret, and the sweep of the price on size.

    Raises:
        CheckError: text of a kind is missing on this machine (the message names the package), or
            the log has fewer than two models or too few queries.
    """
    from wye.checks.query.embedding import embedded_once

    models = {}
    for name in EXPERTS:
        context.progress(f"expert {name} learns")
        models[name] = _expert(name, context.seeds[0])
    first = context.seeds[0]
    with embedded_once() as embedder:
        context.progress("losses of the experts")
        measured = _measured(models, first)
        rows = [_trial(measured, embedder, seed) for seed in context.seeds]
        logged = [_on_log(trial, embedder) for trial in trials(context)]
    figures = averaged(rows)
    accuracy, usual = figures["accuracy"], figures["most often best, accuracy"]
    sizes = [figures[f"size at {w:g}"] for w in WEIGHTS]
    losses = [figures[f"loss at {w:g}"] for w in WEIGHTS]
    claims = (
        Claim("accuracy - min(2 most often best, 0.5)", accuracy - min(2 * usual, 0.5), ">=", 0.0),
        Claim("accuracy - random", accuracy - 1 / len(EXPERTS), ">=", 0.2),
        Claim("loss - best single", figures["loss"] - figures["best single, loss"], "<=", 0.0),
        Claim("largest rise of size along the sweep", float(np.diff(sizes).max()), "<=", 1e-9),
        Claim("largest fall of loss along the sweep", float(-np.diff(losses).min()), "<=", 0.01),
    )
    figures |= averaged(logged)
    text = (
        f"{len(EXPERTS)} byte-level masked models of {STEPS} steps; {LEARNED} windows to learn "
        f"from, {TESTED} to test on, divided anew for each seed. Losses in nats per hidden byte; "
        "the weight of size, scaled from 0 to 1 over the experts, in nats."
    )
    return CheckResult(claims, figures, context.seeds, described(context, text))


@dataclass(frozen=True)
class _Measured:
    """Windows with their losses: texts, kinds, loss `[Q, M]`, size of each expert `[M]`."""

    texts: list[str]
    kinds: list[str]
    loss: Floats
    size: list[float]


def _measured(models: dict[str, LanguageModel], seed: int) -> _Measured:
    windows, kinds = _windows(LEARNED + TESTED, seed)
    loss = np.column_stack([_losses(models[name], windows, seed) for name in EXPERTS])
    texts = [bytes(w).decode("utf-8", errors="replace") for w in windows.astype(np.uint8)]
    size = [float(sum(p.numel() for p in models[name].parameters())) for name in EXPERTS]
    return _Measured(texts, kinds, loss, size)


def _trial(measured: _Measured, embedder: Embedder, seed: int) -> dict[str, float]:
    from wye.query.tryage import TryageRouter, pareto_sweep, scaled_constraint

    order = np.random.default_rng(seed).permutation(LEARNED + TESTED)
    texts, kinds = ([column[i] for i in order] for column in (measured.texts, measured.kinds))
    loss, size = measured.loss[order], measured.size
    learned, test = np.arange(LEARNED), np.arange(LEARNED, LEARNED + TESTED)
    # Quality is what is left of the greatest loss in training, so that its order is that of losses.
    most = float(loss[learned].max())
    data = _as_outcomes([texts[i] for i in learned], [kinds[i] for i in learned], loss / most)
    router = TryageRouter(
        constraints={"size": dict(zip(EXPERTS, size, strict=True))},
        embedder=embedder,
        calibration="none",
        epochs=100,
        seed=seed,
    ).fit(data)
    estimate = router.estimate([texts[i] for i in test]).restrict(EXPERTS)
    predicted, true = (1.0 - estimate.quality) * most, loss[test]
    best = loss[learned].argmin(axis=1)
    usual = int(np.bincount(best, minlength=len(EXPERTS)).argmax())
    choices = {
        "": predicted.argmin(axis=1),
        "best single, ": np.full(TESTED, loss[learned].mean(axis=0).argmin()),
        "most often best, ": np.full(TESTED, usual),
        "nearest kind, ": _by_kind(embedder, texts, kinds, loss, test),
        "oracle, ": true.argmin(axis=1),
    }
    row = {"random, loss": float(true.mean())}
    for name, chosen in choices.items():
        taken = true[np.arange(TESTED), chosen]
        row[f"{name}accuracy"] = float((chosen == true.argmin(axis=1)).mean())
        row[f"{name}loss"] = float(taken.mean())
        row[f"{name}regret"] = float((taken - true.min(axis=1)).mean())
    for point in pareto_sweep(predicted, true, scaled_constraint(size), WEIGHTS):
        row[f"loss at {point.weight:g}"] = point.loss
        row[f"size at {point.weight:g}"] = point.constraint
    return row


def _on_log(trial: Trial, embedder: Embedder) -> dict[str, float]:
    """Share of queries on which no model did better, and loss, on a log of outcomes."""
    from wye.query.tryage import TryageRouter

    router = TryageRouter(embedder=embedder, calibration="none", seed=trial.seed).fit(trial.train)
    chosen = router.estimate(trial.test.texts).quality.argmax(axis=1)
    taken = trial.quality[np.arange(len(chosen)), chosen]
    best = trial.quality.max(axis=1)
    single = trial.quality[:, trial.best]
    return {
        "log, accuracy": float((taken >= best).mean()),
        "log, best single, accuracy": float((single >= best).mean()),
        "log, loss": float(1.0 - taken.mean()),
        "log, best single, loss": 1.0 - trial.best_single,
        "log, random, loss": 1.0 - trial.random,
        "log, oracle, loss": 1.0 - trial.oracle,
    }


def _expert(name: str, seed: int) -> LanguageModel:
    width = 2 * WIDTH if name == "generalist" else WIDTH
    torch.manual_seed(seed)
    layers = [
        nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        for _ in range(LAYERS)
    ]
    model = LanguageModel(layers, width=width, length=LENGTH, vocabulary=VOCABULARY, causal=False)
    read = [_text(k, "train") for k in (KINDS if name == "generalist" else (name,))]
    train(
        model, read, steps=STEPS, batch=BATCH, length=LENGTH, seed=seed, objective=masked_loss,
        schedule="cosine",
    )  # fmt: skip
    return model.eval()


@lru_cache(maxsize=16)
def _text(kind: str, part: str) -> bytes:
    size = TEXT if part == "train" else HELD_OUT
    if kind == "sums":
        # Training questions and held-out ones are told apart by their text.
        items = draw(
            ["sum"], size // 80, seed=0, part="practice" if part == "train" else "held out"
        )
        said = "\n".join(f"{item.question} {item.answer}" for item in items)
        return said.encode()
    reader = {"python": python_source, "english": english, "german": german, "c": c_headers}[kind]
    return reader(size, part="train" if part == "train" else "held_out")


def _windows(n: int, seed: int) -> tuple[NDArray[np.int64], list[str]]:
    """`[n, L]` bytes of held-out text and the kind of the larger, first part."""
    generator = np.random.default_rng(seed)
    texts = [np.frombuffer(_text(kind, "held_out"), np.uint8) for kind in KINDS]
    rows, kinds = np.empty((n, LENGTH), np.int64), []

    def window(kind: int) -> NDArray[np.uint8]:
        start = generator.integers(0, texts[kind].size - LENGTH)
        return texts[kind][start : start + LENGTH]

    for i in range(n):
        kind = int(generator.integers(len(KINDS)))
        rows[i] = window(kind)
        if generator.random() < SPLICED:
            other = (kind + int(generator.integers(1, len(KINDS)))) % len(KINDS)
            rows[i, LENGTH // 2 :] = window(other)[LENGTH // 2 :]
        kinds.append(KINDS[kind])
    return rows, kinds


@torch.no_grad()
def _losses(model: LanguageModel, windows: NDArray[np.int64], seed: int) -> Floats:
    """`[Q]` mean loss of a model over draws of hidden bytes that depend on the seed alone."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.from_numpy(windows)
    total = torch.zeros(len(ids))
    for _ in range(DRAWS):
        hidden = torch.rand(ids.shape, generator=generator) < SHARE
        # One place at least, or a window has no loss.
        hidden[:, 0] |= ~hidden.any(dim=1)
        for part in range(0, len(ids), AT_ONCE):
            rows = slice(part, part + AT_ONCE)
            places = hidden[rows]
            logits = model(ids[rows].masked_fill(places, MASK))[places].float()
            each = torch.zeros(places.shape)
            each[places] = F.cross_entropy(logits, ids[rows][places], reduction="none")
            total[rows] += each.sum(1) / places.sum(1)
    return (total / DRAWS).numpy().astype(np.float64)


def _by_kind(
    embedder: Embedder, texts: list[str], kinds: list[str], loss: Floats, test: NDArray[np.int_]
) -> NDArray[np.intp]:
    """The expert that is best in training on the kind whose mean vector is nearest."""
    vectors, kind = embedder.embed(texts), np.array(kinds)[:LEARNED]
    centres = np.stack([vectors[:LEARNED][kind == k].mean(axis=0) for k in KINDS])
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    best = np.array([loss[:LEARNED][kind == k].mean(axis=0).argmin() for k in KINDS])
    return np.asarray(best[(vectors[test] @ centres.T).argmax(axis=1)], np.intp)


def _as_outcomes(texts: list[str], kinds: list[str], loss: Floats) -> RoutingData:
    import pandas as pd

    from wye.data import RoutingData

    n = len(texts)
    ids = [f"w{i}" for i in range(n)]
    empty = {"cost_usd": np.nan, "input_tokens": None, "output_tokens": None, "latency_s": np.nan}
    none = ("provider", "price_in_per_mtok", "price_out_per_mtok", "params_b", "context")
    return RoutingData(
        queries=pd.DataFrame({"query_id": ids, "dataset": kinds, "text": texts, "split": "train"}),
        outcomes=pd.DataFrame(
            {
                "query_id": np.repeat(ids, len(EXPERTS)),
                "model": np.tile(EXPERTS, n),
                "quality": np.clip(1.0 - loss[:n], 0.0, 1.0).ravel(),
            }
        ).assign(**empty),
        models=pd.DataFrame({"model": EXPERTS}).assign(**dict.fromkeys(none)),
        name="masked models",
    )
