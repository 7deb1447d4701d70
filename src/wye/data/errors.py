"""The one error of the data room."""

from __future__ import annotations


class DataError(ValueError):
    """Outcomes cannot be read, joined or written; the message names file, row, column and the fix."""
