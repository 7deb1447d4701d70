"""What any-llm carries of a chat request to a provider.

The library has a parameter for every field that it knows; what the provider's own format has no
place for, it refuses with an error. Providers that speak Anthropic's messages are known closer.

Source: any-llm-sdk 1.40, `AnyLLM.acompletion`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wye.gateway.config import Target
from wye.gateway.providers.carried import Carried, check_depth
from wye.gateway.providers.chat_to_messages import carry_chat
from wye.gateway.providers.chat_turns import carry_tool_choice, carry_tools, carry_turns

OF_ANTHROPIC = frozenset({"anthropic", "azureanthropic", "vertexaianthropic"})
_FIELDS = frozenset({
    "model", "messages", "tools", "tool_choice", "temperature", "top_p", "max_tokens",
    "response_format", "stream", "n", "stop", "presence_penalty", "frequency_penalty", "seed",
    "parallel_tool_calls", "logprobs", "top_logprobs", "logit_bias", "stream_options",
    "max_completion_tokens", "reasoning_effort", "prompt_cache_key", "service_tier",
})  # fmt: skip
# Providers' formats have no place for these, and the library leaves some out without a word.
_HINTS = frozenset({"metadata", "safety_identifier", "store", "user"})
# What any-llm asks for where nobody says how long an answer may be.
_MAX_TOKENS = 8192


def carry(body: Mapping[str, Any], target: Target, provider: str) -> Carried:
    """The request as any-llm's `acompletion` takes it.

    Raises:
        UncarriedError: something would be lost.
    """
    check_depth(body)
    if provider in OF_ANTHROPIC:
        listed = target.listed.max_output if target.listed is not None else None
        most = target.max_output or listed or min(_MAX_TOKENS, target.context or _MAX_TOKENS)
        return carry_chat(body, most)
    carried = Carried()
    fields = carried.pick(body, "", _FIELDS, _HINTS)
    fields["messages"] = carry_turns(carried, fields["messages"])
    if "tools" in fields:
        fields["tools"] = carry_tools(carried, fields["tools"])
    if "tool_choice" in fields:
        fields["tool_choice"] = carry_tool_choice(carried, fields["tool_choice"])
    carried.body = fields
    return carried
