"""How much of a router's choices is about the question: rewrites, and attacks that want to spend.

Queries are rewritten in ways that leave what is asked as it is (`rewrites`), and attacked with text
that tries to buy a dearer model (`attacks`). For each way: the share of choices that stay, what the
quality of the chosen answers does, and what is spent. Quality and cost of an answer are those
recorded for the plain query, so that they tell what the choice changed and nothing else. A rewrite
is judged on the texts that it changes; the suffix that a search finds, on queries that it was not
searched on.

Shape letters: Q queries, M models.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from wye.query.arguments import check_data, check_seed
from wye.query.base import FloatArray, QueryRouter, RouterError
from wye.query.metrics.resample import UNKNOWN, Figure, Resample
from wye.query.policies import Quality
from wye.query.policies.choosing import targets_of
from wye.query.robustness.attacks import FAMILIES, STEPS, search, with_suffix
from wye.query.robustness.report import RobustnessReport, Way
from wye.query.robustness.rewrites import PARAPHRASES, REWRITES

if TYPE_CHECKING:
    from wye.data import RoutingData
    from wye.query.policy import Policy

__all__ = ["RobustnessReport", "Way", "robustness"]

LEAST_QUERIES = 4
_ALL_PARAPHRASES = "all paraphrases"


def robustness(
    router: QueryRouter,
    data: RoutingData,
    *,
    policy: Policy | None = None,
    n_queries: int = 200,
    steps: int = STEPS,
    seed: int = 0,
    bootstrap: int = 1000,
    level: float = 0.95,
    progress: Callable[[str], None] = lambda message: None,
) -> RobustnessReport:
    """What rewrites and attacks do to the choices of `router` on queries of `data`.

    Args:
        router: fitted, on other data where quality matters.
        data: queries, with the outcomes from which changes of quality are read.
        policy: which chooses; `Quality()` when None. One that keeps account is refused.
        n_queries: how many are drawn; half of them serve the search for a suffix.
        steps: phrases of that suffix at most.
        seed: of the draw, the rewrites and the bootstrap.
        bootstrap, level: of the intervals.
        progress: is told what runs.

    Raises:
        RouterError: fewer than 4 queries, or a policy that keeps account.
    """
    rule = Quality() if policy is None else policy
    if rule.stateful:
        raise RouterError(
            f"the policy {rule.name} keeps account of its choices, so that the same query may go "
            "elsewhere for no fault of the text; choose another policy"
        )
    check_data(data)
    check_seed(seed)
    generator = np.random.default_rng(seed)
    rows = np.sort(generator.permutation(len(data))[: max(n_queries, 0)])
    if rows.size < LEAST_QUERIES:
        raise RouterError(
            f"{data.name} has {rows.size} queries to rewrite, expected {LEAST_QUERIES} or more"
        )
    texts = [data.texts[i] for i in rows.tolist()]
    probe = _Probe(router, rule, data, rows, texts)
    progress("rewrites")
    ways = []
    for name, rewrite in REWRITES.items():
        changed = [rewrite(text, generator) for text in texts]
        ways.append(_way(name, "rewrite", probe, changed, seed, bootstrap, level))
    together = texts
    for rewrite in PARAPHRASES.values():
        together = [rewrite(text, generator) for text in together]
    ways.append(_way(_ALL_PARAPHRASES, "rewrite", probe, together, seed, bootstrap, level))
    progress("attacks")
    for name, suffix in FAMILIES.items():
        attacked = with_suffix(texts, suffix)
        ways.append(_way(name, "attack", probe, attacked, seed, bootstrap, level))
    progress("searching for a suffix")
    searched, judged = np.arange(0, len(texts), 2), np.arange(1, len(texts), 2)
    found = search(
        [texts[i] for i in searched.tolist()],
        probe.wanted,
        steps=steps,
    )
    attacked = list(texts)
    for i in judged.tolist():
        attacked[i] = with_suffix([texts[i]], " ".join(found))[0] if found else texts[i]
    ways.append(_way("searched suffix", "attack", probe, attacked, seed, bootstrap, level))
    return RobustnessReport(
        router=router.name,
        policy=rule.describe(),
        data_name=data.name,
        n_queries=len(texts),
        ways=tuple(ways),
        suffix=" ".join(found),
        priced=probe.priced,
        seed=seed,
        level=level,
    )


class _Probe:
    """The router under one policy, and what its choices on the plain texts are and cost."""

    def __init__(
        self,
        router: QueryRouter,
        policy: Policy,
        data: RoutingData,
        rows: np.ndarray,
        texts: list[str],
    ) -> None:
        self._router, self._policy, self.texts = router, policy, texts
        estimate = router.estimate(texts)
        self.models = estimate.models
        at = {name: k for k, name in enumerate(data.model_names)}
        columns = np.array([at.get(m, -1) for m in self.models])
        known = columns >= 0

        def recorded(values: FloatArray) -> FloatArray:
            return np.where(known, values[np.ix_(rows, np.maximum(columns, 0))], np.nan)

        self.quality = recorded(data.quality)
        # What an answer costs is the model's business, not the rewritten text's: the plain query's
        # recorded cost, or what is expected of it.
        measured = recorded(data.cost)
        self.cost = np.where(np.isfinite(measured), measured, estimate.cost)
        self.priced = bool(np.isfinite(self.cost).any())
        self.plain = self.choose(texts)

    def choose(self, texts: list[str]) -> np.ndarray:
        """`[Q]` the chosen column, -1 for none."""
        choice = self._policy.choose(
            self._router.estimate(texts), generator=np.random.default_rng(0)
        )
        return targets_of(choice)

    def wanted(self, texts: list[str]) -> float:
        """What the attacker maximises: mean cost of the choices; a dear model's score breaks ties.

        Without costs, the dearest model is the one of the highest mean quality.
        """
        estimate = self._router.estimate(texts)
        target = targets_of(self._policy.choose(estimate, generator=np.random.default_rng(0)))
        price = self.cost if self.priced else self.quality
        mean = np.array([_mean(price[:, m]) for m in range(price.shape[1])])
        scale = float(np.ptp(mean)) or 1.0
        dear = int(mean.argmax())
        others = np.delete(estimate.quality, dear, axis=1)
        lead = estimate.quality[:, dear] - others.max(axis=1, initial=0.0)
        spent = np.where(target >= 0, mean[np.maximum(target, 0)], 0.0)
        return float(spent.mean() / scale + 1e-3 * lead.mean())


def _way(
    name: str,
    kind: str,
    probe: _Probe,
    texts: list[str],
    seed: int,
    bootstrap: int,
    level: float,
) -> Way:
    rows = np.array([i for i, (a, b) in enumerate(zip(texts, probe.texts, strict=True)) if a != b])
    if not rows.size:
        return Way(name, kind, 0, "", UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN)
    target = probe.choose([texts[i] for i in rows.tolist()])
    before = probe.plain[rows]
    draws = Resample(rows.size, bootstrap, seed=seed, level=level)
    cost = _taken(probe.cost[rows], target), _taken(probe.cost[rows], before)
    quality = _taken(probe.quality[rows], target) - _taken(probe.quality[rows], before)
    return Way(
        name=name,
        kind=kind,
        texts=int(rows.size),
        example=texts[int(rows[0])],
        unchanged=draws.figure(draws.mean((target == before).astype(np.float64))),
        quality_change=_mean_figure(quality, draws),
        dearer=_mean_figure(np.where(np.isfinite(cost[0] - cost[1]), cost[0] > cost[1], np.nan),
                            draws),
        cost_ratio=_ratio(cost[0], cost[1], draws),
    )  # fmt: skip


def _taken(values: FloatArray, target: np.ndarray) -> FloatArray:
    """`[Q]` of the chosen models; zero where none was chosen."""
    picked = np.take_along_axis(values, np.maximum(target, 0)[:, None], axis=1)[:, 0]
    return np.where(target >= 0, picked, 0.0)


def _mean_figure(values: FloatArray, draws: Resample) -> Figure:
    known = np.isfinite(values)
    if not known.any():
        return UNKNOWN
    total = draws.mean(np.where(known, values, 0.0))
    return draws.figure(total / np.maximum(draws.mean(known.astype(np.float64)), 1e-12))


def _ratio(after: FloatArray, before: FloatArray, draws: Resample) -> Figure:
    known = np.isfinite(after) & np.isfinite(before)
    if not known.any():
        return UNKNOWN
    spent = draws.mean(np.where(known, after, 0.0))
    usual = draws.mean(np.where(known, before, 0.0))
    return draws.figure(np.where(usual > 0, spent / np.where(usual > 0, usual, 1.0), np.nan))


def _mean(values: FloatArray) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else 0.0
