"""Composition of Experts: the category is a better target than the best expert of each query.

Paper: arXiv 2412.01868. Experts are hosted within 25%, 50% and 100% of the parameters of all models
together; categories are the names of the datasets; queries are split into 60% for learning, 20% for
validation (printed only) and 20% for testing. Baselines of the paper, in the same run, over the
same hosted experts and the same vectors: the best single expert that fits the budget, a table drawn
at random, and a classifier of the best expert of each query. Printed beside: the mean score of 80
neighbours, the true category, and the oracle. Whether labels can be learned at all is told by how
often the 10 nearest queries share them, corrected for chance (kappa).

Shape letters: Q queries, M models, C categories.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from wye.checks.base import CheckError, CheckResult, Claim
from wye.checks.query.trials import averaged, comparable, described

if TYPE_CHECKING:
    from wye.checks.base import CheckContext
    from wye.data import RoutingData
    from wye.embed import Embedder
    from wye.query.composition_of_experts import CompositionOfExpertsRouter
    from wye.query.learning.inputs import QueryInputs

Floats = NDArray[np.float64]
SHARES = (0.25, 0.5, 1.0)
HEADS = ("knn", "linear")
NEIGHBOURS = 20
SCORE_NEIGHBOURS = 80
AGREEING = 10
FOREIGN = 200
EXACT = 1e-9


def check(context: CheckContext) -> CheckResult:
    """Quality of routing by category within three budgets, and what categories have over labels.

    Raises:
        CheckError: a size of a model is not known, or there is one dataset only.
    """
    from wye.checks.query.embedding import embedded_once

    data = comparable(context.data)
    if not np.isfinite(_sizes(data)).all():
        raise CheckError(
            f"{data.name} does not say how large its models are; give `params_b` in its models"
        )
    if len(set(data.datasets)) < 2:
        raise CheckError(f"{data.name} has one dataset; categories need two or more")
    with embedded_once() as embedder:
        rows = []
        for number, seed in enumerate(context.seeds, start=1):
            context.progress(f"seed {number} of {len(context.seeds)}")
            rows.append(_trial(data, embedder, seed))
    figures = averaged(rows)
    what = "Mean quality of routing by category tables within budgets of hosted parameters."
    return CheckResult(_claims(figures), figures, context.seeds, described(context, what))


def _claims(figures: dict[str, float]) -> tuple[Claim, ...]:
    claims = [Claim("|programme - all subsets|", figures["programme gap"], "<=", EXACT)]
    for head in HEADS:
        at = {share: figures[f"{head} at {share:.0%}"] for share in SHARES}
        for share, baseline, margin in (
            (0.25, "best single", -0.002),
            (0.5, "best single", 0.01),
            (0.5, "random table", 0.03),
        ):
            gap = at[share] - figures[f"{baseline} at {share:.0%}"]
            claims.append(Claim(f"{head} - {baseline} at {share:.0%}", gap, ">=", margin))
        for share in (0.5, 1.0):
            gap = at[share] - figures[f"{head} classifier at {share:.0%}"]
            claims.append(Claim(f"{head} - best-expert classifier at {share:.0%}", gap, ">=", 0.01))
    kappa = figures["kappa of categories"] - figures["kappa of best experts"]
    foreign = figures["fallback of foreign texts"] - figures["fallback of own texts"]
    claims.append(Claim("kappa of categories - of best experts", kappa, ">=", 0.2))
    claims.append(Claim("fallback of foreign - of own texts", foreign, ">=", 0.2))
    return tuple(claims)


def _trial(data: RoutingData, embedder: Embedder, seed: int) -> dict[str, float]:
    from wye.query.composition_of_experts import CompositionOfExpertsRouter

    parts = data.split(test_share=0.2, seed=seed)
    # Another seed than that of the first split, or the second would follow it.
    rest = parts.part("train").split(test_share=0.25, seed=seed + 1_000_003)
    train, validation, test = rest.part("train"), rest.part("test"), parts.part("test")
    row: dict[str, float] = {}
    for head in HEADS:
        router = CompositionOfExpertsRouter(
            head=head, k=NEIGHBOURS, embedder=embedder, calibration="none", seed=seed
        ).fit(train)
        gaps = []
        for share in SHARES:
            router.host(budget=share * float(_sizes(data).sum()))
            gaps.append(_programme_gap(router))
            at = f"at {share:.0%}"
            row[f"{head} {at}"] = _table_quality(router, test)
            row[f"{head} {at}, validation"] = _table_quality(router, validation)
            row[f"{head} classifier {at}"] = _classifier(router, head, train, test, seed)
            if head == HEADS[0]:
                row |= _others(router, train, test, at)
        row["programme gap"] = max(row.get("programme gap", 0.0), *gaps)
        posterior = [t.posterior for t in router.trace(test.texts)]
        guessed = np.array([max(p, key=lambda c: p[c]) for p in posterior])
        row[f"{head} category accuracy"] = float((guessed == test.datasets.astype(str)).mean())
    own = router.trace(test.texts)
    row["fallback of own texts"] = float(np.mean([t.fallback for t in own]))
    row["fallback of foreign texts"] = float(
        np.mean([t.fallback for t in router.trace(_foreign())])
    )
    return row | _kappas(router, train)


def _table_quality(router: CompositionOfExpertsRouter, data: RoutingData) -> float:
    chosen = [data.model_names.index(t.expert) for t in router.trace(data.texts)]
    return float(data.quality[np.arange(len(data)), chosen].mean())


def _programme_gap(router: CompositionOfExpertsRouter) -> float:
    from wye.query.hosting import MOST_ENUMERATED, host_experts

    if len(router.pool_) > MOST_ENUMERATED:
        raise CheckError(
            f"{len(router.pool_)} models have too many subsets to compare with; name at most "
            f"{MOST_ENUMERATED} of them"
        )
    estimator = router.composition()
    budget, _ = router.hosted_within_
    exact = host_experts(
        estimator.table_,
        estimator.traffic_,
        router.sizes_,
        budget=budget,
        solver="enumerate",
    )
    return abs(exact.objective - router.hosting_.objective)


def _others(
    router: CompositionOfExpertsRouter, train: RoutingData, test: RoutingData, at: str
) -> dict[str, float]:
    """Baselines over the experts that the router hosts, and sizes."""
    hosted, sizes = np.flatnonzero(router.hosting_.hosted), _sizes(train)
    quality, rows = test.quality, np.arange(len(test))
    means = train.quality.mean(axis=0)
    budget = router.hosted_within_[0]
    assert budget is not None
    single = int(np.where(sizes <= budget, means, -np.inf).argmax())
    true = [test.model_names.index(router.table_[d]) for d in test.datasets]
    _, asked = _inputs(router, train, test)
    score = train.quality[asked.neighbours.index[:, :SCORE_NEIGHBOURS]].mean(axis=1)
    active = [sizes[test.model_names.index(t.expert)] for t in router.trace(test.texts)]
    return {
        f"best single {at}": float(quality[:, single].mean()),
        # Over tables drawn at random, each expert serves each category equally often.
        f"random table {at}": float(quality[:, hosted].mean()),
        f"true category {at}": float(quality[rows, true].mean()),
        f"score kNN {at}": float(quality[rows, hosted[score[:, hosted].argmax(axis=1)]].mean()),
        f"oracle {at}": float(quality[:, hosted].max(axis=1).mean()),
        f"hosted experts {at}": float(hosted.size),
        f"hosted billions {at}": float(sizes[hosted].sum()),
        f"active billions {at}": float(np.mean(active)),
    }


def _classifier(
    router: CompositionOfExpertsRouter,
    head: str,
    train: RoutingData,
    test: RoutingData,
    seed: int,
) -> float:
    """Quality of routing each query to the expert that a classifier takes for its best."""
    from wye.query.learning.label_heads import label_head

    hosted = np.flatnonzero(router.hosting_.hosted)
    known, asked = _inputs(router, train, test)
    labels = _best_experts(train.quality[:, hosted])
    fitted = label_head(head, k=NEIGHBOURS, seed=seed)
    fitted.fit(known, known.vectors, labels, hosted.size)
    chosen = hosted[fitted.posterior(asked, asked.vectors).argmax(axis=1)]
    return float(test.quality[np.arange(len(test)), chosen].mean())


def _best_experts(quality: Floats) -> NDArray[np.intp]:
    """`[Q]` the best model of each query; of equals the one that is best on average."""
    order = np.argsort(-quality.mean(axis=0), kind="stable")
    return np.asarray(order[quality[:, order].argmax(axis=1)], np.intp)


def _inputs(
    router: CompositionOfExpertsRouter, train: RoutingData, test: RoutingData
) -> tuple[QueryInputs, QueryInputs]:
    """Training and test queries with their neighbours among all training queries."""
    from wye.query.learning.inputs import QueryInputs, nearest

    vectors = router.embedder_.embed(train.texts)
    every = np.arange(len(vectors))

    def inputs(texts: list[str], exclude: NDArray[np.intp] | None) -> QueryInputs:
        own = router.embedder_.embed(texts)
        found = nearest(own, vectors, SCORE_NEIGHBOURS, exclude=exclude)
        reference = np.full(len(own), -1, np.intp) if exclude is None else exclude
        none = np.zeros((len(own), 0), np.float32)
        return QueryInputs(tuple(texts), own, none, found, reference, len(vectors))

    return inputs(train.texts, every), inputs(test.texts, None)


def _kappas(router: CompositionOfExpertsRouter, train: RoutingData) -> dict[str, float]:
    known, _ = _inputs(router, train, train)
    _, category = np.unique(train.datasets.astype(str), return_inverse=True)
    index = known.neighbours.index[:, :AGREEING]
    first = train.quality.argmax(axis=1)
    return {
        "kappa of categories": _kappa(category, index),
        "kappa of best experts": _kappa(_best_experts(train.quality), index),
        "kappa of best experts, ties to the first": _kappa(first, index),
    }


def _kappa(labels: NDArray[np.intp], index: NDArray[np.intp]) -> float:
    """Agreement of neighbours beyond what label frequencies alone give, over the most possible."""
    agreement = float((labels[index] == labels[:, None]).mean())
    by_chance = float(((np.bincount(labels) / len(labels)) ** 2).sum())
    return (agreement - by_chance) / (1.0 - by_chance)


def _sizes(data: RoutingData) -> Floats:
    return data.models["params_b"].to_numpy(np.float64, na_value=np.nan)


def _foreign() -> list[str]:
    """Pieces of Python source, about as long as a question."""
    from wye.checks.moe.corpus import python_source

    source = python_source(FOREIGN * 400).decode("utf-8", errors="replace")
    return [source[i * 400 : (i + 1) * 400] for i in range(FOREIGN)]
