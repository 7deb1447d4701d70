"""Where results go: what cannot be written is said before the work, and nothing is half written."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from wye.cli import app
from wye.errors import WyeError
from wye.files import check_folder_target, write_whole
from wye.query.constant import ConstantRouter
from wye.testing import made_outcomes


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    made_outcomes(60).write(folder / "data")
    ConstantRouter().fit(made_outcomes(60)).save(folder / "router")
    (folder / "file").write_text("mine")
    return folder


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("eval router --on nowhere --json no/such/report.json", "no/such does not exist"),
        ("eval router --on nowhere --json data", "is a folder, expected the name of a file"),
        ("eval router --on nowhere --plot no/such/plot.html", "no/such does not exist"),
        ("train data -o file", "file is a file; name another folder"),
        ("train data -o file/router", "cannot be made: .*file is a file"),
        ("bench query nowhere --out file", "file is a file"),
        ("probe http://127.0.0.1:9/v1 --model m --save no/such/run.json", "no/such does not exist"),
    ],
)
def test_a_target_that_cannot_be_written_is_refused_before_the_work(
    words: str, message: str, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(made)
    with pytest.raises(WyeError, match=message):
        CliRunner().invoke(app, words.split(), catch_exceptions=False)
    assert (made / "file").read_text() == "mine"


@pytest.mark.parametrize(
    "words",
    [
        "train data -o full --router constant",
        "eval router --on data --json full.json",
        "data convert data full",
    ],
)
def test_a_full_disk_ends_in_a_sentence_and_leaves_nothing(words: str, made: Path) -> None:
    before = sorted(made.iterdir())
    # A limit on the size of files fails as a full disk does: in the middle of a write.
    ended = subprocess.run(
        [
            sys.executable,
            "-m",
            "wye.cli",
            *words.split(),
            *(["--router", "constant"] * ("train" in words)),
        ],
        cwd=made,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000)),
    )
    assert ended.returncode == 2, ended.stderr
    assert "error: " in ended.stderr
    assert "Traceback" not in ended.stderr
    left = [p for p in made.iterdir() if p not in before and (p.is_file() or any(p.iterdir()))]
    assert not left


def test_a_file_keeps_its_content_until_all_of_the_next_is_there(tmp_path: Path) -> None:
    target = tmp_path / "report.json"
    write_whole(target, b"old")
    with pytest.raises(TypeError):
        write_whole(target, "text, which no binary file takes")  # type: ignore[arg-type]
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_folder_may_lie_any_number_of_new_folders_deep(tmp_path: Path) -> None:
    check_folder_target(tmp_path / "a" / "b" / "c")
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    "words",
    [
        "route router x --seed -1",
        "bench query data --seeds 0",
        "bench query data --folds 1",
        "pool data --folds 1",
        "pool data --tolerance -1",
        "probe http://127.0.0.1:9/v1 --repeats 0",
    ],
)
def test_a_number_out_of_range_is_named_with_its_range(
    words: str, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(made)
    ended = CliRunner().invoke(app, words.split())
    assert ended.exit_code == 2
    option = next(w for w in words.split() if w.startswith("--"))
    assert f"Invalid value for '{option}'" in ended.output


def test_training_says_which_models_were_never_measured(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = made_outcomes(40)
    asked = data.outcomes["model"] != "weak"
    type(data)(data.queries, data.outcomes[asked], data.models).write(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    ended = CliRunner().invoke(
        app, ["train", "data", "-o", "r", "--router", "constant"], catch_exceptions=False
    )
    assert ended.exit_code == 0, ended.output
    assert "no answer of weak is known" in ended.stderr
    assert 'wye route r "your question" --explain\n' in ended.stderr, "commands stay in one piece"
