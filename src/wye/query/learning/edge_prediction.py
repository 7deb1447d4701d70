"""Quality from the predicted edges of a graph of queries and models.

The estimator behind `wye.query.graphrouter`, which says what is published and what is ours; encoder
and decoder: `wye.query.learning.bipartite`.

Shape letters: Q queries, M models, D embedding width, h hidden size.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from wye.query.base import FloatArray, RouterError
from wye.query.learning.bipartite import (
    edge_contributions,
    edge_logits,
    model_nodes,
    query_nodes,
    start,
    train_graph,
)
from wye.query.learning.categories import category_labels
from wye.query.learning.estimator import fitted_std, mean_std, model_means
from wye.query.learning.inputs import QueryInputs
from wye.query.learning.joining import PlacingEstimator
from wye.query.learning.label_heads import VotingHead
from wye.query.learning.named_arrays import prefixed, under
from wye.query.learning.scenario import TaskScale, reward, winners
from wye.query.learning.score_link import ScoreLink

TASK_NEIGHBOURS = 20
HELD_OUT = 5
TRAINING_QUERIES = 8192


class GraphEstimator(PlacingEstimator):
    """Scores of the edges between queries and models.

    Args:
        described: `[M, D]` embedding of each model's description.
        scenario: weights (a, b) of quality and cost.
        hidden: h.
        steps, draws: optimiser steps, and masks of each.
        visible_share: of the training edges that is visible in a mask.
        visible_edges: whether edges are ever visible; without them descriptions alone speak.
        learning_rate, weight_decay: of AdamW.
        seed: of first weights, masks and the queries held out.
    """

    def __init__(
        self,
        *,
        described: FloatArray,
        scenario: tuple[float, float] = (1.0, 0.0),
        hidden: int = 32,
        steps: int = 60,
        draws: int = 4,
        visible_share: float = 0.5,
        visible_edges: bool = True,
        learning_rate: float = 1e-2,
        weight_decay: float = 1e-4,
        seed: int = 0,
    ) -> None:
        self.described = described
        self.scenario = scenario
        self.hidden = hidden
        self.steps = steps
        self.draws = draws
        self.visible_share = visible_share
        self.visible_edges = visible_edges
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.seed = seed
        self.newcomer: FloatArray | None = None
        self.mean_cost_: float = 0.0

    @property
    def neighbours_read(self) -> int:
        """How many neighbours of a query `predict` reads."""
        return TASK_NEIGHBOURS

    @property
    def levels(self) -> FloatArray:
        """Expected quality of each model averaged over the training queries, `[M]`."""
        return np.asarray(self.levels_, np.float64)

    def fit(self, inputs: QueryInputs, quality: FloatArray) -> Self:
        """Learn the graph's weights, then pass the whole log to the models.

        Raises:
            RouterError: a cost is needed and not known.
        """
        assert inputs.logged is not None
        self._learn_tasks(inputs, quality, inputs.logged.cost)
        order = np.argsort(np.array(inputs.logged.names), kind="stable")
        edges, utility = self._edges(inputs, quality, inputs.logged.cost)
        paid = edges[..., 1][np.isfinite(inputs.logged.cost)]
        self.mean_cost_ = float(paid.mean()) if paid.size else 0.0
        won = winners(utility)
        known = np.isfinite(utility)
        labels = np.where(known & won.any(axis=1, keepdims=True), won, np.nan)
        shuffled = np.random.default_rng(self.seed).permutation(len(inputs))[:TRAINING_QUERIES]
        held_out = np.sort(shuffled[::HELD_OUT])
        learned = np.sort(np.delete(shuffled, np.s_[::HELD_OUT]))
        if not learned.size:
            learned = held_out
        described = self.described[order].astype(np.float32)
        tasks = self._tasks(inputs)
        first = start(
            inputs.vectors.shape[1],
            tasks.shape[1],
            described.shape[1],
            self.hidden,
            self.seed,
        )
        edges_o, known_o, utility_o = edges[:, order], known[:, order], utility[:, order]

        def validate(p: Mapping[str, Any]) -> tuple[float, float]:
            halves = query_nodes(p, inputs.vectors[learned], tasks[learned])
            visible = self._visible(known_o[learned])
            states = model_nodes(p, halves, described, edges_o[learned], visible)
            asked = query_nodes(p, inputs.vectors[held_out], tasks[held_out])
            logits = edge_logits(asked, states)
            choice = np.where(known_o[held_out], logits, -np.inf).argmax(axis=1)
            return float(np.nanmean(utility_o[held_out, choice])), -_cross_entropy(
                logits, labels[held_out][:, order]
            )

        trained = train_graph(
            "graphrouter",
            first,
            (inputs.vectors[learned], tasks[learned], described),
            edges_o[learned],
            known_o[learned],
            labels[learned][:, order],
            validate,
            steps=self.steps,
            draws=self.draws,
            visible_share=self.visible_share if self.visible_edges else 0.0,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            seed=self.seed,
        )
        self.parameters_ = {k: v.astype(np.float64) for k, v in trained.items()}
        halves = query_nodes(self.parameters_, inputs.vectors, tasks)
        states = model_nodes(self.parameters_, halves, described, edges_o, self._visible(known_o))
        self.states_ = np.empty_like(states)
        self.states_[order] = states
        self._learn_link(inputs, quality, halves)
        return self

    def _learn_link(
        self, inputs: QueryInputs, quality: FloatArray, halves: tuple[FloatArray, FloatArray]
    ) -> None:
        scores = edge_logits(halves, self.states_)
        self.link_ = ScoreLink.fit(scores, quality)
        expected = self.link_.apply(scores)
        self.levels_ = expected.mean(axis=0)
        self.mean_std_ = mean_std(quality, model_means(quality))
        self.std_ = np.hypot(fitted_std(quality, expected, self.hidden), self.mean_std_)

    def scores(self, inputs: QueryInputs) -> FloatArray:
        """`[Q, M]` logits of the edges of queries."""
        halves = query_nodes(self.parameters_, inputs.vectors, self._tasks(inputs))
        return np.asarray(edge_logits(halves, self.states_), np.float64)

    def predict(self, inputs: QueryInputs) -> tuple[FloatArray, FloatArray]:
        """Expected quality and its standard uncertainty, each `[Q, M]`."""
        quality = self.link_.apply(self.scores(inputs))
        return quality, np.broadcast_to(self.std_, quality.shape)

    def join(self, inputs: QueryInputs, quality: FloatArray) -> Self:
        """Add a node with its visible edges; `newcomer` `[D]` is its embedded description.

        In a scenario with cost its edges carry the mean scaled cost, the cost of its few answers
        being the cost model's business.
        """
        assert self.newcomer is not None
        column = quality[:, None]
        known = np.full_like(column, np.nan)
        edges, _ = self._edges(inputs, column, known, joining=True)
        halves = query_nodes(self.parameters_, inputs.vectors, self._tasks(inputs))
        described = self.newcomer[None].astype(np.float32)
        visible = self._visible(np.ones(column.shape, np.bool_))
        state = model_nodes(self.parameters_, halves, described, edges, visible)
        self.states_ = np.concatenate([self.states_, state])
        expected = self.link_.apply(edge_logits(halves, state))
        own = mean_std(column, column.mean(axis=0))
        self.mean_std_ = np.append(self.mean_std_, own)
        fitted = fitted_std(column, expected, self.hidden)
        self.std_ = np.append(self.std_, np.hypot(fitted, own))
        self.levels_ = np.append(self.levels_, expected.mean())
        return self

    def contributions(
        self, asked: QueryInputs, inputs: QueryInputs, quality: FloatArray, cost: FloatArray
    ) -> FloatArray:
        """What the edges of a log add to the logits of one query, `[Q, M]`.

        Args:
            asked: the query, Q = 1.
            inputs, quality, cost: queries of the log and `[Q, M]` outcomes, NaN where unknown.
        """
        edges, _ = self._edges(inputs, quality, cost)
        halves, own = (
            query_nodes(self.parameters_, i.vectors, self._tasks(i)) for i in (inputs, asked)
        )
        visible = self._visible(np.isfinite(quality)).astype(np.float64)
        return edge_contributions(self.parameters_, halves, self.described, edges, visible, own)

    def _learn_tasks(self, inputs: QueryInputs, quality: FloatArray, cost: FloatArray) -> None:
        names, labels = category_labels(inputs)
        owner = np.zeros((len(labels), len(names)))
        owner[np.arange(len(labels)), labels] = 1.0
        self.described_tasks_ = (owner.T @ inputs.vectors) / owner.sum(axis=0)[:, None]
        self.voting_ = VotingHead(TASK_NEIGHBOURS).fit(inputs, inputs.vectors, labels, len(names))
        self.performance_ = TaskScale.fit(quality, labels, len(names))
        self.price_ = TaskScale.fit(cost, labels, len(names))

    def _edges(
        self, inputs: QueryInputs, quality: FloatArray, cost: FloatArray, *, joining: bool = False
    ) -> tuple[NDArray[np.float32], FloatArray]:
        """Features `[Q, M, 3]` of the edges and utility `[Q, M]`."""
        if inputs.logged is None:
            task = self.voting_.posterior(inputs, inputs.vectors).argmax(axis=1)
        else:
            task = category_labels(inputs)[1]
        performance = self.performance_.apply(quality, task)
        scaled = self.price_.apply(cost, task)
        known = np.isfinite(performance)
        if joining:
            scaled = np.full_like(scaled, self.mean_cost_)
        if self.scenario[1] > 0 and not np.isfinite(scaled[known]).all():
            raise RouterError(
                f"scenario {self.scenario} weighs cost, and the log has outcomes without one; give "
                "`cost_usd`, or route with scenario (1.0, 0.0)"
            )
        utility = reward(performance, scaled, self.scenario)
        features = np.stack([utility, scaled, performance], axis=2)
        return np.nan_to_num(features).astype(np.float32), utility

    def _tasks(self, inputs: QueryInputs) -> NDArray[np.float32]:
        """`[Q, D]` embedding of the task that the neighbours of each query speak for."""
        share = self.voting_.posterior(inputs, inputs.vectors)
        return np.asarray(share @ self.described_tasks_, np.float32)

    def _visible(self, known: NDArray[np.bool_]) -> NDArray[np.float32]:
        return known.astype(np.float32) * np.float32(self.visible_edges)

    def get_state(self) -> dict[str, NDArray[Any]]:
        """Weights, states of the models, tasks and scales."""
        own = {
            "states": self.states_,
            "levels": self.levels_,
            "mean_std": self.mean_std_,
            "std": self.std_,
            "tasks": self.described_tasks_,
            "scales": np.stack([*_bounds(self.performance_), *_bounds(self.price_)]),
            "figures": np.array([self.link_.slope, self.link_.intercept, self.mean_cost_]),
        }
        voting = prefixed("voting.", self.voting_.get_state())
        return own | voting | prefixed("p.", self.parameters_)

    def set_state(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Restore what `get_state` returned."""
        self.states_, self.levels_ = arrays["states"], arrays["levels"]
        self.mean_std_, self.std_ = arrays["mean_std"], arrays["std"]
        self.described_tasks_ = arrays["tasks"]
        low, high, cheap, dear = arrays["scales"]
        self.performance_, self.price_ = TaskScale(low, high), TaskScale(cheap, dear)
        slope, intercept, self.mean_cost_ = arrays["figures"].tolist()
        self.link_ = ScoreLink(slope, intercept)
        self.voting_ = VotingHead(TASK_NEIGHBOURS)
        self.voting_.set_state(under("voting.", arrays))
        self.parameters_ = under("p.", arrays)


def _cross_entropy(logits: FloatArray, labels: FloatArray) -> float:
    asked = np.isfinite(labels)
    if not asked.any():
        return 0.0
    z, y = logits[asked].astype(np.float64), labels[asked]
    return float((np.logaddexp(0.0, z) - y * z).mean())


def _bounds(scale: TaskScale) -> tuple[FloatArray, FloatArray]:
    return scale.low, scale.high
