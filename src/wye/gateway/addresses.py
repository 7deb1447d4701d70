"""Addresses of upstreams, checked when `wye.toml` is read."""

from __future__ import annotations

from urllib.parse import urlsplit


def unusable(url: str) -> str | None:
    """Why paths cannot be joined to an address; None where they can.

    >>> unusable("http://127.0.0.1:99999/v1")
    'its port is none; ports are 1 to 65535'
    """
    if not url.startswith(("http://", "https://")):
        return "it must begin with http:// or https://"
    if not url.isprintable() or " " in url:
        return "it has white space or control characters"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        named = "port" in str(error).lower()
        return "its port is none; ports are 1 to 65535" if named else "it is no URL"
    if port == 0:
        return "its port is none; ports are 1 to 65535"
    if not parts.hostname:
        return "it names no host"
    if parts.query or parts.fragment or url.endswith(("?", "#")):
        return "paths such as /chat/completions are put behind it, so it cannot have a ? or #"
    return None
