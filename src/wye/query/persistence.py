"""Routers on disk: `router.json` and one safetensors file. No pickle, so loading runs no code.

`router.json` names the arrays file by its digest and is replaced last, in one step: a reader sees
the old router or the new one, never a mixture, whenever the writer dies.
"""

from __future__ import annotations

import json
import os
import tempfile
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from wye.embed import Embedder
from wye.query.base import QueryRouter, RouterError

FORMAT = "wye.query.router"
VERSION = 1
MANIFEST = "router.json"


def save_router(router: QueryRouter, directory: str | Path) -> Path:
    """Write `router` to `directory`, whole or not at all; returns the directory.

    Args:
        router: a fitted router.
        directory: a folder that does not exist, is empty, or holds a router, which is replaced.

    Raises:
        NotFittedError: the router has learned nothing.
        RouterError: the folder holds other things, or a parameter cannot be written as JSON.
    """
    from safetensors.numpy import save

    arrays, values = router.get_state()
    folder = Path(directory)
    _check_target(folder)
    blob = save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
    digest = sha256(blob).hexdigest()
    manifest = {
        "format": FORMAT,
        "version": VERSION,
        "router": router.name,
        "params": {k: _plain(router, k, v) for k, v in router.get_params().items()},
        "models": list(router.models_),
        "values": values,
        "arrays": f"arrays-{digest[:16]}.safetensors",
        "sha256": digest,
    }
    try:
        text = json.dumps(manifest, indent=2, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise RouterError(f"the state of router {router.name!r} is not JSON: {error}") from error
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / str(manifest["arrays"]), blob)
    _write(folder / MANIFEST, text.encode())
    for stale in folder.glob("arrays-*.safetensors"):
        if stale.name != manifest["arrays"]:
            stale.unlink(missing_ok=True)
    return folder


def load_router(directory: str | Path) -> QueryRouter:
    """Read the router that `save` wrote to `directory`.

    Raises:
        RouterError: there is no router, it was written by a newer version, its files are damaged,
            or it is of a kind that is not installed.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    from wye.query.registry import get_router

    folder = Path(directory)
    manifest = _read_manifest(folder)
    path = folder / str(manifest["arrays"])
    try:
        blob = path.read_bytes()
    except OSError as error:
        raise RouterError(f"{path}: the arrays of the router cannot be read: {error}") from error
    if sha256(blob).hexdigest() != manifest["sha256"]:
        raise RouterError(f"{path} is damaged: its digest is not the one in {MANIFEST}")
    try:
        arrays = load(blob)
    except SafetensorError as error:
        raise RouterError(f"{path} is no safetensors file: {error}") from error
    router = get_router(manifest["router"], **manifest["params"])
    router.models_ = tuple(manifest["models"])
    try:
        router.set_state(arrays, manifest["values"])
    except (KeyError, IndexError, TypeError) as error:
        raise RouterError(
            f"{folder} does not hold what a router {manifest['router']!r} needs: {error!r}"
        ) from error
    return router


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    if not path.is_file():
        raise RouterError(f"{folder} holds no router: {MANIFEST} is missing; `wye train` makes one")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RouterError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise RouterError(f"{path} was not written by wye: it has no format {FORMAT!r}")
    version = manifest.get("version")
    if not isinstance(version, int) or version > VERSION:
        raise RouterError(
            f"{path} has format version {version!r}, this wye reads up to {VERSION}; upgrade wye"
        )
    expected = {"router": str, "params": dict, "models": list, "values": dict}
    expected |= {"arrays": str, "sha256": str}
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


def _plain(router: QueryRouter, name: str, value: Any) -> Any:
    if isinstance(value, Embedder):
        return value.spec
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, tuple):
        return list(value)
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise RouterError(
            f"parameter {name}={value!r} of router {router.name!r} cannot be written as JSON"
        ) from error
    return value


def _write(path: Path, content: bytes) -> None:
    """Write `content` to a file beside `path`, flush it to disk, and move it into place."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
