"""A request's body on its way to an upstream, with the surface that it is written for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class Body(dict[str, Any]):
    """A request's body, a plain dict, that also says how it is to be sent.

    An upstream that knows chat completions alone reads it as the dict that it is.

    Args:
        body: the request as it came.
        surface: name of its surface (`wye.gateway.surfaces`).
        headers: of the client, those that belong to the request's meaning.
    """

    __slots__ = ("headers", "surface")

    def __init__(
        self, body: Mapping[str, Any], *, surface: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(body)
        self.surface = surface
        self.headers: dict[str, str] = dict(headers or {})
