"""FusionFactory: one log pays three times, by routing, by thoughts, and by distillation.

Routes a query to a model (this file's router), to reusable thoughts that are put before it
(`wye.query.prompts.thought_memory`), or nowhere: the best answers become a training set for one
model (`wye.query.answers.distillation`). Before an answer exists, on the embedding of the query;
thoughts on its task as well. Source: Feng et al., FusionFactory: Fusing LLM Capabilities with
Routing Data, arXiv 2507.10540.

    P, C       = quality and cost, min-max scaled within the task on training queries
    U_qm       = a P_qm - b C_qm,   (a, b) = (1, 0), (0.5, 0.5) or (0.2, 0.8)
    label of q = argmax_m U_qm, of equals the best on average

    method knn     mean U of the 20 nearest training queries
           svm     one linear support vector machine an arm
           mlp     one hidden layer under a softmax over arms
           bert    cosine of query and arm in a shared space, by maps of frozen embeddings
           graph   `wye.query.graphrouter` with h = 8 and 70 steps

Ours, where the repository says nothing or takes a large network: k = 20, the linear machine, and
the frozen embeddings of `bert`. `svm`, `mlp` and `bert` say which model is best and not how good
it is: the reward of a model is what it was measured to earn on held-out queries for which the same
model is named, so all queries with one name have one row of qualities, and the named model is
chosen unless another earned more there. A reward becomes a quality by one logistic map for all
models. Where a policy weighs quality against cost query by query, take `knn` or `graph`.

Shape letters: Q queries, M models.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from wye.query.base import RouterError
from wye.query.learning.arm_classifiers import BestArmScores, DualEncoderScores, NeighbourScores
from wye.query.learning.edge_prediction import GraphEstimator
from wye.query.learning.embedded import EmbeddedRouter
from wye.query.learning.estimator import QualityEstimator
from wye.query.learning.inputs import QueryInputs
from wye.query.learning.model_descriptions import described_models
from wye.query.learning.scenario import check_scenario

if TYPE_CHECKING:
    from wye.data import RoutingData

METHODS = ("knn", "svm", "mlp", "bert", "graph")
GRAPH_HIDDEN, GRAPH_STEPS = 8, 70


@dataclass(kw_only=True, eq=False, repr=False)
class FusionFactoryRouter(EmbeddedRouter):
    """The query level of FusionFactory, by one of its routers.

    Args:
        method: `knn`, `svm`, `mlp`, `bert` or `graph`, which learns with PyTorch.
        scenario: weights (a, b) of quality and cost in the reward that is learned.
        k: neighbours of `knn`.
        descriptions: a sentence on each model, by name, for `bert` and `graph`.
        embedder, calibration, max_references, seed: see `EmbeddedRouter`.
    """

    name = "fusionfactory"
    stacked = False
    n_folds = 2

    method: str = "knn"
    scenario: tuple[float, float] = (1.0, 0.0)
    k: int = 20
    descriptions: Mapping[str, str] | None = None

    def __post_init__(self) -> None:
        a, b = check_scenario(self.scenario)
        self.scenario = (a, b)

    def _training_inputs(self, data: RoutingData) -> QueryInputs:
        if self.method in ("bert", "graph"):
            texts = described_models(data, self.descriptions)
            self._described = self.embedder_.embed(texts).astype(np.float64)
        return super()._training_inputs(data)

    def _check_parameters(self) -> None:
        super()._check_parameters()
        if self.method not in METHODS:
            raise RouterError(f"method is {self.method!r}, expected one of {list(METHODS)}")
        if self.k < 1:
            raise RouterError(f"k is {self.k}, expected 1 or more")

    def _estimators(self) -> dict[str, QualityEstimator]:
        scenario = self.scenario
        described = getattr(self, "_described", np.zeros((0, 0)))
        if self.method == "knn":
            return {"knn": NeighbourScores(scenario=scenario, k=self.k)}
        if self.method == "bert":
            encoder = DualEncoderScores(scenario=scenario, described=described, seed=self.seed)
            return {"bert": encoder}
        if self.method == "graph":
            graph = GraphEstimator(
                described=described,
                scenario=scenario,
                hidden=GRAPH_HIDDEN,
                steps=GRAPH_STEPS,
                seed=self.seed,
            )
            return {"graph": graph}
        head = BestArmScores(scenario=scenario, head=self.method, seed=self.seed)
        return {self.method: head}
