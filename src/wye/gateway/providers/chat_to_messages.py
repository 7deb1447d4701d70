"""What any-llm carries of a chat request to a target that speaks Anthropic's messages.

Carried: text, pictures, PDF files, functions, their calls and results, limits, stop sequences,
structured output, effort. Left out and told: what the provider would use to tell users and caches
apart, names of speakers. What only sampling differently could answer stands in the way.

Source: OpenAI's API reference, "Chat completions"; any-llm-sdk 1.40, its provider `anthropic`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wye.gateway.providers.carried import Carried, UncarriedError
from wye.gateway.providers.chat_turns import carry_tool_choice, carry_tools, carry_turns

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
    fields["messages"] = carry_turns(carried, fields["messages"])
    roles = [message["role"] for message in fields["messages"]]
    first = next((i for i, role in enumerate(roles) if role != "system"), len(roles))
    if "system" in roles[first:]:
        carried.leave_out("the place of system messages inside the conversation")
    limit = fields.pop("max_completion_tokens", None) or fields.get("max_tokens")
    fields["max_tokens"] = limit or default_max_tokens
    temperature = fields.get("temperature")
    if isinstance(temperature, int | float) and temperature > _MOST_TEMPERATURE:
        raise UncarriedError(f"temperature {temperature:g}, since the most there is 1")
    if "tools" in fields:
        fields["tools"] = carry_tools(carried, fields["tools"])
    if "tool_choice" in fields:
        fields["tool_choice"] = carry_tool_choice(carried, fields["tool_choice"])
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
