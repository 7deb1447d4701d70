"""train, route and eval."""

import json
from pathlib import Path

import pytest

from .conftest import Wye

ROUTER_KEYS = {
    "quality", "cost_usd", "aiq", "apgr", "cpt50", "cpt80", "perf_gain", "cost_save", "regret",
    "ece", "brier", "latency_ms", "at_budget",
}  # fmt: skip


def test_a_trained_router_says_what_to_do_next(wye: Wye, small_data: Path) -> None:
    ended = wye("train", small_data, "-o", "mine", "--router", "constant")
    assert ended.code == 0, ended.err
    assert "wye eval mine" in ended.err


def test_train_never_replaces_a_folder_unasked(wye: Wye, small_data: Path, trained: Path) -> None:
    before = {p.name: p.read_bytes() for p in trained.iterdir()}
    ended = wye("train", small_data, "-o", trained, "--router", "constant")
    assert ended.code == 2
    assert "--force" in ended.err
    assert {p.name: p.read_bytes() for p in trained.iterdir()} == before


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("train",), "--from-log"),
        (("train", "no-such-folder"), "no-such-folder"),
        (("train", "embedded", "--router", "clustr"), "cluster"),
        (("train", "embedded", "--embedder", "sbert"), "static"),
        (("eval",), "--train"),
        (("route", "no-such-router", "hi"), "no-such-router"),
        (("data", "show", "no-such-folder"), "no-such-folder"),
        (("data", "show", "embedded", "--exclude-dataset", "nope"), "nope"),
        (("check",), "--all"),
        (("check", "no-such-system"), "no-such-system"),
        (("systems", "--scale", "galaxy"), "query"),
        (("serve", "--config", "absent.toml"), "wye init"),
    ],
)
def test_bad_words_get_one_sentence_and_no_traceback(
    wye: Wye, words: tuple[str, ...], expected: str
) -> None:
    ended = wye(*words)
    assert ended.code == 2
    assert expected in ended.err
    assert "Traceback" not in ended.err
    assert ended.out == ""


def test_route_names_a_target(wye: Wye, trained: Path) -> None:
    ended = wye("route", trained, "What is the capital of Peru?")
    assert ended.code == 0, ended.err
    known = {c["target"] for c in wye("route", trained, "hi", "--json").json["candidates"]}
    assert ended.out.strip() in known


def test_route_explains_with_every_candidate(wye: Wye, trained: Path) -> None:
    explained = wye("route", trained, "What is 12 * 13?", "--explain").out
    for candidate in wye("route", trained, "What is 12 * 13?", "--json").json["candidates"]:
        assert candidate["target"] in explained


def test_a_budget_for_one_answer_is_kept_or_refused(wye: Wye, trained: Path) -> None:
    free = wye("route", trained, "What is 12 * 13?", "--json").json
    costs = sorted(c["cost_usd"] for c in free["candidates"])
    tight = wye("route", trained, "What is 12 * 13?", "--budget", str(costs[1]), "--json").json
    chosen = next(c for c in tight["candidates"] if c["target"] == tight["target"])
    assert chosen["cost_usd"] <= costs[1]
    refused = wye("route", trained, "What is 12 * 13?", "--budget", str(costs[0] / 2))
    assert refused.code == 2
    assert "cheapest" in refused.err


def test_route_reads_standard_input_and_any_script(wye: Wye, trained: Path) -> None:
    ended = wye("route", trained, "-", "--json", stdin="什么是首都? \U0001f642")
    assert ended.code == 0, ended.err
    assert wye("route", trained, "-", stdin="  \n").code == 2


def test_eval_writes_the_report_the_page_and_the_plot(
    wye: Wye, trained: Path, small_data: Path, tmp_path: Path
) -> None:
    ended = wye(
        "eval", trained, "--on", small_data, "--json", "report.json", "--plot", "frontier.html"
    )
    assert ended.code == 0, ended.err
    report = json.loads((tmp_path / "report.json").read_text())
    (router,) = report["routers"].values()
    assert set(router) >= ROUTER_KEYS
    assert {"best_single", "cheapest_mix", "best_per_dataset", "oracle", "verdict"} <= set(report)
    assert (
        report["verdict"] in ended.out.replace("\n", " ")
        or report["verdict"].split()[0] in ended.out
    )
    page = (tmp_path / "frontier.html").read_text()
    assert "<svg" in page
    assert 'src="http' not in page


def test_eval_trains_several_routers_on_one_split(wye: Wye, small_data: Path) -> None:
    ended = wye(
        "eval", "--train", small_data, "--on", small_data,
        "--router", "constant", "--router", "knn", "--json", "-",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    assert set(ended.json["routers"]) == {"constant", "knn"}


def test_the_same_seed_gives_the_same_report(wye: Wye, small_data: Path) -> None:
    words = ("eval", "--train", small_data, "--on", small_data, "--router", "knn", "--json", "-")
    first, second = wye(*words).json, wye(*words).json
    for report in (first, second):
        for router in report["routers"].values():
            for timing in ("latency_ms", "latency_ms_ci"):
                router.pop(timing, None)
    assert first == second
