"""A JSON object of an upstream that still has the text it came as."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


class Received(dict[str, Any]):
    """An answer, or a piece of one, a plain dict; passed on unchanged it need not be written anew.

    Args:
        value: what was read.
        text: what it was read from.
    """

    __slots__ = ("text",)

    def __init__(self, value: Mapping[str, Any], text: str) -> None:
        super().__init__(value)
        self.text = text


def text_of(value: Mapping[str, Any]) -> str:
    """A JSON object as text: the one it came as, where it has one that UTF-8 can carry."""
    if isinstance(value, Received) and _encodable(value.text):
        return value.text
    return json.dumps(value)


def _encodable(text: str) -> bool:
    """Whether there is no half of a surrogate pair in it, which an upstream may have cut."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
