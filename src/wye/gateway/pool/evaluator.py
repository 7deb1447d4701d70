"""A safe evaluator of one expression, for the `tool` strategy.

simpleeval walks the syntax tree of the expression and knows only arithmetic, comparison and the
functions below: no names, no attributes, no assignment, no import, and bounds on powers and lengths
of strings. Python's own eval is never reached.
"""

from __future__ import annotations

import ast
import calendar
import datetime
import math
from collections.abc import Callable
from typing import Any

from simpleeval import InvalidExpression, SimpleEval

from wye.errors import WyeError

_MAX_CHARS = 300
_SYNTAX = (ast.Expr, ast.Constant, ast.UnaryOp, ast.BinOp, ast.BoolOp, ast.Compare, ast.Call)
# Exact factors to the base unit of each dimension.
_UNITS: dict[str, tuple[str, float]] = {
    **{u: ("length", f) for u, f in {"mm": 0.001, "cm": 0.01, "m": 1, "km": 1000}.items()},
    **{
        u: ("length", f)
        for u, f in {"inch": 0.0254, "foot": 0.3048, "yard": 0.9144, "mile": 1609.344}.items()
    },
    **{u: ("mass", f) for u, f in {"mg": 0.001, "g": 1, "kg": 1000, "t": 1_000_000}.items()},
    **{u: ("volume", f) for u, f in {"ml": 0.001, "cl": 0.01, "l": 1}.items()},
    **{
        u: ("time", f)
        for u, f in {"second": 1, "minute": 60, "hour": 3600, "day": 86400, "week": 604800}.items()
    },
}
_UNIT_NAMES = {
    "millimeter": "mm",
    "centimeter": "cm",
    "meter": "m",
    "kilometer": "km",
    "milligram": "mg",
    "gram": "g",
    "kilogram": "kg",
    "tonne": "t",
    "ton": "t",
    "milliliter": "ml",
    "centiliter": "cl",
    "liter": "l",
    "litre": "l",
    "metre": "m",
    "feet": "foot",
    "inches": "inch",
    "second": "second",
    "sec": "second",
    "min": "minute",
}


class EvaluationError(WyeError):
    """The expression has no value here; the message says why."""


def evaluate(expression: str) -> str:
    """The value of `expression`, as a person would write it.

    Args:
        expression: arithmetic, comparison, or calls of the functions in `FUNCTIONS`.

    Raises:
        EvaluationError: not an expression, an unknown function, a wrong argument, or no value.

    Example:
        >>> evaluate("3 * (4 + 5)")
        '27'
        >>> evaluate("convert(3, 'km', 'm')")
        '3000'
        >>> evaluate("reverse('wye')")
        'eyw'
    """
    text = expression.strip()
    if not text or len(text) > _MAX_CHARS:
        raise EvaluationError(
            f"an expression of {len(text)} characters, expected 1 to {_MAX_CHARS}"
        )
    evaluator = SimpleEval(functions=dict(FUNCTIONS), names={})
    # Attributes, indexing, formatting and assignment stay out: methods of strings have no bounds.
    evaluator.nodes = {kind: run for kind, run in evaluator.nodes.items() if kind in _SYNTAX}
    try:
        return written(evaluator.eval(text))
    except (InvalidExpression, SyntaxError, ArithmeticError, ValueError, TypeError) as error:
        raise EvaluationError(f"{text!r} has no value: {type(error).__name__}: {error}") from error
    except (AttributeError, KeyError, IndexError, RecursionError, MemoryError) as error:
        raise EvaluationError(f"{text!r} has no value: {type(error).__name__}") from error


def written(value: Any) -> str:
    """A value as a person would write it: yes and no, no needless decimals."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise EvaluationError(f"the value {value} is not a number that can be written")
        return f"{round(value, 6):.10g}"
    if isinstance(value, str):
        return value
    raise EvaluationError(f"a value of type {type(value).__name__} cannot be written")


def _convert(amount: float, source: str, target: str) -> float:
    (kind, factor), (wanted, divisor) = _unit(source), _unit(target)
    if kind != wanted:
        raise EvaluationError(f"{source!r} is a {kind}, {target!r} a {wanted}")
    return amount * factor / divisor


def _unit(name: str) -> tuple[str, float]:
    plain = name.strip().lower()
    for known in (plain, plain.removesuffix("s")):
        known = _UNIT_NAMES.get(known, known)
        if known in _UNITS:
            return _UNITS[known]
    raise EvaluationError(f"unknown unit {name!r}, known are {sorted(_UNITS)}")


def _date(text: str) -> datetime.date:
    return datetime.date.fromisoformat(text)


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "reverse": lambda text: text[::-1],
    "upper": lambda text: text.upper(),
    "lower": lambda text: text.lower(),
    "title": lambda text: text.title(),
    "first": lambda text: text.strip()[0],
    "last": lambda text: text.strip()[-1],
    "length": lambda text: len(text),
    "words": lambda text: len(text.split()),
    "count": lambda text, part: text.lower().count(part.lower()),
    "sort": lambda text: ", ".join(sorted(text.replace(",", " ").split())),
    "convert": _convert,
    "percent": lambda share, whole: share * whole / 100,
    "days_between": lambda start, end: abs((_date(end) - _date(start)).days),
    "add_days": lambda start, days: (_date(start) + datetime.timedelta(int(days))).isoformat(),
    "weekday": lambda day: calendar.day_name[_date(day).weekday()],
    "max": max,
    "min": min,
    "abs": abs,
    "round": round,
}
