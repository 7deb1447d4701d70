"""Texts embedded once for all seeds and routers of a check."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wye.embed import Embedder


@contextmanager
def embedded_once(spec: str = "minilm") -> Iterator[Embedder]:
    """An embedder that keeps its vectors for as long as the context lasts.

    Raises:
        EmbedError: what `spec` needs is not installed; the message names the extra.
    """
    from wye.embed import get_embedder
    from wye.embed.cached import CachedEmbedder

    with tempfile.TemporaryDirectory() as folder:
        yield CachedEmbedder(get_embedder(spec), folder)
