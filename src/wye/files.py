"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from wye.errors import WyeError


def write_whole(target: Path, content: bytes) -> Path:
    """Write `content` to `target`, which keeps what it held until all of it is on disk.

    Several processes may write the same target: each writes a file of its own first.

    Raises:
        OSError: it cannot be written; nothing is left beside it.
    """
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        # mkstemp makes a private file; a plot is as readable as any other new file.
        mask = os.umask(0)
        os.umask(mask)
        Path(temporary).chmod(0o666 & ~mask)
        Path(temporary).replace(target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return target


def check_file_target(target: Path, error: type[WyeError] = WyeError) -> None:
    """Refuse a file that could not be written, before the work that it shall hold is done.

    Raises:
        WyeError: of the class `error`: `target` is a folder, or its folder is missing or closed to
            writing.
    """
    if target.is_dir():
        raise error(f"{target} is a folder, expected the name of a file to write")
    folder = target.parent
    if not folder.is_dir():
        raise error(f"{target}: the folder {folder} does not exist; make it first")
    if not os.access(folder, os.W_OK):
        raise error(f"{target}: the folder {folder} cannot be written to; name another")


def check_folder_target(folder: Path, error: type[WyeError] = WyeError) -> None:
    """Refuse a folder that could not be made or written into, before the work is done.

    Raises:
        WyeError: of the class `error`: `folder` or one above it is a file, or closed to writing.
    """
    there = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())
    if not there.is_dir():
        what = "is a file" if there == folder.absolute() else f"cannot be made: {there} is a file"
        raise error(f"{folder} {what}; name another folder")
    if not os.access(there, os.W_OK):
        raise error(f"{folder}: {there} cannot be written to; name another folder")


def cannot(error: OSError) -> str:
    """What the operating system refused, in one sentence without a traceback.

    Example:
        >>> cannot(OSError(28, "No space left on device", "router/router.json"))
        'router/router.json: No space left on device; free some space and run it again'
    """
    import errno

    said = error.strerror or str(error) or type(error).__name__
    where = f"{error.filename}: " if error.filename else ""
    advice = {
        errno.ENOSPC: "free some space and run it again",
        errno.EDQUOT: "free some space and run it again",
        errno.EFBIG: "the file may not grow so large here; raise the limit or write elsewhere",
        errno.EACCES: "change its permissions or name another place",
        errno.EPERM: "change its permissions or name another place",
        errno.EROFS: "name another place",
        errno.ENOENT: "make its folder first or correct the name",
        errno.EISDIR: "name a file",
        errno.ENOTDIR: "name a folder",
    }.get(error.errno or 0)
    return where + said + (f"; {advice}" if advice else "")
