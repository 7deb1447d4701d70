"""bench query, pool, join, leave, prices, eval --robustness --drift."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from wye import load as load_any
from wye.cli import app
from wye.errors import WyeError
from wye.query import FactorisationRouter
from wye.testing import made_outcomes


def wye(*words: str | Path) -> str:
    """Standard output of a command that ends well."""
    ended = CliRunner().invoke(app, [str(w) for w in words], catch_exceptions=False)
    assert ended.exit_code == 0, ended.output
    return ended.stdout


@pytest.fixture(scope="module")
def made_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_outcomes(120).write(tmp_path_factory.mktemp("made") / "data")


@pytest.fixture
def router(made_data: Path, tmp_path: Path) -> Path:
    fitted = FactorisationRouter().fit(made_outcomes(120))
    return fitted.save(tmp_path / "router")


def test_a_model_is_suggested_for_joins_is_repriced_and_leaves(
    router: Path, made_data: Path, tmp_path: Path
) -> None:
    asked = wye("join", router, "--suggest", "5", "--from", made_data)
    rows = [json.loads(line) for line in asked.splitlines()]
    assert len({r["query_id"] for r in rows}) == 5
    answers = tmp_path / "answers.jsonl"
    answers.write_text(
        "".join(json.dumps({"text": r["text"], "quality": 1.0}) + "\n" for r in rows)
    )
    wye("join", router, "newcomer", "--answers", answers, "--cost-usd", "0.001")
    assert load(router).models_[-1] == "newcomer"
    before = load(router).estimate(["a question"]).cost
    wye("prices", router, "coder=2,2")
    after = load(router).estimate(["a question"])
    column = after.models.index("coder")
    assert after.cost[0, column] == pytest.approx(2 * before[0, column])
    wye("leave", router, "newcomer")
    assert "newcomer" not in load(router).models_


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("join", "newcomer"), "--answers FILE"),
        (("join", "newcomer", "--suggest", "3"), "without MODEL"),
        (("prices", "coder=1"), "MODEL=IN,OUT"),
        (("prices", "x=1,1"), "no model 'x'"),
        (("prices", "coder=1,1", "coder=2,2"), "given twice"),
        (("leave", "x"), "no model 'x'"),
    ],
)
def test_words_that_make_no_sense_are_answered(
    words: tuple[str, ...], message: str, router: Path
) -> None:
    with pytest.raises(WyeError, match=message):
        wye(words[0], router, *words[1:])


def load(folder: Path) -> FactorisationRouter:
    fitted = load_any(folder)
    assert isinstance(fitted, FactorisationRouter)
    return fitted


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        ('{"text": "x"}', "a.jsonl", "line 1: expected a text and a quality"),
        ('\n{"text": "x", "quality": 2}', "a.jsonl", "line 2: .* from 0 to 1"),
        ('{"text": "x", "quality": NaN}', "a.jsonl", "from 0 to 1"),
        ('{"text": "x", "quality": true}', "a.jsonl", "quality is True"),
        ('{"text": 5, "quality": 1}', "a.jsonl", "expected a text"),
        ('{"text": " ", "quality": 1}', "a.jsonl", "expected a text"),
        ("[1]", "a.jsonl", "line 1"),
        ('{"text"', "a.jsonl", "line 1: no JSON"),
        ('text,quality\n"x,1\n', "a.csv", "no CSV"),
        ("text,quality\nx,good\n", "a.csv", "row 1"),
        ("", "a.jsonl", "no answers"),
        ("x", "a.txt", ".jsonl or .csv"),
    ],
)
def test_answers_that_are_none_are_refused(
    content: str, name: str, message: str, tmp_path: Path
) -> None:
    from wye.cli_query import read_answers

    (tmp_path / name).write_text(content)
    with pytest.raises(WyeError, match=message):
        read_answers(tmp_path / name)


def test_answers_as_csv(tmp_path: Path) -> None:
    from wye.cli_query import read_answers

    (tmp_path / "a.csv").write_text('text,quality\n"one, two",0.5\nthree,1\n')
    assert read_answers(tmp_path / "a.csv") == (["one, two", "three"], [0.5, 1.0])
    # As a spreadsheet writes it, with a line break inside a text.
    (tmp_path / "b.csv").write_text('\ufefftext,quality\r\n"one\ntwo",0.5\r\n', encoding="utf-8")
    assert read_answers(tmp_path / "b.csv") == (["one\ntwo"], [0.5])


def test_a_separator_inside_an_answer_ends_no_line(tmp_path: Path) -> None:
    from wye.cli_query import read_answers

    text = "one\u2028two\x85three"
    row = json.dumps({"text": text, "quality": 1}, ensure_ascii=False)
    (tmp_path / "a.jsonl").write_text(row + "\n", encoding="utf-8")
    assert read_answers(tmp_path / "a.jsonl") == ([text], [1.0])


def test_few_answers_are_called_few(router: Path, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "x", "quality": 1}\n')
    words = ("join", router, "newcomer", "--answers", tmp_path / "a.jsonl")
    ended = CliRunner().invoke(app, [str(w) for w in words], catch_exceptions=False)
    assert "from 1 answer\n" in ended.stderr
    assert "fewer than 20 answers say little" in ended.stderr


def test_pool_and_bench_say_what_they_found(made_data: Path, tmp_path: Path) -> None:
    pool = json.loads(wye("pool", made_data, "--router", "constant", "--json"))
    (enough,) = pool["enough"]
    assert pool["best_single"] == enough
    out = tmp_path / "out"
    made = wye("bench", "query", made_data, "--routers", "constant", "-o", out, "--json")
    assert [r["router"] for r in json.loads(made)["rows"]] == ["constant"]
    assert (out / "query.html").exists()


def test_eval_tells_robustness_and_drift(router: Path, made_data: Path) -> None:
    words = ("eval", router, "--on", made_data, "--robustness", "--drift", "--json", "-")
    told = json.loads(wye(*words))
    assert {w["kind"] for w in told["robustness"]["router"]["ways"]} == {"rewrite", "attack"}
    assert told["drift"]["router"]["seen"] == 30


def test_models_and_folders_named_like_markup_are_shown_as_they_are(tmp_path: Path) -> None:
    import pandas as pd

    data = made_outcomes(60)
    names = dict(zip(data.model_names, ["[/x]", "[bold]b", "[red]", "d"], strict=True))
    renamed = type(data)(
        data.queries,
        data.outcomes.assign(model=data.outcomes["model"].map(names)),
        pd.DataFrame({"model": list(names.values())}),
    )
    folder = renamed.write(tmp_path / "[red] data")
    router = FactorisationRouter().fit(renamed).save(tmp_path / "[r]")
    assert "[r]" in wye("eval", router, "--on", folder)
    assert "[/x]" in wye("pool", folder, "--router", "constant")
    ended = CliRunner().invoke(app, ["leave", str(router), "[/x]"], catch_exceptions=False)
    assert "[/x] left" in ended.stderr
    assert "[r]" in ended.stderr
    out = tmp_path / "[out]"
    assert "[red] data" in wye("bench", "query", folder, "--routers", "constant", "-o", out)


def test_free_models_are_compared_by_quality_alone(tmp_path: Path) -> None:
    data = made_outcomes(60)
    free = type(data)(data.queries, data.outcomes.assign(cost_usd=0.0), data.models)
    folder = free.write(tmp_path / "data")
    out = tmp_path / "out"
    assert "no costs above zero" in wye("eval", "--train", folder, "--on", folder)
    wye("bench", "query", folder, "--routers", "constant,linear", "-o", out)
    assert {p.name for p in out.iterdir()} == {f"query.{s}" for s in ("html", "json", "png", "svg")}


def test_a_newcomer_joins_where_every_answer_was_explained(tmp_path: Path) -> None:
    data = made_outcomes(60)
    sure = type(data)(data.queries, data.outcomes.assign(quality=1.0), data.models)
    router = FactorisationRouter().fit(sure).save(tmp_path / "router")
    (tmp_path / "a.jsonl").write_text('{"text": "x", "quality": 0}\n')
    wye("join", router, "newcomer", "--answers", tmp_path / "a.jsonl")
    quality = load(router).estimate(["x", "another"]).quality
    assert ((quality >= 0) & (quality <= 1)).all()


def test_no_names_of_routers_are_not_all_of_them(made_data: Path) -> None:
    with pytest.raises(WyeError, match="leave it out for all"):
        wye("bench", "query", made_data, "--routers", " , ")
