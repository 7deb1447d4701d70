"""Vectors from any OpenAI-compatible embeddings endpoint (`POST {base_url}/embeddings`)."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from wye.embed.base import Embedder, EmbedError

if TYPE_CHECKING:
    import httpx
    from numpy.typing import NDArray

RETRIED = frozenset({408, 429, 500, 502, 503, 504})


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
        if not base_url.startswith(("http://", "https://")):
            raise EmbedError(f"base_url is {base_url!r}, expected http://... or https://...")
        if batch_size < 1 or retries < 0:
            raise EmbedError(f"batch_size is {batch_size} and retries {retries}; need >= 1, >= 0")
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
        self._client: httpx.Client | None = None

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
        made = self._parse(self._request([texts[i] for i in filled]), len(filled))
        if self._dim is not None and made.shape[1] != self._dim:
            raise EmbedError(
                f"{self.name} answered vectors of width {made.shape[1]} after {self._dim}"
            )
        self._dim = made.shape[1]
        vectors = np.zeros((len(texts), self._dim), np.float32)
        vectors[filled] = made
        return vectors

    def _request(self, texts: list[str]) -> Any:
        import httpx

        if self._client is None:
            self._client = httpx.Client(timeout=self.timeout)
        wait = 0.5
        for attempt in range(self.retries + 1):
            try:
                response = self._client.post(
                    f"{self.base_url}/embeddings",
                    json={"model": self.model, "input": texts, "encoding_format": "float"},
                    headers=self._headers(),
                )
            except httpx.TransportError as error:
                failure = f"{type(error).__name__}: {error}"
            else:
                if response.is_success:
                    return self._json(response)
                failure = f"HTTP {response.status_code}: {response.text[:300]}"
                if response.status_code not in RETRIED:
                    raise EmbedError(f"{self.name} refused {len(texts)} texts: {failure}")
                wait = _retry_after(response.headers.get("retry-after"), wait)
            if attempt < self.retries:
                time.sleep(wait)
                wait *= 2
        raise EmbedError(
            f"{self.name} failed {self.retries + 1} times in a row, last by {failure}; "
            "is the endpoint up and base_url right?"
        )

    def _headers(self) -> dict[str, str]:
        if self.api_key_env is None:
            return {}
        key = os.environ.get(self.api_key_env)
        if not key:
            raise EmbedError(
                f"the environment variable {self.api_key_env} is not set; it holds the key of "
                f"{self.base_url}"
            )
        return {"Authorization": f"Bearer {key}"}

    def _json(self, response: httpx.Response) -> Any:
        try:
            return response.json()
        except ValueError as error:
            raise EmbedError(
                f"{self.name} answered something else than JSON: {response.text[:200]!r}"
            ) from error

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


def _retry_after(header: str | None, otherwise: float) -> float:
    """Seconds that a `Retry-After` header asks for, at most a minute."""
    try:
        return min(60.0, max(0.0, float(header))) if header else otherwise
    except ValueError:  # an HTTP date, which endpoints of this kind do not send
        return otherwise
