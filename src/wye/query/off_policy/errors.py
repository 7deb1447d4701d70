"""The error of off-policy evaluation."""

from __future__ import annotations

from wye.errors import WyeError


class OffPolicyError(WyeError):
    """A log cannot tell what another policy would have reached; the message says why."""
