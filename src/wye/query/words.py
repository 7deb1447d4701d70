"""Words: ridge regression of quality on the words and word pairs of the query.

Routes a query to a model, before an answer exists, on its words alone. An embedding says what a
query is about; which single words make models fail (a notation, a name, a kind of instruction) it
blurs. Source: hashed TF-IDF features (Weinberger et al., ICML 2009) under ridge regression (Hoerl
and Kennard, 1970).

    quality[q, m] = mean_m + (x_q - mean x) . w_m,   x_q the unit row of weighted terms

Shape letters: Q queries, M models, V buckets of terms.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from wye.embed.terms import HashedTerms
from wye.query.base import FloatArray, RouterError
from wye.query.learning.embedded import EmbeddedRouter
from wye.query.learning.estimator import QualityEstimator, common_part, mean_std, model_means
from wye.query.learning.inputs import QueryInputs
from wye.query.learning.named_arrays import prefixed, under

BUCKETS = 2**16
TOLERANCE = 1e-3


class WordsEstimator(QualityEstimator):
    """Ridge regression on hashed words and word pairs.

    Args:
        penalty: of the squared weights, for rows of unit length.
        ngrams: longest run of words that counts as one term.
    """

    def __init__(self, *, penalty: float = 30.0, ngrams: int = 2) -> None:
        self.penalty = penalty
        self.ngrams = ngrams

    terms_: HashedTerms
    coef_: NDArray[np.float32]

    def fit(self, inputs: QueryInputs, quality: FloatArray) -> Self:
        """Fit one regression a model.

        An unknown outcome stands at what the other models suggest of its query, so that it moves
        the query's difficulty and no difference between models.
        """
        from sklearn.linear_model import Ridge

        self.terms_ = HashedTerms(buckets=BUCKETS, ngrams=self.ngrams).fit(inputs.texts)
        means = model_means(quality)
        common = common_part(quality, means)
        target = np.where(np.isfinite(quality), quality - means, common[:, None])
        rows = self._rows(inputs.texts)
        self.seen_ = np.unique(rows.indices)
        fitted = Ridge(alpha=self.penalty, solver="sparse_cg", tol=TOLERANCE).fit(rows, target)
        self.coef_ = np.asarray(fitted.coef_, np.float32).reshape(len(means), BUCKETS).T.copy()
        self.intercept_ = np.asarray(fitted.intercept_ + means, np.float64)
        self.mean_std_ = mean_std(quality, means)
        residual = np.where(np.isfinite(quality), target - np.asarray(rows @ self.coef_), 0.0)
        self.noise_ = np.sqrt((residual**2).mean(axis=0))
        return self

    def predict(self, inputs: QueryInputs) -> tuple[FloatArray, FloatArray]:
        """Expected quality and its standard uncertainty, each `[Q, M]`."""
        rows = self._rows(inputs.texts)
        quality = np.asarray(rows @ self.coef_, np.float64) + self.intercept_
        # A row of unit length has leverage of at most 1 / penalty in a ridge regression.
        variance = self.noise_**2 / self.penalty + self.mean_std_**2
        return quality, np.broadcast_to(np.sqrt(variance), quality.shape).copy()

    def _rows(self, texts: Sequence[str]) -> Any:
        rows = self.terms_.weigh(texts)
        length = np.sqrt(np.asarray(rows.multiply(rows).sum(axis=1))).ravel()
        rows.data /= np.repeat(np.maximum(length, 1e-12), np.diff(rows.indptr))
        return rows

    def get_state(self) -> dict[str, NDArray[Any]]:
        """Rarity of terms, and the weights of those that were seen."""
        own = {
            "seen": self.seen_,
            "coef": self.coef_[self.seen_],
            "intercept": self.intercept_,
            "mean_std": self.mean_std_,
            "noise": self.noise_,
        }
        return own | prefixed("terms.", self.terms_.get_state())

    def set_state(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Restore what `get_state` returned."""
        self.seen_, self.intercept_ = arrays["seen"], arrays["intercept"]
        self.mean_std_, self.noise_ = arrays["mean_std"], arrays["noise"]
        self.coef_ = np.zeros((BUCKETS, len(self.intercept_)), np.float32)
        self.coef_[self.seen_] = arrays["coef"]
        self.terms_ = HashedTerms(buckets=BUCKETS, ngrams=self.ngrams)
        self.terms_.set_state(under("terms.", arrays))


@dataclass(kw_only=True, eq=False, repr=False)
class WordsRouter(EmbeddedRouter):
    """Ridge regression on words and word pairs; the embedding serves novelty and cost alone.

    Args:
        penalty: of the squared weights.
        embedder, calibration, max_references, seed: see `EmbeddedRouter`.

    Raises:
        RouterError: at `fit`, when `penalty` is not positive.
    """

    name = "words"

    penalty: float = 30.0

    def _check_parameters(self) -> None:
        super()._check_parameters()
        if not self.penalty > 0:
            raise RouterError(f"penalty is {self.penalty}, expected more than 0")

    def _estimators(self) -> dict[str, QualityEstimator]:
        return {"words": WordsEstimator(penalty=self.penalty)}
