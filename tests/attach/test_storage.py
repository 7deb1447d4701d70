"""What was added is written apart, read back, and refused where it does not fit."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import wye
from wye.attachment import AttachError
from wye.moe import after_step, get_router, routed_layers

pytestmark = pytest.mark.torch

Build = Callable[..., Any]
WAYS: dict[str, tuple[str, dict[str, Any]]] = {
    "own rule": ("deepseek_v3", {}),
    "another router": ("olmoe", {"router": "loss_free", "rate": 0.5}),
    "shared cell": ("olmoe", {"router": "layerwise-recurrent-router", "cell_width": 8}),
    "upcycled": ("llama", {"experts": 3, "slices": 2, "layers": [0, 2], "noise": 0.5}),
}


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    return WAYS[request.param]


def _changed(model: Any, ids: Tensor) -> Any:
    """The model after what was added to it has been trained, as far as this test cares."""
    model.train()
    model(ids)
    after_step(model)
    with torch.no_grad():
        for layer in routed_layers(model).values():
            for p in layer.parameters():
                p.add_(torch.randn_like(p) * 0.1)
    return model.eval()


def test_a_fresh_base_model_becomes_the_saved_one(
    build: Build, ids: Tensor, tmp_path: Path, way: tuple[str, dict[str, Any]]
) -> None:
    name, options = way
    model = _changed(wye.attach(build(name), **options), ids)
    wye.save_routers(model, tmp_path / "routers")
    again = wye.load_routers(build(name), tmp_path / "routers")
    assert torch.equal(again(ids).logits, model(ids).logits)
    assert not torch.allclose(again(ids).logits, build(name)(ids).logits, atol=1e-3)


def test_only_what_was_added_is_written(
    build: Build, ids: Tensor, tmp_path: Path, way: tuple[str, dict[str, Any]]
) -> None:
    from safetensors.torch import load_file

    name, options = way
    model = wye.attach(build(name), **options)
    config = json.loads(wye.save_routers(model, tmp_path).read_text())
    written = load_file(tmp_path / config["tensors"])
    assert all(".wye." in key for key in [*written, *config["same"]])
    base = set(build(name).state_dict())
    assert set(written) | set(config["same"]) == set(model.state_dict()) - base
    assert {p.name for p in tmp_path.iterdir()} == {"wye_routers.json", config["tensors"]}


def test_saving_again_replaces_the_old_files_and_leaves_others(
    build: Build, ids: Tensor, tmp_path: Path
) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"the base model")
    model = wye.attach(build("olmoe"))
    wye.save_routers(model, tmp_path)
    wye.save_routers(_changed(model, ids), tmp_path)
    assert len(list(tmp_path.glob("wye_routers-*"))) == 1
    assert (tmp_path / "model.safetensors").read_bytes() == b"the base model"
    again = wye.load_routers(build("olmoe"), tmp_path)
    assert torch.equal(again(ids).logits, model(ids).logits)


def test_a_save_that_fails_leaves_the_old_one_readable(
    build: Build, ids: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = wye.attach(build("olmoe"))
    wye.save_routers(model, tmp_path)
    expected = model(ids).logits
    replaced = Path.replace

    def failing(self: Path, target: Path) -> Path:
        if Path(target).suffix == ".json":
            raise OSError("no room")
        return replaced(self, target)

    monkeypatch.setattr(Path, "replace", failing)
    with pytest.raises(OSError, match="no room"):
        wye.save_routers(_changed(model, ids), tmp_path)
    monkeypatch.undo()
    assert not list(tmp_path.glob("*.part"))
    again = wye.load_routers(build("olmoe"), tmp_path)
    assert torch.equal(again(ids).logits, expected)


def test_routers_made_by_a_function_need_the_function(
    build: Build, ids: Tensor, tmp_path: Path
) -> None:
    def factory(layer: int, width: int, n_experts: int, k: int) -> Any:
        return get_router("top_k", width, n_experts, k=1)

    model = _changed(wye.attach(build("olmoe"), factory), ids)
    wye.save_routers(model, tmp_path)
    with pytest.raises(AttachError, match="router="):
        wye.load_routers(build("olmoe"), tmp_path)
    again = wye.load_routers(build("olmoe"), tmp_path, router=factory)
    assert torch.equal(again(ids).logits, model(ids).logits)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"num_experts": 8}, r"scores.weight of shape \(6, 32\).*layers.0.mlp.*\(8, 32\)"),
        ({"hidden_size": 64}, r"\(6, 32\).*\(6, 64\)"),
        ({"num_hidden_layers": 2}, "layers"),
    ],
)
def test_a_checkpoint_of_another_shape_is_refused_and_the_model_left_alone(
    build: Build, tmp_path: Path, other: dict[str, int], message: str
) -> None:
    wye.save_routers(wye.attach(build("olmoe")), tmp_path)
    model = build("olmoe", **other)
    layout = str(model)
    with pytest.raises(AttachError, match=message):
        wye.load_routers(model, tmp_path)
    assert str(model) == layout


def test_a_checkpoint_of_another_router_is_refused(build: Build, tmp_path: Path) -> None:
    wye.save_routers(wye.attach(build("olmoe"), "loss_free"), tmp_path)
    model = wye.attach(build("olmoe"))
    before = {n: v.clone() for n, v in model.state_dict().items()}
    with pytest.raises(AttachError, match="bias_E"):
        wye.load_routers(model, tmp_path)
    assert all(torch.equal(v, before[n]) for n, v in model.state_dict().items())


def test_missing_and_damaged_files_are_named(build: Build, tmp_path: Path) -> None:
    model = build("olmoe")
    with pytest.raises(AttachError, match=r"wye_routers\.json"):
        wye.load_routers(model, tmp_path)
    path = wye.save_routers(wye.attach(build("olmoe")), tmp_path)
    config = json.loads(path.read_text())
    (tmp_path / config["tensors"]).write_bytes(b"not tensors")
    with pytest.raises(AttachError, match="safetensors cannot be read"):
        wye.load_routers(model, tmp_path)
    path.write_text(json.dumps({**config, "format": 99}))
    with pytest.raises(AttachError, match="format 99"):
        wye.load_routers(model, tmp_path)
    path.write_text("[]")
    with pytest.raises(AttachError, match="no record"):
        wye.load_routers(model, tmp_path)
    path.write_text("{")
    with pytest.raises(AttachError, match="cannot be read"):
        wye.load_routers(model, tmp_path)


def test_nothing_attached_is_nothing_to_save(build: Build, tmp_path: Path) -> None:
    with pytest.raises(AttachError, match="attach"):
        wye.save_routers(build("olmoe"), tmp_path)
    assert not list(tmp_path.iterdir())
