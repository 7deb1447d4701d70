"""The most that a request can cost at a target, before anything is known of the answer.

No tokenizer of language models makes two tokens of one byte, so the bytes of a request bound its
input tokens whatever the tokenizer; what a provider adds (roles, tool preambles) is allowed for.
Pictures, sound and files are not text, and a provider's own tools and stores bring input that the
request does not hold: only the target's context bounds them. Output is bounded by
what the client allows, else by the target (`max_output`, the price table, its context).

An upstream that reports more than this is booked as it reports.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wye.gateway.config import Target
from wye.gateway.money.tiers import may_apply

# Tokens that providers put around each message, before all of them, and before tools.
_A_MESSAGE, _A_REQUEST, _TOOLS = 16, 64, 1024
_NOT_TEXT = {
    "image_url", "input_image", "image", "input_audio", "file", "input_file", "document",
    "video_url", "item_reference", "container_upload",
}  # fmt: skip
# Fields by which a request brings in what it does not hold itself, of all surfaces.
_ELSEWHERE = (
    "conversation", "mcp_servers", "previous_response_id", "prompt", "web_search_options",
)  # fmt: skip
# Tools that the client runs and describes whole; others are run or known by the provider.
_CLIENT_TOOLS = ("function", "custom")


@dataclass(frozen=True)
class Bounds:
    """What a request can take at most.

    Attributes:
        input: tokens of input.
        measured: whether `input` holds; False with pictures, sound, files or what the
            provider brings in.
        output: tokens of output of all choices, None where the client sets no limit.
        choices: how many answers are asked for.
        predicted: tokens of a predicted output, which may be billed beside the answer.
        tier: the `service_tier` that the request asks for, as it stands there; None without one.
    """

    input: int
    measured: bool
    output: int | None
    choices: int
    predicted: int
    tier: Any = None


def bounds_of(body: Mapping[str, Any], max_output: int | None) -> Bounds:
    """Bounds of a request's body; `max_output` is what the client allows of one answer."""
    size, measured = _size(body)
    measured = measured and not _brings_more(body)
    messages = body.get("messages", body.get("input"))
    around = _A_REQUEST + (_A_MESSAGE * len(messages) if isinstance(messages, list) else 0)
    if body.get("tools") or body.get("functions"):
        around += _TOOLS
    choices = body.get("n")
    if not isinstance(choices, int) or isinstance(choices, bool) or not 1 <= choices < 2**31:
        choices = 1
    return Bounds(
        input=size + around,
        measured=measured,
        output=None if max_output is None else max_output * choices,
        choices=choices,
        predicted=_size(body.get("prediction"))[0],
        tier=body.get("service_tier"),
    )


def most_cost(target: Target, bounds: Bounds, default_output: int) -> float | str:
    """USD at most at a target, or why that cannot be said."""
    if target.prices is None:
        return (
            "its price is not known, so no budget can hold for it; set price_in_per_mtok and "
            "price_out_per_mtok in wye.toml"
        )
    prices = may_apply(target.prices, target.tiers, bounds.tier)
    if prices is None:
        return (
            f"the request asks for the service_tier {bounds.tier!r:.40}, whose price is not known, "
            "so no budget can hold for it; leave service_tier out, or set its prices in wye.toml "
            "([targets.tiers.NAME])"
        )
    taken, context = bounds.input, target.context
    if not bounds.measured:
        if context is None:
            return (
                "the request has pictures, sound, files or a provider's own tools, whose cost "
                "nothing bounds; set the target's context in wye.toml"
            )
        taken = context
    elif context is not None:
        taken = min(taken, context)
    given = bounds.output
    if given is None:
        listed = target.listed.max_output if target.listed is not None else None
        given = (target.max_output or listed or context or default_output) * bounds.choices
    return max(one.most(taken, given + bounds.predicted) for one in prices)


def _brings_more(body: Mapping[str, Any]) -> bool:
    """Whether input comes from elsewhere: kept by the provider, or fetched by its own tools."""
    tools = body.get("tools")
    return any(body.get(name) for name in _ELSEWHERE) or any(
        not isinstance(tool, dict) or tool.get("type", "custom") not in _CLIENT_TOOLS
        for tool in (tools if isinstance(tools, list) else ())
    )


def _size(value: Any) -> tuple[int, bool]:
    """Bytes of all text within a JSON value, and whether all of it is text."""
    size, measured, left = 0, True, [value]
    while left:
        item = left.pop()
        if isinstance(item, str):
            size += len(item) if item.isascii() else len(item.encode("utf-8", "surrogatepass"))
        elif isinstance(item, dict):
            if item.get("type") in _NOT_TEXT:
                measured = False
                continue
            size += sum(4 * len(name) for name in item)
            left.extend(item.values())
        elif isinstance(item, list):
            left.extend(item)
        elif item is not None:
            # Numbers and truth values as they are written.
            size += len(repr(item))
        size += 4
    return size, measured
