"""How deep a JSON value is nested, found without the recursion that a deep one would break."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


def deeper_than(levels: int, value: Any) -> bool:
    """Whether objects and lists are nested in more levels than these.

    Args:
        levels: that are allowed, the outermost object included.
        value: as JSON is read: mappings, lists and what is neither.

    >>> deeper_than(2, {"a": [1]}), deeper_than(1, {"a": [1]})
    (False, True)
    """
    layer = _containers([value])
    for _ in range(levels):
        layer = _containers(
            inner
            for item in layer
            for inner in (item.values() if isinstance(item, Mapping) else item)
        )
        if not layer:
            return False
    return bool(layer)


def _containers(values: Iterable[Any]) -> list[Any]:
    return [value for value in values if isinstance(value, Mapping | list)]
