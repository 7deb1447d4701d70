"""Feedback by verifiable outcome: a check that the client, or the operator, states beforehand.

A request says what a right answer is like, in the header `x-wye-expected`; the gateway compares
when the answer is whole, and stores quality 1 or 0 with the source "outcome". Nothing is executed.
What clients can ask for takes time linear in the answer; patterns are the operator's own:

    exact:TEXT      the answer is TEXT, but for case, white space and a full stop at the end
    contains:TEXT   TEXT is somewhere in it, but for case
    number:VALUE    the last number in it is VALUE
    json            it is JSON, within a code fence or not
    json:KEY,KEY    it is a JSON object with these keys
    check:NAME      it matches `pattern` of [checks.NAME] in wye.toml
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, field_validator
from pydantic_core import PydanticCustomError

from wye.gateway.errors import ApiError, bad_request

HEADER = "x-wye-expected"
_LONGEST = 4096
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?(?:[eE][-+]?\d{1,3})?")
_FENCE = re.compile(r"\A\s*```[\w-]*\n(.*?)\n?```\s*\Z", re.DOTALL)


class CheckTable(BaseModel):
    """`[checks.NAME]` of `wye.toml`: a regular expression that is found in right answers."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    pattern: Annotated[str, Field(min_length=1)]

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, pattern: str) -> str:
        try:
            re.compile(pattern)
        except re.error as error:
            raise PydanticCustomError(
                "pattern", "pattern is no regular expression: {error}", {"error": str(error)}
            ) from error
        return pattern


@dataclass(frozen=True)
class Check:
    """What a right answer is like.

    Attributes:
        stated: as the client wrote it.
        holds: whether an answer's text is so.
    """

    stated: str
    holds: Callable[[str], bool]


def check_of(given: str | None, patterns: Mapping[str, CheckTable]) -> Check | None:
    """The check that a header states; None without one.

    Raises:
        ApiError: 400, it states none that is known.
    """
    if given is None:
        return None
    try:
        # Header bytes reach us as Latin-1; what clients mean is UTF-8.
        stated = given.encode("latin-1").decode("utf-8")
    except UnicodeError:
        stated = given
    kind, _, value = stated.partition(":")
    kind, value = kind.strip().lower(), value.strip()
    if len(stated) > _LONGEST:
        raise _wrong(stated, f"it has {len(stated)} characters; at most {_LONGEST} are read")
    if kind == "json":
        keys = tuple(key.strip() for key in value.split(",") if key.strip())
        return Check(stated, lambda text: _is_json(text, keys))
    if kind not in ("exact", "contains", "number", "check") or not value:
        raise _wrong(stated, "expected exact:, contains:, number: or check: and a value, or json")
    if kind == "number":
        number = _number(value)
        if number is None:
            raise _wrong(stated, f"{value!r} is no number")
        return Check(stated, lambda text: _last_number_is(text, number))
    if kind == "check":
        if value not in patterns:
            known = ", ".join(patterns) or "none"
            raise _wrong(stated, f"no [checks.{value}] is configured; configured are {known}")
        pattern = re.compile(patterns[value].pattern)
        return Check(stated, lambda text: pattern.search(text) is not None)
    wanted = _plain(value)
    if kind == "exact":
        return Check(stated, lambda text: _plain(text) == wanted)
    return Check(stated, lambda text: wanted in _plain(text))


def _plain(text: str) -> str:
    return " ".join(text.split()).casefold().rstrip(".").rstrip()


def _number(text: str) -> float | None:
    try:
        value = float(text.replace(",", ""))
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _last_number_is(text: str, wanted: float) -> bool:
    found = _NUMBER.findall(text)
    value = _number(found[-1]) if found else None
    return value is not None and math.isclose(value, wanted, rel_tol=1e-9, abs_tol=1e-12)


def _is_json(text: str, keys: tuple[str, ...]) -> bool:
    fenced = _FENCE.match(text)
    try:
        value = json.loads(fenced[1] if fenced else text)
    except (ValueError, RecursionError):
        return False
    return not keys or (isinstance(value, dict) and all(key in value for key in keys))


def _wrong(stated: str, why: str) -> ApiError:
    return bad_request(f"{HEADER} is {stated[:60]!r}: {why}", param=HEADER)
