"""Semantic entropy: entropy over meanings of sampled answers instead of over their words.

Scores a query after sampling; nothing is learned. Kuhn, Gal and Farquhar, Semantic Uncertainty,
arXiv 2302.09664.

    classes: an answer joins the first class whose first member it means the same as
    H = - sum_c p_c ln p_c,   p_c = share of samples in c, or sum of their sequence probabilities
    score = 1 - H / ln N

Two answers mean the same where they entail each other (the paper asks a language model of
entailment with the question in front: pass it as `entails`) or, here by default, where their
canonical forms are equal. An empty answer (a refusal) is a class of its own each time. Ours: the
division by ln N, which makes H a score, and that probabilities are normalised over the samples.

Shape letters: N samples, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from wye.query.answers.canonical import canonical, canonical_all
from wye.query.base import FloatArray
from wye.query.policies.judging import Answer, Judge
from wye.query.policy import PolicyError

Entails = Callable[[str, str, str], bool]
"""(question, premise, hypothesis) -> whether the premise entails the hypothesis."""


def canonical_classes(answers: Sequence[str], kind: str = "text") -> NDArray[np.intp]:
    """`[N]` class of each answer, numbered as they occur, by canonical form.

    Example:
        >>> canonical_classes(["4", "4.0", "5", ""], "number").tolist()
        [0, 0, 1, 2]
    """
    met: dict[str, int] = {}
    classes: list[int] = []
    for read in canonical_all(answers, kind):
        known = met.get(read) if read else None
        classes.append(max(classes, default=-1) + 1 if known is None else known)
        if read:
            met.setdefault(read, classes[-1])
    return np.array(classes, np.intp)


def entailment_classes(question: str, answers: Sequence[str], entails: Entails) -> NDArray[np.intp]:
    """`[N]` class of each answer, numbered as they occur, by mutual entailment.

    An answer is compared with the first member of each class, in both directions.
    """
    first: list[str] = []
    classes: list[int] = []
    for text in answers:
        found = len(first)
        if text.strip():
            for c, member in enumerate(first):
                if not member.strip():
                    continue
                if entails(question, member, text) and entails(question, text, member):
                    found = c
                    break
        if found == len(first):
            first.append(text)
        classes.append(found)
    return np.array(classes, np.intp)


def class_law(classes: NDArray[np.intp], log_probabilities: FloatArray | None = None) -> FloatArray:
    """`[C]` probability of each class, from counts or from sequence log-probabilities `[N]`.

    Raises:
        PolicyError: no samples, other lengths, or values that are no log-probabilities.
    """
    if classes.ndim != 1 or not classes.size:
        raise PolicyError(
            f"classes have shape {classes.shape}, expected [N] of at least one sample"
        )
    if log_probabilities is None:
        weight = np.ones(classes.shape)
    else:
        said = np.asarray(log_probabilities, np.float64)
        if said.shape != classes.shape or not np.isfinite(said).all():
            raise PolicyError(
                f"log_probabilities have shape {said.shape}, expected {classes.shape}, finite"
            )
        # A common factor cancels; without it, long answers would all round to nothing.
        weight = np.exp(said - said.max())
    total = np.bincount(classes, weight)
    return np.asarray(total / total.sum(), np.float64)


def semantic_entropy(law: FloatArray) -> float:
    """H in nats of the classes' probabilities `[C]`."""
    p = np.asarray(law, np.float64)
    return float(-(p * np.log(np.where(p > 0, p, 1.0))).sum())


def semantic_certainty(
    classes: NDArray[np.intp], log_probabilities: FloatArray | None = None
) -> float:
    """1 - H / ln N: 1 where all samples mean the same, 0 where no two do and all are as likely.

    Raises:
        PolicyError: as `class_law`, or fewer than two samples.
    """
    if classes.size < 2:
        raise PolicyError(f"{classes.size} samples, expected at least 2: one cannot disagree")
    entropy = semantic_entropy(class_law(classes, log_probabilities))
    return float(np.clip(1.0 - entropy / np.log(classes.size), 0.0, 1.0))


class SemanticEntropyJudge(Judge):
    """U5: `semantic_certainty` of the samples that came with an answer; None for fewer than two.

    Args:
        kind: how canonical forms are read, as in `wye.query.answers.canonical`.
        entails: compares by mutual entailment instead.
        weighted: classes weigh by sequence probabilities, where the samples have them.
    """

    name = "semantic-entropy"

    def __init__(
        self, kind: str = "text", *, entails: Entails | None = None, weighted: bool = False
    ) -> None:
        canonical("", kind)
        self.kind, self.entails, self.weighted = kind, entails, weighted

    def score(self, text: str, answer: Answer) -> float | None:
        """Certainty over the meanings of `answer.samples`."""
        if len(answer.samples) < 2:
            return None
        if self.entails is None:
            classes = canonical_classes(answer.samples, self.kind)
        else:
            classes = entailment_classes(text, answer.samples, self.entails)
        said = answer.sample_log_probabilities if self.weighted else ()
        return semantic_certainty(classes, np.array(said) if said else None)
