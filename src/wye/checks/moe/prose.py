"""Prose out of files that hold more than prose: package descriptions, docstrings, manual pages.

Addresses of people go, and so do the sections that name authors and translators.
"""

from __future__ import annotations

import ast
import email
import gzip
import re
import textwrap
import warnings
from collections.abc import Iterator
from pathlib import Path

_Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
_FENCE = re.compile(r"^(```|~~~).*?^\1\s*$", re.MULTILINE | re.DOTALL)
_ADDRESS = re.compile(r"<?\S+@\S+\.\w+>?|https?://\S+")
_ESCAPES = (
    (re.compile(r"\\[hvwkoln]'[^']*'|\\[cdupr{}]"), ""),
    (re.compile(r"\\f(?:\(..|\[[^\]]*\]|.)"), ""),
    (re.compile(r"\\s[-+]?\d"), ""),
    (re.compile(r"\\\*?(?:\(aq|\[aq\])"), "'"),
    (re.compile(r"\\\*?(?:\(lq|\(rq|\(dq|\[lq\]|\[rq\]|\[dq\])"), '"'),
    (re.compile(r"\\\((?:em|en|hy)"), "-"),
    (re.compile(r"\\\((?:bu)"), "*"),
    (re.compile(r"\\\*?(?:\(..|\[[^\]]*\])"), ""),
    (re.compile(r'\\".*$'), ""),
    (re.compile(r"\\[&/,|^%:!)]"), ""),
    (re.compile(r"\\[-]"), "-"),
    (re.compile(r"\\[ ~0]"), " "),
    (re.compile(r"\\e|\\\\"), r"\\"),
)
_SPOKEN = ("SH", "SS", "B", "I", "BR", "BI", "IR", "IB", "RB", "RI", "SM", "SB", "IP")
_SECTIONS_OF_PEOPLE = re.compile(
    r"^\.SH\s+\"?(?:ÜBERSETZUNG|AUTOR|VERFASSER|DANK|AUTEUR|TRADUCT|REMERCIEMENT)", re.IGNORECASE
)


def english_prose(path: Path) -> str:
    """Lines of prose in a package's METADATA (its long description) or in a licence text.

    Code, tables, badges and lines that are mostly signs are left out; so are addresses.
    """
    text = path.read_text(encoding="utf-8", errors="replace")
    if path.name == "METADATA":
        found = email.message_from_string(text)
        body = found.get_payload()
        text = body if isinstance(body, str) else ""
        # Old packages hold the description in an indented header.
        text = text if text.strip() else textwrap.dedent(found.get("Description", ""))
    return _lines(_FENCE.sub("", text))


def docstrings(path: Path) -> str:
    """The docstrings of a Python file, one after the other; none where it does not parse."""
    source = path.read_text(encoding="utf-8", errors="replace")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)
            tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return ""
    found = (ast.get_docstring(node) for node in _documented(tree))
    return "\n\n".join(text for text in (_lines(doc or "") for doc in found) if text)


def without_roff(path: Path) -> str:
    """The text of a manual page, `.gz` or plain, without markup and without its people's names."""
    raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    spoken = []
    people = False
    for line in raw.decode("utf-8", errors="replace").splitlines():
        if line.startswith(".SH"):
            people = bool(_SECTIONS_OF_PEOPLE.match(line))
        if not people:
            spoken.append(_spoken(line))
    text = _ADDRESS.sub("", "\n".join(line for line in spoken if line is not None))
    return re.sub(r"\n{3,}", "\n\n", text).strip()


def _documented(node: ast.Module | _Definition) -> Iterator[ast.Module | _Definition]:
    """A module, and the classes and functions defined at its top or inside of those."""
    yield node
    for child in node.body:
        if isinstance(child, _Definition):
            yield from _documented(child)


def _spoken(line: str) -> str | None:
    """What a reader sees of one line of roff; None where it is an instruction."""
    if line.startswith((".", "'")):
        request, _, rest = line[1:].partition(" ")
        if request in ("PP", "P", "LP", "sp"):
            return ""
        if request not in _SPOKEN or not rest.strip():
            return None
        glued = request in ("BR", "BI", "IR", "IB", "RB", "RI")
        words = re.findall(r'"([^"]*)"|(\S+)', rest)
        # The second argument of .IP is an indentation.
        words = words[:1] if request == "IP" else words
        line = ("" if glued else " ").join(quoted or bare for quoted, bare in words)
    for pattern, plain in _ESCAPES:
        line = pattern.sub(plain, line)
    return line


def _lines(text: str) -> str:
    kept = [line.rstrip() for line in _ADDRESS.sub("", text).splitlines() if _is_prose(line)]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(kept)).strip()


def _is_prose(line: str) -> bool:
    """Empty, or of words: four characters in five are letters or spaces."""
    line = line.strip()
    if not line:
        return True
    plain = sum(c.isalpha() or c == " " for c in line)
    return plain >= 0.8 * len(line) and not line.startswith((">>>", "<", "|", "..", "![", "[!["))
