"""Cheap features of a text: length, characters, script, code, question type. No model, no dataset.

Shape letters: Q queries, F features.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from math import log1p
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

# Features other than length are read from this many leading characters, which bounds their time.
READ_CHARS = 4096
# Readings of at most so many texts are remembered, for whoever describes what was just estimated.
MOST_REMEMBERED = 64

SCRIPTS = ("latin", "greek", "cyrillic", "semitic", "indic", "cjk", "kana", "hangul")
# Lower case comes last: its share follows from the others and is no feature.
_KINDS = ("digit", "upper", "space", "mark", *SCRIPTS, "other", "lower")
_RANGES = {
    "latin": [(0x00C0, 0x024F)],
    "greek": [(0x0370, 0x03FF)],
    "cyrillic": [(0x0400, 0x052F)],
    "semitic": [(0x0590, 0x077F), (0xFB1D, 0xFDFF), (0xFE70, 0xFEFF)],
    "indic": [(0x0900, 0x0DFF)],
    "cjk": [(0x3400, 0x4DBF), (0x4E00, 0x9FFF)],
    "kana": [(0x3040, 0x30FF)],
    "hangul": [(0x1100, 0x11FF), (0xAC00, 0xD7AF)],
}

_OPENINGS = {
    "asks_what": "what",
    "asks_who": "who|whose|whom",
    "asks_when": "when|in what year|in which year",
    "asks_where": "where",
    "asks_which": "which",
    "asks_why": "why",
    "asks_how_many": "how many|how much",
    "asks_how": "how",
    "asks_yes_no": "is|are|was|were|do|does|did|can|could|should|will|would|has|have",
    "says_write": "write|create|implement|generate|compose|draft",
    "says_find": "find|compute|calculate|solve|evaluate|determine|simplify|let|suppose|given",
    "says_explain": "explain|describe|discuss|compare|summari[sz]e|tell",
    "says_edit": "translate|rewrite|edit|correct|extract|list|sort|convert|classify",
}
_OPENING = re.compile(
    r"\W*(?:q:\s*|question:\s*)?(?:please\s+)?(?:"
    + "|".join(f"(?P<{name}>(?:{words})\\b)" for name, words in _OPENINGS.items())
    + ")",
    re.IGNORECASE,
)
_PATTERNS = {
    "options": re.compile(r"\n\s*\(?[A-J1-9][.):]\s"),
    "code": re.compile(
        r"```|\bdef \w+\(|\breturn\b|\bimport \w|#include|\bfunction\b|=>|\w+\(\w*\)|[{};]\s*\n"
    ),
    "latex": re.compile(r"\\[a-zA-Z]+|\$[^$\n]+\$"),
    "arithmetic": re.compile(r"\d\s*[-+*/^=×÷<>%]\s*\d"),
    "numbers": re.compile(r"\d+(?:[.,]\d+)*"),
    "blanks": re.compile(r"_{2,}|\.{3}|\[\s*\]"),
    "quotes": re.compile(r"[\"“”«»]"),
    "addresses": re.compile(r"https?://|www\.|\w@\w"),
    "sentences": re.compile(r"[.!?](?:\s|$)"),
}
# A pattern that needs one of these strings is not looked for in a text that has none of them.
_NEEDS = {
    "options": ("\n",),
    "code": (
        *("(", "{", "}", ";", "=>", "```", "def ", "return", "import ", "#include", "function"),
    ),
    "latex": ("\\", "$"),
    "blanks": ("__", "...", "["),
    "quotes": ('"', "“", "”", "«", "»"),
    "addresses": ("http", "www.", "@"),
    "sentences": (".", "!", "?"),
}
_DIGIT = re.compile(r"\d")
# Patterns that begin and end with a digit.
_NUMERIC = ("arithmetic", "numbers")

FEATURES: tuple[str, ...] = (
    "log_chars",
    "log_words",
    "chars_per_word",
    *(f"share_{kind}" for kind in _KINDS[:-1]),
    "log_lines",
    "log_commas",
    "ends_question",
    "ends_stop",
    "ends_colon",
    "starts_lower",
    *(f"log_{name}" for name in _PATTERNS),
    *_OPENINGS,
)


def text_features(texts: Sequence[str]) -> NDArray[np.float32]:
    """Features of each text, `[Q, F]` in the order of `FEATURES`: logarithms, shares and flags.

    Example:
        >>> row = dict(zip(FEATURES, text_features(["How many legs has a spider?"])[0]))
        >>> row["asks_how_many"], row["ends_question"], row["share_digit"]
        (np.float32(1.0), np.float32(1.0), np.float32(0.0))
    """
    return _readings(texts)[0].copy()


def describe_texts(texts: Sequence[str]) -> list[dict[str, float | str]]:
    """What is worth telling a person about each text: its size, script and kind.

    Next to free for texts whose features were read just before, by an estimate for instance.
    """
    rows, readings = _readings(texts)
    shares = rows[:, _SCRIPT_COLUMNS]
    scripts, widest = shares.argmax(axis=1).tolist(), shares.max(axis=1).tolist()
    return [
        _described(text, reading, SCRIPTS[script] if share > 0.2 else "latin")
        for text, reading, script, share in zip(texts, readings, scripts, widest, strict=True)
    ]


def describe_text(text: str) -> dict[str, float | str]:
    """What is worth telling a person about one text, see `describe_texts`."""
    return describe_texts([text])[0]


def _described(text: str, reading: _Reading, script: str) -> dict[str, float | str]:
    found = dict(zip(_PATTERNS, reading.counts, strict=True))
    return {
        "chars": float(len(text)),
        "words": float(len(text.split()) if len(text) > READ_CHARS else reading.words),
        "script": script,
        "code": float(found["code"] > 0),
        "mathematics": float(found["latex"] + found["arithmetic"] > 0),
        "options": float(found["options"]),
        "opening": reading.opening or "other",
    }


class _Reading(NamedTuple):
    """What is read of the head of one text: its words, its opening, and counts of `_PATTERNS`."""

    words: int
    opening: str | None
    counts: list[int]


def _readings(texts: Sequence[str]) -> tuple[NDArray[np.float32], list[_Reading]]:
    """Features `[Q, F]` of the texts, and the readings that they were made of."""
    if len(texts) > MOST_REMEMBERED:
        return _read(texts)
    return _remembered(tuple(texts))


@lru_cache(maxsize=1)
def _remembered(texts: tuple[str, ...]) -> tuple[NDArray[np.float32], list[_Reading]]:
    return _read(texts)


def _read(texts: Sequence[str]) -> tuple[NDArray[np.float32], list[_Reading]]:
    heads = [t[:READ_CHARS] for t in texts]
    readings = [_reading(head) for head in heads]
    counts = _character_counts(heads).tolist()
    rows = [_row(*parts) for parts in zip(texts, heads, readings, counts, strict=True)]
    return np.array(rows, np.float32).reshape(len(rows), len(FEATURES)), readings


def _reading(head: str) -> _Reading:
    numeric, holds = _DIGIT.search(head) is not None, head.__contains__
    opening = _OPENING.match(head)
    return _Reading(
        words=len(head.split()),
        opening=opening.lastgroup if opening else None,
        counts=[
            len(find(head)) if (numeric if needs is None else any(map(holds, needs))) else 0
            for find, needs in _WANTED
        ],
    )


def _row(text: str, head: str, reading: _Reading, kinds: list[int]) -> list[float]:
    """The features of one text, of whose characters so many are of each kind."""
    total = len(head) or 1
    words = len(text) / 6 if len(text) > READ_CHARS else reading.words
    stripped = text[-80:].rstrip()
    return [
        log1p(len(text)),
        log1p(words),
        len(head) / max(1, reading.words),
        *[count / total for count in kinds[:-1]],
        log1p(head.count("\n")),
        log1p(head.count(",")),
        stripped.endswith("?"),
        stripped.endswith("."),
        stripped.endswith(":"),
        head[:1].islower(),
        *map(log1p, reading.counts),
        *_OPENED[reading.opening],
    ]


def _character_counts(texts: Sequence[str]) -> NDArray[np.intp]:
    """`[Q, kinds]` how many characters of each kind every text has."""
    joined = "".join(texts).encode("utf-32-le", "surrogatepass")
    cells = _TABLE.take(np.frombuffer(joined, np.uint32), mode="clip")
    if len(texts) > 1:
        cells += np.repeat(np.arange(len(texts)) * len(_KINDS), [len(t) for t in texts])
    flat = np.bincount(cells, minlength=len(texts) * len(_KINDS))
    return flat.reshape(len(texts), len(_KINDS))


def _kind_table() -> NDArray[np.intp]:
    """Kind of each code point up to the end of the basic plane; the rest count as its last."""
    table = np.full(0x10000, _KINDS.index("other"), np.intp)
    table[:0x80] = _KINDS.index("mark")
    for kind, first, last in (("digit", "0", "9"), ("upper", "A", "Z"), ("lower", "a", "z")):
        table[ord(first) : ord(last) + 1] = _KINDS.index(kind)
    table[[ord(c) for c in " \t\n\r\v\f"]] = _KINDS.index("space")
    for script, ranges in _RANGES.items():
        for start, end in ranges:
            table[start : end + 1] = _KINDS.index(script)
    return table


_WANTED = [
    (pattern.findall, None if name in _NUMERIC else _NEEDS[name])
    for name, pattern in _PATTERNS.items()
]
# Flags of the openings, by which of them a text has.
_OPENED = {name: [float(name == other) for other in _OPENINGS] for name in (*_OPENINGS, None)}
_TABLE = _kind_table()
_COLUMN = {name: column for column, name in enumerate(FEATURES)}
_SCRIPT_COLUMNS = np.array([_COLUMN[f"share_{script}"] for script in SCRIPTS])
