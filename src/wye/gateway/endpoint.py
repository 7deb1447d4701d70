"""Upstream: any endpoint that speaks OpenAI's or Anthropic's formats, over HTTP.

The request passes on as it came, with the model's name at the upstream in place of the one the
client gave. Keys are read from the environment when a request is sent and appear in no message.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from http import HTTPStatus
from typing import Any

import aiohttp

from wye.gateway import sse
from wye.gateway.config import Target
from wye.gateway.connections import Connections, parts, undecodable
from wye.gateway.environment import secret
from wye.gateway.openai_api import finite, no_constant
from wye.gateway.patience import Patience
from wye.gateway.retry_after import retry_after
from wye.gateway.surfaces import MESSAGES, Body, Surface, surface_of
from wye.gateway.surfaces.messages import COUNT_PATH, VERSION_HEADER
from wye.gateway.surfaces.received import Received
from wye.gateway.telemetry.trace import OUTGOING
from wye.gateway.upstream import Fault, Upstream, UpstreamError

_ERROR_BYTES = 64 * 1024
_ANSWER_BYTES = 64 * 1024 * 1024
_DRAIN_SECONDS = 0.5
_ANTHROPIC_VERSION = "2023-06-01"


class Endpoint(Upstream):
    """Carries requests to `target.base_url`."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._connections: Connections | None = None

    async def start(self) -> None:
        """Make ready to connect.

        Raises:
            UpstreamError: the address, or a proxy before it, cannot be used.
        """
        times = self._target.timeouts
        try:
            self._connections = Connections(str(self._target.address), times.connect)
        except ValueError as error:
            raise self._error(f"cannot be reached ({error})", Fault.CONNECT) from error

    async def close(self) -> None:
        """Close every connection."""
        if self._connections is not None:
            await self._connections.close()
            self._connections = None

    async def complete(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """One whole answer."""
        surface = surface_of(request)
        return self._answer(await self._whole(surface, request, surface.upstream_path), surface)

    async def count_tokens(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """How many tokens a messages request has."""
        counted = self._object(await self._whole(MESSAGES, request, COUNT_PATH))
        if not isinstance(counted.get("input_tokens"), int):
            raise self._error("sent JSON that is no count of tokens", Fault.GARBAGE)
        return counted

    async def _whole(self, surface: Surface, request: Mapping[str, Any], path: str) -> bytes:
        """The body of an answer that is not streamed."""
        times = self._target.timeouts
        loop = asyncio.get_running_loop()
        deadline = loop.time() + times.total
        patience = Patience()
        try:
            with patience.until(deadline):
                response = await self._send(surface, request, self._body(request), path)
            try:
                return await self._read(response, deadline, patience)
            finally:
                response.release()
        except TimeoutError:
            if loop.time() >= deadline:
                raise self._timeout(f"gave no answer within {times.total:g} s") from None
            raise self._fell_silent() from None
        except aiohttp.ClientError as error:
            raise self._broken(error) from error
        finally:
            patience.close()

    async def stream(self, request: Mapping[str, Any]) -> AsyncIterator[dict[str, Any]]:
        """The answer in pieces."""
        surface = surface_of(request)
        body = surface.to_send(self._body(request), stream_usage=self._target.stream_usage)
        times = self._target.timeouts
        loop = asyncio.get_running_loop()
        deadline = loop.time() + times.total
        first = loop.time() + min(times.first_byte, times.total)
        begun = finished = False
        response: aiohttp.ClientResponse | None = None
        patience = Patience()
        try:
            with patience.until(first):
                response = await self._send(surface, request, body, surface.upstream_path)
            kind = response.headers.get("content-type", "")
            if "json" in kind or "html" in kind:
                raise self._error(f"did not stream, it sent {kind}", Fault.GARBAGE)
            pieces = sse.events(parts(response))
            while True:
                # Counted from here, so that a client that reads slowly is not held against it.
                until = min(deadline, loop.time() + times.between) if begun else first
                with patience.until(until):
                    event = await anext(pieces, None)
                if event is None:
                    break
                begun = True
                if event.data.strip() == sse.DONE:
                    finished = finished or surface.end_marker == sse.DONE
                    await _drain(pieces)
                    break
                piece = self._piece(event.data, surface)
                finished = finished or surface.ends(piece)
                yield piece
                if finished and surface.end_marker is None:
                    await _drain(pieces)
                    break
        except TimeoutError:
            if loop.time() >= deadline:
                raise self._timeout(f"did not finish within {times.total:g} s") from None
            if begun:
                raise self._fell_silent() from None
            raise self._timeout(f"sent no first byte within {times.first_byte:g} s") from None
        except sse.EventTooLongError as error:
            raise self._error(f"floods: {error}", Fault.GARBAGE) from None
        except aiohttp.ClientError as error:
            raise self._broken(error) from error
        finally:
            patience.close()
            if response is not None:
                response.release()
        if not finished:
            raise self._error("cut its stream short, before its end", Fault.CUT)

    async def _read(
        self, response: aiohttp.ClientResponse, deadline: float, patience: Patience
    ) -> bytes:
        """The whole body, which must neither fall silent nor grow without end."""
        loop = asyncio.get_running_loop()
        read: list[bytes] = []
        size = 0
        between = self._target.timeouts.between
        while not response.content.at_eof():
            # What is here already needs no clock; a short answer comes whole with its head.
            part = response.content.read_nowait()
            if not part:
                with patience.until(min(deadline, loop.time() + between)):
                    part = await response.content.readany()
            read.append(part)
            size += len(part)
            if size > _ANSWER_BYTES:
                raise self._error(f"floods: more than {_ANSWER_BYTES >> 20} MiB", Fault.GARBAGE)
        return b"".join(read)

    def _body(self, request: Mapping[str, Any]) -> dict[str, Any]:
        return {**request, "model": self._target.upstream_model}

    async def _send(
        self, surface: Surface, request: Mapping[str, Any], body: Mapping[str, Any], path: str
    ) -> aiohttp.ClientResponse:
        """The response with its body unread; anything but a success is an error."""
        if self._connections is None:
            raise self._error("has no connection: it did not start, or is stopped", Fault.CONNECT)
        headers = {"content-type": "application/json", **OUTGOING.get()}
        if isinstance(request, Body):
            headers |= request.headers
        if surface is MESSAGES:
            headers.setdefault(VERSION_HEADER, _ANTHROPIC_VERSION)
        if self._target.api_key_env:
            key = secret(self._target.api_key_env)
            if not key:
                raise self._error(
                    f"needs a key, but {self._target.api_key_env} is not set in the environment",
                    Fault.STATUS,
                )
            if not key.isprintable():
                raise self._error(
                    f"needs a key that fits in a header; {self._target.api_key_env} has line "
                    "breaks or control characters within",
                    Fault.STATUS,
                )
            if self._target.kind == "anthropic":
                headers["x-api-key"] = key
            else:
                headers["authorization"] = f"Bearer {key}"
        content = json.dumps(body).encode()
        try:
            response = await self._connections.post(path, content, headers)
        except aiohttp.ServerTimeoutError:
            limit = self._target.timeouts.connect
            raise self._timeout(f"could not be reached within {limit:g} s") from None
        if response.status != HTTPStatus.OK:
            try:
                raise await self._refusal(response, surface)
            finally:
                response.release()
        return response

    async def _refusal(self, response: aiohttp.ClientResponse, surface: Surface) -> UpstreamError:
        """What a status other than 200 means."""
        status = response.status
        found = _error_object(await _head(response)) or {}
        body = {name: self._scrubbed(value) for name, value in found.items()}
        said = str(body.get("message") or "")
        message = f"answered {status}" + (f": {said[:500]}" if said else "")
        if status in (400, 413, 422):
            if surface.too_long(body) or status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
                return self._error(message, Fault.CONTEXT, status=status)
            return self._error(message, Fault.REQUEST, status=status, body=body or None)
        wait = retry_after(response.headers)
        if status == HTTPStatus.TOO_MANY_REQUESTS:
            return self._error(message, Fault.RATE_LIMIT, status=status, retry_after=wait)
        return self._error(message, Fault.STATUS, status=status, retry_after=wait)

    def _answer(self, raw: bytes, surface: Surface) -> dict[str, Any]:
        answer = self._object(raw)
        if not surface.is_answer(answer):
            raise self._error(f"sent JSON that is no {surface.answer_name}", Fault.GARBAGE)
        if answer.get("status") == "failed" and (said := surface.complaint(answer)):
            raise self._error(f"failed: {said}", Fault.STATUS)
        return answer

    def _piece(self, data: str, surface: Surface) -> dict[str, Any]:
        piece = self._object(data)
        said = surface.complaint(piece)
        if said is not None:
            raise self._error(f"broke off with an error: {said}", Fault.CUT)
        if not surface.is_piece(piece):
            raise self._error(
                f"streamed JSON that is no piece of a {surface.answer_name}", Fault.GARBAGE
            )
        return piece

    def _object(self, raw: bytes | str) -> dict[str, Any]:
        try:
            text = (
                raw
                if isinstance(raw, str)
                else raw.decode(json.detect_encoding(raw), "surrogatepass")
            )
            value = _JSON.decode(text)
        except (ValueError, RecursionError):
            raise self._error("sent something that is not JSON", Fault.GARBAGE) from None
        if not isinstance(value, dict):
            raise self._error("sent JSON that is not an object", Fault.GARBAGE)
        return Received(value, text)

    def _fell_silent(self) -> UpstreamError:
        between = self._target.timeouts.between
        return self._timeout(f"fell silent: nothing more came within {between:g} s")

    def _timeout(self, what: str) -> UpstreamError:
        return self._error(what, Fault.TIMEOUT)

    def _broken(self, error: aiohttp.ClientError) -> UpstreamError:
        if isinstance(error, aiohttp.ClientConnectorError | aiohttp.InvalidURL):
            return self._error(f"cannot be reached ({error})", Fault.CONNECT)
        if undecodable(error):
            return self._error("sent a body that cannot be decoded", Fault.GARBAGE)
        kind = str(error) or type(error).__name__
        return self._error(f"broke the connection ({kind})", Fault.RESET)

    def _error(
        self,
        what: str,
        fault: Fault,
        *,
        status: int | None = None,
        body: Mapping[str, Any] | None = None,
        retry_after: float | None = None,
    ) -> UpstreamError:
        return UpstreamError(
            self._scrubbed(f"{self._target.name} {what}").encode("utf-8", "replace").decode(),
            fault=fault,
            status=status,
            body=body,
            retry_after=retry_after,
        )

    def _scrubbed(self, value: Any) -> Any:
        """A text without our key, which some upstreams repeat in full; anything else as it is."""
        key = secret(self._target.api_key_env)
        return value.replace(key, "[key]") if key and isinstance(value, str) else value


async def _head(response: aiohttp.ClientResponse) -> bytes:
    """The beginning of an error's body; the rest of a long one tells nothing more."""
    head = b""
    async for part in parts(response):
        head += part
        if len(head) > _ERROR_BYTES:
            break
    return head


# Made once: `json.loads` would make one for every piece of a stream.
_JSON = json.JSONDecoder(parse_constant=no_constant, parse_float=finite)


async def _drain(pieces: AsyncIterator[sse.Event]) -> None:
    """Read past [DONE] to the end of the body, so that the connection can be used again."""
    with contextlib.suppress(TimeoutError, aiohttp.ClientError):
        async with asyncio.timeout(_DRAIN_SECONDS):
            while await anext(pieces, None) is not None:
                continue


def _error_object(raw: bytes) -> dict[str, Any] | None:
    """What an upstream says of an error, or None where there is nothing to be read.

    OpenAI and Anthropic have it under `error`; others at the top, or as a text alone (`detail` of
    FastAPI).
    """
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict):
        return None
    if isinstance(value.get("error"), dict):
        return dict(value["error"])
    said = (value.get(name) for name in ("message", "error", "detail"))
    message = next((text for text in said if isinstance(text, str) and text), None)
    if message is None:
        return None
    named = {name: value[name] for name in ("type", "param", "code") if name in value}
    return {**named, "message": message}
