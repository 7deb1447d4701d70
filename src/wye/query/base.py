"""The contract of the query scale: a router estimates, a policy chooses, a decision explains.

Routes a query to a model, before an answer exists, on the text of the query.

A *router* learns from `RoutingData` and predicts, for every query and model, the quality, the cost
and the latency that would come out (`Estimate`). A *policy* (`wye.query.policy`) turns an estimate
into a plan. The two are independent: every router works with every policy. This module holds what
they share; each system is a file of its own beside it.

Shape letters: Q queries, M models, D embedding width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from wye.errors import WyeError

if TYPE_CHECKING:
    from pathlib import Path

    from wye.core import Plan
    from wye.data import RoutingData
    from wye.query.policy import Policy

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]


class RouterError(WyeError):
    """A router was given something it cannot work with; the message says what to do."""


class MissingPartError(RouterError):
    """A router needs something that is not there: an extra, a language model, an endpoint."""


class NotFittedError(RouterError):
    """A router was asked for an estimate before `fit`."""


@dataclass(frozen=True)
class Estimate:
    """What a router expects of each model on each query.

    Attributes:
        models: names of the M targets, in column order.
        quality: `[Q, M]` expected quality, 0 to 1.
        quality_std: `[Q, M]` standard uncertainty of `quality` (of the estimate of the mean, not of
            a single 0/1 outcome), same unit.
        cost: `[Q, M]` expected cost of one answer in USD, the router's own cost excluded; NaN where
            nothing is known of a model's price or tokens.
        latency: `[Q, M]` expected seconds to the full answer; NaN where never measured.
        novelty: `[Q]` share of training queries (leave-one-out) that lie nearer to the training set
            than this one, 0 (familiar) to 1 (nothing like it was seen).
        router_cost: USD that the router itself spent on one query (embedding endpoint, judge).
        router_seconds: seconds the router itself took for one query; NaN when not measured.
    """

    models: tuple[str, ...]
    quality: FloatArray
    quality_std: FloatArray
    cost: FloatArray
    latency: FloatArray
    novelty: FloatArray
    router_cost: float = 0.0
    router_seconds: float = float("nan")

    def __post_init__(self) -> None:
        shape = (self.quality.shape[0] if self.quality.ndim == 2 else -1, len(self.models))
        for name in ("quality", "quality_std", "cost", "latency"):
            array = getattr(self, name)
            if array.shape != shape:
                raise RouterError(
                    f"estimate.{name} has shape {array.shape}, expected [Q, M] = {shape} "
                    f"for the models {list(self.models)}"
                )
        if self.novelty.shape != shape[:1]:
            raise RouterError(
                f"estimate.novelty has shape {self.novelty.shape}, expected {shape[:1]}"
            )
        if not (_all_finite(self.quality) and _all_finite(self.quality_std)):
            raise RouterError("estimate.quality and estimate.quality_std must be finite everywhere")

    def __len__(self) -> int:
        return int(self.quality.shape[0])

    def each(self) -> list[Estimate]:
        """The estimate of every query by itself. Its arrays are views."""
        fields = vars(self)
        parts = []
        for i in range(len(self)):
            # What holds of all holds of each: checking again would cost more than the views.
            part = object.__new__(Estimate)
            part.__dict__.update(
                fields,
                quality=self.quality[i : i + 1],
                quality_std=self.quality_std[i : i + 1],
                cost=self.cost[i : i + 1],
                latency=self.latency[i : i + 1],
                novelty=self.novelty[i : i + 1],
            )
            parts.append(part)
        return parts

    def restrict(self, models: Sequence[str]) -> Estimate:
        """The same estimate for `models` alone, in that order.

        Raises:
            RouterError: a name is not among `self.models`.
        """
        unknown = [m for m in models if m not in self.models]
        if unknown:
            raise RouterError(f"unknown models {unknown}; this estimate has {list(self.models)}")
        columns = [self.models.index(m) for m in models]
        return Estimate(
            models=tuple(models),
            quality=self.quality[:, columns],
            quality_std=self.quality_std[:, columns],
            cost=self.cost[:, columns],
            latency=self.latency[:, columns],
            novelty=self.novelty,
            router_cost=self.router_cost,
            router_seconds=self.router_seconds,
        )


def _all_finite(array: FloatArray) -> bool:
    return bool(np.logical_and.reduce(np.isfinite(array), axis=None))


@dataclass(frozen=True)
class Candidate:
    """One target as the policy saw it for one query. Unknown figures are None.

    `probability` is that with which the policy chooses this target for this query; None where it
    draws and cannot tell.
    """

    target: str
    quality: float
    quality_std: float
    cost_usd: float | None
    latency_s: float | None
    score: float
    allowed: bool
    probability: float | None = None


@dataclass(frozen=True)
class Decision:
    """One routed query: where it goes, among what, why, and with what probability.

    Attributes:
        id: unique, sortable by time (UUIDv7-like), chosen by the router or gateway.
        target: the chosen model, or None where the policy abstains without a default.
        candidates: every target with its estimates, best score first.
        policy: name and parameters, for instance `utility(cost_weight=50.0)`.
        router: name of the system, for instance `auto`.
        propensity: probability with which the policy chooses `target` for this query, in (0, 1].
        reasons: sentences in plain words, most important first.
        features: what the router read of the text (length, language, code, novelty, ...).
        router_cost_usd, router_seconds: what deciding itself took.
    """

    id: str
    target: str | None
    candidates: tuple[Candidate, ...]
    policy: str
    router: str
    propensity: float
    reasons: tuple[str, ...]
    features: Mapping[str, float | str] = field(default_factory=dict)
    router_cost_usd: float = 0.0
    router_seconds: float = float("nan")


@dataclass(frozen=True)
class Routing:
    """The result of `QueryRouter.route`: a plan over queries and models, and its decisions.

    The decisions may be built when they are read; the plan is there at once.
    """

    plan: Plan
    decisions: Sequence[Decision]
    models: tuple[str, ...]

    @property
    def targets(self) -> list[str | None]:
        """The chosen model of each query, in order."""
        chosen: list[str | None] = [None] * self.plan.n_sources
        for source, target in zip(
            self.plan.source.tolist(), self.plan.target.tolist(), strict=True
        ):
            chosen[source] = self.models[target]
        return chosen


class Parametrised:
    """Something that keeps the parameters of its constructor under their own names.

    Class attributes of a system:
        not_stored: parameters that are not told: models that are asked, functions.
    """

    not_stored: ClassVar[tuple[str, ...]] = ()

    def get_params(self) -> dict[str, Any]:
        """The constructor's parameters, by name."""
        import inspect

        names = inspect.signature(type(self).__init__).parameters
        return {n: getattr(self, n) for n in names if n not in ("self", *self.not_stored)}


class Stateful(Parametrised, ABC):
    """Something that learns, and gives what it learned to be stored."""

    @abstractmethod
    def get_state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """What was learned: arrays (to safetensors) and JSON-serialisable values."""

    @abstractmethod
    def set_state(self, arrays: Mapping[str, NDArray[Any]], values: Mapping[str, Any]) -> None:
        """Restore what `get_state` returned."""


class QueryRouter(Stateful):
    """Base of every query router, ours and third parties'.

    A subclass sets `name`, stores its parameters in `__init__` (keyword-only, JSON-serialisable,
    under the same names), learns in `fit`, and keeps what it learned in attributes that end in `_`.
    It implements `fit`, `estimate`, `get_state` and `set_state`; `route`, `save` and `wye.load`
    come from here. `wye.testing.check_query_router` says whether it keeps the contract.
    """

    name: str
    models_: tuple[str, ...]
    # Hashes of the questions it learned from, where they are known (`wye.query.learning.seen`).
    learned_from_: NDArray[np.uint64] | None = None

    @abstractmethod
    def fit(self, data: RoutingData) -> Self:
        """Learn from outcomes. Missing outcomes are unknown, never wrong."""

    @abstractmethod
    def estimate(self, texts: Sequence[str]) -> Estimate:
        """Expected quality, cost and latency of every model on every text."""

    def route(
        self,
        texts: Sequence[str],
        policy: Policy | None = None,
        *,
        allowed: BoolArray | None = None,
        seed: int | None = None,
    ) -> Routing:
        """Choose a model for each text.

        Args:
            texts: Q queries.
            policy: the rule; `wye.query.policy.Quality()` when not given.
            allowed: `[Q, M]` or `[M]`, which models may be chosen; all when not given.
            seed: for policies that randomise.
        """
        from wye.query.decisions import decide

        return decide(self, texts, policy, allowed=allowed, seed=seed)

    def save(self, directory: str | Path) -> Path:
        """Write the router to `directory` (JSON + safetensors), whole or not at all."""
        from wye.query.persistence import save_router

        return save_router(self, directory)
