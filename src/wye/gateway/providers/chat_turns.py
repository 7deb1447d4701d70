"""What any-llm carries of a chat's messages and tools, whichever provider gets them.

Carried: text, pictures, files, functions, their calls and results. `developer` is `system` by its
newer name (OpenAI's API reference). Left out and told: names of speakers, the detail of pictures,
what earlier turns thought, marks of prompt caching.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from wye.gateway.providers.carried import Carried, UncarriedError, items

_SYSTEM = ("system", "developer")


def carry_turns(carried: Carried, messages: list[Any]) -> list[dict[str, Any]]:
    """The messages of a valid chat request.

    Raises:
        UncarriedError: something would be lost.
    """
    return [_message(carried, m, f"messages[{i}]") for i, m in enumerate(messages)]


def carry_tools(carried: Carried, tools: Any) -> list[dict[str, Any]]:
    """Functions that the client runs.

    Raises:
        UncarriedError: something else is among them.
    """
    return [_tool(carried, tool, f"tools[{i}]") for i, tool in enumerate(items(tools, "tools"))]


def carry_tool_choice(carried: Carried, choice: Any) -> Any:
    """Which function is to be called.

    Raises:
        UncarriedError: it is no function.
    """
    if isinstance(choice, str):
        return choice
    found = carried.pick(choice, "tool_choice", ("type", "function"))
    function = found.get("function")
    if found.get("type") != "function" or not isinstance(function, dict) or "name" not in function:
        raise UncarriedError(f"tool_choice of the type {found.get('type')}")
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
        carried.leave_out("strict of functions")
    if not isinstance(function.get("name"), str):
        raise UncarriedError(f"{place} without a name")
    return {**found, "function": function}
