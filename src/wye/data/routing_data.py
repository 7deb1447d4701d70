"""`RoutingData`: outcomes of many models on many queries, as three tidy tables.

A pair of query and model that `outcomes` does not hold was not run: it is unknown, never wrong, and
NaN in every matrix.

Shape letters: Q queries, M models.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from wye.data.errors import DataError
from wye.data.questions import split_by_question
from wye.data.schema import Table, check_tables

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False)
class RoutingData:
    """Queries, models, and what came out where a model answered a query. Validated when built.

    Attributes:
        queries: `query_id` (unique), `dataset`, `text`, `split`; Q rows.
        outcomes: `query_id`, `model`, `quality` (0 to 1), `cost_usd`, `input_tokens`,
            `output_tokens`, `latency_s` (the last four may be null); at most one row per pair.
        models: `model` (unique), `provider`, `price_in_per_mtok`, `price_out_per_mtok` (USD per
            million tokens), `params_b` (billions), `context` (tokens); M rows, all but `model` may
            be null.
        name: what to call the set in reports.

    Raises:
        DataError: a table is not as above; the message names file, row and column.
    """

    queries: pd.DataFrame
    outcomes: pd.DataFrame
    models: pd.DataFrame
    name: str = "data"

    def __post_init__(self) -> None:
        import pandas as pd

        for field in ("queries", "outcomes", "models"):
            given = getattr(self, field)
            if not isinstance(given, pd.DataFrame):
                raise DataError(
                    f"{field} is {type(given).__name__}, expected a pandas DataFrame; a folder is "
                    "read with RoutingData.read(path)"
                )
        self._store(
            *check_tables(
                Table(self.queries, "queries"),
                Table(self.outcomes, "outcomes"),
                Table(self.models, "models"),
            )
        )

    @classmethod
    def read(cls, path: str | Path) -> RoutingData:
        """The set in folder `path`: `queries`, `outcomes` and `models` as .parquet, .jsonl or .csv.

        Raises:
            DataError: a table is missing, cannot be read, or is not as the schema says.
        """
        from wye.data.folder import read_folder

        tables = read_folder(Path(path))
        return cls._trusted(*check_tables(*tables), name=Path(path).resolve().name)

    def write(
        self,
        directory: str | Path,
        *,
        format: str = "parquet",  # noqa: A002 - the word that users know from pandas
        overwrite: bool = False,
    ) -> Path:
        """Write the three tables to `directory`, whole or not at all; returns the folder.

        Args:
            directory: a folder that does not exist or is empty.
            format: `parquet`, `jsonl` or `csv`.
            overwrite: replace the tables that stand there.

        Raises:
            DataError: unknown format, the folder holds other things, or it holds tables and
                `overwrite` is not given.
        """
        from wye.data.folder import write_folder

        return write_folder(self, Path(directory), table_format=format, overwrite=overwrite)

    @classmethod
    def _trusted(
        cls, queries: pd.DataFrame, outcomes: pd.DataFrame, models: pd.DataFrame, *, name: str
    ) -> RoutingData:
        self = object.__new__(cls)
        object.__setattr__(self, "name", name)
        self._store(queries, outcomes, models)
        return self

    def _store(self, queries: pd.DataFrame, outcomes: pd.DataFrame, models: pd.DataFrame) -> None:
        for field, frame in (("queries", queries), ("outcomes", outcomes), ("models", models)):
            object.__setattr__(self, field, frame.reset_index(drop=True))

    def __len__(self) -> int:
        return len(self.queries)

    def __repr__(self) -> str:
        return (
            f"RoutingData({self.name!r}: {len(self.queries)} queries, {len(self.models)} models, "
            f"{len(self.outcomes)} outcomes)"
        )

    @cached_property
    def model_names(self) -> tuple[str, ...]:
        """The M models, in the order of `models`."""
        return tuple(self.models["model"].tolist())

    @cached_property
    def texts(self) -> list[str]:
        """The Q texts, in the order of `queries`."""
        return [str(t) for t in self.queries["text"].tolist()]

    @cached_property
    def datasets(self) -> NDArray[Any]:
        """`[Q]` the dataset of each query, as an object array of strings."""
        return self.queries["dataset"].to_numpy(dtype=object)

    @cached_property
    def _cells(self) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        import pandas as pd

        rows = pd.Index(self.queries["query_id"]).get_indexer(pd.Index(self.outcomes["query_id"]))
        columns = pd.Index(self.models["model"]).get_indexer(pd.Index(self.outcomes["model"]))
        return rows, columns

    def matrix(self, column: str) -> NDArray[np.float64]:
        """`[Q, M]` of a numeric column of `outcomes`; NaN where the outcome is unknown.

        Raises:
            DataError: `outcomes` has no such column, or it is not numeric.
        """
        import pandas as pd

        if column not in self.outcomes.columns:
            raise DataError(f"outcomes has no column {column!r}; it has {list(self.outcomes)}")
        if not pd.api.types.is_numeric_dtype(self.outcomes[column].dtype):
            raise DataError(f"column {column!r} of outcomes is not numeric")
        result = np.full((len(self.queries), len(self.models)), np.nan)
        result[self._cells] = self.outcomes[column].to_numpy(dtype=np.float64, na_value=np.nan)
        return result

    @property
    def quality(self) -> NDArray[np.float64]:
        """`[Q, M]` quality, 0 to 1; NaN where unknown."""
        return self.matrix("quality")

    @property
    def cost(self) -> NDArray[np.float64]:
        """`[Q, M]` cost of one answer in USD; NaN where unknown."""
        return self.matrix("cost_usd")

    @property
    def latency(self) -> NDArray[np.float64]:
        """`[Q, M]` seconds to the full answer; NaN where unknown."""
        return self.matrix("latency_s")

    def part(self, split: str) -> RoutingData:
        """The queries of one split, with their outcomes; models unchanged.

        Raises:
            DataError: no query has that split.
        """
        mask = (self.queries["split"] == split).to_numpy(dtype=bool)
        if not mask.any():
            found = sorted(set(self.queries["split"]))
            raise DataError(
                f"{self.name} has no query with split {split!r}; it has {found}. "
                "`RoutingData.split()` sets train and test"
            )
        return self.where(mask)

    def where(self, mask: NDArray[np.bool_] | Iterable[bool] | Iterable[str]) -> RoutingData:
        """Some of the queries, in their order, with their outcomes; models unchanged.

        Args:
            mask: `[Q]` booleans, or query ids.

        Raises:
            DataError: the mask has another length, or an id is unknown.
        """
        keep = self._query_mask(mask)
        rows, _ = self._cells
        return self._trusted(
            self.queries[keep], self.outcomes[keep[rows]], self.models, name=self.name
        )

    def _query_mask(
        self, mask: NDArray[np.bool_] | Iterable[bool] | Iterable[str]
    ) -> NDArray[np.bool_]:
        values: NDArray[Any] = np.asarray(mask if hasattr(mask, "__len__") else list(mask))
        if values.dtype == np.bool_:
            if values.shape != (len(self),):
                raise DataError(f"the mask has shape {values.shape}, expected ({len(self)},)")
            return values
        ids = [str(v) for v in values.ravel()]
        unknown = sorted(set(ids) - set(self.queries["query_id"]))
        if unknown:
            raise DataError(f"{self.name} has no query {unknown[:5]} ({len(unknown)} unknown)")
        return self.queries["query_id"].isin(ids).to_numpy(dtype=bool)

    def with_models(self, names: Iterable[str]) -> RoutingData:
        """Some of the models, in the order of `names`; queries unchanged.

        Raises:
            DataError: a name is unknown or given twice.
        """
        wanted = list(names)
        for name in wanted:
            if name not in self.model_names:
                raise DataError(
                    f"{self.name} has no model {name!r}{_hint(name, self.model_names)}; "
                    f"it has {list(self.model_names)}"
                )
        if len(set(wanted)) < len(wanted):
            raise DataError(f"a model is named twice in {wanted}")
        order = [self.model_names.index(n) for n in wanted]
        kept = self.outcomes["model"].isin(wanted).to_numpy(dtype=bool)
        return self._trusted(
            self.queries, self.outcomes[kept], self.models.iloc[order], name=self.name
        )

    def exclude_dataset(self, *names: str) -> RoutingData:
        """Everything but the queries whose dataset is one of `names` (exact).

        Raises:
            DataError: no query has that dataset.
        """
        known = sorted(set(self.datasets))
        for name in names:
            if name not in known:
                raise DataError(
                    f"{self.name} has no dataset {name!r}{_hint(name, known)}; it has "
                    f"{known[:20]}{' ...' if len(known) > 20 else ''}"
                )
        return self.where(~self.queries["dataset"].isin(names).to_numpy(dtype=bool))

    def union(self, other: RoutingData) -> RoutingData:
        """Both sets in one; rows that are identical in both are merged.

        Raises:
            DataError: a query, outcome or model occurs in both with different content.
        """
        from wye.data.union import union

        return union(self, other)

    def with_prefix(self, prefix: str) -> RoutingData:
        """The same set with `prefix` in front of every query id, so that sets can be joined."""
        return self._trusted(
            self.queries.assign(query_id=prefix + self.queries["query_id"]),
            self.outcomes.assign(query_id=prefix + self.outcomes["query_id"]),
            self.models,
            name=self.name,
        )

    def split(self, test_share: float = 0.2, seed: int = 0) -> RoutingData:
        """The same set with `split` set to `train` or `test` by a hash of the normalised question.

        The same question never lands on both sides, across data sets too.

        Raises:
            DataError: `test_share` is not from 0 to 1.
        """
        sides = split_by_question(self.texts, test_share=test_share, seed=seed)
        queries = self.queries.assign(split=sides.astype(object)).astype({"split": "str"})
        return self._trusted(queries, self.outcomes, self.models, name=self.name)


def _hint(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
