"""What a learner reads of a query: a short vector that depends on the text alone.

Nothing here is fitted. The context of a text is the same at every gateway, before and after a
restart, so what was learned anywhere can be added up everywhere.

Shape letters: D context width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import numpy as np

from wye.query.base import FloatArray, RouterError
from wye.query.learning.features import FEATURES, SCRIPTS, text_features

if TYPE_CHECKING:
    from wye.embed import Embedder

# Each with what it is divided by, so that usual texts lie between 0 and 1.
_COLUMNS = {
    "log_chars": 10.0,
    "log_lines": 5.0,
    "log_numbers": 3.0,
    "log_arithmetic": 2.0,
    "log_code": 3.0,
    "log_latex": 3.0,
    "log_options": 2.0,
    "ends_question": 1.0,
    "says_write": 1.0,
    "says_explain": 1.0,
}
_FOREIGN = [FEATURES.index(f"share_{script}") for script in SCRIPTS if script != "latin"]
_PLACES = [(FEATURES.index(name), scale) for name, scale in _COLUMNS.items()]
_SEED = 0


class Reader(ABC):
    """Reads contexts.

    Attributes:
        name: tells everything that the contexts depend on.
        width: D.
    """

    name: str
    width: int

    @abstractmethod
    def read(self, text: str) -> FloatArray:
        """The context `[D]` of a text; its last entry is 1."""


class TextReader(Reader):
    """Length, numbers, code, formulas, options, script and kind of question."""

    name = "text-1"
    width = len(_COLUMNS) + 2

    def read(self, text: str) -> FloatArray:
        """See `Reader`."""
        row = text_features([text])[0].tolist()
        picked = [min(1.0, row[place] / scale) for place, scale in _PLACES]
        foreign = sum(row[place] for place in _FOREIGN)
        return np.asarray([*picked, min(1.0, foreign), 1.0], np.float32).astype(np.float64)


class EmbeddingReader(Reader):
    """The embedding of the text, projected at random to `width` dimensions of length 1, and a 1.

    Johnson and Lindenstrauss 1984; see `wye.query.learning.contexts.EmbeddingContext`.
    """

    def __init__(self, embedder: Embedder, width: int) -> None:
        from wye.query.learning.contexts import EmbeddingContext

        self._embedder = embedder
        self._context = EmbeddingContext(embedder.dim, width, _SEED)
        self.name = f"embedding-1 {embedder.name} {width}"[:64]
        self.width = self._context.width

    def read(self, text: str) -> FloatArray:
        """See `Reader`."""
        vector = self._embedder.embed([text])
        found = self._context.contexts(vector, np.zeros((1, 0)), [None])[0]
        return np.asarray(found.astype(np.float32), np.float64)


def reader_of(context: str, embedder: str, width: int) -> Reader:
    """The reader that a policy's `context` names: "text" or "embedding".

    Raises:
        RouterError: another name, or an embedder that is asked over the network.
    """
    if context == "text":
        return TextReader()
    if context != "embedding":
        raise RouterError(f'context is {context!r}, expected "text" or "embedding"')
    if embedder.startswith("endpoint:"):
        raise RouterError(
            f"embedder is {embedder!r}; a learner reads every request at once, so it needs an "
            'embedder of this machine, "static" or "minilm"'
        )
    from wye.embed import get_embedder

    return EmbeddingReader(get_embedder(embedder), width)
