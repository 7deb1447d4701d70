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
(the paper trains a small BERT whole), stopped early; cells of the log without an outcome hold what
ridge regression expects while it learns.

Shape letters: Q queries, M models, J constraints, F hidden width.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from wye.query.base import BoolArray, Estimate, FloatArray, RouterError, Routing
from wye.query.learning.embedded import EmbeddedRouter
from wye.query.learning.estimator import QualityEstimator, fitted_std, mean_std, model_means
from wye.query.learning.inputs import QueryInputs
from wye.query.learning.label_heads import INPUT_SCALE
from wye.query.policies.quality import Quality
from wye.query.policy import Policy

if TYPE_CHECKING:
    from wye.data import RoutingData
    from wye.query.policy import Choice

TRAINING_QUERIES = 8192
FLAG = re.compile(r"\[\s*flags?\s*:\s*([^\[\]\n]{1,200})\]", re.IGNORECASE)
# Word of a flag: constraint, and weight in units of quality.
FLAGS: Mapping[str, tuple[str, float]] = {
    "small": ("size", 0.2),
    "smaller": ("size", 0.5),
    "smallest": ("size", 2.0),
    "cheap": ("price", 0.2),
    "cheaper": ("price", 0.5),
    "cheapest": ("price", 2.0),
    "recent": ("age", 0.2),
    "newer": ("age", 0.5),
    "newest": ("age", 2.0),
    "secure": ("exposure", 0.5),
    "most secure": ("exposure", 2.0),
}


@dataclass(frozen=True)
class Flagged:
    """A query and what its flags ask for.

    Attributes:
        text: without flags; this alone is embedded.
        weights: lambda by constraint; of several flags on one constraint the largest counts.
        unknown: flags that mean nothing here.
    """

    text: str
    weights: Mapping[str, float]
    unknown: tuple[str, ...] = ()


def read_flags(text: str, flags: Mapping[str, tuple[str, float]] = FLAGS) -> Flagged:
    """Take the flags out of a query.

    Args:
        text: that may hold `[Flag: ...]`, several flags separated by commas.
        flags: constraint and weight by word; "model" and "models" behind a word mean nothing.

    Example:
        >>> read_flags("[Flag: smallest model] What is 2 + 2?")
        Flagged(text='What is 2 + 2?', weights={'size': 2.0}, unknown=())
    """
    weights: dict[str, float] = {}
    unknown: list[str] = []
    for found in FLAG.finditer(text):
        for said in found.group(1).split(","):
            word = re.sub(r"\s+models?$", "", " ".join(said.lower().split()))
            if word in flags:
                constraint, weight = flags[word]
                weights[constraint] = max(weight, weights.get(constraint, 0.0))
            elif word:
                unknown.append(word)
    if not FLAG.search(text):
        return Flagged(text, weights)
    bare = re.sub(r"[ \t]{2,}", " ", FLAG.sub(" ", text)).strip()
    return Flagged(bare, weights, tuple(unknown))


@dataclass(frozen=True)
class ParetoPoint:
    """One weight of a sweep: mean loss and mean constraint of the chosen models."""

    weight: float
    loss: float
    constraint: float
    dominated: bool


class LossEstimator(QualityEstimator):
    """Predicted losses of M models by one hidden layer; quality is 1 - loss.

    Args:
        hidden: width F of the hidden layer.
        epochs: at most so many passes; fewer when a held-out tenth stops improving.
        seed: of first weights and the order of queries.
    """

    def __init__(self, *, hidden: int = 256, epochs: int = 30, seed: int = 0) -> None:
        self.hidden = hidden
        self.epochs = epochs
        self.seed = seed

    def fit(self, inputs: QueryInputs, quality: FloatArray) -> Self:
        """Regress the losses of the models on the embedding."""
        loss, means = 1.0 - quality, 1.0 - model_means(quality)
        self.center_ = means
        self.scale_ = np.maximum(_spread(loss, means), 1e-3)
        self._train(inputs, quality)
        predicted = 1.0 - self.losses(inputs)
        deviation = mean_std(quality, model_means(quality))
        self.std_ = np.hypot(fitted_std(quality, predicted, inputs.vectors.shape[1]), deviation)
        return self

    def losses(self, inputs: QueryInputs) -> FloatArray:
        """`[Q, M]` predicted losses, in their own unit."""
        hidden = np.maximum(inputs.vectors @ self.weight_ + self.bias_, 0.0)
        return np.asarray((hidden @ self.last_ + self.last_bias_) * self.scale_ + self.center_)

    def predict(self, inputs: QueryInputs) -> tuple[FloatArray, FloatArray]:
        """Expected quality and its standard uncertainty, each `[Q, M]`."""
        quality = 1.0 - self.losses(inputs)
        return quality, np.broadcast_to(self.std_, quality.shape)

    def _train(self, inputs: QueryInputs, quality: FloatArray) -> None:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.neural_network import MLPRegressor

        from wye.query.linear import LinearEstimator

        known = np.isfinite(quality)
        filled = quality
        if not known.all():
            expected = LinearEstimator().fit(inputs, quality).predict(inputs)[0]
            filled = np.where(known, quality, expected)
        # By name, so that first weights do not depend on the order of the columns.
        order = np.arange(quality.shape[1])
        if inputs.logged is not None:
            order = np.argsort(np.array(inputs.logged.names), kind="stable")
        target = ((1.0 - filled - self.center_) / self.scale_)[:, order]
        rows = np.sort(np.random.default_rng(self.seed).permutation(len(inputs))[:TRAINING_QUERIES])
        network = MLPRegressor(
            hidden_layer_sizes=(self.hidden,),
            alpha=1e-4,
            batch_size=min(64, len(rows)),
            learning_rate_init=1e-3,
            max_iter=self.epochs,
            early_stopping=len(rows) >= 100,
            n_iter_no_change=5,
            random_state=self.seed,
        )
        with warnings.catch_warnings():
            # The number of epochs is a bound on time, not a promise of convergence.
            warnings.simplefilter("ignore", ConvergenceWarning)
            given = target[rows] if target.shape[1] > 1 else target[rows, 0]
            network.fit(inputs.vectors[rows] * np.float32(INPUT_SCALE), given)
        self.weight_ = (network.coefs_[0] * INPUT_SCALE).astype(np.float32)
        self.bias_ = network.intercepts_[0].astype(np.float32)
        back = np.argsort(order)
        self.last_, self.last_bias_ = network.coefs_[1][:, back], network.intercepts_[1][back]

    def get_state(self) -> dict[str, NDArray[Any]]:
        """Weights and scales."""
        return {name: np.asarray(getattr(self, f"{name}_")) for name in _STATE}

    def set_state(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Restore what `get_state` returned."""
        for name in _STATE:
            setattr(self, f"{name}_", arrays[name])


_STATE = ("center", "scale", "weight", "bias", "last", "last_bias", "std")


def _spread(loss: FloatArray, means: FloatArray) -> FloatArray:
    known = np.isfinite(loss)
    total = (np.where(known, loss - means, 0.0) ** 2).sum(axis=0)
    return np.asarray(np.sqrt(total / np.maximum(known.sum(axis=0), 1)), np.float64)


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


class TryageRouter(EmbeddedRouter):
    """Predicted losses and constraints by flags.

    Args:
        constraints: for each name a figure of every model, less is better; in any unit. `size` and
            `price` are read from the models of the log where they are known.
        hidden: width of the hidden layer.
        epochs: at most so many passes.
        embedder, calibration, max_references, seed: see `EmbeddedRouter`.

    Attributes:
        constraints_: `[M]` by name, scaled from 0 to 1 over all models that were learned.
    """

    name = "tryage"
    stacked = False
    n_folds = 2

    def __init__(
        self,
        *,
        constraints: Mapping[str, Mapping[str, float]] | None = None,
        hidden: int = 256,
        epochs: int = 30,
        embedder: Any = "static",
        calibration: str = "platt",
        max_references: int = 8192,
        seed: int = 0,
    ) -> None:
        super().__init__(
            embedder=embedder, calibration=calibration, max_references=max_references, seed=seed
        )
        self.constraints = constraints
        self.hidden = hidden
        self.epochs = epochs

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
        return super().estimate(_without_flags(texts))

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
        return super().route(texts, policy, allowed=allowed, seed=seed)

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
        return super()._fresh_embedder(_without_flags(texts))

    def _training_inputs(self, data: RoutingData) -> QueryInputs:
        bare = data.queries.assign(text=_without_flags(data.texts))
        return super()._training_inputs(type(data)(bare, data.outcomes, data.models, data.name))

    def _check_parameters(self) -> None:
        super()._check_parameters()
        if self.hidden < 1 or self.epochs < 1:
            raise RouterError(
                f"hidden is {self.hidden} and epochs {self.epochs}, expected 1 or more"
            )

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


def _without_flags(texts: Sequence[str]) -> Sequence[str]:
    if isinstance(texts, str):
        return texts
    return [read_flags(t).text if isinstance(t, str) else t for t in texts]
