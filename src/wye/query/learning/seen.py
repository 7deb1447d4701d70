"""Which questions a router learned from, so that a report can tell that it is asked them again.

Kept as hashes of 64 bits: they say whether a question was seen, and give none away.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from wye.data.questions import normalise

if TYPE_CHECKING:
    from wye.query.base import BoolArray, QueryRouter


def question_hashes(texts: Iterable[str]) -> NDArray[np.uint64]:
    """`[Q]` of the normalised question behind each text.

    Example:
        >>> one, other = question_hashes(["What is 2 + 2?", " what is 2 + 2? "])
        >>> bool(one == other)
        True
    """
    return np.array(
        [
            int.from_bytes(
                hashlib.blake2b(normalise(t).encode("utf-8", "replace"), digest_size=8).digest()
            )
            for t in texts
        ],
        np.uint64,
    )


def remember(router: QueryRouter, texts: Iterable[str]) -> None:
    """Note on `router` which questions it learned from; it is saved with them."""
    router.learned_from_ = np.unique(question_hashes(texts))


def seen(router: QueryRouter, texts: Iterable[str]) -> BoolArray:
    """`[Q]` whether `router` is known to have learned from each question."""
    hashes = question_hashes(texts)
    known = router.learned_from_
    return np.zeros(hashes.size, bool) if known is None else np.isin(hashes, known)
