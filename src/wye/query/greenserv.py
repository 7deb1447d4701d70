"""GreenServ: a contextual bandit on task, cluster and complexity trades accuracy against energy.

Routes a query to a model, before an answer exists, on three cheap features of its text and on the
outcomes of the models that it chose before; nothing is learned beforehand, and models join and
leave. Paper: GreenServ, Energy-Efficient Context-Aware Dynamic Routing for Multi-Model LLM
Inference (preprint of 2026; its arXiv number is not confirmed here). Code of the authors: GitHub,
TZData1/llm-inference-router.

    x(q) = one-hot(task) + one-hot(cluster) + one-hot(complexity bin)   (`discrete_context`)
    r    = (1 - lambda) quality + lambda (1 - u),   u the scaled energy, cost or latency
    LinUCB, linear Thompson sampling, or epsilon-greedy over arms (`wye.core.bandits`)

As published: reg = 0.05, k = 3 clusters, complexity thresholds 20 and 30, lambda = 0.5, and the
parameters of the other bandits. Ours: alpha = 0.5 instead of 0.1, since the bonus of an arm never
tried, alpha sqrt(x'x / reg), else lies below the reward of a mediocre one; three complexity bins
where one code path of the authors has two, which leaves the hardest texts without one; one
logarithmic scale of the resource, learned from `fit` or given, instead of bounds per dataset; and
the filter of slow models, which the paper describes and its experiments leave out. A task is given
by the caller or read from the text, and never taken from the name of a dataset.

Shape letters: Q queries, M models, D context width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from wye.core.bandits import (
    Bandit,
    ContextualEpsilonGreedy,
    EpsilonGreedy,
    LinearEpsilonGreedy,
    LinearThompson,
    LinUCB,
)
from wye.query.base import BoolArray, FloatArray, RouterError
from wye.query.learning.contexts import ContextReader, Task
from wye.query.learning.discrete_context import FEATURES, DiscreteContext
from wye.query.learning.resource_scale import EVERY, ResourceScale
from wye.query.online.base import OnlineRouter
from wye.query.online.energy import TokenTable
from wye.query.online.feedback import Observed

if TYPE_CHECKING:
    from wye.data import RoutingData
    from wye.embed import Embedder

ALGORITHMS = ("linucb", "thompson", "linear-epsilon", "contextual-epsilon", "epsilon")
RESOURCES = ("cost", "energy", "latency")


@dataclass(kw_only=True, eq=False, repr=False)
class GreenServRouter(OnlineRouter):
    """A bandit over models on discrete features of the query; see the module.

    Args:
        algorithm: one of `linucb`, `thompson`, `linear-epsilon`, `contextual-epsilon`, `epsilon`.
        resource: what lambda weighs: `cost` (USD), `energy` (joules) or `latency` (seconds).
        weight: lambda, 0 (quality alone) to 1 (the resource alone).
        alpha: weight of the bonus of LinUCB.
        reg: weight of the prior of LinUCB.
        features: which of `task`, `cluster`, `complexity` are read.
        tasks: names known beforehand; `fit` adds the datasets of its log.
        clusters: k of the online k-means.
        thresholds: of the complexity bins.
        constant: append a 1 to the context.
        resource_range: (low, high) of the resource in its unit, where nothing was fitted; without
            either every answer counts as half.
        log_scale: whether the logarithm of the resource is scaled.
        per_task_range: whether `fit` learns a range for each dataset.
        joules_per_token: by model, for `energy`, where outcomes come without joules.
        latency_limit: models expected to take longer, in seconds, are left out while others are
            there.
        arms, embedder, max_references, max_open, seed: see `OnlineRouter`.

    Example:
        >>> from wye.query.online.feedback import Outcome
        >>> router = GreenServRouter(arms=("small", "large"), resource_range=(1e-5, 1e-2))
        >>> ticket = router.select("What is 2 + 2?")
        >>> router.update(ticket, Outcome(quality=1.0, cost=1e-4))
        True
    """

    name = "greenserv"

    algorithm: str = "linucb"
    resource: str = "cost"
    weight: float = 0.5
    alpha: float = 0.5
    reg: float = 0.05
    features: Sequence[str] = FEATURES
    tasks: Sequence[str] = ()
    clusters: int = 3
    thresholds: Sequence[float] = (20.0, 30.0)
    constant: bool = False
    resource_range: Sequence[float] | None = None
    log_scale: bool = True
    per_task_range: bool = False
    joules_per_token: Mapping[str, float] | None = None
    latency_limit: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.features, str):
            self.features = tuple(self.features)
        self.tasks, self.thresholds = tuple(self.tasks), tuple(self.thresholds)
        if self.resource_range is not None:
            self.resource_range = tuple(self.resource_range)
        if self.joules_per_token is not None:
            self.joules_per_token = dict(self.joules_per_token)

    def _make_reader(self, embedder: Embedder) -> ContextReader:
        self._check_parameters()
        given = {} if self.resource_range is None else {EVERY: self.resource_range}
        self.scale_ = ResourceScale(given, self.log_scale)  # type: ignore[arg-type]
        return DiscreteContext(
            embedder,
            features=self.features,
            tasks=self.tasks,
            clusters=self.clusters,
            thresholds=self.thresholds,
            constant=self.constant,
            seed=self.seed,
        )

    def _make_bandit(self, n_arms: int, width: int) -> Bandit:
        makers: dict[str, Callable[[], Bandit]] = {
            "linucb": lambda: LinUCB(n_arms, width, alpha=self.alpha, reg=self.reg),
            "thompson": lambda: LinearThompson(n_arms, width),
            "linear-epsilon": lambda: LinearEpsilonGreedy(n_arms, width),
            "contextual-epsilon": lambda: ContextualEpsilonGreedy(n_arms, width),
            "epsilon": lambda: EpsilonGreedy(n_arms, width),
        }
        return makers[self.algorithm]()

    def rewards(self, observed: Observed, tasks: Sequence[Task]) -> FloatArray:
        """r = (1 - lambda) quality + lambda (1 - u), `[Q, N]`; with lambda = 0 quality itself."""
        if self.weight == 0.0:
            return observed.quality
        used = self.scale_.apply(getattr(observed, self.resource), tasks)
        return (1.0 - self.weight) * observed.quality + self.weight * (1.0 - used)

    def observed(self, data: RoutingData) -> Observed:
        """The outcomes of a log; joules by tokens, since a log has none."""
        observed = super().observed(data)
        if self.resource != "energy" or self.weight == 0.0:
            return observed
        given = self.joules_per_token
        table = TokenTable.from_parameters(data) if given is None else TokenTable(given)
        energy = table.of_log(data)
        if not np.isfinite(energy).any():
            raise RouterError(
                f"{data.name} tells no energy: give joules_per_token for its models "
                f"{list(data.model_names)}, and output_tokens in its outcomes"
            )
        return Observed(observed.quality, observed.cost, observed.latency, energy)

    def _learn_scale(self, data: RoutingData, observed: Observed) -> None:
        if self.resource_range is None:
            tasks = [str(d) for d in data.datasets]
            self.scale_ = ResourceScale.fit(
                getattr(observed, self.resource),
                tasks,
                log=self.log_scale,
                per_task=self.per_task_range,
            )

    def _pick(
        self, context: FloatArray, mask: BoolArray
    ) -> tuple[tuple[int, ...], float, FloatArray]:
        if self.latency_limit is not None:
            expected = self.heads_["latency"].value(context[None])[0]
            fast = mask & ~(expected > self.latency_limit)
            mask = fast if fast.any() else mask
        return super()._pick(context, mask)

    def scale_state(self) -> dict[str, Any]:
        """Bounds of the resource, JSON."""
        return {"bounds": {t: list(b) for t, b in self.scale_.bounds.items()}}

    def set_scale_state(self, state: Mapping[str, Any]) -> None:
        """Restore what `scale_state` returned."""
        bounds = {t: (float(b[0]), float(b[1])) for t, b in state["bounds"].items()}
        self.scale_ = ResourceScale(bounds, self.log_scale)

    def _check_parameters(self) -> None:
        for name, known in (("algorithm", ALGORITHMS), ("resource", RESOURCES)):
            if getattr(self, name) not in known:
                raise RouterError(
                    f"{name} is {getattr(self, name)!r}, expected one of {list(known)}"
                )
        if not 0.0 <= self.weight <= 1.0:
            raise RouterError(f"weight is {self.weight}, expected a number from 0 to 1")
        if self.resource_range is not None and len(self.resource_range) != 2:
            raise RouterError(f"resource_range is {self.resource_range}, expected (low, high)")
