"""A hash chain over records: what was decided, in an order that cannot be changed unseen.

Every record carries the SHA-256 of its own content together with that of the record before it
(auditable traces of ACAR, arXiv 2602.21231):

    hash_t = SHA-256(canonical JSON of {index, step, body}, followed by hash_(t-1))

with 64 zeros before the first.

Editing, inserting, leaving out or moving a record breaks the chain where it happens. What no chain
can show by itself is that its end is missing: keep `head` elsewhere and give it to `verify`.

Nothing here touches a file; `wye.query.audit.file` keeps a chain in one.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, overload

GENESIS = "0" * 64
_FIELDS = ("body", "hash", "index", "previous", "step")


class AuditError(ValueError):
    """A record that cannot be kept, or a chain that does not hold; the message says where."""


def canonical_json(value: Any) -> str:
    """The one JSON text of a value: sorted keys, no spaces, ASCII, shortest exact floats.

    Args:
        value: dictionaries with string keys, lists, tuples, strings, numbers, booleans and None.

    Raises:
        AuditError: anything else, or a number that is not finite.

    Example:
        >>> canonical_json({"b": [1.0, None], "a": True})
        '{"a":true,"b":[1.0,null]}'
    """
    _check(value, "value")
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(value: Any) -> str:
    """SHA-256 of the canonical JSON of `value`, 64 hexadecimal digits."""
    return hashlib.sha256(canonical_json(value).encode("ascii")).hexdigest()


@dataclass(frozen=True)
class AuditRecord:
    """One entry of a chain.

    Attributes:
        index: its place, from 0.
        step: what kind of event it is, for instance `decision`.
        body: what happened, as canonical JSON can hold it.
        previous: hash of the record before it, `GENESIS` for the first.
        hash: of this record.
    """

    index: int
    step: str
    body: Mapping[str, Any]
    previous: str
    hash: str

    @classmethod
    def after(cls, previous: AuditRecord | None, step: str, body: Mapping[str, Any]) -> AuditRecord:
        """The record that follows `previous` (None for the first).

        Raises:
            AuditError: a step that is no text, or a body that canonical JSON cannot hold.
        """
        if not isinstance(step, str) or not isinstance(body, Mapping):
            # Such a record could be written, and would break the file when it is read.
            raise AuditError(
                f"step is {step!r} and body {type(body).__name__}, expected a string and a mapping"
            )
        index = 0 if previous is None else previous.index + 1
        link = GENESIS if previous is None else previous.hash
        # Read back, so that what is kept is what was hashed, whatever the caller does with his own.
        kept = json.loads(canonical_json(dict(body)))
        return cls(index, step, kept, link, _hash(index, step, kept, link))

    def fault_after(self, previous: AuditRecord | None) -> str | None:
        """What keeps this record from following `previous` (None for the first); None if nothing.

        Example:
            >>> first = AuditRecord.after(None, "decision", {})
            >>> first.fault_after(first)
            'record 0 stands where record 1 should: records were moved or repeated'
        """
        if self.hash != _hash(self.index, self.step, self.body, self.previous):
            return f"record {self.index} was edited: its hash is another"
        at, link = (0, GENESIS) if previous is None else (previous.index + 1, previous.hash)
        if self.index != at:
            what = "deleted or moved" if self.index > at else "moved or repeated"
            return f"record {self.index} stands where record {at} should: records were {what}"
        if self.previous != link:
            return f"record {at} does not follow from the one before it"
        return None

    def line(self) -> str:
        """The record as one line of canonical JSON, without the line break."""
        return canonical_json(
            {
                "index": self.index,
                "step": self.step,
                "body": dict(self.body),
                "previous": self.previous,
                "hash": self.hash,
            }
        )

    @classmethod
    def parse(cls, line: str) -> AuditRecord:
        """The record that `line` holds.

        Raises:
            AuditError: it is not exactly what `line()` writes of a record.
        """
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise AuditError(
                f"not a record, since it is not JSON ({error}): {line[:60]!r}"
            ) from error
        if not isinstance(value, dict) or tuple(sorted(value)) != _FIELDS:
            raise AuditError(f"not a record, expected the fields {list(_FIELDS)}: {line[:60]!r}")
        record = cls(**value)
        whole = isinstance(record.index, int) and not isinstance(record.index, bool)
        if not whole or not isinstance(record.body, dict) or not isinstance(record.step, str):
            raise AuditError(
                "not a record, expected index an integer, step a string and body an object: "
                f"{line[:60]!r}"
            )
        if record.line() != line:
            raise AuditError(
                f"record {record.index} is not written in canonical JSON, so it was written by "
                "something else or changed"
            )
        return record


class AuditLog(Protocol):
    """Whatever takes records: `AuditChain` in memory, `wye.query.audit.file.AuditFile` on disk."""

    def append(self, step: str, body: Mapping[str, Any]) -> AuditRecord:
        """Chain one more record and return it."""


class AuditChain(Sequence[AuditRecord]):
    """A chain in memory.

    Example:
        >>> chain = AuditChain()
        >>> _ = chain.append("decision", {"target": "small"})
        >>> _ = chain.append("outcome", {"quality": 1.0})
        >>> verify(chain, head=chain.head)
        >>> find_break([chain[1], chain[0]]).place
        0
    """

    def __init__(self) -> None:
        self._records: list[AuditRecord] = []

    @property
    def head(self) -> str:
        """Hash of the last record, `GENESIS` of an empty chain."""
        return self._records[-1].hash if self._records else GENESIS

    def append(self, step: str, body: Mapping[str, Any]) -> AuditRecord:
        """Chain one more record and return it.

        Raises:
            AuditError: a body that canonical JSON cannot hold.
        """
        last = self._records[-1] if self._records else None
        record = AuditRecord.after(last, step, body)
        self._records.append(record)
        return record

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[AuditRecord]:
        return iter(self._records)

    @overload
    def __getitem__(self, index: int) -> AuditRecord: ...
    @overload
    def __getitem__(self, index: slice) -> list[AuditRecord]: ...
    def __getitem__(self, index: int | slice) -> AuditRecord | list[AuditRecord]:
        return self._records[index]


@dataclass(frozen=True)
class AuditBreak:
    """The first place at which a chain does not hold.

    Attributes:
        place: position in the sequence that was read, from 0; its length where the end is missing.
        reason: what is wrong there, in words.
    """

    place: int
    reason: str


def find_break(records: Iterable[AuditRecord], *, head: str | None = None) -> AuditBreak | None:
    """The first place at which `records` are no unbroken chain from its beginning; None if none.

    Args:
        records: as they were read, first to last.
        head: the hash that the last record should have, where it was kept elsewhere. Without it, a
            missing end is not noticed.
    """
    last: AuditRecord | None = None
    for record in records:
        fault = record.fault_after(last)
        if fault is not None:
            return AuditBreak(0 if last is None else last.index + 1, fault)
        last = record
    end = GENESIS if last is None else last.hash
    if head is not None and head != end:
        place = 0 if last is None else last.index + 1
        return AuditBreak(place, f"the chain ends with {end[:12]}..., expected {head[:12]}...")
    return None


def verify(records: Iterable[AuditRecord], *, head: str | None = None) -> None:
    """Require that `records` are an unbroken chain; see `find_break`.

    Raises:
        AuditError: they are not; the message names the first place.
    """
    found = find_break(records, head=head)
    if found is not None:
        raise AuditError(f"the audit chain breaks at record {found.place}: {found.reason}")


def _hash(index: int, step: str, body: Mapping[str, Any], previous: str) -> str:
    content = canonical_json({"index": index, "step": step, "body": dict(body)})
    return hashlib.sha256((content + str(previous)).encode("ascii", "replace")).hexdigest()


def _check(value: Any, where: str) -> None:
    if isinstance(value, dict):
        for key, held in value.items():
            if not isinstance(key, str):
                raise AuditError(f"{where} has the key {key!r}, expected strings as keys")
            _check(held, f"{where}[{key!r}]")
    elif isinstance(value, list | tuple):
        for place, held in enumerate(value):
            _check(held, f"{where}[{place}]")
    elif isinstance(value, float) and not math.isfinite(value):
        raise AuditError(f"{where} is {value}, expected a finite number; write None for unknown")
    elif not (value is None or isinstance(value, str | int | float)):
        raise AuditError(
            f"{where} is {value!r} of type {type(value).__name__}, which canonical JSON cannot "
            "hold; convert it to plain Python"
        )
