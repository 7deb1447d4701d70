"""Mixture of thought: trust an answer that two kinds of reasoning agree on.

Scores and chooses after sampling; nothing is learned. Yue et al., Large Language Model Cascades
with Mixture of Thought Representations, arXiv 2310.03094. Half the answers come from a prompt that
reasons in words, half from one that reasons in a program:

    vote    share of the majority over both halves, accepted where share >= tau
    verify  accepted where the two greedy answers are the same

Answers are compared in canonical form; no answer agrees with nothing.

Shape letters: Q queries, N samples of a kind.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wye.query.answers.canonical import canonical_all
from wye.query.answers.voting import IntArray, answer_numbers, vote
from wye.query.base import FloatArray
from wye.query.policy import PolicyError
from wye.query.uncertainty.self_consistency import majority_share


@dataclass(frozen=True)
class Agreement:
    """What Q votes over two kinds of reasoning came to.

    Attributes:
        share: `[Q]` of the majority's answer among all samples, 0 to 1.
        winner: `[Q]` place of the first sample that gave it, those in words first.
        accepted: `[Q]` share >= tau.
    """

    share: FloatArray
    winner: IntArray
    accepted: NDArray[np.bool_]


def representation_vote(
    in_words: Sequence[Sequence[str]],
    in_programs: Sequence[Sequence[str]],
    *,
    tau: float = 0.6,
    kind: str = "number",
) -> Agreement:
    """The majority over samples of both kinds.

    Args:
        in_words, in_programs: Q rows of as many samples each.
        tau: the share from which an answer is accepted.
        kind: of the answers, as in `wye.query.answers.canonical`.

    Raises:
        PolicyError: other numbers of rows or samples, or tau outside 0 to 1.
    """
    if not 0.0 <= tau <= 1.0:
        raise PolicyError(f"tau={tau!r}, expected a share from 0 to 1")
    widths = {len(row) for row in in_words} | {len(row) for row in in_programs}
    if len(in_words) != len(in_programs) or len(widths) != 1 or 0 in widths:
        raise PolicyError(
            f"{len(in_words)} and {len(in_programs)} rows of {sorted(widths)} samples, expected as "
            "many of each kind, at least 1"
        )
    numbers = answer_numbers(
        [canonical_all([*a, *b], kind) for a, b in zip(in_words, in_programs, strict=True)]
    )
    share = majority_share(numbers)
    return Agreement(share, vote(numbers).winner, share >= tau)


def representation_verify(
    in_words: Sequence[str], in_programs: Sequence[str], *, kind: str = "number"
) -> NDArray[np.bool_]:
    """`[Q]` whether the two greedy answers to each query are the same.

    Raises:
        PolicyError: other numbers of answers.

    Example:
        >>> representation_verify(["It is 6/4.", ""], ["1.5", ""]).tolist()
        [True, False]
    """
    if len(in_words) != len(in_programs):
        raise PolicyError(f"{len(in_words)} and {len(in_programs)} answers, expected as many")
    pairs = zip(canonical_all(in_words, kind), canonical_all(in_programs, kind), strict=True)
    return np.array([a == b and bool(a) for a, b in pairs], np.bool_)
