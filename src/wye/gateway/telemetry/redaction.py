"""Taking out of text what must not leave: patterns, or a function of one's own.

    [logs] redact = ["email", "phone", "card", "key"]      or  redact = "package.module:function"

Applied to every text that goes to logs and traces, and to the store where asked. A card number
counts only with a right check digit (ISO/IEC 7812, Luhn), so that other long numbers stay.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import cache, reduce
from importlib import import_module
from typing import Any, TypeVar

from pydantic_core import PydanticCustomError

Redact = Callable[[str], str]

_EMAIL = re.compile(r"[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63})+")
_PHONE = re.compile(
    r"(?<![\w.])(?:\+\d{1,3}[ .-]?)?(?:\(\d{1,4}\)[ .-]?)?\d{2,4}(?:[ .-]\d{2,4}){2,4}(?!\w)"
)
_CARD = re.compile(r"(?<!\d)\d(?:[ -]?\d){12,18}(?!\d)")
_KEY = re.compile(
    r"\b(?:sk|pk|rk|wye|ghp|gho|xox[abprs]|AKIA|AIza|glpat|hf|gsk|xai)[-_]?[A-Za-z0-9_-]{16,}"
    r"|(?i:\b(?:bearer|basic))\s+[A-Za-z0-9._~+/=-]{8,}"
)
# Fewer digits make a number of a telephone only where it is written as one.
_LEAST_PHONE, _LEAST_BARE, _MOST_PHONE = 7, 9, 15


def _phone(found: re.Match[str]) -> str:
    digits = sum(c.isdigit() for c in found[0])
    least = _LEAST_PHONE if found[0][0] in "+(" else _LEAST_BARE
    return "[phone]" if least <= digits <= _MOST_PHONE else found[0]


def _card(found: re.Match[str]) -> str:
    digits = [int(c) for c in reversed(found[0]) if c.isdigit()]
    total = sum(digits[::2]) + sum(sum(divmod(2 * d, 10)) for d in digits[1::2])
    return "[card]" if total % 10 == 0 else found[0]


PATTERNS: Mapping[str, Redact] = {
    # Cards before phones: a card's groups of digits look like a phone number.
    "key": lambda text: _KEY.sub("[key]", text),
    "email": lambda text: _EMAIL.sub("[email]", text),
    "card": lambda text: _CARD.sub(_card, text),
    "phone": lambda text: _PHONE.sub(_phone, text),
}


Given = TypeVar("Given", str, tuple[str, ...], str | tuple[str, ...])


def check_redact(redact: Given) -> Given:
    """What `[logs] redact` says, if it can be used.

    Raises:
        PydanticCustomError: an unknown pattern, or no function can be imported under the name.
    """
    redactor(redact)
    return redact


@cache
def redactor(redact: str | tuple[str, ...]) -> Redact:
    """The function that `[logs] redact` asks for; patterns run in an order of their own."""
    if isinstance(redact, str):
        return _imported(redact)
    unknown = sorted(set(redact) - set(PATTERNS))
    if unknown:
        raise PydanticCustomError(
            "redact",
            "redact has {given}, which is no pattern; known are {known}, or write "
            '"module:function"',
            {"given": repr(unknown[0]), "known": ", ".join(PATTERNS)},
        )
    chosen = [pattern for name, pattern in PATTERNS.items() if name in redact]
    return lambda text: reduce(lambda done, one: one(done), chosen, text)


def _imported(place: str) -> Redact:
    module, _, name = place.partition(":")
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise PydanticCustomError(
            "redact",
            'redact is {given}, which cannot be imported ({error}); write "module:function"',
            {"given": repr(place), "error": str(error)},
        ) from error

    def safely(text: str) -> str:
        try:
            return str(found(text))
        except Exception:  # noqa: BLE001 - a hook that fails must not let the text through
            return "[redaction failed]"

    return safely


def redacted(value: Any, redact: Redact) -> Any:
    """A JSON value with every text in it redacted, keys of objects left as they are."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Mapping):
        return {key: redacted(inner, redact) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(redacted(inner, redact) for inner in value)
    return value


# Columns in which somebody else's words may stand.
_TEXTS = ("text", "error", "comment", "reasons", "excluded", "attempts", "message", "note")


def redacted_row(row: dict[str, Any], redact: Redact) -> dict[str, Any]:
    """A row of the store with the texts in it redacted."""
    found = {name: redacted(row[name], redact) for name in _TEXTS if row.get(name)}
    return row | found
