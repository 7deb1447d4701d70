"""CapabilityRouter: the table of skills as a router.

Routes a query to a model, before an answer, on which skills its words ask for (or its caller
declares) and on how often each model showed them, in probes or in a log.

    C[m, k]     = (passes + a_k) / (trials + a_k + b_k)        see `CapabilityTable`
    score[q, m] = sum over required k of log C[m, k] - lambda cost[q, m]
    quality     = exp(score at lambda = 0 / number of required skills)
    ineligible  = a required skill with C[m, k] < minimum

With no requirement the score is 0 for every model: the table abstains. What is left then is how
good each model was on the queries of the log that require nothing, and one and the same figure for
all where there are none. Source of the table: arXiv 2510.18892; routing by it is ours, and so are
the rules that find the skills (`skills`).

Shape letters: Q queries, M models, K skills.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from wye.query.base import BoolArray, FloatArray, RouterError, Routing
from wye.query.instruction_adherence.probe import CATEGORIES
from wye.query.instruction_adherence.skills import required
from wye.query.instruction_adherence.table import CapabilityTable, Prior
from wye.query.learning.embedded import EmbeddedRouter
from wye.query.learning.estimator import QualityEstimator, mean_std, model_means
from wye.query.learning.inputs import QueryInputs

if TYPE_CHECKING:
    from wye.query.policy import Policy

Needs = Sequence[Iterable[str] | None]
Counts = Mapping[str, Mapping[str, Sequence[float]]]


class CapabilityEstimator(QualityEstimator):
    """Quality from required skills.

    Args:
        capabilities: model -> skill -> (passes, trials) known beforehand.
        prior: `uniform` or `published`.
    """

    def __init__(self, *, capabilities: Counts, prior: Prior) -> None:
        self.capabilities = capabilities
        self.prior = prior

    table_: CapabilityTable

    def fit(self, inputs: QueryInputs, quality: FloatArray) -> Self:
        """Count passes and trials of each skill; a dataset named like a skill declares it."""
        logged = inputs.logged
        if logged is None:
            raise RouterError("these inputs do not name the models, which the table is about")
        needs: list[Iterable[str] | None] = [
            (d,) if d in CATEGORIES else None for d in logged.datasets.tolist()
        ]
        wanted = required(inputs.texts, needs)
        known = np.isfinite(quality)
        passes = np.where(known, quality, 0.0).T @ wanted
        trials = known.T.astype(np.float64) @ wanted
        for m, model in enumerate(logged.names):
            for skill, (passed, tried) in self.capabilities.get(model, {}).items():
                passes[m, CATEGORIES.index(skill)] += passed
                trials[m, CATEGORIES.index(skill)] += tried
        # Sums of shares may miss a whole number of trials by rounding.
        self.table_ = CapabilityTable(logged.names, np.minimum(passes, trials), trials, self.prior)
        free = ~wanted.any(axis=1)
        if known[free].any():
            self.base_ = model_means(quality[free])
            self.base_std_ = mean_std(quality[free], self.base_)
        else:
            self.base_ = np.full(quality.shape[1], float(quality[known].mean()))
            self.base_std_ = np.full(quality.shape[1], 0.5)
        return self

    def predict(self, inputs: QueryInputs) -> tuple[FloatArray, FloatArray]:
        """Expected quality and its standard uncertainty, each `[Q, M]`."""
        wanted = required(inputs.texts).astype(np.float64)
        count = wanted.sum(axis=1)[:, None]
        C, errors = self.table_.means, self.table_.errors
        mean = np.exp(wanted @ np.log(C).T / np.maximum(count, 1))
        relative = np.sqrt(wanted @ ((errors / C) ** 2).T) / np.maximum(count, 1)
        free = count == 0
        quality = np.where(free, self.base_, mean)
        return quality, np.where(free, self.base_std_, mean * relative)

    def get_state(self) -> dict[str, NDArray[Any]]:
        """Counts, and what holds without a requirement."""
        return {
            "passes": self.table_.passes,
            "trials": self.table_.trials,
            "base": self.base_,
            "base_std": self.base_std_,
        }

    def set_state(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Restore what `get_state` returned; models are named by number until they are asked."""
        passes, trials = arrays["passes"], arrays["trials"]
        names = tuple(f"model {m}" for m in range(len(passes)))
        self.table_ = CapabilityTable(names, passes, trials, self.prior)
        self.base_, self.base_std_ = arrays["base"], arrays["base_std"]


@dataclass(frozen=True)
class SkillTrace:
    """Why a query goes where it goes.

    Attributes:
        required: skills that it needs.
        deciding: of each model the required skill that it is worst at, None without requirement.
        eligible: models that reach the minimum in every required skill.
    """

    required: tuple[str, ...]
    deciding: Mapping[str, str | None]
    eligible: tuple[str, ...]


@dataclass(kw_only=True, eq=False, repr=False)
class CapabilityRouter(EmbeddedRouter):
    """Routes by required skills and a table of who has them.

    Args:
        capabilities: model -> skill -> (passes, trials) from probes, added to what the log shows:
            `CapabilityTable.counts()`.
        prior: `uniform` or `published`, of a skill that was never tried.
        minimum: C that a required skill must reach; a model below it is never chosen.
        embedder, calibration, max_references, seed: see `EmbeddedRouter`; the embedding serves
            novelty and cost alone.

    Raises:
        RouterError: at `fit`, when a parameter is out of range.
    """

    name = "instruction-adherence"
    stacked = False
    n_folds = 2

    capabilities: Counts | None = None
    prior: Prior = "uniform"
    minimum: float = 0.0
    calibration: str = "none"

    @property
    def table_(self) -> CapabilityTable:
        """What is known of the present models' skills.

        Raises:
            NotFittedError: before `fit`.
        """
        self._require_fitted()
        estimator = self.estimators_["capabilities"]
        assert isinstance(estimator, CapabilityEstimator)
        held = estimator.table_
        return CapabilityTable(
            self.models_, held.passes[self.kept_], held.trials[self.kept_], self.prior
        )

    def scores(
        self, texts: Sequence[str], needs: Needs | None = None, *, cost_weight: float = 0.0
    ) -> FloatArray:
        """`[Q, M]` sum of log C over required skills minus `cost_weight` times USD; -inf where
        ineligible, 0 for all where nothing is required.

        Args:
            texts: Q queries.
            needs: skills declared for each, None where the words shall tell.
            cost_weight: lambda, log odds per USD.

        Raises:
            NotFittedError: before `fit`.
            RouterError: an unknown skill, or costs are needed and not known.
        """
        table = self.table_
        wanted = required(texts, needs)
        score = wanted.astype(np.float64) @ np.log(table.means).T
        if cost_weight:
            cost = self.estimate(texts).cost
            if not np.isfinite(cost).all():
                raise RouterError(
                    "costs of some models are not known, so none can be weighed; set_prices first"
                )
            score = score - cost_weight * cost
        return np.where(self._eligible(wanted, table), score, -np.inf)

    def trace(self, texts: Sequence[str], needs: Needs | None = None) -> list[SkillTrace]:
        """What each query requires, which skill decides, and who is eligible."""
        table = self.table_
        wanted = required(texts, needs)
        eligible = self._eligible(wanted, table)
        traces = []
        for q, row in enumerate(wanted):
            skills = np.flatnonzero(row)
            worst = {
                model: CATEGORIES[skills[table.means[m, skills].argmin()]] if skills.size else None
                for m, model in enumerate(table.models)
            }
            able = tuple(m for m, fit in zip(table.models, eligible[q], strict=True) if fit)
            traces.append(SkillTrace(tuple(CATEGORIES[k] for k in skills), worst, able))
        return traces

    def route(
        self,
        texts: Sequence[str],
        policy: Policy | None = None,
        *,
        allowed: BoolArray | None = None,
        seed: int | None = None,
        needs: Needs | None = None,
    ) -> Routing:
        """Choose among eligible models; with declared `needs` by their scores.

        A query for which no model is eligible goes nowhere.
        """
        self._require_fitted()
        if isinstance(texts, str) or not all(isinstance(t, str) for t in texts):
            return super().route(texts, policy, allowed=allowed, seed=seed)
        open_to = self._eligible(required(texts, needs), self.table_)
        if allowed is not None:
            given = np.asarray(allowed)
            if given.dtype != np.bool_ or given.shape not in (open_to.shape, open_to.shape[1:]):
                return super().route(texts, policy, allowed=allowed, seed=seed)
            open_to = open_to & given
        if needs is not None and policy is None:
            score = np.where(open_to, self.scores(texts, needs), -np.inf)
            declared = np.array([n is not None for n in needs], np.bool_)[:, None]
            top = score == score.max(axis=1, keepdims=True, initial=-np.inf)
            open_to = open_to & (top | ~declared)
        return super().route(texts, policy, allowed=open_to, seed=seed)

    def _eligible(self, wanted: BoolArray, table: CapabilityTable) -> BoolArray:
        weak = table.means < self.minimum
        return ~(wanted.astype(np.intp) @ weak.T.astype(np.intp) > 0)

    def _check_parameters(self) -> None:
        super()._check_parameters()
        if self.prior not in ("uniform", "published") or not 0.0 <= self.minimum < 1.0:
            raise RouterError(
                f"prior is {self.prior!r} and minimum {self.minimum}; expected 'uniform' or "
                "'published', and 0 or more and below 1"
            )
        for model, skills in (self.capabilities or {}).items():
            for skill, pair in skills.items():
                if skill not in CATEGORIES or len(pair) != 2 or not 0 <= pair[0] <= pair[1]:
                    raise RouterError(
                        f"capabilities of {model!r} in {skill!r} are {pair!r}; expected one of "
                        f"{list(CATEGORIES)} with (passes, trials), passes at most the trials"
                    )

    def _estimators(self) -> dict[str, QualityEstimator]:
        return {
            "capabilities": CapabilityEstimator(
                capabilities=self.capabilities or {}, prior=self.prior
            )
        }
