"""An HTTP client for the library: it ends an answer which grows without end, and tells the trace.

The clients of OpenAI and Anthropic hold a line of a stream until it ends, and an answer until it is
whole. Other providers' clients cannot be given one of ours.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any

from wye.gateway.config import Timeouts
from wye.gateway.telemetry.trace import OUTGOING

if TYPE_CHECKING:
    from any_llm import AnyLLM

_LINE_BYTES = 8 * 1024 * 1024
_ANSWER_BYTES = 64 * 1024 * 1024


class FloodError(Exception):
    """An upstream sends more than anybody who means well."""


def own_http(provider: type[AnyLLM], times: Timeouts) -> dict[str, Any]:
    """Arguments of a provider's client: an HTTP client of ours, with the target's own times.

    Empty where the provider makes its client in a way of its own.
    """
    from any_llm.providers.anthropic.anthropic import AnthropicProvider
    from any_llm.providers.openai.base import BaseOpenAIProvider

    sdk: Any
    if provider._init_client is AnthropicProvider._init_client:
        import anthropic as sdk
    elif provider._init_client is BaseOpenAIProvider._init_client:
        import openai as sdk
    else:
        return {}
    timeout = sdk.Timeout(times.total, connect=times.connect)
    hooks = {"request": [_trace], "response": [_bound]}
    http = sdk.DefaultAsyncHttpxClient(event_hooks=hooks, timeout=timeout)
    return {"http_client": http, "timeout": timeout}


async def _trace(request: Any) -> None:
    """Say to which trace the call belongs."""
    request.headers.update(OUTGOING.get())


async def _bound(response: Any) -> None:
    """Count what comes of a response from here on."""
    response.aiter_raw = _counting(response.aiter_raw, "event-stream" in str(response.headers))


def _counting(
    read: Callable[..., AsyncIterator[bytes]], streamed: bool
) -> Callable[..., AsyncIterator[bytes]]:
    """The same bytes, up to a limit: of a line where they are streamed, else of all."""
    limit = _LINE_BYTES if streamed else _ANSWER_BYTES

    async def counted(chunk_size: int | None = None) -> AsyncIterator[bytes]:
        held = 0
        async for chunk in read(chunk_size):
            last = chunk.rfind(b"\n") if streamed else -1
            held = held + len(chunk) if last == -1 else len(chunk) - last - 1
            if held > limit:
                raise FloodError(f"more than {limit >> 20} MiB")
            yield chunk

    return counted
