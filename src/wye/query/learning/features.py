"""Cheap features of a text: length, characters, script, code, question type. No model, no dataset.

Shape letters: Q queries, F features.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

# Features other than length are read from this many leading characters, which bounds their time.
READ_CHARS = 4096

SCRIPTS = ("latin", "greek", "cyrillic", "semitic", "indic", "cjk", "kana", "hangul")
_KINDS = ("digit", "upper", "lower", "space", "mark", *SCRIPTS, "other")
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
    *(f"share_{kind}" for kind in _KINDS if kind != "lower"),
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
    heads = [t[:READ_CHARS] for t in texts]
    counts = _character_counts(heads)
    total = np.maximum(counts.sum(axis=1, keepdims=True), 1.0)
    shares = (counts / total)[:, _SHARED]
    rows = [_row(text, head) for text, head in zip(texts, heads, strict=True)]
    own = np.asarray(rows, np.float64).reshape(len(rows), len(FEATURES) - shares.shape[1])
    own[:, _LOGARITHMIC] = np.log1p(own[:, _LOGARITHMIC])
    return np.concatenate([own[:, :3], shares, own[:, 3:]], axis=1).astype(np.float32)


def describe_texts(texts: Sequence[str]) -> list[dict[str, float | str]]:
    """What is worth telling a person about each text: its size, script and kind."""
    rows = text_features(texts)
    shares = rows[:, _SCRIPT_COLUMNS]
    scripts = shares.argmax(axis=1)
    options = np.round(np.expm1(rows[:, _COLUMN["log_options"]]))
    code = rows[:, _COLUMN["log_code"]] > 0
    mathematics = rows[:, _COLUMN["log_latex"]] + rows[:, _COLUMN["log_arithmetic"]] > 0
    found: list[dict[str, float | str]] = []
    for i, text in enumerate(texts):
        opening = _OPENING.match(text[:READ_CHARS])
        found.append(
            {
                "chars": float(len(text)),
                "words": float(len(text.split())),
                "script": SCRIPTS[scripts[i]] if shares[i, scripts[i]] > 0.2 else "latin",
                "code": float(code[i]),
                "mathematics": float(mathematics[i]),
                "options": float(options[i]),
                "opening": str(opening.lastgroup) if opening and opening.lastgroup else "other",
            }
        )
    return found


def describe_text(text: str) -> dict[str, float | str]:
    """What is worth telling a person about one text, see `describe_texts`."""
    return describe_texts([text])[0]


def _row(text: str, head: str) -> list[float]:
    head_words = len(head.split())
    words = len(text) / 6 if len(text) > READ_CHARS else head_words
    stripped = text[-80:].rstrip()
    opening = _OPENING.match(head)
    group = opening.lastgroup if opening else None
    return [
        len(text),
        words,
        len(head) / max(1, head_words),
        head.count("\n"),
        head.count(","),
        stripped.endswith("?"),
        stripped.endswith("."),
        stripped.endswith(":"),
        head[:1].islower(),
        *_pattern_counts(head),
        *(name == group for name in _OPENINGS),
    ]


def _pattern_counts(head: str) -> list[int]:
    """How often each of `_PATTERNS` occurs."""
    numeric = _DIGIT.search(head) is not None
    found = head.__contains__
    return [
        len(pattern.findall(head)) if (numeric if needs is None else any(map(found, needs))) else 0
        for pattern, needs in _WANTED
    ]


def _character_counts(texts: Sequence[str]) -> NDArray[np.float64]:
    """`[Q, kinds]` how many characters of each kind every text has."""
    joined = "".join(texts).encode("utf-32-le", "surrogatepass")
    points = np.minimum(np.frombuffer(joined, np.uint32), len(_TABLE) - 1)
    cells = _TABLE[points]
    if len(texts) > 1:
        cells += np.repeat(np.arange(len(texts)) * len(_KINDS), [len(t) for t in texts])
    flat = np.bincount(cells, minlength=len(texts) * len(_KINDS))
    return flat.reshape(len(texts), len(_KINDS)).astype(np.float64)


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
    (pattern, None if name in _NUMERIC else _NEEDS[name]) for name, pattern in _PATTERNS.items()
]
_TABLE = _kind_table()
_SHARED = np.array([i for i, kind in enumerate(_KINDS) if kind != "lower"])
# Columns of `_row` that are counts.
_LOGARITHMIC = np.array([0, 1, 3, 4, *range(9, 9 + len(_PATTERNS))])
_COLUMN = {name: column for column, name in enumerate(FEATURES)}
_SCRIPT_COLUMNS = np.array([_COLUMN[f"share_{script}"] for script in SCRIPTS])
