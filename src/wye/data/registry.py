"""The data sets at hand: the embedded one and those in a folder of the user's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wye.data.errors import DataError
from wye.data.routing_data import RoutingData
from wye.data.schema import TABLES

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult


def load_embedded() -> RoutingData:
    """The outcomes that the package ships: a small language model under several strategies.

    Raises:
        DataError: this installation does not hold the set.

    Example:
        >>> load_embedded().name  # doctest: +SKIP
        'embedded'
    """
    folder = resources.files("wye.data") / "embedded"
    missing = [t for t in TABLES if not (folder / f"{t}.parquet").is_file()]
    if missing:
        raise DataError(
            f"this installation of wye lacks {[f'data/embedded/{t}.parquet' for t in missing]}; "
            "install the released wheel, or name a folder of your own instead of 'embedded'"
        )
    with resources.as_file(folder) as path:
        data = RoutingData.read(path)
    return RoutingData._trusted(data.queries, data.outcomes, data.models, name="embedded")


@dataclass(frozen=True)
class DataEntry:
    """One set: where it is, what it holds, or why it cannot be read."""

    name: str
    path: str
    queries: int = 0
    models: int = 0
    outcomes: int = 0
    problem: str | None = None


@dataclass(frozen=True)
class DataListing:
    """What `wye data list` shows."""

    entries: tuple[DataEntry, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-serialisable form."""
        return {"data": [asdict(entry) for entry in self.entries]}

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.markup import escape
        from rich.table import Table

        table = Table("data", "queries", "models", "outcomes", "path", box=None, pad_edge=False)
        for column in table.columns[1:4]:
            column.justify = "right"
        for e in self.entries:
            figures = ("", "", "") if e.problem else (e.queries, e.models, e.outcomes)
            place = e.path if e.problem is None else f"cannot be read: {e.problem}"
            table.add_row(escape(e.name), *(f"{v:,}" if v else "" for v in figures), escape(place))
        yield table


def list_data(folder: str | Path | None = None) -> DataListing:
    """The embedded set, and every set in `folder` or up to three folders below it.

    Raises:
        DataError: `folder` is not a folder.
    """
    entries = [_entry("embedded", "(in the package)", load_embedded)]
    if folder is not None:
        root = Path(folder)
        if not root.is_dir():
            raise DataError(f"{root} is not a folder; name the one that holds your data sets")
        entries += [
            _entry(path.resolve().name, str(path), lambda path=path: RoutingData.read(path))
            for path in _data_folders(root, depth=3)
        ]
    return DataListing(tuple(entries))


def _entry(name: str, path: str, load: Any) -> DataEntry:
    try:
        data: RoutingData = load()
    except DataError as error:
        return DataEntry(name, path, problem=str(error))
    return DataEntry(name, path, len(data.queries), len(data.models), len(data.outcomes))


def _data_folders(folder: Path, depth: int) -> Iterator[Path]:
    names = {p.stem for p in folder.iterdir() if p.suffix in (".parquet", ".jsonl", ".csv")}
    if set(TABLES) <= names:
        yield folder
        return
    if depth > 0:
        for child in sorted(p for p in folder.iterdir() if p.is_dir()):
            if not child.name.startswith("."):
                yield from _data_folders(child, depth - 1)
