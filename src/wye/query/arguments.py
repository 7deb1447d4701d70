"""Checks of what callers give to a router, so that a slip is named where it was made."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Set
from typing import Any

import numpy as np

from wye.query.base import RouterError


def checked_texts(texts: Iterable[str]) -> tuple[str, ...]:
    """`texts` as a tuple; an iterator is read once.

    Raises:
        RouterError: one string, no sequence, or something else than strings in it.
    """
    if isinstance(texts, str | bytes):
        raise RouterError("texts is one string, expected a sequence of them: [text]")
    plain = isinstance(texts, list | tuple)
    if not plain and (isinstance(texts, Mapping | Set) or not isinstance(texts, Iterable)):
        raise RouterError(
            f"texts is {type(texts).__name__}, expected a sequence of strings: [text]"
        )
    listed = tuple(texts)
    for i, text in enumerate(listed):
        if not isinstance(text, str):
            raise RouterError(f"texts[{i}] is {type(text).__name__}, expected a string")
    return listed


def check_seed(seed: Any) -> None:
    """Refuse what no generator can be seeded with.

    Raises:
        RouterError: no whole number of 0 or more.
    """
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise RouterError(f"seed is {seed!r}, expected a whole number of 0 or more")


def check_policy(policy: Any) -> None:
    """Refuse what is no policy, with the way to one.

    Raises:
        RouterError: a name, a class, or anything else that is no `Policy`.
    """
    from wye.query.policy import Policy

    if isinstance(policy, Policy):
        return
    if isinstance(policy, str):
        raise RouterError(f"policy is the string {policy!r}; build it: parse_policy({policy!r})")
    if isinstance(policy, type) and issubclass(policy, Policy):
        raise RouterError(f"policy is the class {policy.__name__}; build it: {policy.__name__}()")
    raise RouterError(f"policy is {policy!r}, expected a Policy such as Quality()")


def check_data(data: Any) -> None:
    """Refuse what holds no outcomes.

    Raises:
        RouterError: something else than `RoutingData`.
    """
    from wye.data import RoutingData

    if not isinstance(data, RoutingData):
        raise RouterError(
            f"data is {type(data).__name__}, expected RoutingData: RoutingData.read(folder), or "
            "load_embedded()"
        )


def check_path(path: Any) -> None:
    """Refuse what names no folder.

    Raises:
        RouterError: neither a text nor a path.
    """
    if not isinstance(path, str | os.PathLike):
        raise RouterError(f"the folder of a router is {path!r}, expected a path")
