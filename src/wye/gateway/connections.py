"""Kept connections to one upstream, over which requests are posted and answers read in parts."""

from __future__ import annotations

import io
import ssl
import urllib.request
from collections.abc import AsyncIterator, Mapping
from functools import cache

import aiohttp
import httpx
from yarl import URL

from wye import __version__

_AGENT = f"wye/{__version__}"
_KEPT_SECONDS = 60.0
# aiohttp writes longer bodies in pieces only where they come as a file.
_LONG_BODY = 256 * 1024


class Connections:
    """A client of one upstream.

    Args:
        base_url: with which every path is joined.
        connect_seconds: to find and reach the upstream, TLS included.

    Raises:
        ValueError: the address is none, or a proxy of the environment is of a kind unknown here.
    """

    def __init__(self, base_url: str, connect_seconds: float) -> None:
        self._base = base_url.rstrip("/")
        self._proxy = _proxy(URL(self._base))
        self._urls: dict[str, URL] = {}
        secure = self._base.startswith("https:")
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                # Plain http never uses the certificates, and loading them takes long.
                ssl=_certificates() if secure else False,
                limit=0,
                keepalive_timeout=_KEPT_SECONDS,
            ),
            timeout=aiohttp.ClientTimeout(total=None, connect=connect_seconds),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"user-agent": _AGENT},
        )

    async def close(self) -> None:
        """Close every connection."""
        await self._session.close()

    async def post(
        self, path: str, content: bytes, headers: Mapping[str, str]
    ) -> aiohttp.ClientResponse:
        """The response with its body unread; release it in any case.

        Raises:
            aiohttp.ClientError: the upstream cannot be reached or breaks the connection.
        """
        url = self._urls.get(path)
        if url is None:
            url = self._urls[path] = URL(f"{self._base}/{path}")
        return await self._session.post(
            url,
            data=io.BytesIO(content) if len(content) > _LONG_BODY else content,
            headers=headers,
            allow_redirects=False,
            proxy=self._proxy,
        )


async def parts(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """The body as it comes, decompressed; nothing of it is kept."""
    while part := await response.content.readany():
        yield part


def undecodable(error: aiohttp.ClientError) -> bool:
    """Whether a body came whole, in an encoding that it is not in."""
    cause = error.__cause__
    return isinstance(cause, aiohttp.http_exceptions.ContentEncodingError)


@cache
def _certificates() -> ssl.SSLContext:
    """The trusted certificates, loaded once for all upstreams."""
    return httpx.create_ssl_context()


def _proxy(url: URL) -> URL | None:
    """The proxy that the environment names for an address, if any."""
    proxies = urllib.request.getproxies()
    given = proxies.get(url.scheme) or proxies.get("all")
    if not given or urllib.request.proxy_bypass(url.host or ""):
        return None
    proxy = URL(given if "://" in given else f"http://{given}")
    if proxy.scheme not in ("http", "https"):
        raise ValueError(
            f"the proxy {proxy.scheme}://{proxy.host} is for {proxy.scheme}; name an HTTP proxy in "
            f"{url.scheme}_proxy, or list {url.host} in no_proxy"
        )
    return proxy
