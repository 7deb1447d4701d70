"""ZOOTER: the rewards of all models, as a distribution over the models, distilled into the router.

Routes a query to a model, before an answer exists, on its embedding and text features. Source: Lu
et al., Routing to the Expert: Efficient Reward-guided Ensemble of Large Language Models, arXiv
2311.08692: reward distillation with tag-based label enhancement.

    r[q, m] = beta y_qm + (1 - beta) mean_{q' with the tag of q} y_q'm            (beta = 0.3)
    t_q = softmax(r_q / tau),   p_q = softmax(x_q W + c),   loss = mean_q KL(t_q || p_q)

Smoothing over a tag takes the noise out of single rewards. Ours, where the paper is silent or needs
what is not here: the reward is the quality in the log; the tag of a training query is its dataset
where the log names several, else its k-means cluster; an unknown outcome takes the mean of its tag;
the encoder is frozen under a linear head whose weight decay is chosen on a held-out fifth; tau is
0.2. Since softmax(r / tau) determines r up to a constant for each query, quality is read back as
mean level + tau (z_qm - mean_m z_qm), z = x W + c. The router thus says which model is better on a
query and nothing about how hard the query is.

Shape letters: Q queries, M models, C tags, D columns of `QueryInputs.columns`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from wye.query.base import FloatArray, RouterError
from wye.query.learning.clusters import cluster_centers, memberships, worthwhile_count
from wye.query.learning.embedded import EmbeddedRouter
from wye.query.learning.estimator import (
    QualityEstimator,
    effective_parameters,
    fitted_std,
    mean_std,
    model_means,
)
from wye.query.learning.group_table import group_table
from wye.query.learning.inputs import QueryInputs
from wye.query.learning.lbfgs import Arrays, minimise_penalised
from wye.query.learning.named_arrays import KeptArrays

TAGS = ("dataset", "cluster")
PENALTIES = (3e-4, 3e-3)
ROUNDS = 60


class ZooterEstimator(KeptArrays, QualityEstimator):
    """A softmax over the models, distilled from rewards that are smoothed over tags.

    Args:
        beta: weight of a query's own reward against the mean of its tag, 0 to 1.
        temperature: tau of the target distribution.
        tag: `dataset` (the log's, if it names several, else clusters) or `cluster`.
        n_clusters: tags where they are clusters.
        seed: of k-means and of the held-out queries.
    """

    kept: ClassVar[tuple[str, ...]] = ("weight", "bias", "level", "std")

    def __init__(
        self,
        *,
        beta: float = 0.3,
        temperature: float = 0.2,
        tag: str = "dataset",
        n_clusters: int = 32,
        seed: int = 0,
    ) -> None:
        self.beta = beta
        self.temperature = temperature
        self.tag = tag
        self.n_clusters = n_clusters
        self.seed = seed

    def fit(self, inputs: QueryInputs, quality: FloatArray) -> Self:
        """Smooth the rewards, then distil them."""
        means = model_means(quality)
        self.level_ = np.array([float(means.mean())])
        target = softmax(smoothed(quality, self._tags(inputs), self.beta) / self.temperature)
        columns = np.asarray(inputs.columns, np.float64)

        def loss(rows: NDArray[np.intp], arrays: Arrays) -> tuple[float, Arrays]:
            return kl_to_target(columns[rows], target[rows], arrays)

        start = {
            "weight": np.zeros((columns.shape[1], len(means))),
            "bias": means / self.temperature,
        }
        trained, penalty = minimise_penalised(
            start,
            loss,
            len(inputs),
            decayed=("weight",),
            penalties=PENALTIES,
            seed=self.seed,
            rounds=ROUNDS,
        )
        self.weight_ = trained["weight"].astype(np.float32)
        self.bias_ = trained["bias"]
        # The curvature of the softmax turns the weight decay into that of a least squares fit.
        curvature = max(float((target * (1.0 - target)).mean()), 0.01)
        n_parameters = effective_parameters(columns, len(inputs) * penalty / curvature)
        self.std_ = np.hypot(
            fitted_std(quality, self._quality(inputs), n_parameters), mean_std(quality, means)
        )
        return self

    def predict(self, inputs: QueryInputs) -> tuple[FloatArray, FloatArray]:
        """Expected quality and its standard uncertainty, each `[Q, M]`."""
        quality = self._quality(inputs)
        return quality, np.broadcast_to(self.std_, quality.shape)

    def _quality(self, inputs: QueryInputs) -> FloatArray:
        logits = inputs.columns @ self.weight_ + self.bias_
        gaps = logits - logits.mean(axis=1, keepdims=True)
        return np.asarray(self.level_[0] + self.temperature * gaps, np.float64)

    def _tags(self, inputs: QueryInputs) -> NDArray[np.intp]:
        """`[Q]` number of each query's tag."""
        if self.tag == "dataset" and inputs.logged is not None:
            names, tags = np.unique(inputs.logged.datasets, return_inverse=True)
            if len(names) > 1:
                return np.asarray(tags, np.intp)
        count = worthwhile_count(self.n_clusters, len(inputs))
        centers = cluster_centers(inputs.vectors, count, self.seed)
        return np.asarray(memberships(inputs.vectors, centers, 1).argmax(axis=1), np.intp)


def smoothed(quality: FloatArray, tags: NDArray[np.intp], beta: float) -> FloatArray:
    """Rewards `[Q, M]` of which 1 - beta is the mean over the queries of the same tag.

    Args:
        quality: `[Q, M]`, NaN where unknown: there the mean of the tag stands alone, or where
            nobody of the tag answered either, the mean of the model.
        tags: `[Q]` from 0 on.
        beta: weight of the query's own reward.

    Example:
        >>> smoothed(np.array([[1.0], [0.0], [1.0]]), np.array([0, 0, 1]), 0.5).ravel().tolist()
        [0.75, 0.25, 1.0]
    """
    owner = np.eye(int(tags.max()) + 1)[tags]
    table, _ = group_table(owner, quality, model_means(quality), 0.0)
    of_tag = table[tags]
    own = np.where(np.isfinite(quality), quality, of_tag)
    return np.asarray(beta * own + (1.0 - beta) * of_tag, np.float64)


def softmax(scores: FloatArray) -> FloatArray:
    """exp(scores) over its sum in each row of `[Q, M]`."""
    raised = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(raised / raised.sum(axis=1, keepdims=True), np.float64)


def kl_to_target(columns: FloatArray, target: FloatArray, arrays: Arrays) -> tuple[float, Arrays]:
    """Mean KL(target || softmax(columns W + c)) and its gradient by `weight` W and `bias` c.

    Args:
        columns: `[Q, D]`.
        target: `[Q, M]` distributions.
        arrays: `weight` `[D, M]` and `bias` `[M]`.
    """
    logits = columns @ arrays["weight"] + arrays["bias"]
    logits -= logits.max(axis=1, keepdims=True)
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    log_t = np.log(np.maximum(target, 1e-300))
    value = float((target * (log_t - log_p)).sum() / len(target))
    error = (np.exp(log_p) - target) / len(target)
    return value, {"weight": columns.T @ error, "bias": error.sum(axis=0)}


@dataclass(kw_only=True, eq=False, repr=False)
class ZooterRouter(EmbeddedRouter):
    """Reward distillation with label enhancement over tags.

    Args:
        beta: weight of a query's own reward against the mean of its tag, 0 to 1.
        temperature: of the target distribution, above 0.
        tag: `dataset` (the log's, if it names several, else clusters) or `cluster`.
        n_clusters: tags where they are clusters; fewer where queries are few.
        embedder, calibration, max_references, seed: see `EmbeddedRouter`.
    """

    name = "zooter"
    stacked: ClassVar[bool] = False
    n_folds: ClassVar[int] = 3

    beta: float = 0.3
    temperature: float = 0.2
    tag: str = "dataset"
    n_clusters: int = 32

    def _check_parameters(self) -> None:
        super()._check_parameters()
        if not 0.0 <= self.beta <= 1.0 or not self.temperature > 0.0 or self.n_clusters < 1:
            raise RouterError(
                f"beta is {self.beta}, temperature {self.temperature}, n_clusters "
                f"{self.n_clusters}; expected 0 to 1, above 0, and 1 or more"
            )
        if self.tag not in TAGS:
            raise RouterError(f"tag is {self.tag!r}, expected one of {list(TAGS)}")

    def _estimators(self) -> dict[str, QualityEstimator]:
        return {
            "zooter": ZooterEstimator(
                beta=self.beta,
                temperature=self.temperature,
                tag=self.tag,
                n_clusters=self.n_clusters,
                seed=self.seed,
            )
        }
