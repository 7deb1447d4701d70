"""Parameters of a request's address, read and checked."""

from __future__ import annotations

import math

from starlette.requests import Request

from wye.gateway.errors import bad_request


def whole_number(request: Request, name: str, *, default: int, most: int) -> int:
    """A query parameter that must be a whole number from 1 to `most`."""
    given = request.query_params.get(name)
    if given is None:
        return default
    if not (given.isascii() and given.isdigit() and 1 <= int(given[:9]) <= most):
        raise bad_request(f"{name} is {given[:40]!r}; expected 1 to {most}", param=name)
    return int(given)


def moment(request: Request, name: str) -> float | None:
    """A query parameter that is a moment, in seconds since 1970; None where it is not given."""
    given = request.query_params.get(name)
    if given is None:
        return None
    try:
        value = float(given)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1e11:
        raise bad_request(f"{name} is {given[:40]!r}; expected seconds since 1970", param=name)
    return value
