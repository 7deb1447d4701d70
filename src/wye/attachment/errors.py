"""The error of this room."""

from __future__ import annotations

from wye.moe.base import MoEError


class AttachError(MoEError):
    """A model, a router or a checkpoint that do not go together; the message says what to do."""
