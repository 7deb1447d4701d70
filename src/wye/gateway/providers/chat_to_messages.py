"""What any-llm carries of a chat request to a target that speaks Anthropic's messages.

Carried: text, pictures, PDF files, functions, their calls and results, limits, stop sequences,
structured output, effort. Left out and told: what the provider would use to tell users and caches
apart, names of speakers. What only sampling differently could answer stands in the way.

Source: OpenAI's API reference, "Chat completions"; any-llm-sdk 1.40, its provider `anthropic`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from wye.gateway.providers.carried import Carried, UncarriedError, items

_FIELDS = frozenset({
    "model", "messages", "max_tokens", "max_completion_tokens", "temperature", "top_p", "stop",
    "stream", "stream_options", "tools", "tool_choice", "parallel_tool_calls", "response_format",
    "reasoning_effort",
})  # fmt: skip
_HINTS = frozenset({
    "metadata", "prompt_cache_key", "prompt_cache_retention", "safety_identifier", "service_tier",
    "store", "user",
})  # fmt: skip
# Fields whose default asks for nothing; another value stands in the way.
_DEFAULTS: Mapping[str, tuple[Any, ...]] = {
    "n": (1,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "modalities": (["text"],),
    "tools": ([],),
    "response_format": ({"type": "text"},),
}
_SYSTEM = ("system", "developer")
_MOST_TEMPERATURE = 1.0


def carry_chat(body: Mapping[str, Any], default_max_tokens: int) -> Carried:
    """The request as any-llm's `acompletion` takes it for an Anthropic model.

    Args:
        body: of a valid chat request.
        default_max_tokens: the most tokens of an answer where the client sets no limit.

    Raises:
        UncarriedError: something would be lost.
    """
    carried = Carried()
    asked = {name: v for name, v in body.items() if v not in _DEFAULTS.get(name, ())}
    fields = carried.pick(asked, "", _FIELDS, _HINTS)
    fields["messages"] = _messages(carried, fields["messages"])
    limit = fields.pop("max_completion_tokens", None) or fields.get("max_tokens")
    fields["max_tokens"] = limit or default_max_tokens
    temperature = fields.get("temperature")
    if isinstance(temperature, int | float) and temperature > _MOST_TEMPERATURE:
        raise UncarriedError(f"temperature {temperature:g}, since the most there is 1")
    if "tools" in fields:
        fields["tools"] = [
            _tool(carried, tool, f"tools[{i}]")
            for i, tool in enumerate(items(fields["tools"], "tools"))
        ]
    if isinstance(fields.get("tool_choice"), dict):
        choice = carried.pick(fields["tool_choice"], "tool_choice", ("type", "function"))
        if choice.get("type") != "function":
            raise UncarriedError(f"tool_choice of the type {choice.get('type')}")
    if "response_format" in fields:
        names = ("type", "json_schema")
        form = carried.pick(fields["response_format"], "response_format", names)
        if form.get("type") != "json_schema":
            raise UncarriedError(f"response_format of the type {form.get('type')}")
        schema = form.get("json_schema")
        if not isinstance(schema, dict) or not isinstance(schema.get("schema"), dict):
            raise UncarriedError("response_format without a schema")
    options = fields.pop("stream_options", {})
    carried.pick(options, "stream_options", ("include_usage",), ("include_obfuscation",))
    carried.body = fields
    return carried


def _messages(carried: Carried, messages: list[Any]) -> list[dict[str, Any]]:
    found = [_message(carried, m, f"messages[{i}]") for i, m in enumerate(messages)]
    roles = [message["role"] for message in found]
    first = next((i for i, role in enumerate(roles) if role != "system"), len(roles))
    if "system" in roles[first:]:
        carried.leave_out("the place of system messages inside the conversation")
    return found


def _message(carried: Carried, message: Any, where: str) -> dict[str, Any]:
    role = message.get("role")
    if role in _SYSTEM:
        found = carried.pick(message, where, ("role", "content"), ("name",))
        return {"role": "system", "content": _joined(carried, found.get("content"), where)}
    if role == "user":
        found = carried.pick(message, where, ("role", "content"), ("name",))
        if isinstance(found.get("content"), list):
            parts = enumerate(found["content"])
            found["content"] = [_part(carried, p, f"{where}.content[{i}]") for i, p in parts]
        return found
    if role == "assistant":
        return _answer(carried, message, where)
    if role == "tool":
        found = carried.pick(message, where, ("role", "content", "tool_call_id"), ("name",))
        return {**found, "content": _joined(carried, found.get("content"), where)}
    raise UncarriedError(f"{where} of the role {role}")


def _answer(carried: Carried, message: Mapping[str, Any], where: str) -> dict[str, Any]:
    """An earlier answer with the calls that it made."""
    told = ("name", "annotations", "reasoning", "reasoning_content")
    given = {name: value for name, value in message.items() if value != []}
    found = carried.pick(given, where, ("role", "content", "tool_calls"), told)
    content = _joined(carried, found.get("content"), where)
    answer: dict[str, Any] = {"role": "assistant", "content": content}
    if "tool_calls" in found:
        answer["tool_calls"] = [
            _call(carried, call, f"{where}.tool_calls[{i}]")
            for i, call in enumerate(items(found["tool_calls"], f"{where}.tool_calls"))
        ]
    return answer


def _call(carried: Carried, call: Any, where: str) -> dict[str, Any]:
    found = carried.pick(call, where, ("id", "type", "function"), ("index",))
    function = carried.pick(found.get("function"), f"{where}.function", ("name", "arguments"))
    arguments = function.get("arguments") or "{}"
    try:
        if not isinstance(json.loads(arguments), dict):
            raise UncarriedError(f"{where}.function.arguments, which is no JSON object")
    except (ValueError, TypeError, RecursionError):
        raise UncarriedError(f"{where}.function.arguments, which is no JSON object") from None
    if not isinstance(found.get("id"), str) or not isinstance(function.get("name"), str):
        raise UncarriedError(f"{where} without an id and a name")
    return {**found, "function": {**function, "arguments": arguments}}


def _joined(carried: Carried, content: Any, where: str) -> str:
    """Content that is text alone, as one text."""
    if not isinstance(content, list):
        return content or ""
    parts = (_text(carried, part, f"{where}.content[{i}]") for i, part in enumerate(content))
    return "".join(part["text"] for part in parts)


def _text(carried: Carried, part: Mapping[str, Any], where: str) -> dict[str, Any]:
    if part.get("type") != "text":
        raise UncarriedError(f"{where} of the type {part.get('type')}")
    return carried.pick(part, where, ("type", "text"), ("cache_control",))


def _part(carried: Carried, part: Mapping[str, Any], where: str) -> dict[str, Any]:
    kind = part.get("type")
    if kind == "text":
        return _text(carried, part, where)
    if kind == "image_url":
        found = carried.pick(part, where, ("type", "image_url"))
        place = f"{where}.image_url"
        found["image_url"] = carried.pick(found.get("image_url"), place, ("url",), ("detail",))
        _check_data(found["image_url"].get("url"), place)
        return found
    if kind == "file":
        found = carried.pick(part, where, ("type", "file"))
        place = f"{where}.file"
        found["file"] = carried.pick(found.get("file"), place, ("file_data",), ("filename",))
        _check_data(found["file"].get("file_data"), place)
        return found
    raise UncarriedError(f"{where} of the type {kind}")


def _check_data(url: Any, where: str) -> None:
    """A web address, or data in base64."""
    if isinstance(url, str):
        if url.startswith(("http://", "https://")):
            return
        head, comma, _ = url.partition(",")
        if comma and head.startswith("data:") and head.endswith(";base64"):
            return
    raise UncarriedError(f"{where} that is neither a web address nor data in base64")


def _tool(carried: Carried, tool: Any, where: str) -> dict[str, Any]:
    found = carried.pick(tool, where, ("type", "function"))
    if found.get("type") != "function":
        raise UncarriedError(f"{where} of the type {found.get('type')}")
    place = f"{where}.function"
    names = ("name", "description", "parameters", "strict")
    function = carried.pick(found.get("function"), place, names)
    if function.pop("strict", False):
        raise UncarriedError(f"{place}.strict")
    return {**found, "function": function}
