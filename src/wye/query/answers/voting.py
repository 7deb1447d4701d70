"""Votes over answers: the answer given most often, ties to the answer of the first voter.

Answers are compared in canonical form. An empty one (a refusal, nothing that could be read) is
nobody's answer: two of them do not agree, and they win only where there is no other.

Shape letters: Q queries, K voters, in order of priority.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wye.query.base import FloatArray, RouterError

IntArray = NDArray[np.intp]
NO_ANSWER = -1


@dataclass(frozen=True)
class Votes:
    """The outcome of Q votes.

    Attributes:
        winner: `[Q]` the first voter who gave the winning answer.
        weight: `[Q]` what the voters of the winning answer weigh together.
        share: `[Q]` the same as a share of all voters, those without an answer included.
    """

    winner: IntArray
    weight: FloatArray
    share: FloatArray


def answer_numbers(answers: Sequence[Sequence[str]]) -> IntArray:
    """`[Q, K]` the same number for the same answer of a row, `NO_ANSWER` for an empty one.

    Args:
        answers: Q rows of K answers in canonical form.

    Raises:
        RouterError: rows of different lengths.

    Example:
        >>> answer_numbers([["4", "", "5", "4"]]).tolist()
        [[0, -1, 1, 0]]
    """
    if len({len(row) for row in answers}) > 1:
        raise RouterError(
            f"rows of {sorted({len(r) for r in answers})} answers, expected one length"
        )
    numbers = []
    for row in answers:
        seen: dict[str, int] = {}
        numbers.append([seen.setdefault(a, len(seen)) if a else NO_ANSWER for a in row])
    width = len(answers[0]) if len(answers) else 0
    return np.array(numbers, np.intp).reshape(len(answers), width)


def vote(numbers: IntArray, weights: FloatArray | None = None) -> Votes:
    """The answer of most weight in each row; ties go to the answer of the earliest voter.

    Args:
        numbers: `[Q, K]`, K at least 1, from `answer_numbers` or any other numbering in which
            negative means no answer.
        weights: `[Q, K]` or `[K]`, at least 0; 1 for every voter when not given.

    Raises:
        RouterError: another shape, no voter, or weights that are no weights.

    Example:
        >>> vote(np.array([[2, 7, 7], [1, 2, 3]])).winner.tolist()
        [1, 0]
    """
    given = _checked(numbers)
    weight = np.ones(given.shape) if weights is None else np.asarray(weights, np.float64)
    if weight.shape not in (given.shape, given.shape[1:]):
        raise RouterError(f"weights have shape {weight.shape}, expected {given.shape}")
    if not np.isfinite(weight).all() or (weight < 0).any():
        raise RouterError("weights of a vote are finite and at least 0")
    weight = np.broadcast_to(weight, given.shape)
    support = np.where(same_answer(given), weight[:, None, :], 0.0).sum(axis=2)
    # Votes of equal weight summed in another order must stay a tie.
    rounded = np.round(support, 9)
    winner = np.where(given >= 0, rounded, -1.0).argmax(axis=1)
    won = np.take_along_axis(support, winner[:, None], axis=1)[:, 0]
    total = weight.sum(axis=1)
    return Votes(winner, won, won / np.where(total > 0, total, 1.0))


def same_answer(numbers: IntArray) -> NDArray[np.bool_]:
    """`[Q, K, K]` whether two voters gave the same answer; one without an answer is alone."""
    equal: NDArray[np.bool_] = numbers[:, :, None] == numbers[:, None, :]
    equal &= (numbers >= 0)[:, :, None]
    return equal | np.eye(numbers.shape[1], dtype=np.bool_)


def distinct_answers(numbers: IntArray) -> IntArray:
    """`[Q]` how many different answers a row holds; every empty one counts as its own.

    Example:
        >>> distinct_answers(np.array([[3, 3, 3], [1, -1, -1]])).tolist()
        [1, 3]
    """
    # The first to give an answer is nobody's follower.
    earlier = np.tril(same_answer(_checked(numbers)), -1).any(axis=2)
    return np.asarray((~earlier).sum(axis=1), np.intp)


def _checked(numbers: IntArray) -> IntArray:
    given = np.asarray(numbers)
    if given.ndim != 2 or given.shape[1] < 1 or given.dtype.kind not in "iu":
        raise RouterError(
            f"answers have shape {given.shape} and type {given.dtype}, expected integers [Q, K] "
            "with K at least 1"
        )
    return given.astype(np.intp)
