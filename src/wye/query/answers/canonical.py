"""Canonical answers: one string for all ways to write the same answer.

Whether two answers agree decides votes, dispersion and cascades, so it is decided in one place:

    number  the final number as a fraction in lowest terms: "0.50", "1/2" and "50%" are "1/2"
    option  the letter of the chosen option, upper case: "(b)", "B." and "the answer is B" are "B"
    code    Python by its syntax tree, without comments, docstrings, annotations and local names;
            what does not parse, by its lines
    text    Unicode NFKC, no case, single spaces, no quotes or full stop around it

A refusal, and a text that holds no answer of the kind asked for, is the empty string: no answer.
Two of them do not agree with each other (`wye.query.answers.voting`).
"""

from __future__ import annotations

import ast
import re
import unicodedata
from collections.abc import Iterable
from fractions import Fraction
from typing import Literal, get_args

from wye.query.base import RouterError

AnswerKind = Literal["number", "option", "code", "text"]

_FENCE = re.compile(r"```[\w+-]*\n(.*?)(?:```|\Z)", re.DOTALL)
_BOXED = re.compile(r"\\boxed\s*\{((?:[^{}]|\{[^{}]*\})*)\}")
_FRAC = re.compile(r"\\[dt]?frac\s*\{\s*([^{}]+?)\s*\}\s*\{\s*([^{}]+?)\s*\}")
_SAYS = re.compile(
    r"(?:\banswer\b\s*(?:is|are|was|would be|should be|=|:)|####)\s*:?", re.IGNORECASE
)
_DIGITS = r"(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+"
_NUMBER = re.compile(
    rf"(?<![\w.])([-+]?)[$€£]?\s?(?P<top>{_DIGITS})(?P<power>[eE][-+]?\d{{1,3}})?"
    rf"(?:\s*/\s*(?P<bottom>{_DIGITS})(?![\w/]))?\s?(?P<percent>%)?"
)
_LONE_OPTION = re.compile(r"\W*(?:option|choice)?\W*([A-Z])\W*", re.IGNORECASE)
_LEADING_OPTION = re.compile(r"\s*[(\[*]*([A-Z])[)\].:*]+(?=\s|$)", re.IGNORECASE)
_MENTIONED_OPTION = re.compile(
    r"\b(?:option|choice)\s+\(?([A-Z])\b|\(([A-Z])\)|\b([B-HJ-Z])\b", re.IGNORECASE
)
_REFUSAL = re.compile(
    r"\W*(?:(?:i['’]?m|i am) (?:sorry|afraid|unable|not (?:able|sure))|sorry\b|"
    r"i (?:do not|don['’]?t) know|i (?:can ?not|can['’]?t|won['’]?t|will not)\b|"
    r"as an ai\b|(?:it is )?(?:unknown|impossible to (?:say|tell|know))\W*$|n/?a\W*$)",
    re.IGNORECASE,
)


def canonical(text: str, kind: str = "text") -> str:
    """The answer in `text` in canonical form; "" where there is none.

    Args:
        text: what was written, reasoning included: a `\\boxed{}`, then what follows the last
            "answer is", "answer:" or "####" is read first, for a number else the last one.
        kind: `number`, `option`, `code` or `text`.

    Raises:
        RouterError: another kind.

    Example:
        >>> canonical("So 6 of 12 remain. The answer is 6/12.", "number")
        '1/2'
        >>> canonical("(c) because it floats", "option")
        'C'
        >>> canonical("I don't know.")
        ''
    """
    readers = {"number": _number, "option": _option, "code": _code, "text": _text}
    if kind not in readers:
        raise RouterError(
            f"answers of kind {kind!r}, expected one of {list(get_args(AnswerKind))}, or pass a "
            "function from text to canonical answer where one is taken"
        )
    if kind != "code" and _REFUSAL.match(text):
        return ""
    return readers[kind](text)


def canonical_all(texts: Iterable[str], kind: str = "text") -> list[str]:
    """`canonical` of each text, in order."""
    return [canonical(text, kind) for text in texts]


def _said(text: str) -> str | None:
    """What is marked as the answer, the last one; None where nothing is marked."""
    if boxed := _BOXED.findall(text):
        return str(boxed[-1])
    marks = list(_SAYS.finditer(text))
    if not marks:
        return None
    # A mark with nothing behind it announces nothing.
    return text[marks[-1].end() :].strip() or None


def _number(text: str) -> str:
    plain = unicodedata.normalize("NFKC", _FRAC.sub(r"\1/\2", text))
    plain = plain.replace("−", "-").replace("\u2044", "/")
    said = _said(plain)
    if said is not None and (found := _NUMBER.search(said)):
        return _fraction(found)
    every = list(_NUMBER.finditer(plain))
    return _fraction(every[-1]) if every else ""


def _fraction(found: re.Match[str]) -> str:
    value = Fraction(found["top"].replace(",", "") + (found["power"] or ""))
    if found["bottom"]:
        below = Fraction(found["bottom"].replace(",", ""))
        if not below:
            return ""
        value /= below
    if found["percent"]:
        value /= 100
    return str(-value if found[1] == "-" else value)


def _option(text: str) -> str:
    said = _said(text)
    for part in (said, text) if said is not None else (text,):
        if found := _LONE_OPTION.fullmatch(part) or _LEADING_OPTION.match(part):
            return found[1].upper()
        if part is said and (found := re.match(r"\W*([A-Za-z])\b", part)):
            return found[1].upper()
    every = list(_MENTIONED_OPTION.finditer(text))
    # A lone small letter in a sentence is a word or a variable, not an option.
    named = [m for m in every if m[1] or m[2] or m[3].isupper()]
    return next(g for g in named[-1].groups() if g).upper() if named else ""


def _text(text: str) -> str:
    said = _said(text)
    folded = unicodedata.normalize("NFKC", text if said is None else said).casefold()
    folded = unicodedata.normalize("NFKC", folded)
    return " ".join(folded.split()).strip(" \"'`“”‘’*.!")


def _code(text: str) -> str:
    blocks = _FENCE.findall(text)
    source = str(max(blocks, key=len)) if blocks else text
    try:
        tree = ast.parse(source.strip("\n"))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        lines = (" ".join(line.split()) for line in source.splitlines())
        return "\n".join(line for line in lines if line)
    if not tree.body:
        return ""
    return ast.dump(_Renamed(tree).visit(tree))


class _Renamed(ast.NodeTransformer):
    """Names that the program binds itself, numbered as they occur; no docstrings, no annotations.

    Names of functions and classes stay: they are what others call.
    """

    def __init__(self, tree: ast.AST) -> None:
        self.numbers: dict[str, str] = {}
        self.bound = {
            n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)
        } | {n.arg for n in ast.walk(tree) if isinstance(n, ast.arg)}
        # An argument given by name is part of what the function is to its callers.
        self.bound -= {n.arg for n in ast.walk(tree) if isinstance(n, ast.keyword) and n.arg}
        for node in ast.walk(tree):
            if isinstance(node, ast.Global | ast.Nonlocal):
                self.bound -= set(node.names)

    def visit_Name(self, node: ast.Name) -> ast.AST:
        return ast.Name(self._numbered(node.id), node.ctx)

    def visit_arg(self, node: ast.arg) -> ast.AST:
        return ast.arg(self._numbered(node.arg), None)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST | None:
        if node.value is None:
            return ast.Pass()
        return self.visit(ast.Assign([node.target], node.value))  # type: ignore[no-any-return]

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.returns = None
        return self._bare(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AST:
        node.returns = None
        return self._bare(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        return self._bare(node)

    def _bare(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> ast.AST:
        first = node.body[0]
        if (
            isinstance(first, ast.Expr)
            and isinstance(first.value, ast.Constant)
            and isinstance(first.value.value, str)
        ):
            node.body = node.body[1:] or [ast.Pass()]
        return self.generic_visit(node)

    def _numbered(self, name: str) -> str:
        if name not in self.bound:
            return name
        return self.numbers.setdefault(name, f"_{len(self.numbers)}")
