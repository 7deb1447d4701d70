"""A saved router as bytes, so that the store holds all that a version needs.

An archive (zip, nothing compressed) of the folder that `save_router` writes: `router.json` and one
safetensors file. No code is in it, and nothing but these two is taken out of it.
"""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory

from wye.query.base import QueryRouter, RouterError
from wye.query.persistence import MANIFEST, load_router, save_router

_LARGEST = 2 * 1024**3


def packed(router: QueryRouter) -> bytes:
    """The archive of a fitted router.

    Raises:
        RouterError: it cannot be saved.
    """
    with TemporaryDirectory(prefix="wye-") as temporary:
        folder = save_router(router, Path(temporary) / "router")
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
            for file in sorted(folder.iterdir()):
                # Without a date, so that the same router is the same bytes.
                archive.writestr(zipfile.ZipInfo(file.name), file.read_bytes())
    return buffer.getvalue()


def unpacked(archive: bytes) -> QueryRouter:
    """The router of an archive.

    Raises:
        RouterError: it is damaged, or of a kind that is not installed.
    """
    try:
        with (
            TemporaryDirectory(prefix="wye-") as temporary,
            zipfile.ZipFile(io.BytesIO(archive)) as held,
        ):
            for entry in held.infolist():
                name = entry.filename
                arrays = name.startswith("arrays-") and name.endswith(".safetensors")
                if Path(name).name != name or not (name == MANIFEST or arrays):
                    raise RouterError(f"the stored router holds {name!r}, which no router has")
                if entry.file_size > _LARGEST:
                    raise RouterError(f"the stored router's {name} has {entry.file_size} bytes")
                (Path(temporary) / name).write_bytes(held.read(entry))
            return load_router(temporary)
    except (zipfile.BadZipFile, OSError) as error:
        raise RouterError(f"the stored router cannot be unpacked: {error}") from error
