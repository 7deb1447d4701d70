"""Real text that is on every machine with wye, split by file, in an order that never changes.

Every kind of text is a stream of files in the order of a hash of their names. A file that occurs
twice counts once, and a hash of its content says whether it is for training or held out (one file
in ten): the two parts never share a file, nor a copy of one.

Two machines with the same packages read the same bytes.
"""

from __future__ import annotations

import hashlib
import sys
import sysconfig
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from wye.checks.base import CheckError
from wye.checks.moe.prose import docstrings, english_prose, without_roff

Part = Literal["train", "held_out"]
_HEADERS = (".h", ".hpp", ".cuh")
_DOCUMENTED = ("numpy", "scipy", "pandas", "sklearn", "torch")
_HELD_OUT_IN = 10
_MANUALS = (Path("/usr/share/man"), Path("/usr/local/share/man"), Path(sys.prefix) / "share/man")


@dataclass(frozen=True)
class Corpus:
    """Text of one kind in two parts that share no file.

    Attributes:
        name: as in `corpus`.
        train: what is trained on.
        held_out: what is measured on.
    """

    name: str
    train: bytes
    held_out: bytes


@dataclass(frozen=True)
class Domains:
    """Several kinds of text, each of the same size.

    Attributes:
        names: of the kinds.
        train: what is trained on, kind by kind: every micro-batch is of one of them.
        held_out: what is measured on, one kind after the other.
    """

    names: tuple[str, ...]
    train: tuple[bytes, ...]
    held_out: bytes

    def parts(self) -> tuple[bytes, ...]:
        """The held-out text kind by kind."""
        size = len(self.held_out) // len(self.names)
        return tuple(self.held_out[i * size : (i + 1) * size] for i in range(len(self.names)))


def domains(names: Iterable[str], size: int, *, held_out: int = 100_000) -> Domains:
    """Several kinds of text.

    Args:
        names: as in `corpus`.
        size: bytes for training, of each.
        held_out: bytes held out, of each.

    Raises:
        CheckError: as `corpus`.
    """
    kinds = [corpus(name, size, held_out=held_out) for name in names]
    return Domains(
        tuple(kind.name for kind in kinds),
        tuple(kind.train for kind in kinds),
        b"".join(kind.held_out for kind in kinds),
    )


def python_source(size: int, *, part: Part = "train") -> bytes:
    """`size` bytes of the source of Python's standard library.

    Raises:
        CheckError: this machine has less of it (true of every kind of text here).
    """
    return _read("python", size, part)


def c_headers(size: int, *, part: Part = "train") -> bytes:
    """`size` bytes of C and C++ headers: those of torch and numpy, then those of the system."""
    return _read("c", size, part)


def english(size: int, *, part: Part = "train") -> bytes:
    """`size` bytes of English: descriptions and licences of packages, docstrings of libraries."""
    return _read("english", size, part)


def german(size: int, *, part: Part = "train") -> bytes:
    """`size` bytes of German manual pages, without markup and without the translators' names.

    Raises:
        CheckError: they are not installed; the message names the Debian package.
    """
    return _read("german", size, part)


def french(size: int, *, part: Part = "train") -> bytes:
    """`size` bytes of French manual pages, as `german`.

    Raises:
        CheckError: they are not installed; the message names the Debian package.
    """
    return _read("french", size, part)


def shifted(size: int, *, part: Part = "train") -> tuple[bytes, str]:
    """Text unlike Python source, and its name: German where installed, else C headers."""
    name = "german" if has_german() else "c"
    return _read(name, size, part), name


def corpus(name: str, size: int, *, held_out: int = 200_000) -> Corpus:
    """Both parts of one kind of text.

    Args:
        name: python, c, english, or manual pages: manual (English), german, french, polish.
        size: bytes for training.
        held_out: bytes held out.

    Raises:
        CheckError: an unknown name, or less text than asked for.
    """
    return Corpus(name, _read(name, size, "train"), _read(name, held_out, "held_out"))


def has_german() -> bool:
    """Whether German manual pages are installed."""
    return any(True for _ in _german_files())


@lru_cache(maxsize=16)
def _read(name: str, size: int, part: Part) -> bytes:
    if name not in _KINDS:
        raise CheckError(f"no text is called {name!r}; there are {list(_KINDS)}")
    if part not in ("train", "held_out"):
        raise CheckError(f"part={part!r}, expected 'train' or 'held_out'")
    if size < 1:
        raise CheckError(f"size={size}, expected at least 1 byte")
    files, read, missing = _KINDS[name]
    seen: set[bytes] = set()
    pieces: list[bytes] = []
    length = 0
    for path in files():
        content = read(path)
        digest = hashlib.sha256(content).digest()
        if not content or digest in seen:
            continue
        seen.add(digest)
        if (digest[0] % _HELD_OUT_IN == 0) != (part == "held_out"):
            continue
        pieces.append(content)
        length += len(content) + 1
        if length > size:
            return b"\n".join(pieces)[:size]
    raise CheckError(
        f"this machine has {max(length - 1, 0)} bytes of {name} text for the part {part!r}, and "
        f"{size} were asked for: ask for less{missing}"
    )


def _sorted(roots: Iterable[tuple[Path, Iterable[Path]]]) -> Iterator[Path]:
    """Files of each root in turn, by a hash of where they lie under it: kinds of files mix."""
    for root, paths in roots:
        keyed = [
            (hashlib.sha256(path.relative_to(root).as_posix().encode()).digest(), path)
            for path in paths
        ]
        yield from (path for _, path in sorted(keyed))


def _python_files() -> Iterator[Path]:
    root = Path(sysconfig.get_path("stdlib"))
    foreign = {"site-packages", "dist-packages"}
    paths = (p for p in root.rglob("*.py") if not foreign & set(p.relative_to(root).parts))
    return _sorted([(root, paths)])


def _header_files() -> Iterator[Path]:
    shipped = (("torch", "include"), ("numpy", "_core/include"))
    roots = [root / inside for name, inside in shipped for root in _package(name)]
    roots.append(Path("/usr/include"))
    return _sorted(
        (root, (p for p in root.rglob("*") if p.suffix in _HEADERS and p.is_file()))
        for root in roots
        if root.is_dir()
    )


def _english_files() -> Iterator[Path]:
    site = Path(sysconfig.get_path("purelib"))
    described = [
        p
        for folder in site.glob("*.dist-info")
        for p in folder.rglob("*")
        if p.is_file() and (p.name == "METADATA" or p.name.upper().startswith(("LICEN", "COPYING")))
    ]
    roots: dict[Path, list[Path]] = {site: described}
    for name in _DOCUMENTED:
        for package in _package(name):
            roots.setdefault(package.parent, []).extend(package.rglob("*.py"))
    return _sorted(roots.items())


def _german_files() -> Iterator[Path]:
    return _manuals("de")


def _french_files() -> Iterator[Path]:
    return _manuals("fr")


def _polish_files() -> Iterator[Path]:
    return _manuals("pl")


def _manual_files() -> Iterator[Path]:
    # English pages lie beside the folders of the translations.
    return _manuals("")


def _manuals(language: str) -> Iterator[Path]:
    return _sorted(
        (root, root.glob("man[1-8]/*"))
        for base in dict.fromkeys(_MANUALS)
        for root in (base / language,)
        if root.is_dir()
    )


def _package(name: str) -> list[Path]:
    spec = find_spec(name)
    return [] if spec is None else [Path(p) for p in spec.submodule_search_locations or ()]


def _raw(path: Path) -> bytes:
    return path.read_bytes().strip()


def _english_of(path: Path) -> bytes:
    if path.suffix == ".py":
        return docstrings(path).encode()
    return english_prose(path).encode()


_KINDS: dict[str, tuple[Callable[[], Iterator[Path]], Callable[[Path], bytes], str]] = {
    "python": (_python_files, _raw, ", or install the full standard library (libpython3-stdlib)"),
    "c": (_header_files, _raw, ", or install torch, or the headers of the system (libc6-dev)"),
    "english": (_english_files, _english_of, ", or install more packages"),
    "german": (
        _german_files,
        lambda path: without_roff(path).encode(),
        ", or install German manual pages (on Debian and Ubuntu the package manpages-de)",
    ),
    "french": (
        _french_files,
        lambda path: without_roff(path).encode(),
        ", or install French manual pages (on Debian and Ubuntu the package manpages-fr)",
    ),
    "polish": (
        _polish_files,
        lambda path: without_roff(path).encode(),
        ", or install Polish manual pages (on Debian and Ubuntu the package manpages-pl)",
    ),
    "manual": (
        _manual_files,
        lambda path: without_roff(path).encode(),
        ", or install manual pages (on Debian and Ubuntu the package manpages)",
    ),
}
