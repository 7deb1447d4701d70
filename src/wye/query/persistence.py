"""What was learned, on disk: `router.json` and one safetensors file. No pickle, so loading runs no
code.

`router.json` names the arrays file by its digest and is replaced last, in one step: a reader sees
the old state or the new one, never a mixture, whenever the writer dies. Routers of the registry are
written here; systems outside of it by `wye.query.stored_system.StoredSystem`, in the same form.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wye.embed import Embedder
from wye.files import write_whole
from wye.query.arguments import check_path
from wye.query.base import QueryRouter, RouterError

FORMAT = "wye.query.router"
SYSTEM_FORMAT = "wye.query.system"
VERSION = 1
MANIFEST = "router.json"
# Hashes of the questions that a router learned from (`wye.query.learning.seen`), beside its arrays.
LEARNED_FROM = "wye/learned_from"
# The folder that `changing` holds, which its own `save` need not wait for.
_HELD: ContextVar[Path | None] = ContextVar("held", default=None)


def save_router(router: QueryRouter, directory: str | Path) -> Path:
    """Write `router` to `directory`, whole or not at all; returns the directory.

    Args:
        router: a fitted router.
        directory: a folder that does not exist, is empty, or holds a router, which is replaced.

    Raises:
        NotFittedError: the router has learned nothing.
        RouterError: the folder holds other things, or a parameter cannot be written as JSON.
    """
    arrays, values = router.get_state()
    if router.learned_from_ is not None:
        arrays = {**arrays, LEARNED_FROM: router.learned_from_}
    told = {
        "router": router.name,
        "params": plain_params(f"router {router.name!r}", router.get_params()),
        "models": list(router.models_),
        "values": values,
    }
    return write_folder(directory, FORMAT, told, arrays)


def load_router(directory: str | Path) -> QueryRouter:
    """Read the router that `save` wrote to `directory`.

    Raises:
        RouterError: there is no router, it was written by a newer version, its files are damaged,
            or it is of a kind that is not installed.
    """
    from wye.query.registry import get_router

    told, arrays = read_folder(directory, FORMAT, {"router": str, "models": list})
    router = get_router(told["router"], **told["params"])
    router.models_ = tuple(told["models"])
    if LEARNED_FROM in arrays:
        router.learned_from_ = arrays.pop(LEARNED_FROM)
    try:
        router.set_state(arrays, told["values"])
    except (KeyError, IndexError, TypeError) as error:
        raise RouterError(
            f"{directory} does not hold what a router {told['router']!r} needs: {error!r}"
        ) from error
    return router


def write_folder(
    directory: str | Path,
    written_as: str,
    told: Mapping[str, Any],
    arrays: Mapping[str, NDArray[Any]],
) -> Path:
    """Write a state to `directory`, whole or not at all; returns the directory.

    Args:
        directory: a folder that does not exist, is empty, or holds a state, which is replaced.
        written_as: `FORMAT` or `SYSTEM_FORMAT`.
        told: what the manifest says beside; JSON, with `params` and `values`.
        arrays: what was learned.

    Raises:
        RouterError: the folder holds other things, or `told` is no JSON.
    """
    from safetensors.numpy import save

    check_path(directory)
    folder = Path(directory)
    _check_target(folder)
    blob = save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
    digest = sha256(blob).hexdigest()
    manifest = {
        "format": written_as,
        "version": VERSION,
        **told,
        "arrays": f"arrays-{digest[:16]}.safetensors",
        "sha256": digest,
    }
    try:
        text = json.dumps(manifest, indent=2, allow_nan=False)
    except (TypeError, ValueError) as error:
        named = told.get("router", told.get("system"))
        raise RouterError(f"the state of {named!r} is not JSON: {error}") from error
    folder.mkdir(parents=True, exist_ok=True)
    with _one_writer(folder):
        write_whole(folder / str(manifest["arrays"]), blob)
        write_whole(folder / MANIFEST, text.encode())
        for stale in folder.glob("arrays-*.safetensors"):
            if stale.name != manifest["arrays"]:
                stale.unlink(missing_ok=True)
    return folder


@contextmanager
def changing(directory: str | Path) -> Iterator[None]:
    """Keep other writers of a saved state out from before it is read until its change is saved.

    Two that read the same state and save their changes one after the other would lose the first.
    Processes and threads wait for each other.

    Example:
        >>> with changing("router"):  # doctest: +SKIP
        ...     load("router").set_prices({"large": (2.0, 8.0)}).save("router")
    """
    folder = Path(directory)
    if not folder.is_dir():
        # Reading it says what is wrong.
        yield
        return
    with _one_writer(folder):
        token = _HELD.set(folder.resolve())
        try:
            yield
        finally:
            _HELD.reset(token)


@contextmanager
def _one_writer(folder: Path) -> Iterator[None]:
    """Keep another writer out, which would take the arrays of this one for stale ones."""
    import fcntl

    if _HELD.get() == folder.resolve():
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def read_folder(
    directory: str | Path, written_as: str, expected: Mapping[str, type]
) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """The manifest and the arrays that `write_folder` wrote to `directory`.

    Args:
        directory: the folder.
        written_as: `FORMAT` or `SYSTEM_FORMAT`.
        expected: types of what the manifest must say beside `params` and `values`.

    Raises:
        RouterError: there is nothing, something of another format, something written by a newer
            version, or its files are damaged.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    check_path(directory)
    folder = Path(directory)
    manifest = _read_manifest(folder, written_as, expected)
    path = folder / str(manifest["arrays"])
    try:
        blob = path.read_bytes()
    except OSError as error:
        if _read_manifest(folder, written_as, expected)["arrays"] != manifest["arrays"]:
            # A writer has put another state in place between the two reads.
            return read_folder(directory, written_as, expected)
        raise RouterError(f"{path}: the arrays of the router cannot be read: {error}") from error
    if sha256(blob).hexdigest() != manifest["sha256"]:
        raise RouterError(f"{path} is damaged: its digest is not the one in {MANIFEST}")
    try:
        return manifest, load(blob)
    except SafetensorError as error:
        raise RouterError(f"{path} is no safetensors file: {error}") from error


def plain_params(owner: str, params: Mapping[str, Any]) -> dict[str, Any]:
    """Constructor's parameters as JSON values; an embedder is written as its spec.

    Raises:
        RouterError: a parameter of `owner` cannot be written as JSON.
    """
    return {name: _plain(owner, name, value) for name, value in params.items()}


def _read_manifest(folder: Path, written_as: str, more: Mapping[str, type]) -> dict[str, Any]:
    path = folder / MANIFEST
    if not path.is_file():
        maker = "`wye train` makes one" if written_as == FORMAT else "`save` makes one"
        raise RouterError(f"{folder} holds no router: {MANIFEST} is missing; {maker}")
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RouterError(f"{path} cannot be read as JSON: {error}") from error
    manifest: dict[str, Any] = held if isinstance(held, dict) else {}
    found = manifest.get("format")
    if found not in (FORMAT, SYSTEM_FORMAT):
        raise RouterError(f"{path} was not written by wye: it has no format {written_as!r}")
    if found != written_as:
        reader = (
            f"a router {manifest.get('router')!r}; read it with wye.load"
            if found == FORMAT
            else f"{manifest.get('system')!r}; read it with {manifest.get('system')}.load"
        )
        raise RouterError(f"{folder} holds {reader}")
    version = manifest.get("version")
    if not isinstance(version, int) or version > VERSION:
        raise RouterError(
            f"{path} has format version {version!r}, this wye reads up to {VERSION}; upgrade wye"
        )
    expected = {"params": dict, "values": dict, "arrays": str, "sha256": str, **more}
    for key, kind in expected.items():
        if not isinstance(manifest.get(key), kind):
            raise RouterError(f"{path} is damaged: {key} is {manifest.get(key)!r}")
    if Path(manifest["arrays"]).name != manifest["arrays"]:
        raise RouterError(f"{path} is damaged: arrays points outside of the folder")
    return manifest


def _check_target(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise RouterError(f"{folder} is a file; give a folder for the router")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / MANIFEST).exists():
        raise RouterError(
            f"{folder} holds files that are no router; give a new folder or an empty one"
        )


def _plain(owner: str, name: str, value: Any) -> Any:
    if isinstance(value, Embedder):
        return value.spec
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, tuple):
        return list(value)
    if isinstance(value, Mapping):
        return {k: _plain(owner, f"{name}.{k}", v) for k, v in value.items()}
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise RouterError(
            f"parameter {name}={value!r} of {owner} cannot be written as JSON"
        ) from error
    return value
