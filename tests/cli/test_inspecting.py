"""`wye inspect` reads what wye writes, draws it, and says what it cannot read."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from wye.cli import app
from wye.errors import WyeError
from wye.moe import LanguageModel, Shape, load_log, record, save_log, save_trace, train
from wye.moe.base import MoEError

pytestmark = pytest.mark.torch
run = CliRunner()
SHAPE = Shape(n_layers=2, width=16, hidden=8, n_experts=4)
TEXT = b"def route(source, target): return plan\n" * 40


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    model = LanguageModel.build("top_k", SHAPE, length=32, n_heads=2)
    log = train(model, TEXT, steps=12, batch=2, length=32)
    model.save(folder)
    save_log(log, folder / "training_log.safetensors")
    with torch.no_grad(), record(model.eval()) as trace:
        model(torch.frombuffer(bytearray(TEXT[:64]), dtype=torch.uint8).long().reshape(2, 32))
    save_trace(trace, folder / "trace.safetensors")
    (folder / "text.txt").write_bytes(TEXT)
    return folder


def test_a_trace_is_a_table_with_one_row_per_layer(saved: Path) -> None:
    done = run.invoke(app, ["inspect", str(saved / "trace.safetensors"), "--json"])
    assert done.exit_code == 0
    layers = json.loads(done.stdout)["layers"]
    assert [row["layer"] for row in layers] == [f"blocks.{i}.feed_forward" for i in range(2)]
    assert [sum(row["load"]) for row in layers] == [128, 128]
    assert "MaxVio" in run.invoke(app, ["inspect", str(saved / "trace.safetensors")]).stdout


def test_a_log_comes_back_whole_and_is_reported_over_its_end(saved: Path) -> None:
    log = load_log(saved / "training_log.safetensors")
    assert log.layers == ("blocks.0.feed_forward", "blocks.1.feed_forward")
    assert log.loss.shape == (12,)
    for path in (saved, saved / "training_log.safetensors"):
        done = run.invoke(app, ["inspect", str(path), "--json"])
        row = json.loads(done.stdout)["layers"][1]
        assert row["load"] == log.loads["blocks.1.feed_forward"][-1].tolist()


def test_a_model_runs_a_text_and_draws_its_heat_maps(saved: Path, tmp_path: Path) -> None:
    png, page = tmp_path / "a.png", tmp_path / "a.html"
    done = run.invoke(
        app,
        ["inspect", str(saved), "--text", str(saved / "text.txt"), "-o", str(png), "-o", str(page)],
    )
    assert done.exit_code == 0, done.output
    assert png.read_bytes().startswith(b"\x89PNG")
    text = page.read_text(encoding="utf-8")
    assert "<svg" in text
    assert "blocks.1.feed_forward" in text
    assert "<script" not in text
    assert 'src="http' not in text
    assert {p.name for p in tmp_path.iterdir()} == {"a.png", "a.html"}


def test_saved_routers_list_their_parts(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    weight = np.arange(8, dtype=np.float32).reshape(2, 4)
    save_file({"layers.0.mlp.wye.router.weight": weight}, tmp_path / "wye_routers-1.safetensors")
    (tmp_path / "wye_routers.json").write_text(
        json.dumps({"router": "switch", "tensors": "wye_routers-1.safetensors"})
    )
    done = run.invoke(app, ["inspect", str(tmp_path), "--json"])
    found = json.loads(done.stdout)
    assert found["router"] == "switch"
    assert found["parts"][0] == {
        "layer": "layers.0.mlp",
        "part": "router.weight",
        "shape": [2, 4],
        "spread": pytest.approx(weight.std()),
        "least": 0.0,
        "most": 7.0,
    }
    assert "router.weight" in run.invoke(app, ["inspect", str(tmp_path)]).stdout
    refused = run.invoke(app, ["inspect", str(tmp_path), "-o", str(tmp_path / "a.png")])
    assert isinstance(refused.exception, WyeError)
    (tmp_path / "wye_routers-1.safetensors").unlink()
    assert isinstance(run.invoke(app, ["inspect", str(tmp_path)]).exception, MoEError)


def test_anything_else_is_refused_in_words(saved: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    (tmp_path / "damaged.safetensors").write_bytes(b"damaged")
    (tmp_path / "short.txt").write_text("short")
    trace = str(saved / "trace.safetensors")
    for arguments, words in (
        ([str(tmp_path / "none")], "does not exist"),
        ([str(empty)], "nothing to inspect"),
        ([str(saved / "text.txt")], "no .safetensors file"),
        ([str(tmp_path / "damaged.safetensors")], "cannot be read"),
        ([str(saved / "language_model.safetensors")], "neither a trace nor a training log"),
        ([trace, "--text", str(saved / "text.txt")], "goes with a saved language model"),
        ([str(saved), "--text", str(tmp_path / "short.txt")], "expected at least 32"),
        ([str(saved), "--text", str(tmp_path / "none")], "cannot be read"),
        ([trace, "-o", str(tmp_path / "a.gif")], "cannot draw"),
        ([trace, "-o", str(tmp_path / "no" / "a.png")], "make it first"),
    ):
        done = run.invoke(app, ["inspect", *arguments])
        assert isinstance(done.exception, WyeError), arguments
        assert words in str(done.exception)
