"""Routing strategies for a strong and a weak model, side by side on the same queries.

Survey: Varangot-Reille et al., Doing More with Less, arXiv 2502.00409. The routers are RouteLLM's
four (arXiv 2406.18665), HybridLLM's three losses (2404.14618), BEST-Route (2506.22716),
Adaptive-RAG (2403.14403) and kNN. Baselines in the same run: random scores, a classifier of "the
weak one is wrong", the mean gap of the query's dataset by its name, and the oracle. Strong and weak
are the best single model and the cheapest other one.

The score for the strong model is the gap of the estimates. All read vectors of MiniLM. HybridLLM's
prob on one graded answer takes sigmoid(gap / 0.1). The routers of the survey must have an APGR of
at least 0.58 and 0.05 over random; pairwise learning (`routellm-mf`) must beat "weak is wrong".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from wye.checks.base import CheckError, CheckResult, Claim
from wye.checks.query.strong_and_weak import TwoModels, dataset_gap, strong_and_weak
from wye.checks.query.trials import averaged, described, trials

if TYPE_CHECKING:
    from wye.checks.base import CheckContext
    from wye.checks.query.trials import Floats
    from wye.embed import Embedder

LEAST_APGR = 0.58
OVER_RANDOM = 0.05
NEIGHBOURS = 40
# kNN of the survey is a plain mean; a shrinkage of 0 neighbours would divide by zero.
NO_SHRINKAGE = 1e-6

Parameters = Mapping[str, Any]
METHODS: dict[str, tuple[str, Parameters]] = {
    "kNN(40)": (
        "knn",
        {"k": NEIGHBOURS, "shrinkage": NO_SHRINKAGE, "sharpness": 0.0, "calibration": "none"},
    ),
    "SW ranking": ("routellm-sw", {}),
    "MF": ("routellm-mf", {}),
    "BERT": ("routellm-bert", {}),
    "causal": ("routellm-causal", {}),
    "HybridLLM det": ("hybridllm", {"loss": "det"}),
    "HybridLLM prob": ("hybridllm", {"loss": "prob", "temperature": 0.1}),
    "HybridLLM trans": ("hybridllm", {"loss": "trans"}),
    "BEST-Route": ("best-route", {}),
    "Adaptive-RAG": ("adaptive-rag", {}),
}
PAIRWISE, WRONG = "MF", "weak is wrong"


def check(context: CheckContext) -> CheckResult:
    """APGR and CPT of every strategy; the claims are those of the survey's vocabulary.

    Raises:
        CheckError: the log cannot serve, or the strong model is not better on some test split.
    """
    figures = _measured(context, tuple(METHODS))
    claims = [
        claim for name in ("kNN(40)", "HybridLLM det") for claim in _over_random(figures, name)
    ]
    claims += [_pairwise(figures), Claim("APGR oracle", figures["APGR oracle"], ">=", 1.0)]
    return _result(context, claims, figures)


def _check_methods(context: CheckContext, *, methods: Sequence[str]) -> CheckResult:
    figures = _measured(context, methods)
    claims = [claim for name in methods for claim in _over_random(figures, name)]
    if PAIRWISE in methods:
        claims.append(_pairwise(figures))
    return _result(context, claims, figures)


def _check_of(*methods: str) -> Callable[[CheckContext], CheckResult]:
    """The check of some of the methods alone."""

    def measured(context: CheckContext) -> CheckResult:
        return _check_methods(context, methods=methods)

    return measured


check_routellm_sw = _check_of("SW ranking")
check_routellm_mf = _check_of("MF")
check_routellm_bert = _check_of("BERT")
check_routellm_causal = _check_of("causal")
check_hybridllm = _check_of("HybridLLM det", "HybridLLM prob", "HybridLLM trans")
check_best_route = _check_of("BEST-Route")
check_adaptive_rag = _check_of("Adaptive-RAG")


def _over_random(figures: Mapping[str, float], name: str) -> list[Claim]:
    value = figures[f"APGR {name}"]
    return [
        Claim(f"APGR {name}", value, ">=", LEAST_APGR),
        Claim(f"APGR {name} - random", value - figures["APGR random"], ">=", OVER_RANDOM),
    ]


def _pairwise(figures: Mapping[str, float]) -> Claim:
    gain = figures[f"APGR {PAIRWISE}"] - figures[f"APGR {WRONG}"]
    return Claim(f"APGR {PAIRWISE} - {WRONG}", gain, ">=", 0.0)


def _result(
    context: CheckContext, claims: Sequence[Claim], figures: Mapping[str, float]
) -> CheckResult:
    what = "APGR and CPT of strategies for a strong and a weak model, on MiniLM vectors."
    return CheckResult(tuple(claims), figures, context.seeds, described(context, what))


def _measured(context: CheckContext, methods: Sequence[str]) -> dict[str, float]:
    from wye.embed import CachedEmbedder, get_embedder

    embedder = CachedEmbedder(get_embedder("minilm"))
    rows = []
    for trial in trials(context):
        two = strong_and_weak(trial)
        if not two.strong.mean() > two.weak.mean():
            raise CheckError(
                f"{trial.test.name}: on the test split of seed {trial.seed} the strong model "
                f"{two.test.model_names[1]} is not better than {two.test.model_names[0]}, so no "
                "gap can be recovered; name other data"
            )
        generator = np.random.default_rng(trial.seed)
        scores = {
            "random": generator.random(len(two.test)),
            WRONG: _weak_is_wrong(two, embedder),
            "dataset mean": dataset_gap(two.train, two.test),
            "oracle": two.strong - two.weak,
        }
        for name in methods:
            context.progress(f"seed {trial.seed}, {name}")
            scores[name] = _score(name, two, embedder, trial.seed)
        rows.append(_row(two, scores))
    return averaged(rows)


def _score(name: str, two: TwoModels, embedder: Embedder, seed: int) -> Floats:
    from wye.query.registry import get_router

    slug, parameters = METHODS[name]
    router = get_router(slug, embedder=embedder, seed=seed, **parameters).fit(two.train)
    estimate = router.estimate(two.test.texts)
    return np.asarray(estimate.quality[:, 1] - estimate.quality[:, 0], np.float64)


def _weak_is_wrong(two: TwoModels, embedder: Embedder) -> Floats:
    """`[Q]` probability that the weak model fails, by logistic regression on its outcomes alone."""
    from wye.query.learning.softmax_heads import fit_softmax_heads

    right = two.train.quality[:, 0]
    heads = fit_softmax_heads(
        embedder.embed(two.train.texts), np.stack([1.0 - right, right], axis=1)[:, None, :]
    )
    return heads.probabilities(embedder.embed(two.test.texts))[:, 0, 0]


def _row(two: TwoModels, scores: Mapping[str, Floats]) -> dict[str, float]:
    from wye.query.metrics.resample import Resample
    from wye.query.metrics.two_models import two_model_curve

    row = {"strong": float(two.strong.mean()), "weak": float(two.weak.mean())}
    for name, score in scores.items():
        curve = two_model_curve(score, two.weak, two.strong, Resample(len(score), 0))
        row[f"APGR {name}"] = float(curve.apgr[0])
        for level, least in ((50, curve.cpt50), (80, curve.cpt80)):
            row[f"CPT{level} {name}"] = float(least[0])
    return row
