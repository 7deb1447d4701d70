"""Arguments and options that several commands share, and how they read data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from wye.data import RoutingData

DataFolder = Annotated[
    str,
    typer.Argument(
        metavar="DATA",
        help="A folder with queries, outcomes and models (parquet, jsonl or csv), or 'embedded'.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
Exclude = Annotated[
    list[str] | None,
    typer.Option("--exclude-dataset", metavar="NAME", help="Leave this dataset out. Repeatable."),
]
Seed = Annotated[int, typer.Option(min=0, help="Seed of every random choice.")]
EmbedderName = Annotated[
    str, typer.Option(help="static, tfidf, minilm, or endpoint:BASE_URL#MODEL.")
]


def read_data(data: str, exclude: list[str] | None = None) -> RoutingData:
    """The outcomes that a user named, without the datasets left out.

    Raises:
        DataError: no such data, or no such dataset.
    """
    from wye.data import RoutingData, load_embedded

    outcomes = load_embedded() if data == "embedded" else RoutingData.read(data)
    return outcomes.exclude_dataset(*exclude) if exclude else outcomes
