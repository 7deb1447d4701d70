"""What a request used, in tokens, read from the usage objects of OpenAI's and Anthropic's APIs.

OpenAI counts cached tokens within the prompt and reasoning within the answer; Anthropic counts what
it reads from and writes to its cache beside `input_tokens`. Here both are parts of the whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# A hundred times the longest context there is: counts beyond are no counts, and would be no money.
_MOST = 10**9


@dataclass(frozen=True)
class Usage:
    """Tokens of one request and its answer.

    Attributes:
        input: all tokens of the prompt.
        output: all tokens of the answer.
        cached_input: part of `input` that the provider read from its cache.
        cache_write: part of `input` that it wrote to its cache.
        cache_write_1h: part of `cache_write` that is kept for an hour, which costs more.
        reasoning: part of `output` that the client does not see.
    """

    input: int = 0
    output: int = 0
    cached_input: int = 0
    cache_write: int = 0
    cache_write_1h: int = 0
    reasoning: int = 0

    @property
    def total(self) -> int:
        """Tokens in and out."""
        return self.input + self.output


def usage_of(answer: Mapping[str, Any]) -> Usage | None:
    """What an answer or a piece of one reports under `usage`; None where it reports nothing."""
    usage = answer.get("usage")
    return read_usage(usage) if isinstance(usage, dict) else None


def read_usage(usage: Mapping[str, Any]) -> Usage | None:
    """A usage object of OpenAI (chat completions, responses, embeddings) or Anthropic (messages).

    A part that is no count is taken as 0, and one that exceeds its whole as the whole, so that
    garbage in a detail never changes what is billed in sum.

    Returns:
        None where the whole counts are missing or no counts.

    >>> read_usage({"input_tokens": 5, "output_tokens": 7, "cache_read_input_tokens": 20}).input
    25
    """
    if "prompt_tokens" in usage:
        return _openai(usage, "prompt", "completion")
    if "input_tokens_details" in usage:
        return _openai(usage, "input", "output")
    if "input_tokens" in usage:
        return read_anthropic(usage)
    return None


def _openai(usage: Mapping[str, Any], inward: str, outward: str) -> Usage | None:
    # An embedding has a prompt and no answer.
    taken = _count(usage.get(f"{inward}_tokens"))
    given = _count(usage.get(f"{outward}_tokens", 0))
    if taken is None or given is None:
        return None
    read = usage.get(f"{inward}_tokens_details")
    # DeepSeek counts its cache beside OpenAI's fields.
    cached = _part(read, "cached_tokens", taken) or _part(usage, "prompt_cache_hit_tokens", taken)
    return Usage(
        input=taken,
        output=given,
        cached_input=cached,
        cache_write=_part(read, "cache_write_tokens", taken - cached),
        reasoning=_reasoning(usage, given, f"{outward}_tokens_details"),
    )


def read_anthropic(usage: Mapping[str, Any]) -> Usage | None:
    """A usage object of Anthropic; None where the whole counts are missing or no counts."""
    fresh, given = _count(usage.get("input_tokens")), _count(usage.get("output_tokens", 0))
    if fresh is None or given is None:
        return None
    cached = _part(usage, "cache_read_input_tokens", _MOST)
    written = _part(usage, "cache_creation_input_tokens", _MOST)
    return Usage(
        input=fresh + cached + written,
        output=given,
        cached_input=cached,
        cache_write=written,
        cache_write_1h=_part(usage.get("cache_creation"), "ephemeral_1h_input_tokens", written),
        reasoning=_reasoning(usage, given),
    )


def _reasoning(usage: Mapping[str, Any], whole: int, at: str = "output_tokens_details") -> int:
    details = usage.get(at)
    return _part(details, "reasoning_tokens", whole) or _part(details, "thinking_tokens", whole)


def _part(details: Any, name: str, whole: int) -> int:
    found = _count(details.get(name)) if isinstance(details, dict) else None
    return min(found or 0, whole)


def _count(value: Any) -> int | None:
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _MOST:
        return value
    return None
