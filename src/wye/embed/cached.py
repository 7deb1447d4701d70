"""Vectors kept on disk, so that a text is embedded once.

One SQLite file in WAL mode: several processes may read and write it at the same time. A vector is
found by the hash of the embedder's name and the text, so a changed embedder never meets old
vectors.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from wye.embed.base import Embedder, Vectors

if TYPE_CHECKING:
    from numpy.typing import NDArray

KEYS_PER_QUERY = 500


class CachedEmbedder(Embedder):
    """An embedder with a memory on disk.

    Args:
        inner: the embedder that makes the vectors.
        directory: folder of the cache file; the user's cache folder when not given.
    """

    def __init__(self, inner: Embedder, directory: str | Path | None = None) -> None:
        if directory is None:
            from platformdirs import user_cache_path

            directory = user_cache_path("wye") / "embeddings"
        self.inner = inner
        self.spec = inner.spec
        self.path = Path(directory) / "vectors.sqlite3"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with closing(self._connect()) as connection, connection:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute(
                "CREATE TABLE IF NOT EXISTS vectors (key BLOB PRIMARY KEY, vector BLOB NOT NULL) "
                "WITHOUT ROWID"
            )

    @property
    def name(self) -> str:  # type: ignore[override]
        """Identity of the vectors: the inner embedder's."""
        return self.inner.name

    @property
    def batch_size(self) -> int:  # type: ignore[override]
        """Texts embedded at once: the inner embedder's."""
        return self.inner.batch_size

    @property
    def spent_usd(self) -> float:  # type: ignore[override]
        """What the inner embedder has cost."""
        return self.inner.spent_usd

    @property
    def dim(self) -> int:
        """Width D of the vectors."""
        return self.inner.dim

    def fit(self, texts: Sequence[str]) -> Self:
        """Adapt the inner embedder to a corpus."""
        self.inner.fit(texts)
        return self

    def reads_whole(self, texts: Sequence[str]) -> NDArray[np.bool_]:
        """Whether the inner embedder reads the whole of each text."""
        return self.inner.reads_whole(texts)

    def get_state(self) -> dict[str, NDArray[Any]]:
        """What the inner embedder learned."""
        return self.inner.get_state()

    def set_state(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Restore the inner embedder."""
        self.inner.set_state(arrays)

    def _vectors(self, texts: Sequence[str]) -> NDArray[Any]:
        keys = [self._key(text) for text in texts]
        with closing(self._connect()) as connection:
            known = self._read(connection, keys)
            missing = {k: t for k, t in zip(keys, texts, strict=True) if k not in known}
            if missing:
                made = self.inner.embed(list(missing.values()))
                known.update(zip(missing, made, strict=True))
                with connection:
                    connection.executemany(
                        "INSERT OR REPLACE INTO vectors VALUES (?, ?)",
                        [(k, v.tobytes()) for k, v in zip(missing, made, strict=True)],
                    )
        return np.stack([known[k] for k in keys])

    def _read(self, connection: sqlite3.Connection, keys: Sequence[bytes]) -> dict[bytes, Vectors]:
        found: dict[bytes, Vectors] = {}
        for start in range(0, len(keys), KEYS_PER_QUERY):
            part = keys[start : start + KEYS_PER_QUERY]
            marks = ",".join("?" * len(part))
            rows = connection.execute(
                f"SELECT key, vector FROM vectors WHERE key IN ({marks})", part
            )
            # A row of another width is damaged: it counts as missing and is written again.
            found.update(
                (key, np.frombuffer(vector, np.float32))
                for key, vector in rows
                if len(vector) == 4 * self.dim
            )
        return found

    def _key(self, text: str) -> bytes:
        content = f"{self.name}\0{text}".encode("utf-8", "surrogatepass")
        return sha256(content).digest()

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self.path, timeout=30.0)
