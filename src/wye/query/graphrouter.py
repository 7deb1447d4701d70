"""GraphRouter: the missing edges of a graph of tasks, queries and models are predicted.

Routes a query to a model, before an answer exists, on its embedding, one description of each model,
and the logged outcomes as edges. Source: Feng, Shen and You, GraphRouter: A Graph-based Router for
LLM Selections, arXiv 2410.03834. Encoder and decoder: `wye.query.learning.bipartite`; reward
U = a P - b C of a scenario (a, b): `wye.query.learning.scenario`.

    label y_qm = 1 where U_qm is the highest of the query, else 0
    loss = mean over hidden edges of BCE(sigmoid(mean(x0_q * x2_m)), y_qm)

A model joins as a node: its description, and its few measured answers as visible edges; weights
stay. A query receives no messages, so its scores do not depend on other queries.

Ours, where the paper's code is silent or takes another way. A new query has no task, so the task
embedding of every query, in training too, is what its nearest training queries say: the mean of
their tasks' descriptions weighed by similarity, where a task is described by the mean vector of its
queries. Queries on which all models are equal are left out of the loss; several models may be the
best of a query, since what they cost counts by the scenario and the policy. A fifth of the queries
chooses the step with the best reward and is visible afterwards. A score becomes a quality by one
logistic map for all models. Models are learned in the order of their names, so that the order of
columns changes nothing.

Shape letters: Q queries, M models, D embedding width, T tasks, h hidden size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np

from wye.query.base import RouterError
from wye.query.learning.edge_prediction import GraphEstimator
from wye.query.learning.estimator import QualityEstimator
from wye.query.learning.inputs import QueryInputs
from wye.query.learning.joining import PlacingRouter
from wye.query.learning.model_descriptions import described, described_models
from wye.query.learning.scenario import check_scenario

if TYPE_CHECKING:
    from wye.data import RoutingData


@dataclass(frozen=True)
class EdgeTrace:
    """A measured outcome that speaks for a model on a query, or against it.

    Attributes:
        model: that it is an outcome of.
        query_id: of the log.
        contribution: to the logit of the model, above 0 where it speaks for it.
    """

    model: str
    query_id: str
    contribution: float


@dataclass(kw_only=True, eq=False, repr=False)
class GraphRouter(PlacingRouter):
    """A graph of queries and models; the edge with the best score is taken.

    Args:
        descriptions: a sentence on each model, by name; made from the models' figures where absent.
        scenario: weights (a, b) of quality and cost in the reward that is learned.
        hidden: h.
        steps, draws: optimiser steps, and masks of each.
        visible_share: of the training edges that is visible in a mask.
        visible_edges: False learns and predicts from descriptions alone.
        learning_rate, weight_decay: of AdamW.
        embedder, calibration, max_references, seed: see `EmbeddedRouter`.
    """

    name = "graphrouter"
    stacked = False
    n_folds = 2

    descriptions: Mapping[str, str] | None = None
    scenario: tuple[float, float] = (1.0, 0.0)
    hidden: int = 32
    steps: int = 60
    draws: int = 4
    visible_share: float = 0.5
    visible_edges: bool = True
    learning_rate: float = 1e-2
    weight_decay: float = 1e-4

    def __post_init__(self) -> None:
        a, b = check_scenario(self.scenario)
        self.scenario = (a, b)

    def add_model(
        self,
        name: str,
        texts: Sequence[str],
        quality: Sequence[float],
        *,
        cost_usd: float | None = None,
        latency_s: float | None = None,
        price_in_per_mtok: float | None = None,
        price_out_per_mtok: float | None = None,
        description: str | None = None,
    ) -> Self:
        """Let a model join as a node: a description, and its measured answers as visible edges.

        Args:
            name, texts, quality, cost_usd, latency_s, price_in_per_mtok, price_out_per_mtok: see
                `JoiningRouter.add_model`.
            description: a sentence on the model; made from its name and prices when None.

        Raises:
            NotFittedError: before `fit`.
            RouterError: the name is taken, or `quality` does not fit.
        """
        said = description or (self.descriptions or {}).get(name)
        text = said or described(name, price_in=price_in_per_mtok, price_out=price_out_per_mtok)
        estimator = self._joiner()
        assert isinstance(estimator, GraphEstimator)
        estimator.newcomer = self.embedder_.embed([text])[0].astype(np.float64)
        return super().add_model(
            name,
            texts,
            quality,
            cost_usd=cost_usd,
            latency_s=latency_s,
            price_in_per_mtok=price_in_per_mtok,
            price_out_per_mtok=price_out_per_mtok,
        )

    def trace(self, text: str, data: RoutingData, *, k: int = 5) -> list[EdgeTrace]:
        """The k outcomes of a log that moved the scores of a query most, strongest first.

        Gradient times input at the last messages of the graph (`edge_contributions`).

        Args:
            text: the query.
            data: the log that was learned from, or a part of it.
            k: 1 or more.

        Raises:
            NotFittedError: before `fit`.
            RouterError: k is below 1.
        """
        estimator = self._joiner()
        assert isinstance(estimator, GraphEstimator)
        if k < 1:
            raise RouterError(f"k is {k}, expected 1 or more")
        texts = described_models(data, self.descriptions)
        estimator.described = self.embedder_.embed(texts).astype(np.float64)
        moved = estimator.contributions(
            self._inputs([text]), self._inputs(data.texts), data.quality, data.cost
        )
        ids, names = data.queries["query_id"].tolist(), data.model_names
        strongest = np.argsort(-np.abs(moved), axis=None, kind="stable")[:k]
        rows, columns = np.unravel_index(strongest, moved.shape)
        return [
            EdgeTrace(names[m], str(ids[q]), float(moved[q, m]))
            for q, m in zip(rows.tolist(), columns.tolist(), strict=True)
        ]

    def _training_inputs(self, data: RoutingData) -> QueryInputs:
        texts = described_models(data, self.descriptions)
        self._described = self.embedder_.embed(texts).astype(np.float64)
        return super()._training_inputs(data)

    def _check_parameters(self) -> None:
        super()._check_parameters()
        if self.hidden < 1 or self.steps < 1 or self.draws < 1:
            raise RouterError(
                f"hidden is {self.hidden}, steps {self.steps} and draws {self.draws}, expected 1 "
                "or more of each"
            )
        if not 0.0 < self.visible_share < 1.0:
            raise RouterError(f"visible_share is {self.visible_share}, expected between 0 and 1")

    def _estimators(self) -> dict[str, QualityEstimator]:
        return {
            "graph": GraphEstimator(
                described=getattr(self, "_described", np.zeros((0, 0))),
                scenario=self.scenario,
                hidden=self.hidden,
                steps=self.steps,
                draws=self.draws,
                visible_share=self.visible_share,
                visible_edges=self.visible_edges,
                learning_rate=self.learning_rate,
                weight_decay=self.weight_decay,
                seed=self.seed,
            )
        }
