"""Upstream: a provider that is asked through any-llm, in chat completions.

The library turns the request into the provider's own format, sends it with the provider's own
client, and turns the answer back. Keys are read from the environment when a request is sent.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Any

from wye.gateway.config import Target
from wye.gateway.providers.bounded import own_http
from wye.gateway.providers.chat_to_provider import OF_ANTHROPIC, carry
from wye.gateway.providers.faults import upstream_error
from wye.gateway.providers.library import client, key_of, provider_class, require
from wye.gateway.surfaces.chat import CHAT
from wye.gateway.upstream import Fault, Upstream, UpstreamError, close

if TYPE_CHECKING:
    from any_llm import AnyLLM


class Provider(Upstream):
    """Carries chat requests to `target.provider`, or to another provider that speaks as the target.

    Args:
        target: its name, model, key and times.
        provider: as any-llm names it.
        address: where the provider is, None for its own address.

    Raises:
        ValueError: the library, the provider or its client is not there.
    """

    def __init__(self, target: Target, provider: str, address: str | None) -> None:
        require(f"provider {provider!r}")
        self._target = target
        self._provider = provider
        self._address = address
        self._class = provider_class(provider)
        self._http: dict[str, Any] = {}
        self._client: tuple[str | None, AnyLLM] | None = None

    async def close(self) -> None:
        """Let go of the client; any-llm has no way to close one that is not ours."""
        self._client, http, self._http = None, self._http.get("http_client"), {}
        if http is not None:
            await http.aclose()

    async def complete(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """One whole answer."""
        total = self._target.timeouts.total
        try:
            async with asyncio.timeout(total) as limit:
                answer = await self._send(request, stream=False)
        except TimeoutError as error:
            if not limit.expired():
                raise self._fault(error, streamed=False) from None
            raise self._error(f"gave no answer within {total:g} s", Fault.TIMEOUT) from None
        except UpstreamError:
            raise
        except Exception as error:  # noqa: BLE001  # a provider's client may raise anything
            raise self._fault(error, streamed=False) from None
        found = _answer(answer)
        if not CHAT.is_answer(found):
            raise self._error("sent an answer without a choice", Fault.GARBAGE)
        return found

    async def stream(self, request: Mapping[str, Any]) -> AsyncIterator[dict[str, Any]]:
        """The answer in pieces."""
        times, loop = self._target.timeouts, asyncio.get_running_loop()
        deadline = loop.time() + times.total
        until = loop.time() + min(times.first_byte, times.total)
        begun = finished = False
        pieces: AsyncIterator[Any] | None = None
        shaped = _Pieces()
        try:
            async with asyncio.timeout_at(until):
                pieces = aiter(await self._send(request, stream=True))
            while True:
                async with asyncio.timeout_at(until):
                    piece = await anext(pieces, None)
                if piece is None:
                    break
                begun = True
                found = shaped.shape(piece.model_dump(mode="json", exclude_none=True))
                finished = finished or CHAT.ends(found)
                yield found
                # Counted from here, so that a client that reads slowly is not held against it.
                until = min(deadline, loop.time() + times.between)
        except TimeoutError as error:
            if loop.time() < until:
                raise self._fault(error, streamed=True) from None
            raise self._late(begun, loop.time() >= deadline) from None
        except UpstreamError:
            raise
        except Exception as error:  # noqa: BLE001  # a provider's client may raise anything
            raise self._fault(error, streamed=True) from None
        finally:
            if pieces is not None:
                await close(pieces)
        if not finished:
            raise self._error("cut its stream short, before its end", Fault.CUT)

    async def _send(self, request: Mapping[str, Any], *, stream: bool) -> Any:
        fields = carry(request, self._target, self._provider).body
        fields["model"] = self._target.upstream_model
        fields["stream"] = stream
        if not stream:
            fields.pop("stream_options", None)
        elif self._target.stream_usage and self._provider not in OF_ANTHROPIC:
            options = fields.get("stream_options") or {}
            fields["stream_options"] = {**options, "include_usage": True}
        client = self._connected()
        # A client of ours has the times already.
        if not self._http and self._class.TIMEOUT_SUPPORT != "unsupported":
            fields["timeout"] = self._target.timeouts.total
        return await client.acompletion(**fields)

    def _connected(self) -> AnyLLM:
        """The client, made again when the key in the environment has changed."""
        key = key_of(self._target)
        if key == "":
            raise self._error(
                f"needs a key, but {self._target.api_key_env} is not set in the environment",
                Fault.STATUS,
            )
        if self._client is None or self._client[0] != key:
            self._http = self._http or own_http(self._class, self._target.timeouts)
            options = {**self._http, **self._target.options}
            made = client(self._provider, key=key, address=self._address, options=options)
            self._client = (key, made)
        return self._client[1]

    def _late(self, begun: bool, over: bool) -> UpstreamError:
        times = self._target.timeouts
        if over:
            return self._error(f"did not finish within {times.total:g} s", Fault.TIMEOUT)
        if begun:
            silent = f"fell silent: nothing more came within {times.between:g} s"
            return self._error(silent, Fault.TIMEOUT)
        return self._error(f"sent no first byte within {times.first_byte:g} s", Fault.TIMEOUT)

    def _fault(self, error: Exception, *, streamed: bool) -> UpstreamError:
        key = key_of(self._target)
        return upstream_error(self._target.name, error, key, streamed=streamed)

    def _error(self, what: str, fault: Fault) -> UpstreamError:
        return UpstreamError(f"{self._target.name} {what}", fault=fault)


class _Pieces:
    """Pieces of one stream, made alike: one id, one time, calls numbered from 0."""

    def __init__(self) -> None:
        self._id: str | None = None
        self._created = int(time.time())
        self._calls: dict[Any, int] = {}

    def shape(self, piece: Mapping[str, Any]) -> dict[str, Any]:
        """A piece as clients of chat completions expect it."""
        self._id = self._id or str(piece.get("id"))
        for choice in piece.get("choices", ()):
            choice.setdefault("finish_reason", None)
            for call in choice.get("delta", {}).get("tool_calls", ()):
                place = (choice.get("index"), call.get("index"))
                call["index"] = self._calls.setdefault(place, len(self._calls))
        return {**piece, "id": self._id, "created": piece.get("created") or self._created}


def _answer(answer: Any) -> dict[str, Any]:
    """A whole answer as clients of chat completions expect it."""
    found: dict[str, Any] = answer.model_dump(mode="json", exclude_none=True)
    for choice in found.get("choices", ()):
        choice.setdefault("logprobs", None)
        choice.get("message", {}).setdefault("content", None)
        choice.get("message", {}).setdefault("refusal", None)
    return {**found, "created": found.get("created") or int(time.time())}
