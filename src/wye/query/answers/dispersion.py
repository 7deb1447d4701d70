"""Answer dispersion: how far several answers to one query disagree, 0 (all alike) to 1.

A score for after sampling and before more is spent: ACAR's sigma (arXiv 2602.21231), and any
cascade over repeated answers. It is no confidence: answers can agree and be wrong.

Shape letters: Q queries, N answers.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

from wye.query.answers.voting import IntArray, distinct_answers, same_answer
from wye.query.base import FloatArray, RouterError

DispersionKind = Literal["distinct", "minority", "entropy"]


def dispersion(numbers: IntArray, kind: DispersionKind = "distinct") -> FloatArray:
    """`[Q]` dispersion of each row of answers; it does not depend on their order.

    Args:
        numbers: `[Q, N]` answers by number, negative for none
            (`wye.query.answers.voting.answer_numbers`).
        kind: `distinct`: (distinct - 1) / (N - 1); `minority`: the share outside the most frequent
            answer, as part of the most there can be, (1 - share) / (1 - 1/N); `entropy`:
            -sum p ln p / ln N. All are 0 for one answer only, and 1 where all differ.

    Raises:
        RouterError: fewer than two answers, or an unknown kind.

    Example:
        >>> dispersion(np.array([[4, 4, 4], [4, 5, 4], [4, 5, 6]])).tolist()
        [0.0, 0.5, 1.0]
    """
    n = numbers.shape[1] if numbers.ndim == 2 else 0
    if n < 2:
        raise RouterError(
            f"answers have shape {numbers.shape}, expected [Q, N] with N at least 2: one answer "
            "cannot disagree"
        )
    if kind == "distinct":
        return np.asarray((distinct_answers(numbers) - 1) / (n - 1), np.float64)
    # Each answer with the share of answers that are like it.
    share = same_answer(numbers).sum(axis=2) / n
    if kind == "minority":
        return np.asarray((1.0 - share.max(axis=1)) / (1.0 - 1.0 / n), np.float64)
    if kind == "entropy":
        spread = -np.log(share).mean(axis=1) / np.log(n)
        return np.asarray(np.clip(spread, 0.0, 1.0), np.float64)
    raise RouterError(f"dispersion {kind!r}, expected one of {list(get_args(DispersionKind))}")
