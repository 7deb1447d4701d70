"""What `wye data show` says, against counts by hand and against known facts of real sets."""

import json
import math
from io import StringIO

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from wye.data import DataError, RoutingData, find_artefacts, list_data, load_embedded, summarise


def synthetic(
    quality: dict[str, dict[str, float]], *, queries: int = 200, seed: int = 0
) -> RoutingData:
    """Bernoulli outcomes: `quality[dataset][model]` is the chance of a right answer."""
    generator = np.random.default_rng(seed)
    rows, outcomes = [], []
    for dataset, models in quality.items():
        for i in range(queries):
            rows.append((f"{dataset}/{i}", dataset, f"{dataset} question {i}", "train"))
            outcomes += [
                (f"{dataset}/{i}", m, float(generator.random() < p)) for m, p in models.items()
            ]
    names = list(next(iter(quality.values())))
    return RoutingData(
        pd.DataFrame(rows, columns=["query_id", "dataset", "text", "split"]),
        pd.DataFrame(outcomes, columns=["query_id", "model", "quality"]),
        pd.DataFrame({"model": names}),
    )


def test_figures_are_those_of_a_count_by_hand(data: RoutingData) -> None:
    s = summarise(data)
    assert (s.queries, s.outcomes, s.density) == (3, 4, 4 / 6)
    assert s.splits == {"test": 1, "train": 2}
    assert s.cost_known == 3 / 4
    assert s.best_single is None  # neither model answered over 90% of the queries
    assert math.isnan(s.best_single_quality)
    assert s.oracle == (1.0 + 0.25 + 1.0) / 3
    assert s.none_right == 0.0
    assert s.contested == 1 / 3
    large, small = s.models
    assert (large.model, large.answered, large.quality, large.coverage) == ("large", 2, 1.0, 2 / 3)
    assert large.cost_usd == 3e-5
    assert large.cost_known == 0.5
    assert large.ahead == pytest.approx(0.25)  # +0.5 on q1 where both answered, 0 on q3
    assert small.quality == 0.125
    assert [d.dataset for d in s.datasets] == ["sums", "facts"]
    assert s.datasets[0].best_model == "small"
    assert s.datasets[1].best_model == "large"


def test_duplicates_are_counted_by_normalised_question(
    tables: dict[str, pd.DataFrame],
) -> None:
    tables["queries"]["text"] = ["One?", " ONE? ", "Two?"]
    s = summarise(RoutingData(**tables))
    assert (s.duplicates, s.across_splits) == (1, 1)


def test_an_empty_set_is_summarised_without_figures(data: RoutingData) -> None:
    s = summarise(data.where([]))
    assert s.queries == 0
    assert math.isnan(s.oracle)
    json.dumps(s.to_dict(), allow_nan=False)


def test_the_json_form_has_no_nan_and_the_table_names_every_model(data: RoutingData) -> None:
    s = summarise(data)
    assert json.loads(json.dumps(s.to_dict(), allow_nan=False))["best_single"] is None
    screen = Console(file=StringIO(), width=160)
    screen.print(s)
    shown = screen.file.getvalue()  # type: ignore[attr-defined]
    assert all(name in shown for name in data.model_names)
    assert "not comparable" in shown


def test_a_strong_model_that_fails_on_one_dataset_is_flagged_there_alone() -> None:
    data = synthetic(
        {
            **{f"d{i}": {"strong": 0.8, "middle": 0.6, "weak": 0.4} for i in range(6)},
            "broken": {"strong": 0.03, "middle": 0.6, "weak": 0.4},
        }
    )
    (found,) = find_artefacts(data)
    assert (found.kind, found.dataset, found.model) == ("reversal", "broken", "strong")
    assert (found.behind, found.beaten_elsewhere) == (2, 2)
    assert found.quality < 0.1 < found.quality_elsewhere
    assert "falls behind 2 of the 2" in found.describe()


def test_equal_models_with_nothing_but_chance_between_them_are_rarely_flagged() -> None:
    flagged = sum(
        len(find_artefacts(synthetic({f"d{i}": dict.fromkeys("abcd", 0.5) for i in range(8)},
                                     queries=40, seed=seed)))
        for seed in range(40)
    )  # fmt: skip
    # 5% of 40 sets would be 2 at the stated confidence; the margin makes it rarer still.
    assert flagged <= 2


def test_a_specialist_that_wins_on_its_subject_flags_nobody() -> None:
    general = {"strong": 0.8, "middle": 0.6, "specialist": 0.4, "weak": 0.2}
    data = synthetic(
        {**{f"d{i}": general for i in range(6)}, "maths": {**general, "specialist": 0.99}}
    )
    assert find_artefacts(data) == ()


def test_two_specialists_of_two_subjects_flag_nobody() -> None:
    data = synthetic(
        {
            "sums": {"calculator": 0.95, "atlas": 0.15, "sage": 0.75},
            "capitals": {"calculator": 0.1, "atlas": 0.95, "sage": 0.75},
        }
    )
    assert [a.model for a in find_artefacts(data) if a.model == "sage"] == []


def test_a_dataset_that_no_model_solves_is_flagged() -> None:
    data = synthetic({"easy": {"a": 0.6, "b": 0.5}, "dead": {"a": 0.0, "b": 0.0}})
    (found,) = find_artefacts(data)
    assert (found.kind, found.dataset, found.model) == ("unsolved", "dead", None)


def test_a_hard_dataset_with_few_queries_is_not_called_unsolved() -> None:
    assert find_artefacts(synthetic({"a": {"m": 0.5, "n": 0.5}, "b": {"m": 0.0, "n": 0.0}},
                                    queries=10)) == ()  # fmt: skip


def test_the_known_artefact_of_real_outcomes_is_found(shared_data) -> None:  # type: ignore[no-untyped-def]
    data = RoutingData.read(shared_data / "routing" / "routellm")
    (found,) = find_artefacts(data)
    assert (found.dataset, found.model) == ("mmlu:high_school_mathematics", "gpt-4-1106-preview")
    assert find_artefacts(data.exclude_dataset("mmlu:high_school_mathematics")) == ()


def test_summaries_of_real_outcomes_agree_with_their_description(shared_data) -> None:  # type: ignore[no-untyped-def]
    described = {
        "routellm": ("gpt-4-1106-preview", 0.8101, 0.8659, 0.1338, 1.000),
        "llmrouter": ("llama-3.1-nemotron-51b-instruct", 0.6219, 0.8024, 0.1920, 1.000),
        "zeroeval": ("o1-mini-2024-09-12", 0.9316, 0.9889, 0.0111, 0.810),
        "mmlu_pro": ("gemini-1.5-pro-002", 0.7017, 0.9462, 0.0538, 0.995),
    }
    for name, (best, quality, oracle, none_right, density) in described.items():
        s = summarise(RoutingData.read(shared_data / "routing" / name))
        assert s.best_single == best
        assert s.best_single_quality == pytest.approx(quality, abs=6e-5)
        assert s.oracle == pytest.approx(oracle, abs=6e-5)
        assert s.none_right == pytest.approx(none_right, abs=6e-5)
        assert s.density == pytest.approx(density, abs=6e-4)
        assert s.duplicates == 0


def test_a_folder_is_listed_with_what_is_in_it_and_what_is_wrong(
    data: RoutingData, tmp_path
) -> None:  # type: ignore[no-untyped-def]
    data.write(tmp_path / "good")
    data.write(tmp_path / "deep" / "also", format="csv")
    bad = data.write(tmp_path / "bad", format="csv")
    (bad / "models.csv").write_text("model\n")
    (tmp_path / "other").mkdir()
    listing = list_data(tmp_path)
    by_name = {e.name: e for e in listing.entries}
    assert set(by_name) == {"embedded", "good", "also", "bad"}
    assert (by_name["also"].queries, by_name["also"].models, by_name["also"].outcomes) == (3, 2, 4)
    assert "which" in (by_name["bad"].problem or "")
    screen = Console(file=StringIO(), width=200)
    screen.print(listing)
    assert "cannot be read" in screen.file.getvalue()  # type: ignore[attr-defined]
    json.dumps(listing.to_dict(), allow_nan=False)
    with pytest.raises(DataError, match="is not a folder"):
        list_data(tmp_path / "nowhere")


def test_the_embedded_set_is_read_from_the_package_or_its_absence_explained(
    monkeypatch: pytest.MonkeyPatch, data: RoutingData, tmp_path
) -> None:  # type: ignore[no-untyped-def]
    from wye.data import registry

    monkeypatch.setattr(registry.resources, "files", lambda package: tmp_path)
    with pytest.raises(DataError, match=r"lacks \['data/embedded/queries.parquet'"):
        load_embedded()
    data.write(tmp_path / "embedded")
    embedded = load_embedded()
    assert embedded.name == "embedded"
    np.testing.assert_array_equal(embedded.quality, data.quality)
