"""Which targets may take a request, and why the others may not.

Routes nothing; narrows what is routed among. Read: the request's size and the capabilities it asks
for, the target's declared context and tags, the state of its circuit.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from wye.gateway.breaker import Breaker
from wye.gateway.config import Target
from wye.gateway.openai_api import ChatRequest


def unfit(chat: ChatRequest, targets: Iterable[Target]) -> dict[str, str]:
    """Targets that cannot serve `chat` whatever their state, each with the reason."""
    found = {}
    for target in targets:
        lacking = sorted(chat.needs.difference(target.tags))
        wanted = chat.input_tokens_estimate + (chat.max_output or 0)
        if lacking:
            found[target.name] = (
                f"the request needs {' and '.join(lacking)}, which its tags do not have"
            )
        elif target.context is not None and wanted > target.context:
            found[target.name] = (
                f"the request takes about {wanted} tokens, its context is {target.context}"
            )
    return found


def resting(breakers: Mapping[str, Breaker]) -> dict[str, str]:
    """Targets left alone after failures, each with the reason."""
    return {
        name: (
            f"failed lately; left alone for another {breaker.retry_after:.0f} s"
            if breaker.retry_after > 0
            else "failed lately; one request is trying it"
        )
        for name, breaker in breakers.items()
        if not breaker.available
    }
