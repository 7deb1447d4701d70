"""JSON over HTTP to an endpoint that may be busy: keys, retries, and errors that say what to do."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from wye.errors import WyeError

if TYPE_CHECKING:
    import httpx

RETRIED = frozenset({408, 429, 500, 502, 503, 504})
LONGEST_WAIT = 60.0


class JsonEndpoint:
    """Posts JSON below one base URL and reads JSON back.

    Args:
        name: of the endpoint, for errors.
        base_url: up to and including the version, such as `https://api.openai.com/v1`.
        api_key_env: environment variable that holds the key; no key is sent when it is None.
        retries: how often a request that failed by 408, 429, 5xx or the network is sent again,
            waiting as the server's `Retry-After` says, else 0.5 s, doubled each time. A server
            that asks for more than a minute is not waited for.
        timeout: seconds for one request.
        error: class of the errors.

    Raises:
        WyeError: of the class `error`: the base URL or `retries` is wrong.
    """

    def __init__(
        self,
        name: str,
        base_url: str,
        api_key_env: str | None,
        *,
        retries: int,
        timeout: float,
        error: type[WyeError],
    ) -> None:
        if not base_url.startswith(("http://", "https://")):
            raise error(f"base_url is {base_url!r}, expected http://... or https://...")
        try:
            host = urlsplit(base_url).hostname
        except ValueError as wrong:
            raise error(f"base_url is {base_url!r}, which is no address: {wrong}") from wrong
        if not host:
            raise error(f"base_url is {base_url!r}, which names no host: http://HOST:PORT/v1")
        if retries < 0 or timeout <= 0:
            raise error(f"retries is {retries} and timeout {timeout}; need >= 0 and > 0")
        self.name = name
        self.base_url = base_url.rstrip("/")
        self.api_key_env = api_key_env
        self.retries = retries
        self.timeout = timeout
        self.error = error
        self._client: httpx.Client | None = None

    def post(self, path: str, body: Any) -> Any:
        """The JSON that `POST {base_url}/{path}` answers to the JSON `body`.

        Raises:
            WyeError: of the class `error`: the key is not set, the endpoint refused, did not answer
                in time, cannot be reached, or answered something else than JSON.
        """
        import httpx

        headers = self._headers()
        if self._client is None:
            self._client = httpx.Client(timeout=self.timeout)
        wait = 0.5
        for attempt in range(self.retries + 1):
            try:
                response = self._client.post(f"{self.base_url}/{path}", json=body, headers=headers)
            except httpx.TimeoutException as error:
                failure = f"no answer within {self.timeout:g} s ({type(error).__name__})"
            except httpx.RequestError as error:
                failure = f"{type(error).__name__}: {error}"
            else:
                if response.is_success:
                    return self._json(response)
                failure = f"HTTP {response.status_code}: {response.text[:300]}"
                if response.status_code not in RETRIED:
                    raise self.error(f"{self.name} refused: {failure}")
                asked = _retry_after(response.headers.get("retry-after"))
                if asked is not None and asked > LONGEST_WAIT:
                    raise self.error(
                        f"{self.name} is busy and asks to be left alone for {asked:g} s: {failure}"
                    )
                wait = wait if asked is None else asked
            if attempt < self.retries:
                time.sleep(min(wait, LONGEST_WAIT))
                wait *= 2
        raise self.error(
            f"{self.name} failed {self.retries + 1} times in a row, last by {failure}; "
            "is the endpoint up and base_url right?"
        )

    def _headers(self) -> dict[str, str]:
        if self.api_key_env is None:
            return {}
        key = os.environ.get(self.api_key_env)
        if not key:
            raise self.error(
                f"the environment variable {self.api_key_env} is not set; it holds the key of "
                f"{self.base_url}"
            )
        return {"Authorization": f"Bearer {key}"}

    def _json(self, response: httpx.Response) -> Any:
        try:
            return response.json()
        except ValueError as error:
            raise self.error(
                f"{self.name} answered something else than JSON: {response.text[:200]!r}"
            ) from error


def _retry_after(header: str | None) -> float | None:
    """Seconds that a `Retry-After` header asks for; None where it asks for none."""
    try:
        return max(0.0, float(header)) if header else None
    except ValueError:  # an HTTP date, which endpoints of this kind do not send
        return None
