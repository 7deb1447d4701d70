"""An audit chain in a file: one record a line, flushed to disk before the caller goes on.

The file is append-only JSON Lines. Opening it again reads it through, checks the chain and goes on
from its end. A last line without its line break is what a crash leaves in the middle of a write: it
is cut off, kept beside the file in `<name>.torn`, reported in `repair`, and the cut is itself
entered in the chain. Anything else that is wrong is refused: a broken chain is not repaired.

One process writes a file at a time, which a lock of the operating system sees to.
"""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from wye.core.audit import GENESIS, AuditError, AuditRecord
from wye.files import cannot

REPAIR = "repair"


@dataclass(frozen=True)
class Repair:
    """A torn last line that was cut off.

    Attributes:
        offset: byte at which it began.
        torn: the bytes themselves.
        kept_in: the file to which they were added.
    """

    offset: int
    torn: bytes
    kept_in: Path


class AuditFile:
    """Append records to the audit file at `path`; it is made where there is none.

    Attributes:
        head: hash of the last record: keep it elsewhere to notice that the end is missing.
        repair: what was cut off on opening; None where nothing was torn.

    Raises:
        AuditError: the file cannot be opened, is written by another process, or its chain does
            not hold.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "audit.jsonl"
        >>> with AuditFile(path) as log:
        ...     _ = log.append("decision", {"target": "small"})
        >>> [record.step for record in read_audit(path)]
        ['decision']
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._guard = threading.Lock()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file: BinaryIO = self.path.open("a+b")
        except OSError as error:
            raise AuditError(f"the audit file {cannot(error)}") from error
        try:
            _lock(self._file, self.path)
            self._last, self.repair = self._resume()
            _flush_folder(self.path.parent)
        except BaseException:
            self._file.close()
            raise
        if self.repair is not None:
            lost = {
                "offset": self.repair.offset,
                "bytes": len(self.repair.torn),
                "sha256": sha256(self.repair.torn).hexdigest(),
            }
            self.append(REPAIR, lost)

    @property
    def head(self) -> str:
        """Hash of the last record, `GENESIS` of an empty file."""
        return GENESIS if self._last is None else self._last.hash

    def append(self, step: str, body: Mapping[str, Any]) -> AuditRecord:
        """Chain one more record, on disk when this returns.

        Raises:
            AuditError: a body that canonical JSON cannot hold, or the file is closed.
            OSError: it cannot be written; the file is closed, and opening it again repairs it.
        """
        with self._guard:
            if self._file.closed:
                raise AuditError(f"the audit file {self.path} is closed; open it again")
            record = AuditRecord.after(self._last, step, body)
            try:
                self._file.write(record.line().encode("ascii") + b"\n")
                self._file.flush()
                os.fsync(self._file.fileno())
            except OSError:
                # Half a line may stand there: going on would bury it in the middle of the file.
                self._abandon()
                raise
            self._last = record
            return record

    def close(self) -> None:
        """Close the file. Safe to call twice."""
        with self._guard:
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _resume(self) -> tuple[AuditRecord | None, Repair | None]:
        self._file.seek(0)
        last: AuditRecord | None = None
        whole = 0
        for record, end in _chained(self._file, self.path):
            last, whole = record, end
        self._file.seek(whole)
        torn = self._file.read()
        return last, self._cut(whole, torn) if torn else None

    def _cut(self, offset: int, torn: bytes) -> Repair:
        beside = self.path.with_name(self.path.name + ".torn")
        with beside.open("ab") as kept:
            kept.write(torn + b"\n")
            kept.flush()
            os.fsync(kept.fileno())
        self._file.truncate(offset)
        os.fsync(self._file.fileno())
        warnings.warn(
            f"the last line of {self.path} was torn (by a crash in the middle of a write); its "
            f"{len(torn)} bytes were cut off and kept in {beside}",
            stacklevel=4,
        )
        return Repair(offset, torn, beside)

    def _abandon(self) -> None:
        try:
            self._file.close()
        except OSError:
            # The write that failed is reported; closing tries to flush the same bytes again.
            return


def read_audit(path: str | Path, *, head: str | None = None) -> list[AuditRecord]:
    """All records of an audit file, their chain verified.

    Args:
        path: the file.
        head: the hash that the last record should have; without it a missing end is not noticed.

    Raises:
        AuditError: there is no such file, any byte is not as it was written, or the last line is
            torn.
    """
    path = Path(path)
    try:
        opened = path.open("rb")
    except OSError as error:
        raise AuditError(f"the audit file {cannot(error)}") from error
    with opened as file:
        pairs = list(_chained(file, path))
        whole = pairs[-1][1] if pairs else 0
        file.seek(whole)
        torn = file.read()
    if torn:
        raise AuditError(
            f"the last line of {path} is torn: {len(torn)} bytes from byte {whole} on have no line "
            "break; opening it with AuditFile cuts them off and goes on"
        )
    records = [record for record, _ in pairs]
    end = records[-1].hash if records else GENESIS
    if head is not None and head != end:
        raise AuditError(
            f"{path} ends with {end[:12]}..., expected {head[:12]}...: its end is missing"
        )
    return records


def _chained(file: BinaryIO, path: Path) -> Iterator[tuple[AuditRecord, int]]:
    """Records of whole lines with the byte after each, as long as the chain holds."""
    last: AuditRecord | None = None
    end = 0
    for line in file:
        if not line.endswith(b"\n"):
            return
        end += len(line)
        place = 0 if last is None else last.index + 1
        try:
            record = AuditRecord.parse(line[:-1].decode("ascii"))
        except (AuditError, UnicodeDecodeError) as error:
            raise AuditError(f"{path} breaks at record {place}: {error}") from error
        fault = record.fault_after(last)
        if fault is not None:
            raise AuditError(f"{path} breaks at record {place}: {fault}")
        last = record
        yield record, end


def _lock(file: BinaryIO, path: Path) -> None:
    import fcntl

    try:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise AuditError(
            f"the audit file {path} is being written by another writer; give each its own file"
        ) from error


def _flush_folder(folder: Path) -> None:
    """Make the name of a new file as durable as its content."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
