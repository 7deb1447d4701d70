"""What a translation between surfaces carries of a request, and what it cannot.

A field is carried, or is left out and named, or stands in the way of the translation. There is no
fourth way: a field that nobody has thought of stands in the way.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from wye.gateway.nesting import deeper_than

# The library calls itself for each level, and Python's stack is bounded.
_LEVELS = 100


class UncarriedError(ValueError):
    """A request has something that the translation cannot carry; the message names it."""


@dataclass
class Carried:
    """A request, made ready for the library.

    Attributes:
        body: with those fields alone that the library is known to carry.
        left_out: what was left out, which does not change what is asked; in order, each once.
    """

    body: dict[str, Any] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)

    def leave_out(self, what: str) -> None:
        """Note that something is not carried."""
        if what not in self.left_out:
            self.left_out.append(what)

    def pick(
        self,
        value: Any,
        where: str,
        carried: Collection[str],
        told: Collection[str] = (),
    ) -> dict[str, Any]:
        """The fields of an object that are carried; null is as good as missing.

        Args:
            value: of the request.
            where: its place, for the message.
            carried: names that go through.
            told: names that are left out and told of.

        Raises:
            UncarriedError: it is no object, or has a field that is neither.
        """
        if not isinstance(value, Mapping):
            raise UncarriedError(where)
        picked = {}
        for name, given in value.items():
            if name in carried:
                if given is not None:
                    picked[name] = given
            elif name in told:
                if given is not None:
                    self.leave_out(name)
            elif given is not None:
                raise UncarriedError(f"{where}.{name}" if where else name)
        return picked


def items(value: Any, where: str) -> list[Any]:
    """A list of the request.

    Raises:
        UncarriedError: it is something else.
    """
    if not isinstance(value, list):
        raise UncarriedError(where)
    return value


def check_depth(body: Mapping[str, Any]) -> None:
    """Whether the library can walk through a request.

    Raises:
        UncarriedError: it is nested too deeply.
    """
    if deeper_than(_LEVELS, body):
        raise UncarriedError(f"objects nested more than {_LEVELS} levels deep")
