"""What a set answers about itself, against loops that say the same the slow way."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wye.data import DataError, RoutingData


def naive_matrix(data: RoutingData, column: str) -> np.ndarray:
    result = np.full((len(data.queries), len(data.models)), np.nan)
    for i, query in enumerate(data.queries["query_id"]):
        for j, model in enumerate(data.models["model"]):
            for row in data.outcomes.to_dict("records"):
                if row["query_id"] == query and row["model"] == model and pd.notna(row[column]):
                    result[i, j] = row[column]
    return result


@pytest.mark.parametrize("column", ["quality", "cost_usd", "latency_s", "output_tokens"])
def test_a_matrix_holds_each_outcome_once_and_nan_elsewhere(data: RoutingData, column: str) -> None:
    np.testing.assert_array_equal(data.matrix(column), naive_matrix(data, column))


def test_a_missing_outcome_is_unknown_and_not_zero(data: RoutingData) -> None:
    assert np.isnan(data.quality[1, 1])
    assert data.quality[0, 0] == 0.0


@st.composite
def sets(draw: st.DrawFn) -> RoutingData:
    ids = draw(st.lists(st.text("abc", min_size=1, max_size=3), unique=True, max_size=6))
    models = draw(st.lists(st.text("xyz", min_size=1, max_size=2), unique=True, max_size=4))
    pairs = [(q, m) for q in ids for m in models]
    kept = draw(st.lists(st.sampled_from(pairs), unique=True)) if pairs else []
    quality = draw(st.lists(st.floats(0, 1, width=64), min_size=len(kept), max_size=len(kept)))
    size = len(ids)
    return RoutingData(
        queries=pd.DataFrame(
            {
                "query_id": pd.Series(ids, dtype="str"),
                "dataset": pd.Series(
                    draw(st.lists(st.sampled_from("de"), min_size=size, max_size=size)), dtype="str"
                ),
                "text": pd.Series([f"text {i}" for i in ids], dtype="str"),
                "split": pd.Series(["train"] * size, dtype="str"),
            }
        ),
        outcomes=pd.DataFrame(
            {
                "query_id": pd.Series([q for q, _ in kept], dtype="str"),
                "model": pd.Series([m for _, m in kept], dtype="str"),
                "quality": pd.Series(quality, dtype="float64"),
            }
        ),
        models=pd.DataFrame({"model": pd.Series(models, dtype="str")}),
    )


@settings(max_examples=40, deadline=None)
@given(sets(), st.randoms(use_true_random=False))
def test_selections_of_queries_and_models_select_the_same_of_the_matrix(
    data: RoutingData, random: object
) -> None:
    mask = np.array([random.random() < 0.5 for _ in range(len(data))], dtype=bool)  # type: ignore[attr-defined]
    names = [m for m in reversed(data.model_names) if random.random() < 0.5]  # type: ignore[attr-defined]
    columns = [data.model_names.index(m) for m in names]
    part = data.where(mask).with_models(names)
    np.testing.assert_array_equal(part.quality, data.quality[mask][:, columns])
    assert part.texts == [t for t, keep in zip(data.texts, mask, strict=True) if keep]
    assert part.model_names == tuple(names)


@settings(max_examples=40, deadline=None)
@given(sets())
def test_the_halves_of_a_set_unite_to_the_set(data: RoutingData) -> None:
    mask = np.arange(len(data)) % 2 == 0
    whole = data.where(mask).union(data.where(~mask))
    order = [whole.queries["query_id"].tolist().index(q) for q in data.queries["query_id"]]
    np.testing.assert_array_equal(whole.quality[order], data.quality)


def test_query_ids_select_as_a_mask_does(data: RoutingData) -> None:
    by_id = data.where(["q3", "q1"])
    pd.testing.assert_frame_equal(by_id.queries, data.where(np.array([True, False, True])).queries)


def test_selecting_no_query_leaves_an_empty_set_with_all_models(data: RoutingData) -> None:
    empty = data.where([])
    assert len(empty) == 0
    assert empty.quality.shape == (0, 2)
    assert empty.model_names == data.model_names


def test_a_part_has_the_queries_of_its_split(data: RoutingData) -> None:
    assert data.part("test").texts == ["2 + 2?"]
    with pytest.raises(DataError, match=r"'valid'.*\['test', 'train'\]"):
        data.part("valid")


def test_an_excluded_dataset_is_gone_and_a_misspelt_one_is_an_error(data: RoutingData) -> None:
    assert set(data.exclude_dataset("sums").datasets) == {"facts"}
    with pytest.raises(DataError, match="did you mean 'facts'"):
        data.exclude_dataset("fact")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda d: d.with_models(["smal"]), "did you mean 'small'"),
        (lambda d: d.with_models(["small", "small"]), "named twice"),
        (lambda d: d.where(np.array([True])), r"shape \(1,\), expected \(3,\)"),
        (lambda d: d.where(["q9"]), "q9"),
        (lambda d: d.matrix("price"), "no column 'price'"),
        (lambda d: d.matrix("judge"), "not numeric"),
        (lambda d: d.split(test_share=1.5), "from 0 to 1"),
    ],
)
def test_a_selection_that_cannot_be_made_says_why(data, call, message) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(DataError, match=message):
        call(data)


def test_a_path_in_place_of_a_table_is_told_where_to_go() -> None:
    with pytest.raises(DataError, match=r"queries is str.*RoutingData\.read\(path\)"):
        RoutingData("folder", "folder", "folder")  # type: ignore[arg-type]


def test_extra_columns_are_kept(data: RoutingData) -> None:
    assert data.where(["q1"]).outcomes["judge"].tolist() == ["a", "b"]


def test_a_set_is_not_changed_by_what_is_made_from_it(data: RoutingData) -> None:
    before = data.queries.copy()
    data.split(test_share=1.0)
    data.with_prefix("x/")
    part = data.where(["q1"]).queries
    part.loc[:, "text"] = "changed"
    pd.testing.assert_frame_equal(data.queries, before)


def test_identical_rows_of_two_sets_are_merged(data: RoutingData) -> None:
    both = data.union(data)
    for table in ("queries", "outcomes", "models"):
        pd.testing.assert_frame_equal(getattr(both, table), getattr(data, table))


def test_a_union_fills_in_what_only_one_set_knows(
    data: RoutingData, tables: dict[str, pd.DataFrame]
) -> None:
    tables["models"].loc[1, "price_in_per_mtok"] = 4.0
    tables["outcomes"].loc[1, "cost_usd"] = 5e-5
    both = data.union(RoutingData(**tables))
    assert both.models["price_in_per_mtok"].tolist() == [0.1, 4.0]
    assert both.cost[0, 1] == 5e-5


@pytest.mark.parametrize(
    ("table", "column", "value"),
    [("queries", "text", "9 + 9?"), ("outcomes", "quality", 0.5), ("models", "params_b", 7.0)],
)
def test_a_contradiction_between_two_sets_is_an_error(
    data: RoutingData, tables: dict[str, pd.DataFrame], table: str, column: str, value: object
) -> None:
    tables[table].loc[0, column] = value
    with pytest.raises(DataError, match=f"{table}, column '{column}'"):
        data.union(RoutingData(**tables))


def test_prefixed_sets_with_the_same_ids_unite(data: RoutingData) -> None:
    both = data.with_prefix("a/").union(data.with_prefix("b/"))
    assert len(both) == 6
    np.testing.assert_array_equal(both.quality, np.vstack([data.quality, data.quality]))


def test_importing_the_room_loads_no_pandas() -> None:
    code = "import sys, wye.data; sys.exit('pandas' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_shared_sets_read_as_their_description_says(shared_data) -> None:  # type: ignore[no-untyped-def]
    expected = {
        "routellm": (10761, 2, 21522),
        "llmrouter": (4199, 9, 37791),
        "zeroeval": (1974, 56, 89529),
        "mmlu_pro": (8286, 29, 239003),
    }
    for name, (queries, models, outcomes) in expected.items():
        read = RoutingData.read(shared_data / "routing" / name)
        assert (len(read), len(read.models), len(read.outcomes)) == (queries, models, outcomes)
        assert np.isfinite(read.quality).sum() == outcomes
        assert read.name == name
