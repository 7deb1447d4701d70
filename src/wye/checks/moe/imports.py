"""Files and the modules they import: real interactions, sparse and long-tailed, on every machine.

Users are Python files of the standard library and of packages that wye itself installs; items are
the first one or two levels of the modules they import. Nothing is imported: files are parsed.
"""

from __future__ import annotations

import ast
import hashlib
import sysconfig
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wye.checks.base import CheckError

PACKAGES = ("matplotlib", "numpy", "pandas", "pydantic", "rich", "scipy", "sklearn", "sqlalchemy")
_FEWEST = 5
_IMPORTERS = 3


@dataclass(frozen=True)
class Imports:
    """Interactions of U files and I modules; one import of every file is kept for testing.

    Attributes:
        users, items: `[N]` training interactions.
        test: `[U]` the item of each user that was left out.
        names: of the items.
        about: `[I]` docstring of each module, its first 256 characters, or its name.
        members: `[I]` public names that each module defines, or its name.
    """

    users: NDArray[np.int64]
    items: NDArray[np.int64]
    test: NDArray[np.int64]
    names: tuple[str, ...]
    about: tuple[str, ...]
    members: tuple[str, ...]

    @property
    def n_users(self) -> int:
        """U."""
        return len(self.test)

    @property
    def n_items(self) -> int:
        """I."""
        return len(self.names)


@lru_cache(maxsize=2)
def read_imports(most: int = 1500) -> Imports:
    """The interactions of this machine's Python files.

    Args:
        most: files, the first in the order of a hash of their names.

    Raises:
        CheckError: fewer than 100 files import enough.
    """
    roots = [Path(sysconfig.get_path("stdlib")), Path(sysconfig.get_path("purelib"))]
    files = sorted(_files(roots), key=lambda pair: _hash(pair[0]))
    chosen: list[tuple[str, list[str]]] = []
    for name, path in files:
        found = sorted(_imported(path, name))
        if len(found) >= _FEWEST:
            chosen.append((name, found))
        if len(chosen) == most:
            break
    if len(chosen) < 100:
        raise CheckError(f"{len(chosen)} files import {_FEWEST} modules, expected 100 or more")
    importers = Counter(module for _, found in chosen for module in found)
    names = tuple(sorted(m for m, n in importers.items() if n >= _IMPORTERS))
    index = {name: i for i, name in enumerate(names)}
    users, items, test = [], [], []
    for name, found in chosen:
        known = sorted((m for m in found if m in index), key=lambda m: _hash(f"{name} {m}"))
        if len(known) < _FEWEST:
            continue
        test.append(index[known[0]])
        items += [index[m] for m in known[1:]]
        users += [len(test) - 1] * (len(known) - 1)
    described = [_described(name, roots) for name in names]
    return Imports(
        np.array(users),
        np.array(items),
        np.array(test),
        names,
        tuple(about for about, _ in described),
        tuple(members for _, members in described),
    )


def _files(roots: list[Path]) -> Iterator[tuple[str, Path]]:
    library, packages = roots
    for path in library.rglob("*.py"):
        name = path.relative_to(library)
        if "site-packages" not in name.parts and "test" not in name.parts[:1]:
            yield name.as_posix(), path
    for package in PACKAGES:
        for path in (packages / package).rglob("*.py"):
            yield path.relative_to(packages).as_posix(), path


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def _parsed(path: Path) -> ast.Module | None:
    try:
        return ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):  # samples of broken code that packages ship for their tests
        return None


def _imported(path: Path, name: str) -> set[str]:
    tree = _parsed(path)
    parents = Path(name).with_suffix("").parts[:-1]
    found: set[str] = set()
    for node in ast.walk(tree) if tree else ():
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            start = parents[: len(parents) - node.level + 1] if node.level else ()
            found.add(".".join([*start, *([node.module] if node.module else [])]))
    return {".".join(module.split(".")[:2]) for module in found if module and module != "."}


def _described(module: str, roots: list[Path]) -> tuple[str, str]:
    """Docstring and public names of a module, from its file; its name where there is none."""
    inside = Path(*module.split("."))
    for root in roots:
        for path in (root / inside.with_suffix(".py"), root / inside / "__init__.py"):
            tree = _parsed(path) if path.is_file() else None
            if tree is None:
                continue
            names = [
                node.name
                for node in tree.body
                if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name[0] != "_"
            ]
            about = (ast.get_docstring(tree) or module)[:256]
            return about, " ".join(names).replace("_", " ")[:512] or module
    return module, module.replace(".", " ")
