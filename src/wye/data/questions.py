"""When two texts are the same question, and which side of a split a question falls on."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from wye.data.errors import DataError


def normalise(text: str) -> str:
    """The question behind a text: Unicode NFKC, no case, single spaces.

    Example:
        >>> normalise("  What is\\u00a02 + 2? ") == normalise("what IS 2 + 2?")
        True
    """
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return " ".join(folded.split())


def normalise_all(texts: Iterable[str]) -> list[str]:
    """`normalise` of each text, in order."""
    return [normalise(text) for text in texts]


def split_by_question(
    texts: Sequence[str], *, test_share: float = 0.2, seed: int = 0
) -> NDArray[np.str_]:
    """`train` or `test` for each text, by a hash of its normalised question.

    The same question always falls on the same side, in whatever data set or order it occurs, and a
    question keeps its side when others are added. The share is met in expectation.

    Args:
        texts: Q questions.
        test_share: probability of `test`, 0 to 1.
        seed: another seed gives an independent split.

    Raises:
        DataError: `test_share` is not from 0 to 1.

    Example:
        >>> sides = split_by_question(["One?", " one? ", "Two?"], test_share=0.5, seed=3)
        >>> bool(sides[0] == sides[1])
        True
    """
    if not 0.0 <= test_share <= 1.0:
        raise DataError(f"test_share is {test_share!r}, expected a number from 0 to 1")
    return np.where(_uniform(texts, seed) < test_share, "test", "train")


def folds_by_question(texts: Sequence[str], folds: int, *, seed: int = 0) -> NDArray[np.intp]:
    """`[Q]` which of `folds` parts each text falls into, by a hash of its normalised question.

    Args:
        texts: Q questions.
        folds: how many parts, 2 or more; their sizes are equal in expectation.
        seed: another seed gives independent parts.

    Raises:
        DataError: fewer than 2 parts.

    Example:
        >>> parts = folds_by_question(["One?", " one? ", "Two?"], 3)
        >>> bool(parts[0] == parts[1])
        True
    """
    if folds < 2:
        raise DataError(f"folds is {folds}, expected 2 or more")
    return np.minimum((_uniform(texts, seed) * folds).astype(np.intp), folds - 1)


def _uniform(texts: Sequence[str], seed: int) -> NDArray[np.float64]:
    """A number from 0 to 1 for each text, the same for the same question."""
    key = int(seed).to_bytes(16, "big", signed=True)
    draws = np.fromiter(
        (
            int.from_bytes(hashlib.blake2b(normalise(t).encode(), digest_size=8, key=key).digest())
            for t in texts
        ),
        dtype=np.uint64,
        count=len(texts),
    )
    # 53 bits, so that the comparison with a float share is exact.
    return np.asarray((draws >> np.uint64(11)).astype(np.float64) / 2.0**53)
