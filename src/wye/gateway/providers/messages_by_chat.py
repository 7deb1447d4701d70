"""Anthropic's messages by a target that speaks chat, translated by any-llm in both directions.

The chat request is sent by the target's own upstream, whatever its kind, so that its times, faults
and keys hold as they do for chat.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pydantic import BaseModel, ValidationError

from wye.gateway.config import Target
from wye.gateway.providers.messages_to_chat import carry_messages
from wye.gateway.surfaces.body import Body
from wye.gateway.upstream import Fault, Upstream, UpstreamError, closing

if TYPE_CHECKING:
    from any_llm.types.completion import ChatCompletion

# Newer models of OpenAI take no `max_tokens`; servers that are compatible may know no other name.
_RENAMED_AT = ("api.openai.com",)


class MessagesByChat:
    """Answers messages requests through an upstream that speaks chat.

    Args:
        target: named in errors.
        chat: the upstream.
    """

    def __init__(self, target: Target, chat: Upstream) -> None:
        self._target = target
        self._chat = chat

    async def complete(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """One whole message."""
        from any_llm.types.completion import ChatCompletion
        from any_llm.utils.messages_compat import chat_completion_to_message_response

        answer = await self._chat.complete(self._request(request))
        with_fields = {"created": 0, "object": "chat.completion", **answer}
        completion = self._model(ChatCompletion, with_fields)
        self._check_calls(completion)
        message = chat_completion_to_message_response(completion)
        found: dict[str, Any] = message.model_dump(mode="json", exclude_none=True)
        return {"stop_sequence": None, **found}

    async def stream(self, request: Mapping[str, Any]) -> AsyncIterator[dict[str, Any]]:
        """The message in Anthropic's events."""
        from any_llm.types.completion import ChatCompletionChunk
        from any_llm.utils.messages_compat import (
            StreamingState,
            chat_completion_chunk_to_message_stream_events,
            close_open_blocks,
        )

        state = StreamingState()
        pieces = self._chat.stream(self._request(request))
        async with closing(pieces):
            async for piece in pieces:
                with_fields = {"created": 0, "object": "chat.completion.chunk", **piece}
                chunk = self._model(ChatCompletionChunk, with_fields)
                for event in chat_completion_chunk_to_message_stream_events(chunk, state):
                    yield _event(event)
        for closed in close_open_blocks(state):
            yield _event(closed)
        yield _end(state)
        yield {"type": "message_stop"}

    def _request(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The chat request.

        Raises:
            UpstreamError: a field is of a wrong type.
        """
        from any_llm import InvalidRequestError
        from any_llm.types.messages import MessagesParams
        from any_llm.utils.messages_compat import messages_params_to_completion_params

        headers = request.headers if isinstance(request, Body) else {}
        fields = carry_messages(request, headers).body
        try:
            params = MessagesParams(**fields)
            chat = messages_params_to_completion_params(params)
        except ValidationError as error:
            # Pydantic's own words repeat what was given, which may be a prompt.
            places = sorted({".".join(map(str, d["loc"])) for d in error.errors()})
            said = f"cannot be translated to chat: wrong are {', '.join(places)}"
            raise self._error(said, Fault.REQUEST, 400) from None
        except InvalidRequestError as error:
            said = f"cannot be translated to chat: {error}"
            raise self._error(said, Fault.REQUEST, 400) from None
        chat["model"] = chat.pop("model_id")
        # The upstream asks for usage itself, where the target takes the question.
        chat.pop("stream_options", None)
        if urlsplit(self._target.address or "").hostname in _RENAMED_AT:
            chat["max_completion_tokens"] = chat.pop("max_tokens")
        return chat

    def _check_calls(self, completion: ChatCompletion) -> None:
        """Arguments that are no JSON object have no place in a message; the library drops them.

        Raises:
            UpstreamError: a call has such.
        """
        calls = (completion.choices[0].message.tool_calls if completion.choices else None) or ()
        for call in calls:
            arguments = call.function.arguments if hasattr(call, "function") else "{}"
            try:
                whole = isinstance(json.loads(arguments or "{}"), dict)
            except (ValueError, RecursionError):
                whole = False
            if not whole:
                said = "called a tool with arguments that are no JSON object"
                raise self._error(said, Fault.GARBAGE)

    def _model(self, model: type[Any], value: Mapping[str, Any]) -> Any:
        """The library's object of an answer."""
        try:
            return model.model_validate(value)
        except ValidationError as error:
            places = sorted({".".join(map(str, d["loc"])) for d in error.errors()})
            said = f"sent an answer that is not OpenAI's: wrong are {', '.join(places)}"
            raise self._error(said, Fault.GARBAGE) from None

    def _error(self, what: str, fault: Fault, status: int | None = None) -> UpstreamError:
        message = f"{self._target.name} {what}"
        body = {"message": message} if fault is Fault.REQUEST else None
        return UpstreamError(message, fault=fault, status=status, body=body)


def _event(event: BaseModel) -> dict[str, Any]:
    """An event on the wire, with the fields that Anthropic always sends, null or not."""
    found: dict[str, Any] = event.model_dump(mode="json", exclude_none=True)
    if found["type"] == "message_start":
        always = {"stop_reason": None, "stop_sequence": None}
        found["message"] = {**always, **found["message"]}
    return found


def _end(state: Any) -> dict[str, Any]:
    """The event that says why the message ends and what it took."""
    from any_llm.utils.messages_compat import split_cached_input_tokens

    plain, cached = split_cached_input_tokens(
        state.input_tokens, state.cache_read_input_tokens, state.cache_creation_input_tokens
    )
    usage = {
        "input_tokens": plain,
        "cache_read_input_tokens": cached,
        "cache_creation_input_tokens": state.cache_creation_input_tokens,
        "output_tokens": state.output_tokens,
    }
    return {
        "type": "message_delta",
        "delta": {"stop_reason": state.stop_reason or "end_turn", "stop_sequence": None},
        "usage": {name: count for name, count in usage.items() if count is not None},
    }
