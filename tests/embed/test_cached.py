"""The cache on disk: a text is embedded once, by whichever process comes first."""

from __future__ import annotations

import multiprocessing
import sqlite3
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from wye.embed import CachedEmbedder, StaticEmbedder, TfidfEmbedder

TEXTS = [f"question number {i}" for i in range(60)]


class Counting(StaticEmbedder):
    """Counts the texts that it really embeds."""

    seen = 0

    def _vectors(self, texts: Sequence[str]) -> np.ndarray:
        self.seen += len(texts)
        return super()._vectors(texts)


def test_a_text_is_embedded_once(tmp_path: Path) -> None:
    inner = Counting()
    cached = CachedEmbedder(inner, tmp_path)
    first = cached.embed([*TEXTS, *TEXTS])
    assert inner.seen == len(TEXTS)
    again = CachedEmbedder(inner, tmp_path).embed([*TEXTS, "a further one"])
    assert inner.seen == len(TEXTS) + 1
    np.testing.assert_allclose(again[:-1], first[: len(TEXTS)], atol=1e-6)
    np.testing.assert_allclose(first[: len(TEXTS)], StaticEmbedder().embed(TEXTS), atol=1e-6)


def test_another_embedder_finds_none_of_the_vectors(tmp_path: Path) -> None:
    CachedEmbedder(Counting(), tmp_path).embed(TEXTS)
    inner = Counting(max_chars=5)
    CachedEmbedder(inner, tmp_path).embed(TEXTS)
    assert inner.seen == len(TEXTS)


def test_learning_renames_the_vectors(tmp_path: Path) -> None:
    cached = CachedEmbedder(TfidfEmbedder(dim=64), tmp_path)
    before = cached.embed(TEXTS)
    cached.fit(TEXTS)
    assert np.abs(cached.embed(TEXTS) - before).max() > 0.01


def test_a_damaged_vector_is_made_again(tmp_path: Path) -> None:
    cached = CachedEmbedder(StaticEmbedder(), tmp_path)
    whole = cached.embed(TEXTS)
    with sqlite3.connect(cached.path) as connection:
        connection.execute("UPDATE vectors SET vector = x'00'")
    np.testing.assert_allclose(cached.embed(TEXTS), whole, atol=1e-6)


def test_processes_share_one_cache(tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        made = pool.starmap(_embed, [(tmp_path, start) for start in (0, 10, 20)])
    expected = StaticEmbedder().embed(TEXTS)
    for start, vectors in zip((0, 10, 20), made, strict=True):
        np.testing.assert_allclose(vectors, expected[start : start + 30], atol=1e-6)
    with sqlite3.connect(tmp_path / "vectors.sqlite3") as connection:
        assert connection.execute("SELECT count(*) FROM vectors").fetchone() == (50,)


def _embed(directory: Path, start: int) -> np.ndarray:
    return CachedEmbedder(StaticEmbedder(), directory).embed(TEXTS[start : start + 30])
