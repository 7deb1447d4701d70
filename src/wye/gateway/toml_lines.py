"""Where in a TOML file a key stands, so that an error of validation can name its line.

`tomllib` gives values without positions; this reads only headers and keys, and leaves values alone.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from typing import Any

Location = tuple[str | int, ...]

_HEADER = re.compile(r"^\s*(\[\[?)(.+?)\]\]?\s*(?:#.*)?$")
_KEY = re.compile(r"""^\s*((?:[A-Za-z0-9_-]+|"(?:[^"\\]|\\.)*"|'[^']*'|\s*\.\s*)+?)\s*=""")
# A long string closed on its line, one that stays open, a short string, a comment.
_PIECE = re.compile(
    r'"{3}.*?"{3}'
    r"|'{3}.*?'{3}"
    r"|(?P<open>\"{3}|'{3})"
    r'|"(?:[^"\\]|\\.)*"'
    r"|'[^']*'|#.*"
)


def key_lines(text: str) -> dict[Location, int]:
    """Line (from 1) of every table header and key of a TOML text, by its path.

    Entries of arrays of tables count from 0, as in `("targets", 0, "base_url")`.

    >>> key_lines("[server]\\nport = 80\\n")[("server", "port")]
    2
    """
    lines: dict[Location, int] = {}
    counts: dict[Location, int] = {}
    table: Location = ()
    fence: str | None = None
    for number, line in enumerate(text.splitlines(), start=1):
        if fence is not None:
            _, closed, rest = line.partition(fence)
            if closed:
                fence = _left_open(rest)
            continue
        if header := _HEADER.match(line):
            named = _with_indices(_split(header[2]), counts)
            if header[1] == "[[":
                counts[named] = counts.get(named, -1) + 1
                lines.setdefault(named, number)
                table = (*named, counts[named])
            else:
                table = named
            lines.setdefault(table, number)
        elif key := _KEY.match(line):
            lines.setdefault(table + _split(key[1]), number)
        fence = _left_open(line)
    return lines


def line_of(lines: Mapping[Location, int], location: Location) -> int | None:
    """Line of `location`, or of the nearest table around it; None at the top level."""
    for end in range(len(location), 0, -1):
        if location[:end] in lines:
            return lines[location[:end]]
    return None


def _left_open(line: str) -> str | None:
    """The fence of a long string that begins on this line and does not end on it."""
    return next((found["open"] for found in _PIECE.finditer(line) if found["open"]), None)


def _split(dotted: str) -> Location:
    """The parts of a dotted key, quotes resolved; () for what is no key."""
    try:
        node: Any = tomllib.loads(f"{dotted} = 0")
    except tomllib.TOMLDecodeError:
        return ()
    parts: list[str | int] = []
    while isinstance(node, dict):
        name, node = next(iter(node.items()))
        parts.append(name)
    return tuple(parts)


def _with_indices(path: Location, counts: Mapping[Location, int]) -> Location:
    """`path` with the index of the current entry after each array of tables on the way."""
    resolved: Location = ()
    for depth, part in enumerate(path):
        resolved = (*resolved, part)
        if depth < len(path) - 1 and resolved in counts:
            resolved = (*resolved, counts[resolved])
    return resolved
