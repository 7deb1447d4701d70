"""GQR: guarded query routing. A query goes to the expert of its domain, or to nobody.

Routes a query to one of C domains or to `reject`, before an answer, on its text alone; no query
from outside the domains is known in training. Source: Sleher et al., Guarded Query Routing for
Large Language Models, arXiv 2505.14524 (ECAI 2025).

    domain(q) = argmax_c logit_c(q)  unless the guard rejects q
    tau       = the largest threshold that keeps 1 - eps of the right answers on held-out queries
    GQR score = 2 ID OOD / (ID + OOD), 0 where both are 0
    ID        = accuracy on queries of the domains; a rejection is wrong
    OOD       = unweighted mean over sets from outside of the share that is rejected

A rejected query is a drop with the reason `ood`: no pair of the plan, or the fallback target where
there is one. `GuardedRouter.refuses` is a stage (`wye.query.pipelines.stages.GuardStage`), and
`GuardedRouter.guard` stands in front of any router of models.

Ours, where the paper's text is silent: how tau is set, the guard on known words beside it, and that
a fifth of the given queries is held out for both.

Shape letters: Q queries, C domains, T targets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from wye.core import Plan
from wye.data.questions import normalise
from wye.query.arguments import checked_texts
from wye.query.base import NotFittedError, RouterError
from wye.query.guards import (
    AnyGuard,
    DomainClassifier,
    Guard,
    KnownTokenGuard,
    RejectionWatch,
    SigmoidGuard,
    WideMLP,
)
from wye.query.guards.base import coverage_curve
from wye.query.guards.gqr import GQRReport as GQRReport
from wye.query.guards.gqr import as_package_model as as_package_model
from wye.query.guards.gqr import gqr_score as gqr_score
from wye.query.guards.gqr import harmonic_mean as harmonic_mean
from wye.query.guards.gqr import package_benchmark as package_benchmark
from wye.query.guards.storing import CLASSIFIERS as CLASSIFIERS
from wye.query.guards.storing import GUARDS as GUARDS
from wye.query.guards.storing import read_file, restored_parts, stored_parts, write_file
from wye.query.learning.named_arrays import prefixed, under

if TYPE_CHECKING:
    from wye.query.base import BoolArray, QueryRouter
    from wye.query.policy import Policy

OOD = "ood"


@dataclass(frozen=True)
class GuardedRouting:
    """Where Q queries went.

    Attributes:
        plan: Q sources, T targets; a query that was dropped has no pair.
        targets: `[T]` names of the targets.
        dropped: of each query the reason, `ood` where it was rejected and there is no fallback,
            else None.
        rejected: `[Q]` whether the guard rejected it, fallback or not.
        rules: `[Q]` of each rule of the guard, which queries it rejected.
    """

    plan: Plan
    targets: tuple[str, ...]
    dropped: tuple[str | None, ...]
    rejected: BoolArray
    rules: Mapping[str, BoolArray]

    @property
    def chosen(self) -> list[str | None]:
        """The target of each query, None where it was dropped."""
        found: list[str | None] = [None] * self.plan.n_sources
        pairs = zip(self.plan.source.tolist(), self.plan.target.tolist(), strict=True)
        for source, target in pairs:
            found[source] = self.targets[target]
        return found


class GuardedRouter:
    """A domain classifier, a guard over it, and where each domain goes.

    Args:
        router: classifies; `WideMLP()` when not given.
        guard: refuses; a sigmoid threshold and known words when not given.
        targets: domain -> target; each domain is its own target when not given.
        fallback: target of rejected queries; they are dropped when None.
        validation_share: share of the given queries held out for the thresholds.
        seed: of what is held out.

    Attributes:
        domains_: names of the C domains, in the order of their numbers.
        rejection_rate_: share of held-out queries that the guard rejects.
        coverage_: `tau`, `coverage` and `accuracy` of held-out queries for each threshold on the
            largest logit (`wye.query.guards.base.coverage_curve`).

    Raises:
        RouterError: `validation_share` is not above 0 and below 1.
    """

    name = "guarded-query-routing"

    def __init__(
        self,
        router: DomainClassifier | None = None,
        guard: Guard | None = None,
        *,
        targets: Mapping[str, str] | None = None,
        fallback: str | None = None,
        validation_share: float = 0.2,
        seed: int = 0,
    ) -> None:
        if not 0.0 < validation_share < 1.0:
            raise RouterError(
                f"validation_share is {validation_share}, expected above 0 and below 1"
            )
        self.router = WideMLP(seed=seed) if router is None else router
        self.guard = (
            AnyGuard(guards=(SigmoidGuard(), KnownTokenGuard())) if guard is None else guard
        )
        self.targets = None if targets is None else dict(targets)
        self.fallback = fallback
        self.validation_share = validation_share
        self.seed = seed

    domains_: tuple[str, ...]
    rejection_rate_: float

    def fit(self, texts: Sequence[str], domains: Sequence[str]) -> Self:
        """Learn classifier and guard from queries of the domains alone.

        Queries that ask the same count once, so that none stands on both sides.

        Raises:
            RouterError: lengths differ, fewer than two domains, a domain without a target, or too
                few queries to hold any out.
        """
        texts = checked_texts(texts)
        if len(domains) != len(texts):
            raise RouterError(f"{len(texts)} texts came with {len(domains)} domains")
        kept = _different(texts)
        texts = tuple(texts[i] for i in kept)
        labels = [str(domains[i]) for i in kept]
        if self.targets is not None and (missing := sorted(set(labels) - set(self.targets))):
            raise RouterError(f"the domains {missing} have no target; targets has {self.targets}")
        inside, outside = self._parts(labels)
        self.router.fit([texts[i] for i in inside], [labels[i] for i in inside])
        self.domains_ = self.router.domains_
        number = {d: c for c, d in enumerate(self.domains_)}
        training = self.router.read([texts[i] for i in inside])
        held_out = self.router.read([texts[i] for i in outside])
        truth = np.array([number[labels[i]] for i in outside], np.intp)
        self.guard.fit(
            training, np.array([number[labels[i]] for i in inside], np.intp), held_out, truth
        )
        self.rejection_rate_ = float(self.guard.rejects(held_out).mean())
        self.coverage_ = coverage_curve(
            held_out.logits.max(axis=1), held_out.logits.argmax(axis=1) == truth
        )
        return self

    def score_batch(self, texts: Sequence[str]) -> list[int]:
        """Number of the domain of each text, C where it is rejected; as the package gqr asks.

        Raises:
            NotFittedError: before `fit`.
        """
        labels, _ = self._labels(texts)
        return [int(label) for label in labels]

    def score(self, text: str) -> int:
        """Number of the domain of one text, C where it is rejected."""
        return self.score_batch([text])[0]

    def refuses(self, text: str) -> str | None:
        """`ood` where the text is rejected, else None; a `GuardStage` takes it as it is."""
        return OOD if self.score(text) == len(self.domains_) else None

    def route(self, texts: Sequence[str], *, watch: RejectionWatch | None = None) -> GuardedRouting:
        """Send each text to the target of its domain, or to nobody.

        Args:
            texts: Q queries.
            watch: told of each rejection; see `watch`.

        Raises:
            NotFittedError: before `fit`.
            RouterError: `texts` is not a sequence of strings.
        """
        labels, rules = self._labels(texts)
        wanted = [d if self.targets is None else self.targets[d] for d in self.domains_]
        names = tuple(dict.fromkeys([*wanted, *([self.fallback] if self.fallback else [])]))
        rejected: BoolArray = labels == len(self.domains_)
        column = np.array([*(names.index(t) for t in wanted), -1], np.intp)
        if self.fallback:
            column[-1] = names.index(self.fallback)
        return self._routing(column[labels], names, rejected, rules, watch)

    def guard_routing(
        self,
        texts: Sequence[str],
        router: QueryRouter,
        policy: Policy | None = None,
        *,
        allowed: BoolArray | None = None,
        seed: int | None = None,
        watch: RejectionWatch | None = None,
    ) -> GuardedRouting:
        """Let a router of models choose for the texts that are not rejected.

        Args:
            texts: Q queries.
            router: fitted; `targets` plays no part.
            policy, allowed, seed: see `QueryRouter.route`.
            watch: told of each rejection.

        Raises:
            NotFittedError: one of the two is not fitted.
            RouterError: `texts` is not a sequence of strings.
        """
        labels, rules = self._labels(texts)
        rejected: BoolArray = labels == len(self.domains_)
        rows = np.flatnonzero(~rejected)
        if allowed is not None and np.ndim(allowed) == 2:
            allowed = np.asarray(allowed)[rows]
        routed = router.route([texts[i] for i in rows.tolist()], policy, allowed=allowed, seed=seed)
        names = tuple(dict.fromkeys([*routed.models, *([self.fallback] if self.fallback else [])]))
        column = np.full(len(texts), -1, np.intp)
        column[rows[np.asarray(routed.plan.source)]] = np.asarray(routed.plan.target)
        if self.fallback:
            column[rejected] = names.index(self.fallback)
        return self._routing(column, names, rejected, rules, watch)

    def watch(self, *, rise: float = 0.1, false_alarm_every: float = 10_000.0) -> RejectionWatch:
        """A watch over the rate of rejections, which alarms when it rises lastingly.

        Raises:
            NotFittedError: before `fit`.
        """
        self._require_fitted()
        # Held-out queries that were all kept still leave some rate to expect.
        rate = min(max(self.rejection_rate_, 0.005), 0.995 - rise)
        return RejectionWatch(rate, rise=rise, false_alarm_every=false_alarm_every)

    def save(self, path: str | Path) -> Path:
        """Write classifier and guard to one safetensors file, whole or not at all.

        Raises:
            NotFittedError: before `fit`.
            RouterError: a part is none of `CLASSIFIERS` and `GUARDS`, or has a parameter that is
                no JSON (`wye.query.guards.storing`).
        """
        self._require_fitted()
        arrays, values = stored_parts(self.router, self.guard)
        told = values | {
            "targets": self.targets,
            "fallback": self.fallback,
            "validation_share": self.validation_share,
            "seed": self.seed,
            "rejection_rate": self.rejection_rate_,
        }
        return write_file(path, arrays | prefixed("coverage/", self.coverage_), told)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote.

        Raises:
            RouterError: there is no such file, or it is none of ours.
        """
        arrays, told = read_file(path)
        router, guard = restored_parts(arrays, told)
        made = cls(
            router,
            guard,
            targets=told["targets"],
            fallback=told["fallback"],
            validation_share=told["validation_share"],
            seed=told["seed"],
        )
        made.domains_ = router.domains_
        made.rejection_rate_ = told["rejection_rate"]
        made.coverage_ = under("coverage/", arrays)
        return made

    def _parts(self, labels: Sequence[str]) -> tuple[list[int], list[int]]:
        order = np.random.default_rng(self.seed).permutation(len(labels)).tolist()
        count = round(self.validation_share * len(labels))
        outside, inside = sorted(order[:count]), sorted(order[count:])
        if not outside or {labels[i] for i in outside} - {labels[i] for i in inside}:
            raise RouterError(
                f"{len(labels)} different queries of {len(set(labels))} domains are too few to "
                f"hold {self.validation_share:.0%} out; give more of each domain"
            )
        return inside, outside

    def _labels(self, texts: Sequence[str]) -> tuple[NDArray[np.intp], dict[str, BoolArray]]:
        self._require_fitted()
        reading = self.router.read(texts)
        rules = self.guard.by_rule(reading)
        rejected = np.any(list(rules.values()), axis=0)
        best = reading.logits.argmax(axis=1)
        return np.where(rejected, len(self.domains_), best).astype(np.intp), rules

    def _routing(
        self,
        column: NDArray[np.intp],
        names: tuple[str, ...],
        rejected: BoolArray,
        rules: Mapping[str, BoolArray],
        watch: RejectionWatch | None,
    ) -> GuardedRouting:
        if watch is not None:
            watch.update(rejected.tolist())
        source = np.flatnonzero(column >= 0)
        plan = Plan(source, column[source], np.ones(len(source)), len(column), len(names))
        dropped = tuple(
            None if c >= 0 else OOD if r else "no model is allowed"
            for c, r in zip(column.tolist(), rejected.tolist(), strict=True)
        )
        return GuardedRouting(plan, names, dropped, rejected, rules)

    def _require_fitted(self) -> None:
        if not hasattr(self, "rejection_rate_"):
            raise NotFittedError("the guarded router is not fitted; call fit(texts, domains) first")


def _different(texts: Sequence[str]) -> list[int]:
    first: dict[str, int] = {}
    for i, text in enumerate(texts):
        first.setdefault(normalise(text), i)
    return sorted(first.values())
