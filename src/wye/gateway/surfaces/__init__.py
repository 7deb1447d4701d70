"""Wire formats that the gateway speaks, by name: chat, messages, responses, embeddings.

A request stays in the format it came in: it goes to targets that speak that format, unchanged but
for the model's name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wye.gateway.surfaces.body import Body
from wye.gateway.surfaces.chat import CHAT
from wye.gateway.surfaces.contract import Reading, Surface
from wye.gateway.surfaces.embeddings import EMBEDDINGS
from wye.gateway.surfaces.messages import MESSAGES
from wye.gateway.surfaces.responses import RESPONSES

__all__ = [
    "CHAT", "EMBEDDINGS", "MESSAGES", "RESPONSES", "SURFACES", "Body", "Reading", "Surface",
    "surface_at", "surface_of",
]  # fmt: skip

SURFACES: Mapping[str, Surface] = {s.name: s for s in (CHAT, RESPONSES, EMBEDDINGS, MESSAGES)}


def surface_of(body: Mapping[str, Any]) -> Surface:
    """The surface that a request's body is written for."""
    return SURFACES[body.surface] if isinstance(body, Body) else CHAT


def surface_at(path: str) -> Surface:
    """The surface whose clients ask at `path`; chat where it is none's."""
    return next((s for s in SURFACES.values() if path.startswith(s.path)), CHAT)
