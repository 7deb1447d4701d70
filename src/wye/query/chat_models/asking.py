"""What every chat model asks of its arguments, and what a call costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from wye.query.chat_models.base import ChatModelError, Message

ROLES = ("system", "user", "assistant")


def check_call(
    name: str,
    messages: Sequence[Message],
    *,
    max_tokens: int = 1,
    temperature: float = 0.0,
    top_p: float = 1.0,
) -> None:
    """Refuse a call that no model could answer.

    Raises:
        ChatModelError: no message, one without a known role or text, or a number out of range.
    """
    if not messages or not all(isinstance(message, Mapping) for message in messages):
        raise ChatModelError(
            f"{name} got messages={messages!r}, expected at least one "
            '{"role": "user", "content": "..."}'
        )
    for place, message in enumerate(messages):
        role, content = message.get("role"), message.get("content")
        if role not in ROLES or not isinstance(content, str):
            raise ChatModelError(
                f"message {place} for {name} is {dict(message)!r}, expected a role of "
                f"{list(ROLES)} and a string as content"
            )
    if max_tokens < 1:
        raise ChatModelError(f"max_tokens is {max_tokens}, expected 1 or more")
    # The negations catch NaN as well.
    if not temperature >= 0.0:
        raise ChatModelError(f"temperature is {temperature}, expected 0 (greedy) or more")
    if not 0.0 < top_p <= 1.0:
        raise ChatModelError(f"top_p is {top_p}, expected above 0 and at most 1")


def check_labels(name: str, labels: Sequence[str]) -> None:
    """Refuse labels that cannot be told apart.

    Raises:
        ChatModelError: none, an empty one, or the same twice.
    """
    if isinstance(labels, str) or not labels or not all(labels) or len(set(labels)) < len(labels):
        raise ChatModelError(
            f"{name} got labels={labels!r}, expected one or more different, non-empty strings"
        )


def call_cost(
    input_tokens: int, output_tokens: int, price_in_per_mtok: float, price_out_per_mtok: float
) -> float:
    """USD of a call at prices in USD per million tokens; NaN where a price is.

    Example:
        >>> call_cost(1000, 500, 2.0, 4.0)
        0.004
    """
    return (input_tokens * price_in_per_mtok + output_tokens * price_out_per_mtok) / 1e6


def cut_at_stop(text: str, stop: Sequence[str]) -> tuple[str, bool]:
    """`text` before the first of the `stop` strings, and whether there was one.

    Example:
        >>> cut_at_stop("a b c", ["c", " b"])
        ('a', True)
    """
    places = [place for s in stop if s and (place := text.find(s)) >= 0]
    return (text[: min(places)], True) if places else (text, False)
