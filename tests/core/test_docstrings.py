"""Every example in a docstring of the core runs and prints what it says."""

import doctest
import importlib
import pkgutil

import pytest

import wye.core

MODULES = [m.name for m in pkgutil.walk_packages(wye.core.__path__, "wye.core.")]


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_every_public_name_says_what_it_is() -> None:
    undocumented = [n for n in wye.core.__all__ if not getattr(wye.core, n).__doc__]
    assert undocumented == []
    assert sorted(wye.core.__all__) == sorted(set(wye.core.__all__))
