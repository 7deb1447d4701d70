"""The comparison of routers: all on the same text, figures that are measured, a whole page."""

import json
import re
from html.parser import HTMLParser

import pytest
from typer.testing import CliRunner

from wye.bench.moe import MEASURES, BenchError, MoEBench, Row, bench_moe, cells, read_text
from wye.bench.moe_page import page, png, save
from wye.checks import CheckContext
from wye.checks.moe.corpus import Corpus
from wye.checks.moe.experiment import Arm, run_arms
from wye.moe import MoEError, Shape

pytestmark = pytest.mark.torch

TEXT = Corpus("made", bytes(i * i % 97 for i in range(3000)), bytes(i * i % 89 for i in range(900)))
SHAPE = Shape(n_layers=1, width=16, hidden=8, n_experts=4, k=2)
SIZES = {"text": TEXT, "shape": SHAPE, "steps": 2, "batch": 4, "length": 12, "processes": 1}


@pytest.fixture(scope="module")
def result():
    return bench_moe(["top_k", "expert-choice-dlm"], seeds=(0, 1), **SIZES)


def test_figures_are_those_of_a_run_of_the_same_arm(result):
    context = CheckContext(data=None)
    run = run_arms({"top_k": Arm("top_k")}, context, seeds=(0, 1), **SIZES)
    (row,) = result.of("next byte")
    for key in ("loss", "max_violation", "fan_out"):
        assert list(row.figures[key]) == run.values("top_k", key)
    assert all(value > 0 for value in row.figures["milliseconds"])


def test_systems_that_see_the_future_fill_in_masked_bytes_beside_the_baseline(result):
    assert {row.system for row in result.of("next byte")} == {"top_k"}
    masked = result.of("masked bytes")
    assert {row.system for row in masked} == {"top_k", "expert-choice-dlm"}
    assert [row.mean("loss") for row in masked] == sorted(row.mean("loss") for row in masked)


def test_a_system_that_text_cannot_feed_is_left_out_with_the_reason_unless_it_was_named():
    told = []
    made = bench_moe(seeds=(0,), progress=told.append, **{**SIZES, "steps": 1})
    systems = {row.system for row in made.rows}
    assert "top_k" in systems
    assert "promoe" in made.left_out
    assert "needs labels" in made.left_out["promoe"]
    assert systems.isdisjoint(made.left_out)
    assert len(told) == len(made.rows)
    with pytest.raises(MoEError, match="needs labels"):
        bench_moe(["promoe"], **SIZES)


def test_bad_requests_say_what_to_do(tmp_path):
    with pytest.raises(MoEError, match="no system is called 'topk'"):
        bench_moe(["topk"], **SIZES)
    with pytest.raises(BenchError, match="expected at least one of each"):
        bench_moe(["top_k"], seeds=(), **SIZES)
    with pytest.raises(BenchError, match="cannot be read"):
        read_text(tmp_path / "missing.txt")
    (tmp_path / "short.txt").write_text("too little")
    with pytest.raises(BenchError, match="10 bytes, expected 10,000 or more"):
        read_text(tmp_path / "short.txt")
    with pytest.raises(BenchError, match="cannot be made"):
        save(MoEBench((), {}, "text", 1, (0,), ""), tmp_path / "short.txt")


def test_the_last_tenth_of_a_file_is_held_out(tmp_path):
    path = tmp_path / "own.txt"
    path.write_bytes(bytes(range(250)) * 80)
    own = read_text(path)
    assert own.name == "own.txt"
    assert own.train + own.held_out == path.read_bytes()
    assert len(own.held_out) == 2_000


class Parsed(HTMLParser):
    def __init__(self):
        super().__init__()
        self.loads, self.tips, self.cells = [], [], []

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.loads += [v for k, v in found.items() if k in ("src", "href", "srcset", "data")]
        self.tips += [found["data-tip"]] if "data-tip" in found else []

    def handle_data(self, data):
        self.cells.append(data)


def test_the_page_shows_every_figure_and_loads_nothing(result):
    html = page(result)
    parsed = Parsed()
    parsed.feed(html)
    assert parsed.loads == []
    assert not re.search(r"https?://|@import|url\(", html)
    for row in result.rows:
        for shown in (row.system, *cells(row)):
            assert shown in parsed.cells
        assert sum(tip.startswith(f"{row.system}\n") for tip in parsed.tips) >= len(MEASURES)
    assert len(parsed.tips) == len(MEASURES) * len(result.rows)


def test_what_a_system_does_not_have_is_shown_as_missing():
    made = bench_moe(["soft_moe"], seeds=(0,), **SIZES)
    (row,) = [row for row in made.of("masked bytes") if row.system == "soft_moe"]
    assert cells(row)[1:3] == ["–", "–"]
    assert next(r for r in made.to_dict()["rows"] if r["system"] == "soft_moe")["fan_out"] == [None]
    json.dumps(made.to_dict(), allow_nan=False)
    html = page(made)
    assert "nan" not in html.lower().split("</style>")[1]
    assert png(made).startswith(b"\x89PNG")


def test_names_are_escaped_and_what_was_left_out_is_told():
    figures = {measure.key: (1.0,) for measure in MEASURES}
    made = MoEBench(
        (Row("<b>bold</b>", "next byte", figures),), {"<i>": "needs <labels>"}, "t", 1, (0,), "s"
    )
    html = page(made)
    assert "<b>bold" not in html
    assert "&lt;b&gt;bold&lt;/b&gt;" in html
    assert "&lt;i&gt;: needs &lt;labels&gt;" in html


def test_bars_are_as_long_as_their_figures():
    rows = tuple(
        Row(name, "next byte", {m.key: (value,) for m in MEASURES})
        for name, value in (("one", 1.0), ("three", 3.0))
    )
    html = page(MoEBench(rows, {}, "t", 1, (0,), "s"))
    pattern = r'<rect [^>]*width="([\d.]+)"[^>]*data-tip="(\w+)\nMaxVio'
    widths = {name: float(width) for width, name in re.findall(pattern, html)}
    assert widths["three"] / widths["one"] == pytest.approx(3.0, rel=0.01)


def test_both_files_are_written_whole(result, tmp_path):
    picture, document = save(result, tmp_path / "deep" / "bench")
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert document.read_text().rstrip().endswith("</html>")
    assert sorted(p.name for p in picture.parent.iterdir()) == ["moe.html", "moe.png"]
    assert png(result).startswith(b"\x89PNG")


def test_the_command_trains_draws_and_prints_json(tmp_path):
    from wye.cli import app

    (tmp_path / "own.txt").write_bytes(TEXT.train * 4)
    command = ["bench", "moe", "--steps", "1", "--seeds", "2", "--systems", "top_k", "--json"]
    command += ["--text", str(tmp_path / "own.txt"), "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.stderr
    printed = json.loads(done.stdout)
    assert printed["seeds"] == [0, 1]
    assert printed["text"] == "own.txt"
    assert [row["system"] for row in printed["rows"]] == ["top_k"]
    assert len(printed["rows"][0]["loss"]) == 2
    assert (tmp_path / "out" / "moe.png").exists()
    assert (tmp_path / "out" / "moe.html").exists()
