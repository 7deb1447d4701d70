"""`EmbeddedRouter`: what all routers that read an embedding share.

Text becomes vectors, features and nearest references; one or more quality estimators learn from
them; their out-of-fold predictions are shrunk, combined and calibrated; cost and latency are
learned beside. A system adds `_estimators` and its own parameters.

Shape letters: Q queries, M models, D embedding width, R references.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from wye.embed import Embedder, EmbedError, get_embedder
from wye.query.arguments import check_data, check_seed, checked_texts
from wye.query.base import Estimate, FloatArray, NotFittedError, QueryRouter, RouterError
from wye.query.learning.calibration import (
    Calibrator,
    Combination,
    Reliability,
    check_method,
    fit_calibrator,
    fit_combination,
)
from wye.query.learning.cost_model import CostModel, fit_cost_model
from wye.query.learning.estimator import QualityEstimator, folds, mean_std, model_means
from wye.query.learning.features import FEATURES, text_features
from wye.query.learning.inputs import Logged, QueryInputs, nearest
from wye.query.learning.named_arrays import restored_embedder, together, under

if TYPE_CHECKING:
    from wye.data import RoutingData

NEIGHBOURS = 256
# References kept to tell how new a query is where no estimator reads neighbours: a decision reads
# every one of them.
NOVELTY_REFERENCES = 1024
# No belief about a figure from 0 to 1 spreads wider.
WIDEST_STD = 0.5


@dataclass(kw_only=True, eq=False, repr=False)
class EmbeddedRouter(QueryRouter):
    """Base of the routers that estimate quality from an embedding of the text.

    Args:
        embedder: a spec of `wye.embed.get_embedder`, or an `Embedder`.
        calibration: `platt`, `isotonic` or `none`.
        max_references: training queries kept for neighbours and novelty, drawn at random beyond;
            for novelty alone `NOVELTY_REFERENCES` of them.
        seed: of every random choice.

    Attributes:
        models_: names of the models.
        reliability_: calibration curve of predictions on queries not seen in training.
        combination_: how much of each estimator counts.

    Class attributes of a system:
        stacked: whether predictions are shrunk and combined by what they got right out of fold.
            False leaves the predictions of the one estimator as its authors made them; only the
            common increasing map of the calibration follows.
        n_folds: of the out-of-fold predictions that the combination and calibration learn from.
    """

    stacked: ClassVar[bool] = True
    n_folds: ClassVar[int] = 5

    embedder: str | Embedder = "static"
    calibration: str = "platt"
    max_references: int = 8192
    seed: int = 0

    @abstractmethod
    def _estimators(self) -> dict[str, QualityEstimator]:
        """Fresh estimators by name; more than one are stacked."""

    def fit(self, data: RoutingData) -> Self:
        """Learn from outcomes. Missing outcomes are unknown, never wrong.

        Raises:
            RouterError: a parameter is wrong, or `data` has no known outcome.
        """
        self._check_parameters()
        check_data(data)
        known = np.isfinite(data.quality)
        if not known.any():
            raise RouterError(
                f"{data.name} has no known outcome ({len(data.texts)} queries, "
                f"{len(data.model_names)} models); a router learns from at least one"
            )
        answered: NDArray[np.bool_] = known.sum(axis=1) > 0
        if not answered.all():
            data = data.where(answered)
        quality = data.quality
        self.learned_from_ = None
        self.embedder_ = self._fresh_embedder(data.texts)
        inputs = self._training_inputs(data)
        self.models_ = data.model_names
        self.mean_std_ = mean_std(quality, model_means(quality))
        self._learn_quality(inputs, quality)
        if self._neighbours_read == 0:
            self._keep_for_novelty(inputs)
        self.cost_model_ = fit_cost_model(data, _cost_design(inputs))
        self.kept_ = np.arange(len(self.models_))
        return self

    def estimate(self, texts: Sequence[str]) -> Estimate:
        """Expected quality, cost and latency of every model on every text.

        Raises:
            NotFittedError: before `fit`.
            RouterError: `texts` is not a sequence of strings.
        """
        started = time.perf_counter()
        self._require_fitted()
        texts = checked_texts(texts)
        spent = self.embedder_.spent_usd
        inputs = self._inputs(texts)
        quality, std = self._predict(inputs)
        cost, latency = self.cost_model_.predict(texts, _cost_design(inputs))
        if len(self.kept_) < quality.shape[1]:
            quality, std, cost, latency = (a[:, self.kept_] for a in (quality, std, cost, latency))
        n = max(1, len(inputs))
        return Estimate(
            models=self.models_,
            quality=quality,
            quality_std=std,
            cost=cost,
            latency=latency,
            novelty=self._novelty(inputs),
            router_cost=(self.embedder_.spent_usd - spent) / n,
            router_seconds=(time.perf_counter() - started) / n,
        )

    # Models leave, prices change: nothing is learned again.

    def remove_model(self, name: str) -> Self:
        """Let a model leave at once; what was learned of the others stays as it is.

        Raises:
            NotFittedError: before `fit`.
            RouterError: no such model, or it is the last one.
        """
        column = self._column(name)
        if len(self.models_) == 1:
            raise RouterError(f"{name!r} is the last model of this router; it cannot be removed")
        self.kept_ = np.delete(self.kept_, column)
        self.models_ = tuple(m for m in self.models_ if m != name)
        return self

    def set_prices(self, prices: Mapping[str, tuple[float, float]]) -> Self:
        """Change what models cost; expected qualities and numbers of tokens stay as learned.

        Args:
            prices: for each model USD per million input tokens and per million output tokens.

        Raises:
            NotFittedError: before `fit`.
            RouterError: no such model, or a price that is no number of 0 or more.

        Example:
            >>> router.set_prices({"large": (2.5, 10.0)})  # doctest: +SKIP
        """
        self._require_fitted()
        if not isinstance(prices, Mapping):
            raise RouterError(
                f"prices is {prices!r}, expected a dictionary such as {{'large': (2.5, 10.0)}}"
            )
        changed = self.cost_model_
        for name, pair in prices.items():
            column = int(self.kept_[self._column(name)])
            if not _are_prices(pair):
                raise RouterError(
                    f"the prices of {name!r} are {pair!r}, expected two numbers of 0 or more: USD "
                    "per million input tokens and per million output tokens"
                )
            changed = changed.with_prices(column, pair[0] / 1e6, pair[1] / 1e6)
        self.cost_model_ = changed
        return self

    def _column(self, name: str) -> int:
        self._require_fitted()
        if name not in self.models_:
            raise RouterError(f"no model {name!r}; this router has {list(self.models_)}")
        return self.models_.index(name)

    def _require_fitted(self) -> None:
        if not hasattr(self, "cost_model_"):
            raise NotFittedError(f"router {self.name!r} is not fitted; call fit(data) first")

    # Learning.

    def _check_parameters(self) -> None:
        check_method(self.calibration)
        check_seed(self.seed)
        if not isinstance(self.max_references, int | np.integer) or self.max_references < 1:
            raise RouterError(
                f"max_references is {self.max_references!r}, expected a whole number of 1 or more"
            )

    def _fresh_embedder(self, texts: Sequence[str]) -> Embedder:
        """The embedder, adapted to the training texts; one given by spec is the router's own."""
        return get_embedder(self.embedder).fit(texts)

    def _training_inputs(self, data: RoutingData) -> QueryInputs:
        texts = data.texts
        vectors = self.embedder_.embed(texts)
        raw = text_features(texts)
        self.feature_mean_ = raw.mean(axis=0)
        # A feature that almost never varies would explode on the first query that has it.
        self.feature_std_ = np.maximum(raw.std(axis=0), 0.05)
        generator = np.random.default_rng(self.seed)
        rows = np.sort(generator.permutation(len(texts))[: self.max_references])
        self.references_ = np.ascontiguousarray(vectors[rows])
        reference = np.full(len(texts), -1, np.intp)
        reference[rows] = np.arange(rows.size)
        found = nearest(vectors, self.references_, NEIGHBOURS, exclude=reference)
        self.familiarity_ = np.sort(found.similarity[:, :1].ravel())
        return QueryInputs(
            texts=tuple(texts),
            vectors=vectors,
            features=(raw - self.feature_mean_) / self.feature_std_,
            neighbours=found,
            reference=reference,
            n_references=rows.size,
            logged=Logged(
                datasets=data.datasets,
                cost=data.cost,
                names=data.model_names,
                params_b=data.models["params_b"].to_numpy(np.float64, na_value=np.nan),
            ),
        )

    def _keep_for_novelty(self, inputs: QueryInputs) -> None:
        """Drop references that only refine how new a query is, and measure novelty by the rest."""
        surplus = len(self.references_) - NOVELTY_REFERENCES
        if surplus <= 0:
            return
        order = np.random.default_rng(self.seed).permutation(len(self.references_))
        kept = np.sort(order[:NOVELTY_REFERENCES])
        place = np.full(len(self.references_), -1, np.intp)
        place[kept] = np.arange(kept.size)
        reference = np.where(inputs.reference >= 0, place[inputs.reference], -1)
        self.references_ = np.ascontiguousarray(self.references_[kept])
        found = nearest(inputs.vectors, self.references_, 1, exclude=reference)
        self.familiarity_ = np.sort(found.similarity[:, 0])

    def _learn_quality(self, inputs: QueryInputs, quality: FloatArray) -> None:
        held_out = self._out_of_fold(inputs, quality)
        means = model_means(quality)
        if self.stacked:
            self.combination_ = fit_combination(held_out, quality, means)
        else:
            self.combination_ = Combination(means, np.ones(1), np.ones(1))
        raw = self.combination_.combine(held_out)
        self.calibrator_ = fit_calibrator(self.calibration, raw, quality, self.seed)
        self.reliability_ = Reliability.of(self.calibrator_.apply(raw), quality)
        self.estimators_ = self._estimators()
        used = set(self.combination_.used().tolist()) or {0}
        for h, estimator in enumerate(self.estimators_.values()):
            if h in used:
                estimator.fit(inputs, quality)
        self._use(sorted(used))

    def _use(self, used: list[int]) -> None:
        """Ask the estimators of these places, which are fitted, for every estimate to come."""
        fitted = list(self.estimators_.values())
        self.used_ = used
        self._in_use = [(h, fitted[h]) for h in used]
        # How many neighbours of a query they read.
        self._neighbours_read = max((e.neighbours_read for _, e in self._in_use), default=0)

    def _out_of_fold(self, inputs: QueryInputs, quality: FloatArray) -> list[FloatArray]:
        """`[Q, M]` per estimator: predictions by estimators that had not seen the query."""
        means = model_means(quality)
        estimators = self._estimators()
        held_out = [np.broadcast_to(means, quality.shape).copy() for _ in estimators]
        if len(inputs) < 2:
            return held_out
        for part in folds(len(inputs), self.n_folds, self.seed):
            rest = np.setdiff1d(np.arange(len(inputs)), part)
            seen, unseen = inputs.rows(rest), inputs.rows(part)
            for h, estimator in enumerate(self._estimators().values()):
                held_out[h][part] = estimator.fit(seen, quality[rest]).predict(unseen)[0]
        return held_out

    # Estimating.

    def _inputs(self, texts: Sequence[str]) -> QueryInputs:
        try:
            vectors = self.embedder_.embed(texts)
        except EmbedError as error:
            raise RouterError(str(error)) from error
        features = (text_features(texts) - self.feature_mean_[None]) / self.feature_std_[None]
        unknown = np.empty(len(texts), np.intp)
        unknown.fill(-1)
        return QueryInputs(
            texts=tuple(texts),
            vectors=vectors,
            features=features,
            neighbours=nearest(vectors, self.references_, max(1, self._neighbours_read)),
            reference=unknown,
            n_references=self.references_.shape[0],
        )

    def _predict(self, inputs: QueryInputs) -> tuple[FloatArray, FloatArray]:
        raw, std = self._raw(inputs)
        quality = self.calibrator_.apply(raw)
        std = std * self.calibrator_.slope(raw, quality)
        return quality, np.minimum(np.maximum(std, self.mean_std_[None]), WIDEST_STD)

    def _raw(self, inputs: QueryInputs) -> tuple[FloatArray, FloatArray]:
        """Quality before calibration and its standard uncertainty, each `[Q, M]`."""
        shape = (len(self.estimators_), len(inputs), self.combination_.means.size)
        means, stds = np.zeros(shape), np.zeros(shape)
        for h, estimator in self._in_use:
            means[h], stds[h] = estimator.predict(inputs)
        raw = self.combination_.combine(means)
        if len(self.used_) == 1:
            return raw, stds[self.used_[0]]
        return raw, self.combination_.uncertainty(means, stds)

    def _novelty(self, inputs: QueryInputs) -> FloatArray:
        if not self.familiarity_.size:
            return np.ones(len(inputs))
        closest = inputs.neighbours.similarity[:, 0]
        nearer = self.familiarity_.size - self.familiarity_.searchsorted(
            closest + np.float32(1e-6), side="left"
        )
        return np.asarray(nearer / self.familiarity_.size, np.float64)

    # Storing.

    def get_state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """What was learned: arrays and JSON-serialisable values."""
        self._require_fitted()
        parts: dict[str, Mapping[str, NDArray[Any]]] = {
            "embedder": self.embedder_.get_state(),
            "cost_model": self.cost_model_.arrays(),
            "reliability": self.reliability_.arrays(),
            "combination": asdict(self.combination_),
            "calibrator": {"knots": self.calibrator_.knots},
            "inputs": {
                "feature_mean": self.feature_mean_,
                "feature_std": self.feature_std_,
                "references": self.references_,
                "familiarity": self.familiarity_,
                "mean_std": self.mean_std_,
                "kept": self.kept_,
            },
        }
        names = list(self.estimators_)
        for h in self.used_:
            parts[f"estimator.{names[h]}"] = self.estimators_[names[h]].get_state()
        values = {
            "embedder": self.embedder_.name,
            "calibrator": self.calibrator_.method,
            "estimators": [names[h] for h in self.used_],
            "features": list(FEATURES),
        }
        return together(parts), values

    def set_state(self, arrays: Mapping[str, NDArray[Any]], values: Mapping[str, Any]) -> None:
        """Restore what `get_state` returned.

        Raises:
            RouterError: the router was learned with another embedder or other text features.
        """
        if list(values["features"]) != list(FEATURES):
            raise RouterError(
                "the router was learned with other text features than this version of wye reads; "
                "train it again"
            )
        self.embedder_ = restored_embedder(
            self.embedder, values["embedder"], under("embedder/", arrays)
        )
        own = under("inputs/", arrays)
        self.feature_mean_, self.feature_std_ = own["feature_mean"], own["feature_std"]
        self.references_, self.familiarity_ = own["references"], own["familiarity"]
        self.mean_std_, self.kept_ = own["mean_std"], own["kept"]
        self.combination_ = Combination(**under("combination/", arrays))
        self.calibrator_ = Calibrator(values["calibrator"], arrays["calibrator/knots"])
        self.reliability_ = Reliability.from_arrays(under("reliability/", arrays))
        self.estimators_ = self._estimators()
        names = list(self.estimators_)
        for name in values["estimators"]:
            self.estimators_[name].set_state(under(f"estimator.{name}/", arrays))
        self._use([names.index(n) for n in values["estimators"]])
        self.cost_model_ = CostModel.from_arrays(under("cost_model/", arrays))


def _are_prices(pair: Any) -> bool:
    if not isinstance(pair, Sequence) or isinstance(pair, str) or len(pair) != 2:
        return False
    numbers = all(isinstance(p, int | float | np.number) for p in pair)
    return numbers and all(np.isfinite(p) and p >= 0 for p in pair)


def _cost_design(inputs: QueryInputs) -> NDArray[np.float32]:
    return np.concatenate([inputs.vectors, inputs.limited_features], axis=1)
