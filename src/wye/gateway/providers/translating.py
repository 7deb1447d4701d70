"""Upstream: one target that answers on more surfaces than it speaks.

What the target speaks passes through its own upstream untouched; the rest is translated.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any

from wye.gateway.config import Target
from wye.gateway.providers.library import require
from wye.gateway.providers.messages_by_chat import MessagesByChat
from wye.gateway.providers.provider import Provider
from wye.gateway.surfaces import surface_of
from wye.gateway.upstream import Upstream


class Translating(Upstream):
    """Passes on what `target.surfaces` names and translates what `target.translated` names.

    Args:
        target: see `Target.translate`.
        own: the target's own upstream.

    Raises:
        ValueError: the library is not there.
    """

    def __init__(self, target: Target, own: Upstream) -> None:
        require("`translate`")
        self._surfaces = target.surfaces
        self._own = own
        self._messages = MessagesByChat(target, own)
        self._chat: Provider | None = None
        if "chat" in target.translated:
            address = str(target.address).removesuffix("/v1")
            self._chat = Provider(target, "anthropic", address)

    async def start(self) -> None:
        """Make the target's own upstream ready."""
        await self._own.start()

    async def close(self) -> None:
        """Close the target's own upstream, and the library's client."""
        await self._own.close()
        if self._chat is not None:
            await self._chat.close()

    async def complete(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """One whole answer, in the format of the request."""
        return await self._by(request).complete(request)

    def stream(self, request: Mapping[str, Any]) -> AsyncIterator[dict[str, Any]]:
        """The answer in pieces, in the format of the request."""
        return self._by(request).stream(request)

    async def count_tokens(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """By the target's own upstream."""
        return await self._own.count_tokens(request)

    def _by(self, request: Mapping[str, Any]) -> Upstream | MessagesByChat:
        surface = surface_of(request).name
        if surface in self._surfaces:
            return self._own
        return self._chat if surface == "chat" and self._chat is not None else self._messages
