"""What any-llm carries of a request on `/v1/messages` to a target that speaks chat.

Carried: text, pictures, tools, their calls and results, system, limits, stop sequences, structured
output. Left out and told: marks of prompt caching, what earlier turns thought, metadata.

Source: Anthropic's API reference, "Messages"; any-llm-sdk 1.40, `utils/messages_compat.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wye.gateway.providers.carried import Carried, UncarriedError, check_depth, items

_FIELDS = frozenset({
    "model", "messages", "max_tokens", "system", "temperature", "top_p", "stop_sequences", "stream",
    "tools", "tool_choice", "thinking", "output_config",
})  # fmt: skip
_HINTS = frozenset({"cache_control", "metadata", "service_tier"})
_MARKS = frozenset({"cache_control", "citations"})
_SOURCES = {"base64": ("type", "media_type", "data"), "url": ("type", "url")}
_THOUGHTS = ("thinking", "redacted_thinking")
_BETA = "anthropic-beta"


def carry_messages(body: Mapping[str, Any], headers: Mapping[str, str]) -> Carried:
    """The request as the library's `MessagesParams` takes it.

    Args:
        body: of a valid request of the surface `messages`.
        headers: of the client, those that belong to the request's meaning.

    Raises:
        UncarriedError: something would be lost.
    """
    check_depth(body)
    carried = Carried()
    fields = carried.pick(body, "", _FIELDS, _HINTS)
    if _BETA in headers:
        carried.leave_out(_BETA)
    fields["messages"] = _messages(carried, fields["messages"])
    if isinstance(fields.get("system"), list):
        fields["system"] = [
            _text(carried, block, f"system[{i}]") for i, block in enumerate(fields["system"])
        ]
    if "tools" in fields:
        fields["tools"] = [
            _tool(carried, tool, f"tools[{i}]")
            for i, tool in enumerate(items(fields["tools"], "tools"))
        ]
    if "tool_choice" in fields:
        names = ("type", "name", "disable_parallel_tool_use")
        fields["tool_choice"] = carried.pick(fields["tool_choice"], "tool_choice", names)
    _thinking(carried, fields)
    _output(carried, fields)
    carried.body = fields
    return carried


def _messages(carried: Carried, messages: list[Any]) -> list[dict[str, Any]]:
    found = []
    for index, message in enumerate(messages):
        where = f"messages[{index}]"
        message = carried.pick(message, where, ("role", "content"))
        if message["role"] not in ("user", "assistant"):
            raise UncarriedError(f"{where} of the role {message['role']}")
        if isinstance(message.get("content"), list):
            blocks = [
                _block(carried, block, f"{where}.content[{i}]", message["role"])
                for i, block in enumerate(message["content"])
            ]
            kept = [block for block in blocks if block is not None]
            message["content"] = kept or [{"type": "text", "text": ""}]
        found.append(message)
    if found[-1]["role"] == "assistant":
        raise UncarriedError("a last message of the assistant, which is to be continued")
    return found


def _block(carried: Carried, block: Any, where: str, role: str) -> dict[str, Any] | None:
    """A content block; None for one that is left out."""
    kind = block.get("type") if isinstance(block, Mapping) else None
    if kind == "text":
        return _text(carried, block, where)
    if role == "assistant":
        if kind == "tool_use":
            return carried.pick(block, where, ("type", "id", "name", "input"), _MARKS)
        if kind in _THOUGHTS:
            carried.leave_out("thinking of earlier turns")
            return None
    elif kind == "image":
        return _image(carried, block, where)
    elif kind == "tool_result":
        return _result(carried, block, where)
    raise UncarriedError(f"{where} of the type {kind}")


def _text(carried: Carried, block: Any, where: str) -> dict[str, Any]:
    text = carried.pick(block, where, ("type", "text"), _MARKS)
    if text.get("type") != "text":
        raise UncarriedError(f"{where} of the type {text.get('type')}")
    return text


def _image(carried: Carried, block: Mapping[str, Any], where: str) -> dict[str, Any]:
    image = carried.pick(block, where, ("type", "source"), _MARKS)
    source = image.get("source")
    kind = source.get("type") if isinstance(source, Mapping) else None
    if kind not in _SOURCES:
        raise UncarriedError(f"{where}.source of the type {kind}")
    image["source"] = carried.pick(source, f"{where}.source", _SOURCES[kind])
    return image


def _result(carried: Carried, block: Mapping[str, Any], where: str) -> dict[str, Any]:
    names = ("type", "tool_use_id", "content", "is_error")
    result = carried.pick(block, where, names, _MARKS)
    if isinstance(result.get("content"), list):
        parts = enumerate(result["content"])
        result["content"] = [_part(carried, part, f"{where}.content[{i}]") for i, part in parts]
    return result


def _part(carried: Carried, part: Any, where: str) -> dict[str, Any]:
    """A part of a tool's result."""
    if isinstance(part, Mapping) and part.get("type") == "image":
        return _image(carried, part, where)
    return _text(carried, part, where)


def _tool(carried: Carried, tool: Any, where: str) -> dict[str, Any]:
    names = ("type", "name", "description", "input_schema")
    found = carried.pick(tool, where, names, ("cache_control",))
    if found.get("type", "custom") != "custom":
        raise UncarriedError(f"{where} of the type {found['type']}, which the provider runs")
    return found


def _thinking(carried: Carried, fields: dict[str, Any]) -> None:
    """A budget of thinking becomes an effort; models of the other side think as they do."""
    if "thinking" not in fields:
        return
    names = ("type", "budget_tokens")
    thinking = carried.pick(fields["thinking"], "thinking", names, ("display",))
    if thinking.get("type") == "enabled":
        fields["thinking"] = thinking
        carried.leave_out("thinking.budget_tokens (an effort is asked for instead)")
    else:
        del fields["thinking"]
        carried.leave_out("thinking")


def _output(carried: Carried, fields: dict[str, Any]) -> None:
    """The library takes `output_config` under the name `output_format`."""
    if "output_config" not in fields:
        return
    config = carried.pick(fields.pop("output_config"), "output_config", ("format", "effort"))
    if "format" in config:
        where = "output_config.format"
        config["format"] = carried.pick(config["format"], where, ("type", "schema"))
        if config["format"].get("type") != "json_schema":
            raise UncarriedError(f"{where} of the type {config['format'].get('type')}")
    if config:
        fields["output_format"] = config
