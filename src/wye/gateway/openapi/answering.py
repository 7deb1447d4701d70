"""Operations under `/v1` that answer requests: the surfaces, tokens and models.

Of requests, the fields that routing reads are described; every other passes to the target. The
whole formats are in OpenAI's and Anthropic's own references.
"""

from __future__ import annotations

from typing import Any

from wye.gateway.openapi.parts import (
    COUNT,
    FLAG,
    OBJECT,
    TEXT,
    WORD,
    Schema,
    in_path,
    listed,
    maybe,
    operation,
    record,
)  # fmt: skip

_MODEL: Schema = {
    **WORD,
    "description": "`wye` for the first policy's choice, `wye/<policy>` for another's, or a target",
    "examples": ["wye"],
}
_LIMIT: Schema = maybe({"type": "integer", "minimum": 1})
_STREAM = maybe(FLAG)
_CONTENT: Schema = {"anyOf": [TEXT, listed(record(type=TEXT))]}
_TURN: Schema = record(role=TEXT, content=_CONTENT)
_OTHER: Schema = {"type": "string", "not": {"const": "text"}}
_PART: Schema = {"anyOf": [record(type={"const": "text"}, text=TEXT), record(type=_OTHER)]}
CHAT_MESSAGE: Schema = record(
    role={
        "type": "string",
        "enum": ["system", "developer", "user", "assistant", "tool", "function"],
    },
    content={"anyOf": [TEXT, listed(_PART)]},
)
_PASSED: Schema = {"description": "as the target's own API has it"}
_HEADERS = {
    "x-wye-decision": "id of the decision, for /v1/decisions/{id} and feedback",
    "x-wye-target": "the target that answers",
}
_REFUSALS = (400, 402, 404, 408, 413, 422, 429, 503)
_EITHER = ("application/json", "text/event-stream")
_USAGE = record(input_tokens=COUNT, output_tokens=COUNT)

_CHAT = record(
    {"stream": _STREAM, "max_tokens": _LIMIT, "max_completion_tokens": _LIMIT,
     "stream_options": maybe(OBJECT), "tools": _PASSED},
    model=_MODEL,
    messages=listed(CHAT_MESSAGE, minItems=1),
)  # fmt: skip
_MESSAGES = record(
    {"stream": _STREAM, "system": _PASSED, "tools": _PASSED},
    model=_MODEL,
    max_tokens={"type": "integer", "minimum": 1},
    messages=listed(_TURN, minItems=1),
)
_COUNTED = record(
    {"system": _PASSED, "tools": _PASSED},
    model=_MODEL,
    messages=listed(_TURN, minItems=1),
)
_RESPONSES = record(
    {"stream": _STREAM, "max_output_tokens": _LIMIT, "instructions": _PASSED,
     "background": {"anyOf": [{"const": False}, {"type": "null"}]}, "tools": _PASSED},
    model=_MODEL,
    input={"anyOf": [TEXT, listed(OBJECT, minItems=1)]},
)  # fmt: skip
_TOKENS = listed({"type": "integer"}, minItems=1)
_EMBEDDINGS = record(
    model=_MODEL,
    input={"anyOf": [TEXT, listed(TEXT, minItems=1), _TOKENS, listed(_TOKENS, minItems=1)]},
)
_A_MODEL = record(id=TEXT, object={"const": "model"}, created=COUNT, owned_by=TEXT)

PATHS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {
        "post": operation(
            "A chat completion, whole or streamed", record(choices=listed(OBJECT)),
            tag="answering", body=_CHAT, refusals=_REFUSALS, kinds=_EITHER, headers=_HEADERS,
        )
    },
    "/v1/messages": {
        "post": operation(
            "A message of Anthropic's format, whole or streamed",
            record(type={"const": "message"}, content=listed(OBJECT), usage=_USAGE),
            tag="answering", body=_MESSAGES, refusals=_REFUSALS, kinds=_EITHER, headers=_HEADERS,
            error="AnthropicError",
        )
    },
    "/v1/messages/count_tokens": {
        "post": operation(
            "How many tokens a message has, counted by an Anthropic target",
            record(input_tokens=COUNT), tag="answering", body=_COUNTED, error="AnthropicError",
            refusals=(400, 404, 408, 413, 422, 503),
        )
    },
    "/v1/responses": {
        "post": operation(
            "A response, whole or streamed", record(output=listed(OBJECT)),
            tag="answering", body=_RESPONSES, refusals=_REFUSALS, kinds=_EITHER, headers=_HEADERS,
        )
    },
    "/v1/embeddings": {
        "post": operation(
            "Vectors of texts", record(data=listed(OBJECT)),
            tag="answering", body=_EMBEDDINGS, refusals=_REFUSALS, headers=_HEADERS,
        )
    },
    "/v1/models": {
        "get": operation(
            "What `model` may be", record(object={"const": "list"}, data=listed(_A_MODEL)),
            tag="answering", refusals=(503,),
        )
    },
    "/v1/models/{id}": {
        "get": operation(
            "One of the models", _A_MODEL, tag="answering",
            parameters=[in_path("id", "name of the model")], refusals=(404, 503),
        )
    },
}  # fmt: skip
