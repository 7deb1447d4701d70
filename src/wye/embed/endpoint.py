"""Vectors from any OpenAI-compatible embeddings endpoint (`POST {base_url}/embeddings`)."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from wye.embed.base import Embedder, EmbedError
from wye.embed.json_endpoint import JsonEndpoint

if TYPE_CHECKING:
    from numpy.typing import NDArray


class EndpointEmbedder(Embedder):
    """An OpenAI-compatible embeddings endpoint.

    Args:
        base_url: up to and including the version, such as `https://api.openai.com/v1`.
        model: the endpoint's name of the model.
        api_key_env: environment variable that holds the key; no key is sent when it is None.
        batch_size: texts in one request.
        retries: how often a request that failed by 408, 429, 5xx or the network is sent again,
            waiting as the server's `Retry-After` says, else 0.5 s, doubled each time.
        timeout: seconds for one request.
        price_per_mtok: USD per million input tokens, counted into `spent_usd` by the usage that
            the endpoint reports.

    Raises:
        EmbedError: the key is not set, or the endpoint refused, failed or answered nonsense.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        api_key_env: str | None = None,
        *,
        batch_size: int = 64,
        retries: int = 4,
        timeout: float = 60.0,
        price_per_mtok: float = 0.0,
    ) -> None:
        if batch_size < 1:
            raise EmbedError(f"batch_size is {batch_size}, expected 1 or more")
        self.base_url = base_url.rstrip("/")
        self.model = model
        self.api_key_env = api_key_env
        self.batch_size = batch_size
        self.retries = retries
        self.timeout = timeout
        self.price_per_mtok = price_per_mtok
        self.name = f"endpoint:{self.base_url}#{model}"
        self.spec = self.name if api_key_env is None else f"{self.name}#{api_key_env}"
        self._dim: int | None = None
        self._endpoint = self._connected()

    def within(self, seconds: float) -> Self:
        """The same for somebody who waits: a request is sent once, and given so many seconds."""
        same = copy.copy(self)
        same.retries, same.timeout = 0, seconds
        same._endpoint = same._connected()
        return same

    def _connected(self) -> JsonEndpoint:
        return JsonEndpoint(
            self.name,
            self.base_url,
            self.api_key_env,
            retries=self.retries,
            timeout=self.timeout,
            error=EmbedError,
        )

    @property
    def dim(self) -> int:
        """Width D of the vectors, asked of the endpoint once."""
        if self._dim is None:
            self._vectors(["width"])
        assert self._dim is not None
        return self._dim

    def _vectors(self, texts: Sequence[str]) -> NDArray[Any]:
        filled = [i for i, text in enumerate(texts) if text.strip()]
        if not filled:
            return np.zeros((len(texts), self.dim), np.float32)
        # Endpoints refuse an empty input, which has the zero vector by contract.
        asked = [texts[i] for i in filled]
        body = {"model": self.model, "input": asked, "encoding_format": "float"}
        made = self._parse(self._endpoint.post("embeddings", body), len(filled))
        if self._dim is not None and made.shape[1] != self._dim:
            raise EmbedError(
                f"{self.name} answered vectors of width {made.shape[1]} after {self._dim}"
            )
        self._dim = made.shape[1]
        vectors = np.zeros((len(texts), self._dim), np.float32)
        vectors[filled] = made
        return vectors

    def _parse(self, body: Any, expected: int) -> NDArray[np.float32]:
        try:
            rows = sorted(body["data"], key=lambda row: row["index"])
            vectors = np.asarray([row["embedding"] for row in rows], np.float32)
            tokens = (body.get("usage") or {}).get("prompt_tokens") or 0
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise EmbedError(
                f"{self.name} answered JSON without data[].index and data[].embedding: "
                f"{str(body)[:200]}"
            ) from error
        if vectors.ndim != 2 or vectors.shape[0] != expected:
            raise EmbedError(
                f"{self.name} answered vectors of shape {vectors.shape} for {expected} texts"
            )
        self.spent_usd += tokens * self.price_per_mtok / 1e6
        return vectors
