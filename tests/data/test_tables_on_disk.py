"""Reading and writing folders: exact round trips, and errors that name file, row and column."""

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from wye.data import DataError, RoutingData

FORMATS = ("parquet", "jsonl", "csv")

# Everything that a text may hold once it is not blank; lone surrogates are no text.
texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20).filter(
    lambda t: t.strip() != ""
)
amounts = st.none() | st.floats(0, 1e9, allow_nan=False, allow_infinity=False)


@pytest.mark.parametrize("table_format", FORMATS)
def test_a_written_set_reads_back_the_same(
    data: RoutingData, tmp_path: Path, table_format: str
) -> None:
    back = RoutingData.read(data.write(tmp_path / "set", format=table_format))
    for table in ("queries", "outcomes", "models"):
        pd.testing.assert_frame_equal(getattr(back, table), getattr(data, table))


@pytest.mark.parametrize("table_format", FORMATS)
@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@example(text='a\r\nb\r"c", \x00\u2028', dataset="NA", quality=1 / 3, cost=5e-324, seconds=0.1)
@given(text=texts, dataset=texts, quality=st.floats(0, 1), cost=amounts, seconds=amounts)
def test_any_text_and_any_number_survive_the_round_trip(
    tmp_path: Path,
    table_format: str,
    text: str,
    dataset: str,
    quality: float,
    cost: float | None,
    seconds: float | None,
) -> None:
    data = RoutingData(
        queries=pd.DataFrame(
            {"query_id": ["NA"], "dataset": [dataset], "text": [text], "split": ["null"]}
        ),
        outcomes=pd.DataFrame(
            {
                "query_id": ["NA"],
                "model": ["nan"],
                "quality": [quality],
                "cost_usd": [cost],
                "latency_s": [seconds],
            }
        ),
        models=pd.DataFrame({"model": ["nan"]}),
    )
    folder = data.write(tmp_path / "any", format=table_format, overwrite=True)
    back = RoutingData.read(folder)
    assert back.texts == [text]
    assert back.datasets.tolist() == [dataset]
    for column, value in (("quality", quality), ("cost_usd", cost), ("latency_s", seconds)):
        read = back.matrix(column)[0, 0]
        assert math.isnan(read) if value is None else read == value
    for file in folder.iterdir():
        file.unlink()


def test_formats_may_be_mixed_in_a_folder(data: RoutingData, tmp_path: Path) -> None:
    for table, table_format in zip(("queries", "outcomes", "models"), FORMATS, strict=True):
        source = data.write(tmp_path / table_format, format=table_format)
        (tmp_path / "mixed").mkdir(exist_ok=True)
        file = f"{table}.{table_format}"
        (source / file).rename(tmp_path / "mixed" / file)
    np.testing.assert_array_equal(RoutingData.read(tmp_path / "mixed").quality, data.quality)


BROKEN = [
    ("outcomes", "quality", 1.5, r"column 'quality' is 1.5, expected a number from 0 to 1"),
    ("outcomes", "quality", -0.1, r"column 'quality' is -0.1"),
    ("outcomes", "quality", math.inf, r"column 'quality' is inf"),
    ("outcomes", "quality", math.nan, r"column 'quality' is null or NaN.*leave out the row"),
    ("outcomes", "quality", "right", r"column 'quality' is 'right', expected a number"),
    ("outcomes", "quality", True, r"column 'quality' is True, expected a number"),
    ("outcomes", "cost_usd", -1.0, r"column 'cost_usd' is -1.0, expected a number >= 0 \(USD\)"),
    ("outcomes", "cost_usd", math.inf, r"column 'cost_usd' is inf"),
    ("outcomes", "input_tokens", 1.5, r"column 'input_tokens' is 1.5, expected a whole number"),
    ("outcomes", "latency_s", "fast", r"column 'latency_s' is 'fast'"),
    ("outcomes", "model", "medium", r"column 'model' is 'medium', which models does not have"),
    ("outcomes", "query_id", "q9", r"column 'query_id' is 'q9', which queries does not have"),
    ("outcomes", "query_id", 7, r"column 'query_id' is 7, expected text"),
    ("queries", "text", " \n", r"column 'text' is empty"),
    ("queries", "text", None, r"column 'text' is null"),
    ("queries", "text", 5, r"column 'text' is 5, expected text"),
    ("queries", "text", "\ud800", r"column 'text' is not valid UTF-8"),
    ("queries", "split", "", r"column 'split' is empty"),
    ("models", "context", -1, r"column 'context' is -1"),
    ("models", "price_in_per_mtok", "free", r"column 'price_in_per_mtok' is 'free'"),
]


@pytest.mark.parametrize(("table", "column", "value", "message"), BROKEN)
def test_a_bad_value_is_named_with_its_table_row_and_column(
    tables: dict[str, pd.DataFrame], table: str, column: str, value: object, message: str
) -> None:
    frame = tables[table].astype({column: object})
    frame.at[1, column] = value
    tables[table] = frame
    with pytest.raises(DataError, match=rf"^{table}, row 2, {message}"):
        RoutingData(**tables)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("queries", r"queries, row 4: query_id='q1' stands twice, first in row 1"),
        ("models", r"models, row 3: model='small' stands twice, first in row 1"),
        ("outcomes", r"outcomes, row 5: query_id='q1', model='small' stands twice, first in row 1"),
    ],
)
def test_a_row_that_stands_twice_is_named_with_both_places(
    tables: dict[str, pd.DataFrame], table: str, message: str
) -> None:
    tables[table] = pd.concat([tables[table], tables[table].iloc[[0]]], ignore_index=True)
    with pytest.raises(DataError, match=message):
        RoutingData(**tables)


@pytest.mark.parametrize(
    ("table", "column"),
    [("queries", "text"), ("queries", "split"), ("outcomes", "quality"), ("models", "model")],
)
def test_a_missing_column_is_named(
    tables: dict[str, pd.DataFrame], table: str, column: str
) -> None:
    tables[table] = tables[table].drop(columns=column)
    with pytest.raises(DataError, match=rf"{table}: .* lacks the columns \['{column}'\]"):
        RoutingData(**tables)


def test_columns_that_may_be_null_may_be_missing(tables: dict[str, pd.DataFrame]) -> None:
    tables["outcomes"] = tables["outcomes"][["query_id", "model", "quality"]]
    tables["models"] = tables["models"][["model"]]
    data = RoutingData(**tables)
    assert np.isnan(data.cost).all()
    assert data.models["provider"].isna().all()


def write_text_tables(folder: Path, outcomes: bytes, name: str = "outcomes.jsonl") -> Path:
    folder.mkdir()
    (folder / "queries.csv").write_text(
        "query_id,dataset,text,split\nq1,sums,1 + 1?,train\nq2,sums,2 + 2?,test\n"
    )
    (folder / "models.csv").write_text("model\nsmall\n")
    (folder / name).write_bytes(outcomes)
    return folder


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"query_id": "q1", "model": "small", "quality": 1}\n\n{"query_id": \n',
         r"outcomes.jsonl, line 3: not a JSON object \(.* at character"),
        (b'[1, 2]\n', r"outcomes.jsonl, line 1: expected a JSON object, got list"),
        (b'{"query_id": "q1", "model": "small", "quality": NaN}\n',
         r"line 1: not a JSON object .NaN is not JSON"),
        (b'\n{"query_id": "q1", "model": "small", "quality": 2}\n',
         r"outcomes.jsonl, line 2, column 'quality' is 2.0"),
        (b'{"query_id": "q1", "model": "small", "quality": "1"}\n',
         r"outcomes.jsonl, line 1, column 'quality' is '1', expected a number"),
        (b'{"query_id": "q1", "model": "small", "quality": 1}\n{"model": "small"}\n',
         r"outcomes.jsonl, line 2, column 'query_id' is null"),
        (b'{"query_id": "q1"}\n{"query_id": "\xff"}\n',
         r"outcomes.jsonl, line 2: byte 0xff is not UTF-8"),
        (b'{"query_id": "\\ud800", "model": "small", "quality": 1}\n',
         r"line 1, column 'query_id' is not valid UTF-8"),
    ],
)  # fmt: skip
def test_a_bad_line_of_json_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        RoutingData.read(write_text_tables(tmp_path / "set", content))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"query_id,model,quality\nq1,small,1\nq2,small\n", r"outcomes.csv cannot be read.*#3"),
        (b"query_id,model,quality\nq1,small,1,\n", r"outcomes.csv cannot be read.*Expected 3"),
        (b"query_id,model,quality\nq1,small,good\n",
         r"outcomes.csv, row 1, column 'quality' is 'good'"),
        (b"query_id,model,quality\nq1,small,\n", r"outcomes.csv, row 1, column 'quality' is null"),
        (b"query_id,model,quality\nq1,sm\xe4ll,1\n", r"outcomes.csv, line 2: byte 0xe4 is not"),
        (b"query_id,model,model,quality\nq1,small,small,1\n", r"occurs more than once"),
        (b"", r"outcomes.csv cannot be read as CSV"),
    ],
)  # fmt: skip
def test_a_bad_row_of_csv_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        RoutingData.read(write_text_tables(tmp_path / "set", content, "outcomes.csv"))


def test_a_spreadsheets_byte_order_mark_is_no_part_of_the_first_column(tmp_path: Path) -> None:
    content = b"\xef\xbb\xbfquery_id,model,quality,cost_usd\r\nq1,small,1,\r\nq2,small,0,2e-6\r\n"
    data = RoutingData.read(write_text_tables(tmp_path / "set", content, "outcomes.csv"))
    assert data.quality.tolist() == [[1.0], [0.0]]
    assert np.isnan(data.cost[0, 0])
    assert data.cost[1, 0] == 2e-6


@pytest.mark.parametrize("damage", ["cut", "other", "empty"])
def test_a_damaged_parquet_file_is_named(data: RoutingData, tmp_path: Path, damage: str) -> None:
    folder = data.write(tmp_path / "set")
    file = folder / "outcomes.parquet"
    whole = file.read_bytes()
    file.write_bytes(
        {"cut": whole[: len(whole) // 2], "other": b"not parquet", "empty": b""}[damage]
    )
    with pytest.raises(DataError, match=r"outcomes.parquet cannot be read as parquet"):
        RoutingData.read(folder)


def test_a_flipped_byte_in_the_values_of_a_parquet_file_is_found(
    data: RoutingData, tmp_path: Path
) -> None:
    folder = data.write(tmp_path / "set")
    file = folder / "outcomes.parquet"
    metadata = pq.read_metadata(file).row_group(0)
    columns = [metadata.column(i) for i in range(metadata.num_columns)]
    quality = next(c for c in columns if c.path_in_schema == "quality")
    whole = bytearray(file.read_bytes())
    whole[quality.data_page_offset + quality.total_compressed_size // 2 + 8] ^= 0xFF
    file.write_bytes(bytes(whole))
    with pytest.raises(DataError, match=r"outcomes.parquet cannot be read as parquet"):
        RoutingData.read(folder)


def test_no_flipped_byte_in_a_parquet_file_ends_in_another_kind_of_error(
    data: RoutingData, tmp_path: Path
) -> None:
    folder = data.write(tmp_path / "set")
    file = folder / "queries.parquet"
    messages = []
    whole = bytearray(file.read_bytes())
    for position in range(4, len(whole) - 8, 97):
        broken = bytearray(whole)
        broken[position] ^= 0xFF
        file.write_bytes(bytes(broken))
        try:
            RoutingData.read(folder)
        except DataError as error:
            messages.append(str(error))
    assert messages
    assert all("queries" in message for message in messages)


def test_a_missing_table_is_named_with_what_is_there(data: RoutingData, tmp_path: Path) -> None:
    folder = data.write(tmp_path / "set")
    (folder / "models.parquet").unlink()
    with pytest.raises(DataError, match=r"no table 'models'.*outcomes\.parquet"):
        RoutingData.read(folder)


def test_a_table_in_two_formats_is_an_error(data: RoutingData, tmp_path: Path) -> None:
    folder = data.write(tmp_path / "set")
    (folder / "models.csv").write_text("model\nsmall\n")
    with pytest.raises(DataError, match=r"'models' more than once"):
        RoutingData.read(folder)


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        RoutingData.read(tmp_path / "nowhere")
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="is a file"):
        RoutingData.read(tmp_path / "file")


def test_an_existing_set_is_only_replaced_when_asked(data: RoutingData, tmp_path: Path) -> None:
    folder = data.write(tmp_path / "set", format="csv")
    with pytest.raises(DataError, match="overwrite=True"):
        data.write(folder)
    data.where(["q1"]).write(folder, format="jsonl", overwrite=True)
    assert sorted(p.name for p in folder.iterdir()) == [
        "models.jsonl", "outcomes.jsonl", "queries.jsonl",
    ]  # fmt: skip
    assert len(RoutingData.read(folder)) == 1


def test_a_folder_with_other_things_is_never_replaced(data: RoutingData, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "thesis.tex").write_text("years of work")
    with pytest.raises(DataError, match=r"thesis\.tex"):
        data.write(tmp_path / "set", overwrite=True)
    assert (tmp_path / "set" / "thesis.tex").read_text() == "years of work"


def test_a_write_that_fails_leaves_nothing_and_keeps_what_was_there(
    data: RoutingData, tmp_path: Path
) -> None:
    folder = data.write(tmp_path / "set", format="jsonl")
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    bad = data.outcomes.assign(extra=[object()] * 4)
    broken = RoutingData(data.queries, bad, data.models)
    with pytest.raises(TypeError):
        broken.write(folder, format="jsonl", overwrite=True)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    assert [p.name for p in tmp_path.iterdir()] == ["set"]


def test_an_unknown_format_is_an_error(data: RoutingData, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="'xlsx', expected one of"):
        data.write(tmp_path / "set", format="xlsx")
    assert list(tmp_path.iterdir()) == []


def test_jsonl_is_plain_json_without_nan(data: RoutingData, tmp_path: Path) -> None:
    folder = data.write(tmp_path / "set", format="jsonl")
    rows = [json.loads(line) for line in (folder / "outcomes.jsonl").read_text().splitlines()]
    assert rows[1]["cost_usd"] is None
    assert rows[0]["input_tokens"] == 5
