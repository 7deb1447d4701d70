"""A guard that reads nothing but how many words of a query were met in training.

A classifier of words sees an empty bag where it knows no word, and answers with its bias alone,
which may well be confident. This guard rejects where the share of known words is below a low
quantile of what held-out queries have; a query without any known word is always rejected. Source:
the pitfall follows from arXiv 2505.14524's WideMLP; the rule is ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wye.query.base import BoolArray, FloatArray, RouterError
from wye.query.guards.base import Labels, Reading, ThresholdGuard
from wye.query.guards.vocabulary import frequent_words, words_of
from wye.query.learning.categories import names_from_array, names_to_array


class KnownTokenGuard(ThresholdGuard):
    """Rejects where too few words are known.

    Args:
        quantile: share of held-out queries that falls below the threshold.
        least: in how many training queries a word must stand to be known.
        most: words that are known at most, the most frequent first.
        tau: a share of known words of your own instead, 0 to 1.
    """

    kind = "known tokens"

    def __init__(
        self,
        *,
        quantile: float = 0.01,
        least: int = 2,
        most: int = 30_000,
        tau: float | None = None,
    ) -> None:
        super().__init__(tau=tau)
        if not 0.0 <= quantile < 1.0 or least < 1 or most < 1:
            raise RouterError(
                f"quantile is {quantile}, least {least}, most {most}; expected at least 0 and "
                "below 1, and 1 or more of each"
            )
        self.quantile = quantile
        self.least = least
        self.most = most

    def _learn(self, training: Reading, labels: Labels) -> None:
        del labels
        self.words_ = frozenset(frequent_words(training.texts, least=self.least, most=self.most))

    def _threshold(self, held_out: Reading, truth: Labels) -> float:
        if not len(held_out):
            raise RouterError("no held-out queries to find the threshold of known tokens from")
        return float(np.quantile(self.confidence(held_out), self.quantile, method="lower"))

    def confidence(self, reading: Reading) -> FloatArray:
        """`[Q]` share of words that are known; 0 for a text without words."""
        return np.array([_share(words_of(t), self.words_) for t in reading.texts], np.float64)

    def rejects(self, reading: Reading) -> BoolArray:
        """`[Q]` whether the share is below the threshold, or zero while there is a threshold."""
        share = self.confidence(reading)
        return np.asarray((share < self.tau_) | ((share == 0.0) & (self.tau != 0.0)), np.bool_)

    def get_state(self) -> dict[str, NDArray[Any]]:
        """Threshold and words."""
        return super().get_state() | {"words": names_to_array(sorted(self.words_))}

    def set_state(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Restore what `get_state` returned."""
        super().set_state(arrays)
        self.words_ = frozenset(names_from_array(arrays["words"]))


def _share(words: list[str], known: frozenset[str]) -> float:
    return sum(w in known for w in words) / len(words) if words else 0.0
