"""The discrete context of GreenServ: task, semantic cluster and text complexity, one-hot each.

    x(q) = one-hot(task) + one-hot(cluster) + one-hot(complexity bin), concatenated, and a constant

Task: given by the caller, else read by a logistic regression on the embedding of the first 200
characters that `fit` learned from the log; all zeros where neither is there. Cluster: online
k-means by cosine, c = argmax cos(e, mu_c), n_c += 1, mu_c += (e - mu_c) / n_c, where the first k
distinct embeddings become the centroids. Complexity: s = clip(100 - Flesch reading ease, 0, 100)
in half-open bins; two thresholds make three bins (Flesch, Journal of Applied Psychology 32, 1948).

Flesch of code or of a language other than English means little: leave "complexity" out there.

Shape letters: Q queries, D context width, E embedding width, C clusters, T tasks.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wye.embed import Embedder
from wye.query.base import FloatArray, RouterError
from wye.query.learning.contexts import ContextReader, Task

FEATURES = ("task", "cluster", "complexity")
TASK_CHARS = 200
# A reading level does not change after this much text, and a decision must not wait for more.
FLESCH_CHARS = 4096
TASK_ROWS = 5000
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?")
_VOWELS = re.compile(r"[aeiouyàâäéèêëíîïóôöúùûü]+", re.IGNORECASE)
_SENTENCE_END = re.compile(r"[.!?]+(?:\s|$)")


def syllables(word: str) -> int:
    """Syllables of an English word by its groups of vowels, at least 1.

    Example:
        >>> [syllables(w) for w in ("cat", "cake", "table", "readability")]
        [1, 1, 2, 5]
    """
    groups = len(_VOWELS.findall(word))
    lower = word.lower()
    if lower.endswith("e") and not lower.endswith(("le", "ee")) and groups > 1:
        groups -= 1
    return max(1, groups)


def complexity(text: str) -> float:
    """clip(100 - Flesch reading ease, 0, 100) of the first 4096 characters; 0 without words.

    Example:
        >>> complexity("The cat sat on the mat.")
        0.0
    """
    head = text[:FLESCH_CHARS]
    words = _WORD.findall(head)
    if not words:
        return 0.0
    sentences = max(1, len(_SENTENCE_END.findall(head)))
    count = sum(syllables(w) for w in words)
    ease = 206.835 - 1.015 * len(words) / sentences - 84.6 * count / len(words)
    return float(min(100.0, max(0.0, 100.0 - ease)))


def complexity_bin(text: str, thresholds: Sequence[float]) -> int:
    """Which of `len(thresholds) + 1` half-open bins a text falls into, from 0 (easy)."""
    return int(np.searchsorted(np.asarray(thresholds), complexity(text), side="right"))


class OnlineKMeans:
    """Online k-means by cosine; see the module.

    Args:
        clusters: C.
        embedding: E.
    """

    def __init__(self, clusters: int, embedding: int) -> None:
        self.clusters = clusters
        self.centroids = np.zeros((0, embedding))
        self.count = np.zeros(0, np.int64)

    def nearest(self, vectors: NDArray[np.float32]) -> NDArray[np.intp]:
        """`[Q]` the nearest centroid; 0 until C distinct embeddings were seen."""
        if len(self.centroids) < self.clusters:
            return np.zeros(len(vectors), np.intp)
        length = np.linalg.norm(self.centroids, axis=1)
        unit = self.centroids / np.maximum(length, 1e-12)[:, None]
        return np.asarray(np.einsum("qe,ce->qc", vectors, unit).argmax(axis=1), np.intp)

    def observe(self, vector: NDArray[np.float32]) -> None:
        """Move the nearest centroid towards one more vector `[E]`, or make it one."""
        row = np.asarray(vector, np.float64)
        if len(self.centroids) < self.clusters:
            same = np.flatnonzero((self.centroids == row).all(axis=1))
            if same.size:
                self.count[same[0]] += 1
            else:
                self.centroids = np.concatenate([self.centroids, row[None]])
                self.count = np.append(self.count, 1)
            return
        c = int(self.nearest(vector[None])[0])
        self.count[c] += 1
        self.centroids[c] += (row - self.centroids[c]) / self.count[c]


class DiscreteContext(ContextReader):
    """Task, cluster and complexity; see the module.

    Args:
        embedder: of the first characters that a task is read from.
        features: which of `FEATURES`.
        tasks: names known beforehand; `fit` adds those of the log.
        clusters: C.
        thresholds: of the complexity bins, rising.
        constant: append a 1.
        seed: of the rows that the task is learned from, where there are many.

    Raises:
        RouterError: an unknown feature, fewer than one cluster, thresholds that do not rise.
    """

    def __init__(
        self,
        embedder: Embedder,
        *,
        features: Sequence[str],
        tasks: Sequence[str],
        clusters: int,
        thresholds: Sequence[float],
        constant: bool,
        seed: int,
    ) -> None:
        _check(features, clusters, thresholds)
        self.embedder = embedder
        self.features = tuple(features)
        self.tasks = tuple(dict.fromkeys(tasks))
        self.thresholds = tuple(thresholds)
        self.constant = constant
        self.seed = seed
        self.kmeans = OnlineKMeans(clusters, embedder.dim)
        # Of the logistic regression: [E, T] and [T]; empty until it was learned.
        self.coef = np.zeros((embedder.dim, 0))
        self.intercept = np.zeros(0)

    @property
    def width(self) -> int:
        """D."""
        sizes = {
            "task": len(self.tasks),
            "cluster": self.kmeans.clusters,
            "complexity": len(self.thresholds) + 1,
        }
        return max(1, sum(sizes[f] for f in self.features) + self.constant)

    def read(self, texts: Sequence[str]) -> FloatArray:
        """`[Q, 1 + E]` complexity bin, and the vector of the first characters if it is needed."""
        columns: list[NDArray[Any]] = []
        if "complexity" in self.features:
            bins = [complexity_bin(t, self.thresholds) for t in texts]
        else:
            bins = [0] * len(texts)
        columns.append(np.array(bins, np.float64)[:, None])
        if "task" in self.features:
            columns.append(self.embedder.embed([t[:TASK_CHARS] for t in texts]))
        return np.concatenate(columns, axis=1).astype(np.float64)

    def contexts(
        self, vectors: NDArray[np.float32], read: FloatArray, tasks: Sequence[Task]
    ) -> FloatArray:
        """`[Q, D]` zeros and ones.

        Raises:
            RouterError: a given task is not known.
        """
        parts: list[FloatArray] = []
        makers: dict[str, Callable[[], FloatArray]] = {
            "task": lambda: self._task(read[:, 1:], tasks),
            "cluster": lambda: _one_hot(self.kmeans.nearest(vectors), self.kmeans.clusters),
            "complexity": lambda: _one_hot(read[:, 0].astype(np.intp), len(self.thresholds) + 1),
        }
        parts += [makers[f]() for f in self.features]
        if self.constant or not parts:
            parts.append(np.ones((len(vectors), 1)))
        joined = np.concatenate(parts, axis=1)
        return joined if joined.shape[1] else np.zeros((len(vectors), 1))

    def observe(self, vector: NDArray[np.float32]) -> None:
        """Move the clusters."""
        if "cluster" in self.features:
            self.kmeans.observe(vector)

    def fit(self, vectors: NDArray[np.float32], read: FloatArray, tasks: Sequence[Task]) -> None:
        """Move the clusters through all queries, and learn to read the task from the text."""
        for vector in vectors:
            self.observe(vector)
        if "task" not in self.features:
            return
        labels = np.array([t or "" for t in tasks])
        named = np.flatnonzero(labels != "")
        self.tasks = tuple(dict.fromkeys([*self.tasks, *sorted(set(labels[named].tolist()))]))
        if named.size > TASK_ROWS:
            named = np.sort(np.random.default_rng(self.seed).permutation(named)[:TASK_ROWS])
        self.coef, self.intercept = _classifier(read[named, 1:], labels[named], self.tasks)

    def _task(self, head: FloatArray, tasks: Sequence[Task]) -> FloatArray:
        result = np.zeros((len(tasks), len(self.tasks)))
        unknown = sorted({t for t in tasks if t is not None} - set(self.tasks))
        if unknown:
            raise RouterError(f"unknown tasks {unknown}; this router knows {list(self.tasks)}")
        given = [None if t is None else self.tasks.index(t) for t in tasks]
        blank = np.array([i for i, t in enumerate(given) if t is None], np.intp)
        rows = np.array([i for i, t in enumerate(given) if t is not None], np.intp)
        result[rows, [t for t in given if t is not None]] = 1.0
        if blank.size and self.intercept.size:
            score = np.einsum("qe,et->qt", head[blank], self.coef) + self.intercept
            result[blank, score.argmax(axis=1)] = 1.0
        return result

    def get_state(self) -> dict[str, NDArray[Any]]:
        """Clusters, tasks and the reader of tasks."""
        names = "\n".join(t.replace("\n", " ") for t in self.tasks).encode()
        return {
            "centroids": self.kmeans.centroids.copy(),
            "count": self.kmeans.count.copy(),
            "coef": self.coef,
            "intercept": self.intercept,
            "tasks": np.frombuffer(names, np.uint8).copy(),
        }

    def set_state(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Restore what `get_state` returned."""
        self.kmeans.centroids = np.array(arrays["centroids"])
        self.kmeans.count = np.array(arrays["count"])
        self.coef, self.intercept = np.array(arrays["coef"]), np.array(arrays["intercept"])
        names = bytes(arrays["tasks"].tobytes()).decode()
        self.tasks = tuple(names.split("\n")) if names else ()


def _classifier(
    head: FloatArray, labels: NDArray[np.str_], tasks: tuple[str, ...]
) -> tuple[FloatArray, FloatArray]:
    """Logistic regression of the task, `[E, T]` and `[T]`; a task never seen is never read."""
    coef, intercept = np.zeros((head.shape[1], len(tasks))), np.full(len(tasks), -1e9)
    classes = sorted(set(labels.tolist()))
    if len(classes) < 2:
        for name in classes:
            intercept[tasks.index(name)] = 0.0
        return coef, intercept if classes else np.zeros(0)
    from sklearn.linear_model import LogisticRegression

    fitted = LogisticRegression(C=10.0, max_iter=200).fit(head, labels)
    columns = [tasks.index(str(name)) for name in fitted.classes_]
    if len(classes) == 2:
        coef[:, columns[1]], intercept[columns] = fitted.coef_[0], [0.0, fitted.intercept_[0]]
    else:
        coef[:, columns], intercept[columns] = fitted.coef_.T, fitted.intercept_
    return coef, intercept


def _one_hot(index: NDArray[np.intp], n: int) -> FloatArray:
    return np.eye(n)[index]


def _check(features: Sequence[str], clusters: int, thresholds: Sequence[float]) -> None:
    unknown = [f for f in features if f not in FEATURES]
    if unknown or isinstance(features, str) or len(set(features)) < len(features):
        raise RouterError(f"features is {features!r}, expected some of {list(FEATURES)}, each once")
    if isinstance(clusters, bool) or not isinstance(clusters, int) or clusters < 1:
        raise RouterError(f"clusters is {clusters!r}, expected an integer of at least 1")
    steps = np.diff(np.asarray(thresholds, np.float64))
    if not (np.isfinite(np.asarray(thresholds, np.float64)).all() and bool((steps > 0).all())):
        raise RouterError(f"thresholds is {thresholds!r}, expected rising numbers")
