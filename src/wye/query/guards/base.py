"""The contracts of a domain classifier and of a guard, and how a guard finds its threshold.

No query from outside is known when a guard learns. Its threshold follows from queries of the known
domains that were held out of training: the largest one that keeps a share 1 - eps of the answers
that were right without it (arXiv 2505.14524).

Shape letters: Q queries, C domains, H width of what the last layer reads.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from wye.query.arguments import checked_texts
from wye.query.base import BoolArray, FloatArray, NotFittedError, Parametrised, RouterError
from wye.query.learning.named_arrays import together, under

Labels = NDArray[np.intp]


@dataclass(frozen=True)
class Reading:
    """What a domain classifier makes of Q queries.

    Attributes:
        texts: as they came.
        logits: `[Q, C]` how much each query looks like each domain, in the classifier's own unit.
        features: `[Q, H]` what its last layer reads.
    """

    texts: tuple[str, ...]
    logits: FloatArray
    features: NDArray[np.float32]

    def __post_init__(self) -> None:
        n = len(self.texts)
        if self.logits.ndim != 2 or self.features.ndim != 2 or len(self.logits) != n:
            raise RouterError(
                f"logits have shape {self.logits.shape} and features {self.features.shape}, "
                f"expected [Q, C] and [Q, H] for Q = {n} texts"
            )
        if not np.isfinite(self.logits).all() or not np.isfinite(self.features).all():
            raise RouterError("logits and features must be finite everywhere")

    def __len__(self) -> int:
        return len(self.texts)


class _Part(Parametrised):
    kind: ClassVar[str]


class DomainClassifier(_Part, ABC):
    """Learns which of C domains a text belongs to. Predicts in NumPy.

    Attributes:
        kind: name of the method.
        domains_: names of the domains, sorted; columns of the logits.
    """

    domains_: tuple[str, ...]

    def fit(self, texts: Sequence[str], domains: Sequence[str]) -> Self:
        """Learn from texts and the domain of each.

        Raises:
            RouterError: lengths differ, something is no string, or there are fewer than 2 domains.
        """
        texts = checked_texts(texts)
        names, labels = np.unique(np.asarray(domains, dtype=str), return_inverse=True)
        if len(labels) != len(texts) or len(names) < 2:
            raise RouterError(
                f"{len(texts)} texts came with {len(labels)} labels of {len(names)} domains; "
                "expected one label for each text, and 2 domains or more"
            )
        self._learn(texts, labels.astype(np.intp), len(names))
        self.domains_ = tuple(str(n) for n in names)
        return self

    def read(self, texts: Sequence[str]) -> Reading:
        """Logits and features of texts.

        Raises:
            NotFittedError: before `fit`.
            RouterError: `texts` is not a sequence of strings.
        """
        if not hasattr(self, "domains_"):
            raise NotFittedError(f"{self.kind} is not fitted; call fit(texts, domains) first")
        texts = checked_texts(texts)
        logits, features = self._read(texts)
        return Reading(texts, logits, features)

    @abstractmethod
    def _learn(self, texts: tuple[str, ...], labels: Labels, n_domains: int) -> None:
        """Learn from Q texts with labels `[Q]`."""

    @abstractmethod
    def _read(self, texts: tuple[str, ...]) -> tuple[FloatArray, NDArray[np.float32]]:
        """Logits `[Q, C]` and features `[Q, H]`."""

    @abstractmethod
    def get_state(self) -> dict[str, NDArray[Any]]:
        """What was learned, as arrays; the names of the domains are kept beside."""

    @abstractmethod
    def set_state(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Restore what `get_state` returned."""


class Guard(_Part, ABC):
    """Says of each query whether it belongs to none of the domains.

    Attributes:
        kind: name of the rule.
    """

    @abstractmethod
    def fit(self, training: Reading, labels: Labels, held_out: Reading, truth: Labels) -> Self:
        """Learn from queries of the known domains alone.

        Args:
            training: what the classifier learned from, with `labels` `[Q]`.
            held_out: what it did not see, with `truth` `[Q]`; thresholds come from here.
        """

    @abstractmethod
    def rejects(self, reading: Reading) -> BoolArray:
        """`[Q]` whether each query is refused."""

    @abstractmethod
    def by_rule(self, reading: Reading) -> dict[str, BoolArray]:
        """`[Q]` of every single rule within, by its kind."""

    @abstractmethod
    def get_state(self) -> dict[str, NDArray[Any]]:
        """What was learned, as arrays."""

    @abstractmethod
    def set_state(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Restore what `get_state` returned."""


class ThresholdGuard(Guard):
    """Rejects where a confidence is below `tau_`.

    Args:
        eps: share of right answers on held-out queries that the guard may cost.
        tau: a threshold of your own instead.

    Attributes:
        tau_: the threshold, in the unit of the confidence.
    """

    tau_: float

    def __init__(self, *, eps: float = 0.05, tau: float | None = None) -> None:
        if not 0.0 <= eps < 1.0:
            raise RouterError(f"eps is {eps}, expected at least 0 and below 1")
        if tau is not None and not np.isfinite(tau):
            raise RouterError(f"tau is {tau}, expected a finite number")
        self.eps = eps
        self.tau = tau

    @abstractmethod
    def confidence(self, reading: Reading) -> FloatArray:
        """`[Q]` the larger, the more a query belongs to one of the domains."""

    def fit(self, training: Reading, labels: Labels, held_out: Reading, truth: Labels) -> Self:
        """Learn what the confidence needs, and the threshold; see `Guard.fit`.

        Raises:
            RouterError: no held-out queries, and no `tau` was given.
        """
        self._learn(training, labels)
        self.tau_ = self._threshold(held_out, truth) if self.tau is None else self.tau
        return self

    def rejects(self, reading: Reading) -> BoolArray:
        """`[Q]` whether the confidence is below the threshold.

        Raises:
            NotFittedError: before `fit`.
        """
        if not hasattr(self, "tau_"):
            raise NotFittedError(f"the guard {self.kind} has no threshold; call fit first")
        return np.asarray(self.confidence(reading) < self.tau_, np.bool_)

    def by_rule(self, reading: Reading) -> dict[str, BoolArray]:
        """What this one rule rejects."""
        return {self.kind: self.rejects(reading)}

    def _learn(self, training: Reading, labels: Labels) -> None:
        """Learn what `confidence` reads; nothing where the logits are enough."""

    def _threshold(self, held_out: Reading, truth: Labels) -> float:
        right = held_out.logits.argmax(axis=1) == truth
        return largest_threshold(self.confidence(held_out), right, self.eps)

    def get_state(self) -> dict[str, NDArray[Any]]:
        """The threshold."""
        return {"tau": np.array([self.tau_])}

    def set_state(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Restore what `get_state` returned."""
        self.tau_ = float(arrays["tau"][0])


class AnyGuard(Guard):
    """Rejects what any of several guards rejects.

    Args:
        guards: one or more, of different kinds.

    Raises:
        RouterError: no guard, or two of one kind.
    """

    kind = "any"

    def __init__(self, *, guards: Sequence[Guard]) -> None:
        kinds = [g.kind for g in guards]
        if not kinds or len(set(kinds)) < len(kinds):
            raise RouterError(f"guards are {kinds}, expected one or more of different kinds")
        self.guards = tuple(guards)

    def fit(self, training: Reading, labels: Labels, held_out: Reading, truth: Labels) -> Self:
        """Each guard learns for itself, so that together they may cost the sum of their shares."""
        for guard in self.guards:
            guard.fit(training, labels, held_out, truth)
        return self

    def rejects(self, reading: Reading) -> BoolArray:
        """`[Q]` whether any guard rejects."""
        return np.asarray(np.any([g.rejects(reading) for g in self.guards], axis=0), np.bool_)

    def by_rule(self, reading: Reading) -> dict[str, BoolArray]:
        """What each rule rejects."""
        return {k: mask for g in self.guards for k, mask in g.by_rule(reading).items()}

    def get_state(self) -> dict[str, NDArray[Any]]:
        """What each learned."""
        return together({g.kind: g.get_state() for g in self.guards})

    def set_state(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Restore what `get_state` returned."""
        for guard in self.guards:
            guard.set_state(under(f"{guard.kind}/", arrays))


def largest_threshold(confidence: FloatArray, right: BoolArray, eps: float) -> float:
    """The largest tau under which a share 1 - eps of the right answers is not rejected.

    Args:
        confidence: `[Q]` of held-out queries.
        right: `[Q]` whether each was classified rightly.
        eps: share that may be lost, at least 0 and below 1.

    Raises:
        RouterError: shapes differ, there is no query, a confidence is not finite, or eps is out of
            range.

    Example:
        >>> largest_threshold(np.array([0.1, 0.4, 0.6, 0.9]), np.array([True] * 4), 0.25)
        0.4
    """
    if confidence.shape != right.shape or confidence.ndim != 1 or not confidence.size:
        raise RouterError(
            f"confidence has shape {confidence.shape} and right {right.shape}, expected both [Q] "
            "of one held-out query or more"
        )
    if not np.isfinite(confidence).all() or not 0.0 <= eps < 1.0:
        raise RouterError(f"confidence must be finite and eps ({eps}) at least 0 and below 1")
    kept = np.sort(confidence[right])
    if not kept.size:
        return float(confidence.min())
    # The added hair keeps 0.05 * 20 from costing two answers instead of one.
    lost = int(np.floor(eps * kept.size + 1e-9))
    return float(kept[lost])


def coverage_curve(confidence: FloatArray, right: BoolArray) -> dict[str, FloatArray]:
    """What every threshold costs on held-out queries.

    Args:
        confidence: `[Q]`.
        right: `[Q]` whether each was classified rightly.

    Returns:
        `tau` `[U]` rising, the U different confidences; `coverage` `[U]` share of queries that are
        not rejected; `accuracy` `[U]` share that is neither rejected nor wrong.
    """
    taus = np.unique(confidence)
    kept = confidence[None, :] >= taus[:, None]
    return {
        "tau": taus,
        "coverage": kept.mean(axis=1),
        "accuracy": (kept & right[None, :]).mean(axis=1),
    }
