"""The one error of the data room."""

from __future__ import annotations

from wye.errors import WyeError


class DataError(WyeError):
    """Outcomes cannot be read, joined or written; the message names file, row, column and fix."""
