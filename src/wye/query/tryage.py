"""Tryage: the loss that each model will have is predicted, and constraints are penalties on it.

Routes a query to a model, before an answer exists, on its embedding; flags in the query, or given
beside it, say what else counts. Source: Hari and Thomson, Tryage: Real-time, Intelligent Routing of
User Prompts to Large Language Models, arXiv 2308.11601.

    J(theta) = mean over known (z, i) of (L(z, M_i) - L_hat_i(z))^2
    i*(z)    = argmin_i [ L_hat_i(z) + sum_j lambda_j C_j(M_i) ]

C_j are known figures of a model alone, scaled from 0 to 1 over the models, lambda_j >= 0 from flags
such as "[Flag: smallest model]", which are taken out of the query before it is embedded. The loss
here is 1 - quality, so lambda is in units of quality: with 0.5, the dearest model must be expected
to do better by a half than the cheapest.

Ours, where the paper is silent: the table of flags; squared error on losses standardised per model,
undone before the minimum is taken; a frozen embedding under one hidden layer of 256 rectified units
(the paper trains a small BERT whole), stopped early; learning from the chosen model alone
(`observe`). Losses: `wye.query.learning.predicted_losses`; flags: `wye.query.prompts.flags`.

Shape letters: Q queries, M models, J constraints, F hidden width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from wye.query.base import BoolArray, Estimate, FloatArray, RouterError, Routing
from wye.query.learning.embedded import EmbeddedRouter
from wye.query.learning.estimator import QualityEstimator
from wye.query.learning.inputs import QueryInputs
from wye.query.learning.predicted_losses import LossEstimator
from wye.query.policies.quality import Quality
from wye.query.policy import Policy
from wye.query.prompts.flags import NotedDecisions, read_flags, without_flags

if TYPE_CHECKING:
    from wye.data import RoutingData
    from wye.query.policy import Choice


@dataclass(frozen=True)
class ParetoPoint:
    """One weight of a sweep: mean loss and mean constraint of the chosen models."""

    weight: float
    loss: float
    constraint: float
    dominated: bool


class Penalised(Policy):
    """Least predicted loss plus the weighted constraints of each query.

    Args:
        penalty: `[Q, M]` sum_j lambda_j C_j(M_i) of the very queries that are chosen for.
    """

    name = "penalised"

    def __init__(self, *, penalty: FloatArray) -> None:
        self.penalty = penalty

    def choose(
        self,
        estimate: Estimate,
        *,
        allowed: BoolArray | None = None,
        generator: np.random.Generator | None = None,
    ) -> Choice:
        """argmin of 1 - quality + penalty over the allowed models."""
        moved = replace(estimate, quality=estimate.quality - self.penalty)
        return Quality().choose(moved, allowed=allowed, generator=generator)

    def describe(self) -> str:
        """The name; the penalties differ by query."""
        return self.name


@dataclass(kw_only=True, eq=False, repr=False)
class TryageRouter(EmbeddedRouter):
    """Predicted losses and constraints by flags.

    Args:
        constraints: for each name a figure of every model, less is better; in any unit. `size` and
            `price` are read from the models of the log where they are known.
        hidden: width of the hidden layer.
        epochs: at most so many passes.
        online_rate: share of its error on a query that `observe` takes away, above 0 to 1.
        embedder, calibration, max_references, seed: see `EmbeddedRouter`.

    Attributes:
        constraints_: `[M]` by name, scaled from 0 to 1 over all models that were learned.
    """

    name = "tryage"
    stacked = False
    n_folds = 2

    constraints: Mapping[str, Mapping[str, float]] | None = None
    hidden: int = 256
    epochs: int = 30
    online_rate: float = 0.1

    def fit(self, data: RoutingData) -> Self:
        """Learn losses from outcomes; read the constraints of the models.

        Raises:
            RouterError: a parameter is wrong, no outcome, or a constraint leaves a model out.
        """
        figures = _figures(data) | dict(self.constraints or {})
        scaled: dict[str, FloatArray] = {}
        for name, by_model in figures.items():
            missing = [m for m in data.model_names if m not in by_model]
            if missing:
                raise RouterError(f"constraint {name!r} says nothing of {missing}")
            scaled[name] = scaled_constraint([by_model[m] for m in data.model_names], name)
        super().fit(data)
        self.constraints_ = scaled
        return self

    def estimate(self, texts: Sequence[str]) -> Estimate:
        """Expected quality, cost and latency of every model on every text; flags are not read."""
        return super().estimate(without_flags(texts))

    def route(
        self,
        texts: Sequence[str],
        policy: Policy | None = None,
        *,
        allowed: BoolArray | None = None,
        seed: int | None = None,
        weights: Mapping[str, float] | Sequence[Mapping[str, float]] | None = None,
    ) -> Routing:
        """Choose a model for each text, by its flags and `weights`.

        Args:
            texts: Q queries, with or without flags.
            policy: in place of the paper's rule; flags are then taken out but do not count.
            allowed, seed: see `QueryRouter.route`.
            weights: lambda by constraint, for all queries or for each; of a flag and a weight on
                one constraint the larger counts.

        Raises:
            RouterError: a weight that is negative, or a constraint that is not known.
        """
        if policy is None and not isinstance(texts, str):
            policy = Penalised(penalty=self.penalty(texts, weights))
        routing = super().route(texts, policy, allowed=allowed, seed=seed)
        return replace(routing, decisions=NotedDecisions(routing.decisions, texts, self.embedder_))

    def observe(self, text: str, quality: Mapping[str, float]) -> Self:
        """Learn from what came out of a routed query: the outcome of the chosen model suffices.

        What was learned of other models stays. A router that always takes the best estimate never
        finds out that another model became better: let a policy explore.

        Args:
            text: the query, with or without flags.
            quality: 0 to 1, by name of the models that answered.

        Raises:
            NotFittedError: before `fit`.
            RouterError: no such model, or a quality that is not from 0 to 1.
        """
        columns = {name: int(self.kept_[self._column(name)]) for name in quality}
        for name, value in quality.items():
            if not 0.0 <= value <= 1.0:
                raise RouterError(f"quality of {name!r} is {value}, expected 0 to 1")
        inputs = self._inputs(without_flags([text]))
        estimator = self.estimators_["loss"]
        assert isinstance(estimator, LossEstimator)
        for name, value in quality.items():
            estimator.learn(inputs, columns[name], 1.0 - value, self.online_rate)
        return self

    def penalty(
        self,
        texts: Sequence[str],
        weights: Mapping[str, float] | Sequence[Mapping[str, float]] | None = None,
    ) -> FloatArray:
        """`[Q, M]` sum_j lambda_j C_j(M_i) of each text.

        Raises:
            NotFittedError: before `fit`.
            RouterError: a weight that is negative, or a constraint that is not known.
        """
        self._require_fitted()
        given = [weights or {}] * len(texts) if not isinstance(weights, Sequence) else list(weights)
        if len(given) != len(texts):
            raise RouterError(f"{len(given)} weights for {len(texts)} texts, expected one each")
        total = np.zeros((len(texts), len(self.models_)))
        for q, (text, own) in enumerate(zip(texts, given, strict=True)):
            asked = dict(read_flags(text).weights) if isinstance(text, str) else {}
            for name, weight in own.items():
                if not weight >= 0:
                    raise RouterError(f"weight of {name!r} is {weight}, expected 0 or more")
                asked[name] = max(float(weight), asked.get(name, 0.0))
            for name, weight in asked.items():
                total[q] += weight * self._constraint(name)
        return total

    def pareto(
        self, data: RoutingData, constraint: str, weights: Sequence[float]
    ) -> list[ParetoPoint]:
        """Mean true loss and mean constraint of the chosen models for each weight.

        Args:
            data: outcomes of every model on other queries than those learned from.
            constraint: its name.
            weights: lambdas.

        Raises:
            NotFittedError: before `fit`.
            RouterError: a constraint that is not known, or an unknown outcome.
        """
        self._require_fitted()
        loss = 1.0 - data.with_models(self.models_).quality
        if not np.isfinite(loss).all():
            raise RouterError(f"{data.name} has unknown outcomes; a front needs all of them")
        return pareto_sweep(
            1.0 - self.estimate(data.texts).quality, loss, self._constraint(constraint), weights
        )

    def _constraint(self, name: str) -> FloatArray:
        if name not in self.constraints_:
            raise RouterError(
                f"no constraint {name!r}; this router knows {sorted(self.constraints_)}, others "
                "are given by constraints={name: {model: figure}}"
            )
        return self.constraints_[name][self.kept_]

    def _fresh_embedder(self, texts: Sequence[str]) -> Any:
        return super()._fresh_embedder(without_flags(texts))

    def _training_inputs(self, data: RoutingData) -> QueryInputs:
        bare = data.queries.assign(text=without_flags(data.texts))
        return super()._training_inputs(type(data)(bare, data.outcomes, data.models, data.name))

    def _check_parameters(self) -> None:
        super()._check_parameters()
        if self.hidden < 1 or self.epochs < 1:
            raise RouterError(
                f"hidden is {self.hidden} and epochs {self.epochs}, expected 1 or more"
            )
        if not 0.0 < self.online_rate <= 1.0:
            raise RouterError(f"online_rate is {self.online_rate}, expected above 0 and at most 1")

    def _estimators(self) -> dict[str, QualityEstimator]:
        return {"loss": LossEstimator(hidden=self.hidden, epochs=self.epochs, seed=self.seed)}

    def get_state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """What was learned: arrays and JSON-serialisable values."""
        arrays, values = super().get_state()
        return arrays, values | {
            "constraints": {k: v.tolist() for k, v in self.constraints_.items()}
        }

    def set_state(self, arrays: Mapping[str, NDArray[Any]], values: Mapping[str, Any]) -> None:
        """Restore what `get_state` returned."""
        super().set_state(arrays, values)
        self.constraints_ = {k: np.asarray(v) for k, v in values["constraints"].items()}


def pareto_sweep(
    predicted: FloatArray, loss: FloatArray, constraint: FloatArray, weights: Sequence[float]
) -> list[ParetoPoint]:
    """The choices argmin(predicted + lambda C) for each lambda.

    Args:
        predicted: `[Q, M]` predicted losses.
        loss: `[Q, M]` true losses.
        constraint: `[M]` C, from 0 to 1.
        weights: lambdas.
    """
    points = []
    for weight in weights:
        # Of equals the model with the least constraint.
        order = np.argsort(constraint, kind="stable")
        chosen = order[(predicted + weight * constraint)[:, order].argmin(axis=1)]
        mean = float(loss[np.arange(len(chosen)), chosen].mean())
        points.append((float(weight), mean, float(constraint[chosen].mean())))
    return [
        ParetoPoint(w, a, c, any(b <= a and d <= c and (b, d) != (a, c) for _, b, d in points))
        for w, a, c in points
    ]


def scaled_constraint(figures: Sequence[float], name: str = "constraint") -> FloatArray:
    """Figures of the models from 0, the least, to 1, the most; all 0 where they are equal.

    Raises:
        RouterError: a figure is not finite.
    """
    values = np.asarray(figures, np.float64)
    if not np.isfinite(values).all():
        raise RouterError(f"{name} has figures {values.tolist()}, expected finite numbers")
    width = float(np.ptp(values))
    return (values - values.min()) / width if width > 0 else np.zeros_like(values)


def _figures(data: RoutingData) -> dict[str, Mapping[str, float]]:
    """Constraints that the table of models can give: the logarithms of size and of price."""
    price = data.models[["price_in_per_mtok", "price_out_per_mtok"]]
    found: dict[str, Mapping[str, float]] = {}
    for name, values in (
        ("size", data.models["params_b"].to_numpy(np.float64, na_value=np.nan)),
        ("price", price.to_numpy(np.float64, na_value=np.nan).mean(axis=1)),
    ):
        if (values > 0).all():
            found[name] = dict(zip(data.model_names, np.log(values).tolist(), strict=True))
    return found
