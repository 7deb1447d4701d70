"""Outcomes of other projects, in files as those projects write them."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from wye.data import DataError, read_foreign

STRONG, WEAK = "gpt-4-1106-preview", "mistralai/Mixtral-8x7B-Instruct-v0.1"


def table_of(data) -> dict[tuple[str, str], float]:  # type: ignore[no-untyped-def]
    """{(text, model): quality}, known outcomes alone."""
    q = data.quality
    return {
        (text, model): float(q[i, j])
        for i, text in enumerate(data.texts)
        for j, model in enumerate(data.model_names)
        if np.isfinite(q[i, j])
    }


@pytest.fixture
def routellm(tmp_path: Path) -> Path:
    evals = tmp_path / "evals"
    for folder in ("mmlu/responses", "gsm8k", "mt_bench"):
        (evals / folder).mkdir(parents=True)
    (evals / "mmlu/responses/mmlu_astronomy.csv").write_text(
        f'prompt,{WEAK},{STRONG}\n"Which planet is red?\nA. Mars\nB. Venus\nAnswer:",True,False\n'
        '"Which is largest?\nA. Mars\nB. Jupiter\nAnswer:",False,True\n'
    )
    (evals / "gsm8k/gsm8k_responses.csv").write_text(
        f"prompt,{WEAK},{STRONG},{WEAK}_response,{STRONG}_response\n"
        'How many is 3 + 4?,True,True," 3 + 4 = 7\n#### 7","It is 7, plainly."\n'
    )
    (evals / "gsm8k/contaminated_prompts.jsonl").write_text('{"eval_prompt": "x"}\n')
    (evals / "mt_bench/question.jsonl").write_text(
        '{"question_id": 81, "category": "writing", "turns": ["Write a post.", "Rewrite it."]}\n'
    )
    judgements = [(STRONG, 1, 10), (STRONG, 2, 9), (WEAK, 1, 1), (WEAK, 2, 1)]
    (evals / "mt_bench/judgements.jsonl").write_text(
        "".join(
            json.dumps({"question_id": 81, "model": m, "turn": turn, "score": score}) + "\n"
            for m, turn, score in judgements
        )
    )
    return evals


def test_routellms_evaluation_folder_reads_whole(routellm: Path) -> None:
    data = read_foreign(routellm, "routellm")
    assert sorted(data.datasets) == ["gsm8k", "mmlu:astronomy", "mmlu:astronomy", "mtbench:writing"]
    outcomes = table_of(data)
    assert outcomes["Which planet is red?\nA. Mars\nB. Venus\nAnswer:", WEAK] == 1.0
    assert outcomes["Which planet is red?\nA. Mars\nB. Venus\nAnswer:", STRONG] == 0.0
    assert outcomes["How many is 3 + 4?", STRONG] == 1.0
    assert outcomes["Write a post.", STRONG] == (9.5 - 1) / 9
    assert outcomes["Write a post.", WEAK] == 0.0
    assert len(outcomes) == 8
    assert np.isnan(data.cost).all()


def test_a_single_benchmark_of_routellm_reads_alone(routellm: Path) -> None:
    data = read_foreign(routellm / "gsm8k/gsm8k_responses.csv", "routellm")
    assert data.model_names == (WEAK, STRONG)
    assert set(data.datasets) == {"gsm8k"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("prompt,a,b\nOne?,True,1.5\n", r"x.csv, row 1, column 'b' is 1.5, expected a number from"),
        ("prompt,a,b\n,True,False\n", r"x.csv, row 1, column 'prompt' is (''|None), expected text"),
        ("question,a\nOne?,True\n", r"no column 'prompt'"),
        ("prompt,notes\nOne?,hard\n", r"no column holds the outcomes of a model"),
    ],
)
def test_a_broken_benchmark_of_routellm_is_named(
    tmp_path: Path, content: str, message: str
) -> None:
    (tmp_path / "x.csv").write_text(content)
    with pytest.raises(DataError, match=message):
        read_foreign(tmp_path / "x.csv", "routellm")


def test_a_blank_of_routellm_is_unknown(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("prompt,a,b\nOne?,True,\nTwo?,,False\n")
    data = read_foreign(tmp_path / "x.csv", "routellm")
    assert table_of(data) == {("One?", "a"): 1.0, ("Two?", "b"): 0.0}


@pytest.fixture
def llmrouter(tmp_path: Path) -> Path:
    folder = tmp_path / "llmrouter"
    (folder / "routing_data").mkdir(parents=True)
    (folder / "query_data").mkdir()
    (folder / "llm_candidates").mkdir()
    rows = [
        ("One?", "small", 1.0, 0.5, "1"),
        ("One?", "large", 0.0, 1.5, "ERROR: timed out"),
        ("Two?", "small", 0.0, 0.5, "3"),
        ("Two?", "small", 1.0, 1.5, "2"),
        ("Two?", "large", 1.0, 2.0, "2"),
    ]
    (folder / "routing_data/default_routing_train_data.jsonl").write_text(
        "".join(
            json.dumps(
                {
                    "task_name": "sums", "query": q, "model_name": m, "performance": p,
                    "prompt_tokens": 3, "completion_tokens": 2, "response_time": s, "response": r,
                    "metric": "em", "task_id": None,
                }
            ) + "\n"
            for q, m, p, s, r in rows
        )
    )  # fmt: skip
    (folder / "dcrouter_test.json").write_text(
        json.dumps([{"question": "Three?", "scores": {"small": 0.25, "large": 1}, "cluster_id": 2}])
    )
    (folder / "config.json").write_text('{"epochs": 3}')
    (folder / "query_data/default_query_test.jsonl").write_text(
        '{"task_name": "facts", "query": "Three?", "ground_truth": "3"}\n'
    )
    (folder / "llm_candidates/default_llm.json").write_text(
        json.dumps(
            {
                "small": {"size": "135M", "input_price": 0.1, "output_price": 0.2,
                          "model": "here/small"},
                "large": {"size": "7B", "input_price": 1, "output_price": 2, "model": "there/l"},
                "unused": {"size": "70B", "input_price": 9, "output_price": 9, "model": "x/y"},
            }
        )
    )  # fmt: skip
    return folder


def test_llmrouters_folder_reads_whole(llmrouter: Path) -> None:
    data = read_foreign(llmrouter, "llmrouter")
    assert table_of(data) == {
        ("One?", "small"): 1.0,
        ("Two?", "small"): 0.5,
        ("Two?", "large"): 1.0,
        ("Three?", "small"): 0.25,
        ("Three?", "large"): 1.0,
    }
    queries = data.queries.set_index("text")
    assert queries["dataset"].to_dict() == {"One?": "sums", "Two?": "sums", "Three?": "facts"}
    assert queries["split"].to_dict() == {"One?": "train", "Two?": "train", "Three?": "test"}
    models = data.models.set_index("model")
    assert sorted(models.index) == ["large", "small"]
    assert models.loc["small", "params_b"] == 0.135
    assert models.loc["large", "price_out_per_mtok"] == 2.0
    assert models.loc["small", "provider"] == "here"


def test_an_answer_that_failed_is_unknown_and_repeated_answers_are_averaged(
    llmrouter: Path,
) -> None:
    data = read_foreign(llmrouter / "routing_data/default_routing_train_data.jsonl", "llmrouter")
    row = data.texts.index("One?"), data.model_names.index("large")
    assert np.isnan(data.quality[row])
    assert data.latency[data.texts.index("Two?"), data.model_names.index("small")] == 1.0


def test_both_layouts_of_llmrouter_read_from_csv(tmp_path: Path) -> None:
    pd.DataFrame(
        {"query": ["One?", "One?"], "model_name": ["a", "b"], "performance": [1.0, 0.5]}
    ).to_csv(tmp_path / "long.csv", index=False)
    pd.DataFrame({"query": ["One?"], "scores": ['{"a": 1.0, "b": 0.5}']}).to_csv(
        tmp_path / "scores.csv", index=False
    )
    long, scores = (
        table_of(read_foreign(tmp_path / name, "llmrouter")) for name in ("long.csv", "scores.csv")
    )
    assert long == scores == {("One?", "a"): 1.0, ("One?", "b"): 0.5}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[{"question": "One?", "scores": {"a": 2}}]', r"x.json \(scores\), row 1.* is 2.0"),
        ('[{"question": "One?", "scores": "good"}]', r"x.json, row 1, column 'scores': not a JSON"),
        ('[{"question": "", "scores": {"a": 1}}]', r"x.json, row 1, column 'question' is ''"),
        ('{"question": "One?"}', r"x.json: expected a JSON list of objects"),
        ('[{"question": "One?"},\n', r"x.json, line \d: not JSON"),
        ('[{"query": "One?"}]', r"holds no routing data of LLMRouter"),
    ],
)
def test_a_broken_file_of_llmrouter_is_named(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(DataError, match=message):
        read_foreign(tmp_path / "x.json", "llmrouter")


@pytest.fixture
def routerbench() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "sample_id": ["mmlu.0", "mtbench.1"],
            "prompt": ["['Be brief.', 'Which planet is red?']", "Write a [short] post."],
            "eval_name": ["mmlu-astronomy", "mtbench"],
            "gpt-4-1106-preview": [1.0, 0.95],
            "WizardLM/WizardLM-13B-V1.2": [0.0, None],
            "gpt-4-1106-preview|model_response": ["Mars", "Once"],
            "WizardLM/WizardLM-13B-V1.2|model_response": ["Venus", None],
            "gpt-4-1106-preview|total_cost": [0.0012, 0.01],
            "WizardLM/WizardLM-13B-V1.2|total_cost": [0.00002, None],
            "oracle_model_to_route_to": ["gpt-4-1106-preview", "gpt-4-1106-preview"],
        }
    )


@pytest.mark.parametrize("suffix", ["csv", "parquet", "pkl"])
def test_routerbenchs_wide_table_reads(
    routerbench: pd.DataFrame, tmp_path: Path, suffix: str
) -> None:
    path = tmp_path / f"routerbench_0shot.{suffix}"
    {
        "csv": lambda: routerbench.to_csv(path, index=False),
        "parquet": lambda: routerbench.to_parquet(path),
        "pkl": lambda: routerbench.to_pickle(path),
    }[suffix]()
    data = read_foreign(path, "routerbench", trust_pickle=suffix == "pkl")
    first = "Be brief.\nWhich planet is red?"
    assert table_of(data) == {
        (first, "gpt-4-1106-preview"): 1.0,
        (first, "WizardLM/WizardLM-13B-V1.2"): 0.0,
        ("Write a [short] post.", "gpt-4-1106-preview"): 0.95,
    }
    assert data.cost[data.texts.index(first)].tolist() == [0.0012, 0.00002]
    assert data.queries["query_id"].tolist() == ["mmlu.0", "mtbench.1"]
    assert data.datasets.tolist() == ["mmlu-astronomy", "mtbench"]


class Trap:
    """Unpickling this touches a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):  # type: ignore[no-untyped-def]
        return Path.touch, (self.path,)


def test_a_pickle_is_never_opened_unless_it_is_trusted(tmp_path: Path) -> None:
    import pickle

    touched = tmp_path / "touched"
    path = tmp_path / "routerbench_0shot.pkl"
    path.write_bytes(pickle.dumps(Trap(touched)))
    with pytest.raises(DataError, match=r"can run any code.*--trust-pickle"):
        read_foreign(path, "routerbench")
    assert not touched.exists()
    with pytest.raises(DataError, match=r"expected a pandas DataFrame"):
        read_foreign(path, "routerbench", trust_pickle=True)
    assert touched.exists()


def test_a_broken_row_of_routerbench_is_named(routerbench: pd.DataFrame, tmp_path: Path) -> None:
    routerbench.assign(**{"gpt-4-1106-preview": ["1", "good"]}).to_csv(tmp_path / "x.csv")
    with pytest.raises(DataError, match=r"x.csv, row 2, column 'gpt-4-1106-preview' is 'good'"):
        read_foreign(tmp_path / "x.csv", "routerbench")


def test_an_unknown_format_or_path_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="'martian', expected one of"):
        read_foreign(tmp_path, "martian")
    with pytest.raises(DataError, match="does not exist"):
        read_foreign(tmp_path / "nowhere", "routellm")


@pytest.mark.parametrize("source_format", ["routellm", "llmrouter"])
def test_a_folder_without_such_files_is_an_error(tmp_path: Path, source_format: str) -> None:
    with pytest.raises(DataError, match="holds no"):
        read_foreign(tmp_path, source_format)
