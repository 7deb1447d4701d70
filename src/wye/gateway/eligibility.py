"""Which targets may take a request, and why the others may not.

Routes nothing; narrows what is routed among. Read: the request's surface, its size and the
capabilities it asks for; the surfaces a target speaks, its declared context and tags.
"""

from __future__ import annotations

from collections.abc import Iterable

from wye.gateway.config import Target
from wye.gateway.openai_api import ChatRequest
from wye.gateway.surfaces import surface_of


def unfit(chat: ChatRequest, targets: Iterable[Target]) -> dict[str, str]:
    """Targets that cannot serve `chat` whatever their state, each with the reason."""
    found = {}
    for target in targets:
        lacking = sorted(chat.needs.difference(target.tags))
        wanted = chat.input_tokens_estimate + (chat.max_output or 0)
        mute = unspoken(chat, target)
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
    """Why a target cannot read `chat` at all; None where it speaks the request's surface."""
    surface = surface_of(chat.body)
    if surface.name in target.surfaces:
        return None
    return (
        f"it does not speak {surface.name}, the format of {surface.path}; it speaks "
        f"{', '.join(target.surfaces)} (`speaks` in wye.toml)"
    )
