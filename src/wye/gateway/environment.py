"""Secrets that `wye.toml` names by their environment variable."""

from __future__ import annotations

import os


def secret(name: str | None) -> str:
    """The secret in a variable; empty where there is none.

    White space around it is of the file or the command that it was read from, and no part of it.
    """
    return os.environ.get(name, "").strip() if name else ""
