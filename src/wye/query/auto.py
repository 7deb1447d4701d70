"""Auto: a stack of the other routers, weighed by what they got right out of fold. The default.

Routes a query to a model, before an answer exists, on its embedding and text features. Source:
stacked regression, Breiman, Machine Learning 24, 1996 (see `wye.query.learning.calibration`).
Estimators that earn no weight are left out, so a decision costs what it is worth. Where the text
tells nothing about which model is better, all weights of differences vanish and auto routes as
`constant` does.

A model that joins a fitted stack is placed by the factorisation beside the models it knows: its
quality is what the stack says of all learned models together plus what the factorisation says of
the newcomer beside them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wye.query.base import FloatArray, RouterError
from wye.query.cluster import ClusterEstimator
from wye.query.factorisation import FactorisationEstimator
from wye.query.knn import KNNEstimator
from wye.query.learning.active import ChoosingRouter
from wye.query.learning.categories import CategoryEstimator
from wye.query.learning.estimator import QualityEstimator
from wye.query.learning.inputs import QueryInputs
from wye.query.learning.named_arrays import prefixed, under
from wye.query.linear import LinearEstimator
from wye.query.mlp import MLPEstimator
from wye.query.words import WordsEstimator

MEMBERS = ("knn", "linear", "cluster", "category", "mlp", "factorisation")
OPTIONAL = ("words",)


@dataclass(kw_only=True, eq=False, repr=False)
class AutoRouter(ChoosingRouter):
    """kNN, ridge, clusters, categories, network and factors, with the weights earned out of fold.

    Args:
        members: which estimators are stacked, of `MEMBERS` and `OPTIONAL`.
        embedder, calibration, max_references, seed: see `EmbeddedRouter`.
    """

    name = "auto"

    members: Sequence[str] = MEMBERS

    def __post_init__(self) -> None:
        if not isinstance(self.members, str):
            self.members = tuple(self.members)

    @property
    def weights_(self) -> dict[str, tuple[float, float]]:
        """Weight of each member on difficulty and on differences between models."""
        pairs = zip(self.combination_.common, self.combination_.contrast, strict=True)
        return {
            name: (float(common), float(contrast))
            for name, (common, contrast) in zip(self._estimators(), pairs, strict=True)
        }

    def _check_parameters(self) -> None:
        super()._check_parameters()
        unknown = [m for m in self.members if m not in (*MEMBERS, *OPTIONAL)]
        if unknown or not self.members or isinstance(self.members, str):
            raise RouterError(
                f"members is {self.members!r}, expected one or more of {[*MEMBERS, *OPTIONAL]}"
            )

    def _learn_quality(self, inputs: QueryInputs, quality: FloatArray) -> None:
        super()._learn_quality(inputs, quality)
        # Fitted apart from the stack, which must not change when a model joins.
        self.newcomers_ = FactorisationEstimator().fit(inputs, quality)

    def _joiner(self) -> FactorisationEstimator:
        self._require_fitted()
        return self.newcomers_

    def _raw(self, inputs: QueryInputs) -> tuple[FloatArray, FloatArray]:
        raw, std = super()._raw(inputs)
        learned = raw.shape[1]
        if len(self.newcomers_.bias_) == learned:
            return raw, std
        placed, doubt = self.newcomers_.predict(inputs)
        level = raw.mean(axis=1) - placed[:, :learned].mean(axis=1)
        joined = placed[:, learned:] + level[:, None]
        return np.hstack([raw, joined]), np.hstack([std, doubt[:, learned:]])

    def get_state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """What was learned: arrays and JSON-serialisable values."""
        arrays, values = super().get_state()
        return arrays | prefixed("newcomers/", self.newcomers_.get_state()), values

    def set_state(self, arrays: Mapping[str, NDArray[Any]], values: Mapping[str, Any]) -> None:
        """Restore what `get_state` returned."""
        super().set_state(arrays, values)
        self.newcomers_ = FactorisationEstimator()
        self.newcomers_.set_state(under("newcomers/", arrays))

    def _estimators(self) -> dict[str, QualityEstimator]:
        fresh: dict[str, QualityEstimator] = {
            "knn": KNNEstimator(seed=self.seed),
            "linear": LinearEstimator(),
            "cluster": ClusterEstimator(seed=self.seed),
            "category": CategoryEstimator(seed=self.seed),
            "mlp": MLPEstimator(seed=self.seed),
            "factorisation": FactorisationEstimator(),
            "words": WordsEstimator(),
        }
        return {name: fresh[name] for name in self.members}
