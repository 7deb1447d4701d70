"""A thin client of the embedded model's server: one call, or one stream, of chat completions."""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import httpx

from wye.gateway.pool.answer import Message

MODEL_NAME = "smollm2-135m-instruct"


class ModelClientError(RuntimeError):
    """The model's server refused a call, broke it off, or cannot be reached."""


@dataclass(frozen=True, kw_only=True)
class Completion:
    """One call of the model: text, tokens, why it ended, exp of the mean log-probability."""

    text: str
    input_tokens: int
    output_tokens: int
    finish_reason: str
    confidence: float | None = None


class ModelClient:
    """Calls `/v1/chat/completions` of a llama.cpp server; an async context manager.

    Args:
        base_url: root of the server, for instance `http://127.0.0.1:8081`.
        timeout_s: seconds of silence after which a call fails.
        http: a client to use instead of one of its own; stays open at the end.

    Example:
        >>> client = ModelClient("http://127.0.0.1:8081")
        >>> client.base_url
        'http://127.0.0.1:8081'
    """

    def __init__(
        self, base_url: str, *, timeout_s: float = 120.0, http: httpx.AsyncClient | None = None
    ) -> None:
        self.base_url = base_url.rstrip("/")
        self._http = http or httpx.AsyncClient(
            timeout=timeout_s, trust_env=False, limits=httpx.Limits(max_connections=None)
        )
        self._owned = http is None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections, where they are this client's own."""
        if self._owned:
            await self._http.aclose()

    async def complete(
        self,
        messages: Sequence[Message],
        *,
        max_tokens: int,
        temperature: float = 0.0,
        seed: int | None = None,
        stop: Sequence[str] = (),
        grammar: str | None = None,
        confidence: bool = False,
    ) -> Completion:
        """One completion of `messages`.

        An assistant's message at the end is continued, and its text is not repeated in the result.

        Args:
            max_tokens: most tokens to generate.
            temperature: 0 is greedy.
            seed: of the sampler; random when not given.
            stop: strings at which the text ends.
            grammar: GBNF that the text must follow.
            confidence: fill `Completion.confidence`.

        Raises:
            ModelClientError: the server refused or cannot be reached.
        """
        body = _body(messages, max_tokens, temperature, seed, stop, grammar, confidence)
        try:
            response = await self._http.post(f"{self.base_url}/v1/chat/completions", json=body)
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error
        if response.status_code != 200:
            raise _refused(response.status_code, response.text)
        found = response.json()
        choice, usage = found["choices"][0], found["usage"]
        return Completion(
            text=_without_prefill(choice["message"].get("content") or "", messages),
            input_tokens=usage["prompt_tokens"],
            output_tokens=usage["completion_tokens"],
            finish_reason=choice["finish_reason"],
            confidence=_confidence(_token_logprobs(choice)) if confidence else None,
        )

    async def stream(
        self,
        messages: Sequence[Message],
        *,
        max_tokens: int,
        temperature: float = 0.0,
        seed: int | None = None,
        stop: Sequence[str] = (),
        confidence: bool = False,
    ) -> AsyncIterator[str | Completion]:
        """The text of one completion in pieces, then the `Completion` itself.

        Leaving the loop early closes the connection, and the server stops generating.

        Raises:
            ModelClientError: the server refused, broke off, or cannot be reached.
        """
        body = _body(messages, max_tokens, temperature, seed, stop, None, confidence)
        body |= {"stream": True, "stream_options": {"include_usage": True}}
        pieces: list[str] = []
        logprobs: list[float] = []
        usage: dict[str, Any] | None = None
        finish: str | None = None
        try:
            async with self._http.stream(
                "POST", f"{self.base_url}/v1/chat/completions", json=body
            ) as response:
                if response.status_code != 200:
                    raise _refused(response.status_code, (await response.aread()).decode())
                async for event in _events(response):
                    if "error" in event:
                        raise ModelClientError(f"the embedded model broke off: {event['error']}")
                    usage = event.get("usage") or usage
                    for choice in event.get("choices", ()):
                        finish = choice.get("finish_reason") or finish
                        logprobs += _token_logprobs(choice)
                        piece = choice["delta"].get("content")
                        if piece:
                            pieces.append(piece)
                            yield piece
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error
        if usage is None or finish is None:
            raise ModelClientError(
                f"the embedded model at {self.base_url} ended a stream without saying why: "
                "its process may have died; start it again"
            )
        yield Completion(
            text="".join(pieces),
            input_tokens=usage["prompt_tokens"],
            output_tokens=usage["completion_tokens"],
            finish_reason=finish,
            confidence=_confidence(logprobs) if confidence else None,
        )

    def _unreachable(self, error: httpx.HTTPError) -> ModelClientError:
        return ModelClientError(
            f"no answer from the embedded model at {self.base_url} "
            f"({type(error).__name__}: {error}): its process may have died; start it again"
        )


def _body(
    messages: Sequence[Message],
    max_tokens: int,
    temperature: float,
    seed: int | None,
    stop: Sequence[str],
    grammar: str | None,
    confidence: bool,
) -> dict[str, Any]:
    body: dict[str, Any] = {
        "model": MODEL_NAME,
        "messages": list(messages),
        "max_tokens": max_tokens,
        "temperature": temperature,
        "cache_prompt": True,
    }
    if seed is not None:
        body["seed"] = seed
    if stop:
        body["stop"] = list(stop)
    if grammar is not None:
        body["grammar"] = grammar
    if confidence:
        body["logprobs"] = True
    return body


async def _events(response: httpx.Response) -> AsyncIterator[dict[str, Any]]:
    async for line in response.aiter_lines():
        if line.startswith("data: ") and line != "data: [DONE]":
            yield json.loads(line.removeprefix("data: "))
        elif line.startswith("error: "):
            yield {"error": line.removeprefix("error: ")}


def _refused(status: int, body: str) -> ModelClientError:
    try:
        detail = json.loads(body)["error"]["message"]
    except (ValueError, KeyError, TypeError):
        detail = body[:500]
    return ModelClientError(f"the embedded model refused with status {status}: {detail}")


def _token_logprobs(choice: dict[str, Any]) -> list[float]:
    found = (choice.get("logprobs") or {}).get("content") or []
    return [token["logprob"] for token in found]


def _confidence(logprobs: Sequence[float]) -> float | None:
    return math.exp(sum(logprobs) / len(logprobs)) if logprobs else None


def _without_prefill(text: str, messages: Sequence[Message]) -> str:
    last = messages[-1]
    return text.removeprefix(last["content"]) if last["role"] == "assistant" else text
