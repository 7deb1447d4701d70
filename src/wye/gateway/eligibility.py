"""Which targets may take a request, and why the others may not.

Routes nothing; narrows what is routed among. Read: the request's surface, its size and the
capabilities it asks for; the surfaces a target speaks or is translated to, its declared context and
tags.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from wye.gateway.config import Target
from wye.gateway.openai_api import ChatRequest
from wye.gateway.providers.carried import Carried, UncarriedError
from wye.gateway.providers.chat_to_provider import OF_ANTHROPIC, carry
from wye.gateway.providers.messages_to_chat import carry_messages
from wye.gateway.records import DecisionRecord
from wye.gateway.surfaces import Body, surface_of


def unfit(chat: ChatRequest, targets: Iterable[Target]) -> dict[str, str]:
    """Targets that cannot serve `chat` whatever their state, each with the reason."""
    found = {}
    wanted = chat.input_tokens_estimate + (chat.max_output or 0)
    surface = surface_of(chat.body).name
    for target in targets:
        lacking = sorted(chat.needs.difference(target.tags)) if chat.needs else None
        mute = None if _speaks(target, surface) else unspoken(chat, target)
        if mute is not None:
            found[target.name] = mute
        elif lacking:
            found[target.name] = (
                f"the request needs {' and '.join(lacking)}, which its tags do not have"
            )
        elif target.context is not None and wanted > target.context:
            found[target.name] = (
                f"the request takes about {wanted} tokens, its context is {target.context}"
            )
    return found


def unspoken(chat: ChatRequest, target: Target) -> str | None:
    """Why a target cannot read `chat` at all; None where it can, be it by translation."""
    surface = surface_of(chat.body)
    if _speaks(target, surface.name):
        return None
    if surface.name not in (*target.surfaces, *target.translated):
        offer = ""
        if surface.name in ("chat", "messages") and {"chat", "messages"} & set(target.surfaces):
            offer = "; translate = true lets it answer all the same"
        return (
            f"it does not speak {surface.name}, the format of {surface.path}; it speaks "
            f"{', '.join(target.surfaces)} (`speaks` in wye.toml{offer})"
        )
    try:
        _carried(chat, target)
    except UncarriedError as error:
        return f"{_way(surface.name, target)} cannot carry {error}"
    return None


def _speaks(target: Target, surface: str) -> bool:
    """Whether a request of a surface reaches a target as it came."""
    return surface in target.surfaces and target.kind != "provider"


def with_translations(
    record: DecisionRecord, chat: ChatRequest, targets: Iterable[Target]
) -> DecisionRecord:
    """The record, which also says for which targets the request is translated, and at what loss."""
    told = _translations(chat, targets)
    if not told:
        return record
    reasons = record.reasons
    if record.target in told:
        reasons = (*reasons, f"answered by {told[record.target]}")
    features = {**record.features, "translated": told}
    return replace(record, reasons=reasons, features=features)


def _translations(chat: ChatRequest, targets: Iterable[Target]) -> dict[str, str]:
    """What is translated for which target that can take `chat`, and what is left out for it."""
    name = surface_of(chat.body).name
    found = {}
    for target in targets:
        if _speaks(target, name):
            continue
        if name in target.translated or name in target.surfaces:
            try:
                left_out = _carried(chat, target).left_out
            except UncarriedError:
                continue
            found[target.name] = _way(name, target) + (
                f"; left out: {', '.join(left_out)}" if left_out else ""
            )
    return found


def _carried(chat: ChatRequest, target: Target) -> Carried:
    """What the translation for a target carries, worked out once for all targets of its kind.

    Raises:
        UncarriedError: something would be lost.
    """
    surface = surface_of(chat.body).name
    provider = target.provider or "anthropic"
    kind = surface if surface == "messages" or provider not in OF_ANTHROPIC else "anthropic"
    if kind not in chat.carried:
        try:
            if surface == "messages":
                headers = chat.body.headers if isinstance(chat.body, Body) else {}
                chat.carried[kind] = carry_messages(chat.body, headers)
            else:
                chat.carried[kind] = carry(chat.body, target, provider)
        except UncarriedError as error:
            chat.carried[kind] = error
    found = chat.carried[kind]
    if isinstance(found, UncarriedError):
        raise found
    return found


def _way(surface: str, target: Target) -> str:
    other = f"the format of {target.provider}" if target.provider else target.surfaces[0]
    return f"the translation from {surface} to {other}"
