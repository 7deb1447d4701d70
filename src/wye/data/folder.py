"""A folder of three tables: read in parquet, JSONL or CSV, written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from wye.data.errors import DataError
from wye.data.schema import TABLES, Table
from wye.data.tables import READERS, WRITERS

if TYPE_CHECKING:
    from wye.data.routing_data import RoutingData


def read_folder(folder: Path) -> tuple[Table, Table, Table]:
    """The tables `queries`, `outcomes` and `models` of `folder`, as they stand on disk.

    Raises:
        DataError: the folder or a table is missing, stands there in two formats, or cannot be read.
    """
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise DataError(
            f"{folder} {what}, expected a folder with queries, outcomes and models "
            f"({', '.join(READERS)})"
        )
    queries, outcomes, models = (_read_one(folder, table) for table in TABLES)
    return queries, outcomes, models


def _read_one(folder: Path, table: str) -> Table:
    found = [
        folder / (table + suffix) for suffix in READERS if (folder / (table + suffix)).exists()
    ]
    if not found:
        there = sorted(p.name for p in folder.iterdir())[:10]
        raise DataError(
            f"{folder} has no table {table!r}: expected {table}{', '.join(READERS)}; "
            f"the folder holds {there}"
        )
    if len(found) > 1:
        raise DataError(
            f"{folder} holds the table {table!r} more than once: {[p.name for p in found]}; "
            "keep one"
        )
    return READERS[found[0].suffix](found[0])


def write_folder(
    data: RoutingData, folder: Path, *, table_format: str = "parquet", overwrite: bool = False
) -> Path:
    """Write the tables of `data` into `folder` through a temporary one beside it.

    Raises:
        DataError: unknown format, or `folder` exists and may not be replaced.
    """
    suffix = f".{table_format}"
    if suffix not in WRITERS:
        raise DataError(f"format is {table_format!r}, expected one of {[s[1:] for s in WRITERS]}")
    folder = Path(os.path.abspath(folder))
    _check_replaceable(folder, overwrite)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as scratch:
        fresh = Path(scratch) / "fresh"
        fresh.mkdir()
        for table in TABLES:
            WRITERS[suffix](getattr(data, table), fresh / (table + suffix))
        if folder.exists():
            folder.rename(Path(scratch) / "old")
        fresh.rename(folder)
    return folder


def _check_replaceable(folder: Path, overwrite: bool) -> None:
    if not folder.exists():
        return
    if not folder.is_dir():
        raise DataError(f"{folder} is a file, expected a folder to write the tables into")
    inside = sorted(p.name for p in folder.iterdir())
    ours = {table + suffix for table in TABLES for suffix in WRITERS}
    if inside and not overwrite:
        raise DataError(
            f"{folder} exists and holds {inside[:5]}; pass overwrite=True to replace it"
        )
    foreign = [name for name in inside if name not in ours]
    if foreign:
        raise DataError(f"{folder} holds other things {foreign[:5]}; choose an empty folder")
