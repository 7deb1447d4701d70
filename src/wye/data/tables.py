"""One table on disk: parquet, JSONL and CSV, read with the place of every problem and written back.

Numbers survive a round trip exactly in all three formats.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from csv import QUOTE_NONNUMERIC
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from wye.data.errors import DataError
from wye.data.schema import SCHEMA, Table

if TYPE_CHECKING:
    import pandas as pd


def read_parquet(path: Path) -> Table:
    """The rows of a parquet file.

    Raises:
        DataError: the file cannot be read as parquet.
    """
    import pandas as pd
    import pyarrow as pa

    try:
        return Table(pd.read_parquet(path, page_checksum_verification=True), str(path))
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path} cannot be read as parquet: {error}. The file is damaged or of another format"
        ) from error


def read_jsonl(path: Path) -> Table:
    """The rows of a file with one JSON object a line; blank lines are passed over.

    Raises:
        DataError: a line is not a JSON object, or the file is not UTF-8; the line is named.
    """
    import pandas as pd

    rows: list[dict[str, Any]] = []
    lines: list[int] = []
    decoder = json.JSONDecoder(parse_constant=_refuse_constant)
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if line and not line.isspace():
            try:
                row = decoder.decode(line)
            except (json.JSONDecodeError, _NotJsonError) as error:
                why = _explain(error)
                raise DataError(f"{path}, line {number}: not a JSON object ({why})") from error
            if not isinstance(row, dict):
                kind = type(row).__name__
                raise DataError(f"{path}, line {number}: expected a JSON object, got {kind}")
            rows.append(row)
            lines.append(number)
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = {n: pd.Series([row.get(n) for row in rows], dtype=object) for n in names}
    frame = pd.DataFrame({n: _inferred(n, s) for n, s in columns.items()})
    return Table(frame, str(path), np.asarray(lines, dtype=np.int64), "line")


class _NotJsonError(ValueError):
    """A constant that Python's parser takes but JSON does not know."""


def _explain(error: ValueError) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at character {error.pos + 1}"
    return str(error)


def _refuse_constant(constant: str) -> None:
    raise _NotJsonError(f"{constant} is not JSON; write null for an unknown value")


def _inferred(name: str, series: pd.Series) -> pd.Series:
    # Columns of the schema stay objects, so that the check sees the value that was written.
    known = {c.name for columns in SCHEMA.values() for c in columns}
    return series if name in known else series.infer_objects()


def read_csv(path: Path) -> Table:
    """The rows of a comma-separated file with a header, quoted as in RFC 4180.

    Raises:
        DataError: a row has another number of fields, or the file is not UTF-8.
    """
    import pandas as pd
    import pyarrow as pa
    from pyarrow import csv

    raw = read_text(path).encode()
    kinds = {c.name: c.kind for columns in SCHEMA.values() for c in columns}
    try:
        table = csv.read_csv(
            pa.BufferReader(raw),
            # One block, so that a quoted text of any length fits; one thread, so that an error
            # names its row.
            read_options=csv.ReadOptions(block_size=len(raw) + 2, use_threads=False),
            parse_options=csv.ParseOptions(newlines_in_values=True),
            convert_options=csv.ConvertOptions(
                column_types={name: pa.string() for name in kinds}, strings_can_be_null=False
            ),
        )
    except pa.ArrowInvalid as error:
        raise DataError(f"{path} cannot be read as CSV: {error} (row 1 is the header)") from error
    columns: dict[str, pd.Series] = {}
    for name, column in zip(table.column_names, table.columns, strict=True):
        if name in columns:
            raise DataError(f"{path}: the column {name!r} occurs more than once")
        if kinds.get(name) in ("number", "count"):
            columns[name] = _parsed_numbers(column)
        else:
            columns[name] = column.to_pandas()
        if name == "provider":
            columns[name] = columns[name].where(columns[name] != "", None)
    return Table(pd.DataFrame(columns), str(path))


def _parsed_numbers(texts: Any) -> pd.Series:
    """Numbers of an Arrow column of text: null where blank, the text where it is no number."""
    import pandas as pd
    import pyarrow as pa
    import pyarrow.compute as pc

    trimmed = pc.utf8_trim_whitespace(texts)
    filled = pc.if_else(pc.equal(trimmed, ""), pa.scalar(None, pa.string()), trimmed)
    try:
        numbers: pd.Series = filled.cast(pa.float64()).to_pandas()
        return numbers
    except pa.ArrowInvalid:
        return pd.Series([_number_or_text(t) for t in filled.to_pylist()], dtype=object)


def _number_or_text(text: str | None) -> float | str | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return text


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, a leading byte order mark left out.

    Raises:
        DataError: the file cannot be read or is not UTF-8; the line of the bad byte is named.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path}, line {line}: byte {raw[error.start]:#04x} is not UTF-8; "
            "convert the file to UTF-8"
        ) from error


def write_parquet(frame: pd.DataFrame, path: Path) -> None:
    """Write a table as parquet (zstd)."""
    frame.to_parquet(path, compression="zstd", index=False, write_page_checksum=True)


def write_jsonl(frame: pd.DataFrame, path: Path) -> None:
    """Write a table as one JSON object a line; unknown values are null."""
    with path.open("w", encoding="utf-8", newline="\n") as stream:
        for row in _records(frame):
            stream.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    columns = {
        str(n): frame[n].astype(object).where(frame[n].notna(), None).tolist() for n in frame
    }
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def write_csv(frame: pd.DataFrame, path: Path) -> None:
    """Write a table as CSV with a header; unknown values are blank."""
    # Every text is quoted: a bare carriage return would end the row for most readers.
    frame.to_csv(path, index=False, lineterminator="\n", encoding="utf-8", quoting=QUOTE_NONNUMERIC)


READERS: dict[str, Callable[[Path], Table]] = {
    ".parquet": read_parquet,
    ".jsonl": read_jsonl,
    ".csv": read_csv,
}
WRITERS: dict[str, Callable[[pd.DataFrame, Path], None]] = {
    ".parquet": write_parquet,
    ".jsonl": write_jsonl,
    ".csv": write_csv,
}
