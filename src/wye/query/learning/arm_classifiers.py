"""Scores of arms learned from rewards: neighbours, classifiers of the best arm, two encoders.

    neighbours:    score[q, m] = mean of U over the k nearest training queries that m answered
    best-arm head: score[q, m] = log P(m is best | x_q)      (`wye.query.learning.label_heads`)
    dual encoder:  score[q, m] = cos(x_q A, v_m B) / t, softmax over arms against the best arm

The scores of the last two say which arm is best and nothing of how good it is. There the reward of
arm m is what m was measured to earn on queries for which a classifier that had not learned from
them names the same arm:

    reward[q, m] = mean_m + sum_{r: g(r) = g(q)} (U_rm - mean_m) / (20 + n_gm),
    g(q) = argmax_m score[q, m]

so that the arm named is the best one unless another earned more where it is named. A mean reward
becomes a quality by one logistic map for all arms. Source: query level of FusionFactory,
arXiv 2507.10540. Its BERT router fine-tunes one text encoder on queries and names of arms; here two
linear maps are learned on frozen embeddings of both, by L-BFGS.

Shape letters: Q queries, M arms, D embedding width, h shared width, K neighbours.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from copy import copy
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from wye.query.base import FloatArray, RouterError
from wye.query.learning.categories import category_labels
from wye.query.learning.estimator import QualityEstimator, fitted_std, folds, mean_std, model_means
from wye.query.learning.group_table import group_table
from wye.query.learning.inputs import CELLS_AT_ONCE, QueryInputs
from wye.query.learning.label_heads import LabelHead, label_head, one_hot, softmax
from wye.query.learning.lbfgs import Arrays, minimise
from wye.query.learning.named_arrays import prefixed, under
from wye.query.learning.scenario import TaskScale, best_arms, reward
from wye.query.learning.score_link import ScoreLink

LEAST_PROBABILITY = 1e-4
# Held-out queries that the table of a classifier is learned from: parts until there are so many.
LEVEL_FOLDS, LEVEL_QUERIES = 3, 2000
SHRINKAGE = 20.0
TRAINING_QUERIES = 8192
TEMPERATURE = 0.1
PENALTY = 1e-3


class ScoredEstimator(QualityEstimator):
    """Learns scores from rewards U = a P - b C, scaled within each task of the log.

    Args:
        scenario: weights (a, b) of quality and cost.
    """

    scenario: tuple[float, float]
    # Parameters behind the scores of one arm, for the uncertainty.
    parameters: int = 20

    @abstractmethod
    def learn(self, inputs: QueryInputs, utility: FloatArray, cost: FloatArray) -> None:
        """Learn from rewards and scaled costs `[Q, M]`, NaN where unknown."""

    @abstractmethod
    def scores(self, inputs: QueryInputs) -> FloatArray:
        """`[Q, M]` scores, more is better, without a unit."""

    def fit(self, inputs: QueryInputs, quality: FloatArray) -> Self:
        """Scale quality and cost within tasks, learn scores, and map them to qualities.

        Raises:
            RouterError: the scenario weighs cost and an outcome has none.
        """
        assert inputs.logged is not None
        _, task = category_labels(inputs)
        n_tasks = int(task.max()) + 1
        cost = inputs.logged.cost
        performance = TaskScale.fit(quality, task, n_tasks).apply(quality, task)
        scaled = TaskScale.fit(cost, task, n_tasks).apply(cost, task)
        if self.scenario[1] > 0 and not np.isfinite(scaled[np.isfinite(performance)]).all():
            raise RouterError(
                f"scenario {self.scenario} weighs cost, and the log has outcomes without one; give "
                "`cost_usd`, or route with scenario (1.0, 0.0)"
            )
        utility = reward(performance, scaled, self.scenario)
        self.learn(inputs, utility, scaled)
        self._learn_level(inputs, quality, utility, scaled)
        return self

    def _learn_level(
        self, inputs: QueryInputs, quality: FloatArray, utility: FloatArray, cost: FloatArray
    ) -> None:
        """Learn how good an arm is from how it scores."""
        scores = self.scores(inputs)
        self.link_ = ScoreLink.fit(scores, quality)
        deviation = mean_std(quality, model_means(quality))
        expected = self.link_.apply(scores)
        self.std_ = np.hypot(fitted_std(quality, expected, self.parameters), deviation)

    def predict(self, inputs: QueryInputs) -> tuple[FloatArray, FloatArray]:
        """Expected quality and its standard uncertainty, each `[Q, M]`."""
        quality = self.link_.apply(self.scores(inputs))
        return quality, np.broadcast_to(self.std_, quality.shape)

    def get_state(self) -> dict[str, NDArray[Any]]:
        """The map to qualities and the uncertainty; a subclass adds what scores need."""
        return self.link_.arrays() | {"std": self.std_}

    def set_state(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Restore what `get_state` returned."""
        self.link_, self.std_ = ScoreLink.from_arrays(arrays), arrays["std"]


class NeighbourScores(ScoredEstimator):
    """Mean reward of the k nearest training queries; an arm that none met gets its mean."""

    def __init__(self, *, scenario: tuple[float, float], k: int = 20) -> None:
        self.scenario = scenario
        self.k = k

    @property
    def neighbours_read(self) -> int:
        """How many neighbours of a query `predict` reads."""
        return self.k

    def learn(self, inputs: QueryInputs, utility: FloatArray, cost: FloatArray) -> None:
        """Keep the rewards of the references."""
        rows = np.flatnonzero(inputs.reference >= 0)
        held = np.full((inputs.n_references, utility.shape[1]), np.nan)
        held[inputs.reference[rows]] = utility[rows]
        self.known_ = np.isfinite(held)
        self.rewards_ = np.where(self.known_, held, 0.0)
        counts = np.isfinite(utility).sum(axis=0)
        total = np.nan_to_num(utility).sum(axis=0)
        everywhere = float(total.sum() / max(1, counts.sum()))
        self.means_ = np.where(counts > 0, total / np.maximum(counts, 1), everywhere)

    def scores(self, inputs: QueryInputs) -> FloatArray:
        """Mean reward `[Q, M]` over the neighbours."""
        index = inputs.neighbours.index[:, : self.k]
        result = np.empty((len(inputs), self.means_.size))
        step = max(1, CELLS_AT_ONCE // max(1, index.shape[1] * self.means_.size))
        for start in range(0, len(inputs), step):
            part = index[start : start + step]
            count = self.known_[part].sum(axis=1)
            mean = self.rewards_[part].sum(axis=1) / np.maximum(count, 1)
            result[start : start + step] = np.where(count > 0, mean, self.means_)
        return result

    def get_state(self) -> dict[str, NDArray[Any]]:
        """Rewards of the references."""
        own = {"rewards": self.rewards_, "known": self.known_, "means": self.means_}
        return super().get_state() | own

    def set_state(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Restore what `get_state` returned."""
        super().set_state(arrays)
        self.rewards_, self.known_ = arrays["rewards"], arrays["known"]
        self.means_ = arrays["means"]


class ArmClassifier(ScoredEstimator):
    """Scores that say which arm is best; a table says what each earns where one is named."""

    def predict(self, inputs: QueryInputs) -> tuple[FloatArray, FloatArray]:
        """Expected quality and its standard uncertainty, each `[Q, M]`."""
        quality = self.link_.apply(self.table_[self.scores(inputs).argmax(axis=1)])
        return quality, np.broadcast_to(self.std_, quality.shape)

    def get_state(self) -> dict[str, NDArray[Any]]:
        """The table by named arm too; a subclass adds what scores need."""
        return super().get_state() | {"table": self.table_}

    def set_state(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Restore what `get_state` returned."""
        super().set_state(arrays)
        self.table_ = arrays["table"]

    def _learn_level(
        self, inputs: QueryInputs, quality: FloatArray, utility: FloatArray, cost: FloatArray
    ) -> None:
        named = self._named_unseen(inputs, utility, cost)
        rows = np.flatnonzero(named >= 0)
        a, b = self.scenario
        # From 0 to 1, as means of arms with unknown outcomes are.
        earned = (utility + b) / (a + b)
        owner = one_hot(named[rows], quality.shape[1])
        self.table_, _ = group_table(owner, earned[rows], model_means(earned), SHRINKAGE)
        reward_of = self.table_[named[rows]]
        self.link_ = ScoreLink.fit(reward_of, quality[rows])
        expected, deviation = self.link_.apply(reward_of), mean_std(quality, model_means(quality))
        self.std_ = np.hypot(fitted_std(quality[rows], expected, quality.shape[1]), deviation)

    def _named_unseen(
        self, inputs: QueryInputs, utility: FloatArray, cost: FloatArray
    ) -> NDArray[np.intp]:
        """`[Q]` the arm named by a classifier that had not seen the query; -1 where none did."""
        n = len(inputs)
        named = np.full(n, -1, np.intp)
        if n == 1:
            return np.asarray(self.scores(inputs).argmax(axis=1), np.intp)
        for part in folds(n, LEVEL_FOLDS, 0):
            rest = np.setdiff1d(np.arange(n), part)
            other = copy(self)
            other.learn(inputs.rows(rest), utility[rest], cost[rest])
            named[part] = other.scores(inputs.rows(part)).argmax(axis=1)
            if (named >= 0).sum() >= LEVEL_QUERIES:
                break
        return named


class BestArmScores(ArmClassifier):
    """Log-probability that an arm is the best, by a classifier: `svm`, `mlp`, `linear` or `knn`.

    Of equal arms the best on average is the label; what they cost counts by the scenario. Queries
    on which all are equal have none.
    """

    def __init__(
        self, *, scenario: tuple[float, float], head: str = "svm", k: int = 20, seed: int = 0
    ) -> None:
        self.scenario = scenario
        self.head = head
        self.k = k
        self.seed = seed

    @property
    def neighbours_read(self) -> int:
        """How many neighbours of a query `predict` reads."""
        return self.k if self.head == "knn" else 0

    def learn(self, inputs: QueryInputs, utility: FloatArray, cost: FloatArray) -> None:
        """Learn the best arm of each query, arms in the order of their names."""
        assert inputs.logged is not None
        labels, n_arms = best_arms(utility), utility.shape[1]
        self.order_ = np.argsort(np.array(inputs.logged.names), kind="stable")
        rank = np.argsort(self.order_)
        named = np.where(labels >= 0, rank[labels], -1).astype(np.intp)
        if (named < 0).all():
            # Nothing tells the arms apart: the best on average, or the first, is the label of all.
            level = np.nan_to_num(utility[:, self.order_]).sum(axis=0)
            named[:] = int(level.argmax())
        self.head_: LabelHead = label_head(self.head, k=self.k, seed=self.seed)
        self.head_.fit(inputs, inputs.vectors, named, n_arms)

    def scores(self, inputs: QueryInputs) -> FloatArray:
        """`[Q, M]` log-probability, bounded below."""
        posterior = self.head_.posterior(inputs, inputs.vectors)
        result = np.empty_like(posterior)
        result[:, self.order_] = np.log(np.maximum(posterior, LEAST_PROBABILITY))
        return result

    def get_state(self) -> dict[str, NDArray[Any]]:
        """The classifier."""
        head = prefixed("head.", self.head_.get_state())
        return super().get_state() | {"order": self.order_} | head

    def set_state(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Restore what `get_state` returned."""
        super().set_state(arrays)
        self.order_ = arrays["order"]
        self.head_ = label_head(self.head, k=self.k, seed=self.seed)
        self.head_.set_state(under("head.", arrays))


class DualEncoderScores(ArmClassifier):
    """Cosine of a query and an arm, each mapped into one space.

    Args:
        described: `[M, D]` embedding of each arm's description.
        width: h.
        seed: of the first maps and of the rows learned from where there are many.
    """

    def __init__(
        self,
        *,
        scenario: tuple[float, float],
        described: FloatArray,
        width: int = 32,
        seed: int = 0,
    ) -> None:
        self.scenario = scenario
        self.described = described
        self.width = width
        self.seed = seed

    def learn(self, inputs: QueryInputs, utility: FloatArray, cost: FloatArray) -> None:
        """Learn both maps on the best arm of each query."""
        labels = best_arms(utility)
        generator = np.random.default_rng(self.seed)
        rows = np.sort(generator.permutation(np.flatnonzero(labels >= 0))[:TRAINING_QUERIES])
        x, v = inputs.vectors[rows].astype(np.float64), self.described
        start = {
            "query": generator.standard_normal((inputs.vectors.shape[1], self.width)),
            "arm": generator.standard_normal((v.shape[1], self.width)),
        }
        if not rows.size:
            self.query_, self.arms_ = start["query"], _unit(v @ start["arm"])[0]
            return

        def loss(arrays: Arrays) -> tuple[float, Arrays]:
            return dual_encoder_loss(x, v, labels[rows], arrays)

        learned = minimise(start, loss, rounds=60)
        self.query_, self.arms_ = learned["query"], _unit(v @ learned["arm"])[0]

    def scores(self, inputs: QueryInputs) -> FloatArray:
        """`[Q, M]` cosines over the temperature."""
        return np.asarray(_unit(inputs.vectors @ self.query_)[0] @ self.arms_.T / TEMPERATURE)

    def get_state(self) -> dict[str, NDArray[Any]]:
        """The map of queries, and the arms in the shared space."""
        return super().get_state() | {"query": self.query_, "arms": self.arms_}

    def set_state(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Restore what `get_state` returned."""
        super().set_state(arrays)
        self.query_, self.arms_ = arrays["query"], arrays["arms"]


def dual_encoder_loss(
    x: FloatArray, v: FloatArray, labels: NDArray[np.intp], arrays: Arrays
) -> tuple[float, Arrays]:
    """Cross-entropy of softmax(cos / t) against the best arm, with its gradient.

    Args:
        x: `[Q, D]` queries.
        v: `[M, D]` arms.
        labels: `[Q]` best arm.
        arrays: `query` `[D, h]` and `arm` `[D, h]`.
    """
    u, u_length = _unit(x @ arrays["query"])
    w, w_length = _unit(v @ arrays["arm"])
    p = softmax(u @ w.T / TEMPERATURE)
    rows = np.arange(len(labels))
    value = -float(np.log(np.maximum(p[rows, labels], 1e-300)).mean())
    p[rows, labels] -= 1.0
    p /= len(labels) * TEMPERATURE
    d_u, d_w = p @ w, p.T @ u
    d_u = (d_u - (d_u * u).sum(axis=1, keepdims=True) * u) / u_length
    d_w = (d_w - (d_w * w).sum(axis=1, keepdims=True) * w) / w_length
    gradient = {"query": x.T @ d_u, "arm": v.T @ d_w}
    for name, array in arrays.items():
        value += PENALTY / 2 * float((array**2).mean())
        gradient[name] = gradient[name] + PENALTY * array / array.size
    return value, gradient


def _unit(rows: FloatArray) -> tuple[FloatArray, FloatArray]:
    length = np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return np.asarray(rows / length, np.float64), np.asarray(length, np.float64)
