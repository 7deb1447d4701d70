"""Composition of Experts: a query is given a category, and a table names the expert of each.

Routes a query to a model, before an answer exists, on its embedding; once for each turn of a
conversation, on its last two user turns. Source: Jain et al., Composition of Experts: A Modular
Compound AI System Leveraging Large Language Models, arXiv 2412.01868.

    g(x)    = posterior of the C categories, by votes of the k = 20 nearest queries or a head
    c(x)    = general where x is uncertain, else argmax_c g(x)_c
    A[c, m] = mean_m + sum_{q in c} (y_qm - mean_m) / (20 + n_cm)
    table   = argmax_z sum_c n_c sum_m (A[c, m] - mu p_m) z[c, m], sizes within the budget P
              (`wye.query.hosting`)

Uncertain by `distance`: the mean similarity of x to its k neighbours is below the 5% quantile of
training queries (each without itself); by `entropy`: H(g) / log C is above a threshold; by
`probability`: 1 - max g is. Ours, where the paper is silent: k, the shrinkage, these measures (the
first is the default, since a posterior does not say that a query is unlike all others), thresholds
by held-out quality on a grid of 20, the last two turns, and the recipe of semi-supervised training:
unlabelled queries get a label where their 10 nearest labelled neighbours agree on one.

Shape letters: Q queries, M models, C categories, K neighbours, U unlabelled queries.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from wye.query.base import BoolArray, RouterError, Routing
from wye.query.hosting import SOLVERS, Hosting, host_experts
from wye.query.learning.estimator import QualityEstimator
from wye.query.learning.expert_table import MEASURES, CompositionEstimator
from wye.query.learning.inputs import QueryInputs
from wye.query.learning.joining import PlacingRouter
from wye.query.learning.label_heads import HEADS

if TYPE_CHECKING:
    from wye.data import RoutingData
    from wye.query.chat_models.base import Message
    from wye.query.policy import Policy


@dataclass(frozen=True)
class CategoryTrace:
    """Why a query went where the table sent it.

    Attributes:
        category: the row of the table; `general` where the query was uncertain.
        posterior: probability of each category.
        uncertainty: by the router's measure.
        threshold: above which the query falls back.
        fallback: whether it did.
        expert: that the table names.
    """

    category: str
    posterior: Mapping[str, float]
    uncertainty: float
    threshold: float
    fallback: bool
    expert: str


@dataclass(kw_only=True, eq=False, repr=False)
class CompositionOfExpertsRouter(PlacingRouter):
    """A category classifier and a table of experts within a budget of size.

    Only hosted experts are among `models_`. Without a policy, `route` follows the table; a policy
    chooses by the estimates of the hosted experts instead.

    Args:
        head: `knn` (votes), `linear` (softmax regression), `svm` or `mlp`.
        k: neighbours that vote, and that say how unlike the training queries a query is.
        shrinkage: weight of a model's overall mean in each cell of the table, in queries.
        budget: billions of parameters that all hosted experts may have together; None for all.
        size_penalty: quality that a billion active parameters must be worth (mu).
        solver: `milp` or `enumerate`.
        uncertainty: `distance`, `entropy`, `probability` or `none`.
        threshold: uncertainty above which a query goes to `general`; learned when None.
        embedder, calibration, max_references, seed: see `EmbeddedRouter`.

    Attributes:
        table_: expert of each category, by name; edit it with `assign`.
        hosting_: what the integer programme found.
    """

    name = "composition-of-experts"
    stacked = False
    n_folds = 3

    head: str = "knn"
    k: int = 20
    shrinkage: float = 20.0
    budget: float | None = None
    size_penalty: float = 0.0
    solver: str = "milp"
    uncertainty: str = "distance"
    threshold: float | None = None

    def fit(self, data: RoutingData, *, unlabelled: Sequence[str] = ()) -> Self:
        """Learn the categories from the column `dataset`, fill the table, host experts.

        Args:
            data: outcomes; `params_b` of the models where there is a budget or a penalty.
            unlabelled: queries without category or outcome; the heads other than `knn` learn from
                those whose labelled neighbours agree.

        Raises:
            RouterError: a parameter is wrong, there is no outcome, or no expert fits the budget.
        """
        self._unlabelled = tuple(unlabelled)
        super().fit(data)
        self.pool_ = self.models_
        self.sizes_ = data.models["params_b"].to_numpy(np.float64, na_value=np.nan)
        self.available_ = np.ones(len(self.pool_), np.bool_)
        return self.host(budget=self.budget, size_penalty=self.size_penalty)

    def host(self, *, budget: float | None = None, size_penalty: float = 0.0) -> Self:
        """Solve the integer programme again, for another budget or penalty; nothing is learned.

        Raises:
            NotFittedError: before `fit`.
            RouterError: no expert fits the budget, or a size is unknown.
        """
        self._require_fitted()
        estimator, kept = self.composition(), np.flatnonzero(self.available_)
        found = host_experts(
            estimator.table_[:, kept],
            estimator.traffic_,
            self.sizes_[kept],
            budget=budget,
            size_penalty=size_penalty,
            solver=self.solver,
        )
        hosted = np.zeros(len(self.pool_), np.bool_)
        hosted[kept[found.hosted]] = True
        expert = kept[found.expert]
        self.hosting_: Hosting = replace(found, hosted=hosted, expert=expert)
        self.hosted_within_ = (budget, size_penalty)
        self.table_ = {
            name: self.pool_[m] for name, m in zip(estimator.names_, expert.tolist(), strict=True)
        }
        # Without a budget idle experts cost nothing, and a policy may still want them.
        self.kept_ = kept if budget is None else np.flatnonzero(hosted)
        self.models_ = tuple(self.pool_[m] for m in self.kept_)
        return self

    def assign(self, category: str, model: str) -> Self:
        """Edit the table: queries of `category` go to `model` from here on.

        Raises:
            NotFittedError: before `fit`.
            RouterError: no such category, or the model is not hosted.
        """
        self._column(model)
        if category not in self.table_:
            raise RouterError(f"no category {category!r}; the table has {list(self.table_)}")
        self.table_ = self.table_ | {category: model}
        return self

    def remove_model(self, name: str) -> Self:
        """Let a model leave; the table is solved again without it.

        Raises:
            NotFittedError: before `fit`.
            RouterError: no such model, or it is the last one.
        """
        self._column(name)
        left = self.available_.copy()
        left[self.pool_.index(name)] = False
        if not left.any():
            raise RouterError(f"{name!r} is the last model of this router; it cannot be removed")
        before, self.available_ = self.available_, left
        try:
            return self.host(budget=self.hosted_within_[0], size_penalty=self.hosted_within_[1])
        except RouterError:
            self.available_ = before
            raise

    def add_model(
        self,
        name: str,
        texts: Sequence[str],
        quality: Sequence[float],
        *,
        params_b: float | None = None,
        cost_usd: float | None = None,
        latency_s: float | None = None,
        price_in_per_mtok: float | None = None,
        price_out_per_mtok: float | None = None,
    ) -> Self:
        """Let a model join from its measured answers; the table is solved again with it.

        Its cell of a category is its answers to queries of that category, shrunk to its mean over
        all of them as those of the other models are.

        Args:
            name, texts, quality, cost_usd, latency_s, price_in_per_mtok, price_out_per_mtok: see
                `JoiningRouter.add_model`.
            params_b: its size in billions of parameters, needed where there is a budget or a price
                on size.

        Raises:
            NotFittedError: before `fit`.
            RouterError: the name is taken, `quality` does not fit, or a size is needed.
        """
        self._require_fitted()
        budget, size_penalty = self.hosted_within_
        if params_b is None and (budget is not None or size_penalty > 0):
            raise RouterError(f"{name!r} needs params_b: this router hosts by size")
        if name in self.pool_:
            raise RouterError(f"a model {name!r} was learned already; it cannot join again")
        super().add_model(
            name,
            texts,
            quality,
            cost_usd=cost_usd,
            latency_s=latency_s,
            price_in_per_mtok=price_in_per_mtok,
            price_out_per_mtok=price_out_per_mtok,
        )
        self.pool_ = (*self.pool_, name)
        self.sizes_ = np.append(self.sizes_, np.nan if params_b is None else params_b)
        self.available_ = np.append(self.available_, True)
        return self.host(budget=budget, size_penalty=size_penalty)

    def trace(self, texts: Sequence[str]) -> list[CategoryTrace]:
        """Category, posterior, uncertainty and expert of each text.

        Raises:
            NotFittedError: before `fit`.
            RouterError: `texts` is not a sequence of strings.
        """
        self._require_fitted()
        estimator = self.composition()
        row, posterior, spread = estimator.rows(self._inputs(texts))
        names = estimator.names_
        return [
            CategoryTrace(
                category=names[row[q]],
                posterior=dict(zip(names, posterior[q].tolist(), strict=True)),
                uncertainty=float(spread[q]),
                threshold=estimator.threshold_,
                fallback=bool(spread[q] > estimator.threshold_),
                expert=self.table_[names[row[q]]],
            )
            for q in range(len(texts))
        ]

    def route(
        self,
        texts: Sequence[str],
        policy: Policy | None = None,
        *,
        allowed: BoolArray | None = None,
        seed: int | None = None,
    ) -> Routing:
        """Follow the table; with a policy, choose by the estimates of the hosted experts.

        Where the expert of the table is not allowed, the best allowed estimate decides.
        """
        if policy is None:
            self._require_fitted()
            allowed = self._by_table(texts, allowed)
        return super().route(texts, policy, allowed=allowed, seed=seed)

    def route_conversations(
        self, conversations: Sequence[Sequence[Message]], policy: Policy | None = None
    ) -> Routing:
        """Choose an expert for the next answer of each conversation, on its last two user turns."""
        return self.route([routed_text(c) for c in conversations], policy)

    def _by_table(self, texts: Sequence[str], allowed: BoolArray | None) -> BoolArray | None:
        estimator = self.composition()
        expert = np.array([self.models_.index(self.table_[n]) for n in estimator.names_])
        chosen = expert[estimator.rows(self._inputs(texts))[0]]
        own = np.zeros((len(chosen), len(self.models_)), np.bool_)
        own[np.arange(len(chosen)), chosen] = True
        if allowed is None:
            return own
        given = np.asarray(allowed)
        if given.dtype != np.bool_ or given.shape not in (own.shape, own.shape[1:]):
            return allowed
        both = own & given
        return np.where(both.any(axis=1, keepdims=True), both, given)

    def _training_inputs(self, data: RoutingData) -> QueryInputs:
        self._pool = self.embedder_.embed(self._unlabelled) if self._unlabelled else None
        return super()._training_inputs(data)

    def composition(self) -> CompositionEstimator:
        """The fitted estimator: categories, their table A and the traffic of each row."""
        estimator = self.estimators_["composition"]
        assert isinstance(estimator, CompositionEstimator)
        return estimator

    def _check_parameters(self) -> None:
        super()._check_parameters()
        for name, value, known in (
            ("head", self.head, HEADS),
            ("solver", self.solver, SOLVERS),
            ("uncertainty", self.uncertainty, MEASURES),
        ):
            if value not in known:
                raise RouterError(f"{name} is {value!r}, expected one of {list(known)}")
        if self.k < 1 or not self.shrinkage >= 0:
            raise RouterError(
                f"k is {self.k} and shrinkage {self.shrinkage}; expected k of 1 or more and a "
                "shrinkage of 0 or more"
            )

    def _estimators(self) -> dict[str, QualityEstimator]:
        return {
            "composition": CompositionEstimator(
                head=self.head,
                k=self.k,
                shrinkage=self.shrinkage,
                uncertainty=self.uncertainty,
                threshold=self.threshold,
                pool=getattr(self, "_pool", None),
                seed=self.seed,
            )
        }

    def get_state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """What was learned: arrays and JSON-serialisable values."""
        arrays, values = super().get_state()
        arrays |= {
            "hosting/sizes": self.sizes_,
            "hosting/available": self.available_,
            "hosting/hosted": self.hosting_.hosted,
            "hosting/expert": self.hosting_.expert,
            "hosting/figures": np.array([self.hosting_.objective, self.hosting_.size]),
        }
        values |= {
            "pool": list(self.pool_),
            "table": dict(self.table_),
            "within": list(self.hosted_within_),
        }
        return arrays, values

    def set_state(self, arrays: Mapping[str, NDArray[Any]], values: Mapping[str, Any]) -> None:
        """Restore what `get_state` returned."""
        super().set_state(arrays, values)
        self.sizes_, self.available_ = arrays["hosting/sizes"], arrays["hosting/available"]
        objective, size = arrays["hosting/figures"].tolist()
        self.hosting_ = Hosting(arrays["hosting/hosted"], arrays["hosting/expert"], objective, size)
        self.pool_, self.table_ = tuple(values["pool"]), dict(values["table"])
        budget, size_penalty = values["within"]
        self.hosted_within_ = (budget, size_penalty)


def routed_text(messages: Sequence[Message], *, turns: int = 2) -> str:
    """The text that a turn of a conversation is routed on: its last user turns, oldest first.

    Raises:
        RouterError: there is no user turn.

    Example:
        >>> chat = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
        >>> routed_text([*chat, {"role": "user", "content": "Who are you?"}])
        'Hi\\nWho are you?'
    """
    said = [m["content"] for m in messages if m["role"] == "user"]
    if not said:
        raise RouterError(f"a conversation of {len(messages)} messages has no user turn to route")
    return "\n".join(said[-turns:])
