"""What was added to a model, written apart from it and read back.

A directory holds `wye_routers.json`, which says what was attached and names the file of tensors
beside it, `wye_routers-<digest>.safetensors`. The JSON file is replaced last, so that a reader
meets the old state or the new one, whole.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wye.attachment.errors import AttachError
from wye.attachment.install import Model, attach, attachment_of, detach
from wye.attachment.routers import RouterFactory

_CONFIG = "wye_routers.json"
_FORMAT = 1


def save_routers(model: nn.Module, directory: str | Path) -> Path:
    """Write what `wye.attach` added to `model`: routers, their biases, upcycled experts.

    Args:
        model: attached.
        directory: made where it is missing; other files in it are left alone, so that it may be the
            directory that `save_pretrained` writes.

    Returns:
        The JSON file.

    Raises:
        AttachError: nothing is attached.
    """
    from safetensors.torch import save

    recipe = attachment_of(model).recipe
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    # Modules that several routers share appear under several names, and are written under one.
    kept: dict[str, Tensor] = {}
    same: dict[str, str] = {}
    first: dict[tuple[int, torch.Size, torch.dtype], str] = {}
    for name, tensor in added_tensors(model).items():
        identity = (tensor.data_ptr(), tensor.shape, tensor.dtype)
        if tensor.numel() and identity in first:
            same[name] = first[identity]
        else:
            first[identity] = name
            kept[name] = tensor.detach().cpu().contiguous()
    content = save(kept)
    tensors = f"wye_routers-{hashlib.sha256(content).hexdigest()[:16]}.safetensors"
    try:
        again = json.loads(json.dumps(recipe.parameters))
    except TypeError:  # a parameter that only Python can hold: attach before loading
        again = None
    config = {
        "format": _FORMAT,
        "model_type": str(getattr(getattr(model, "config", None), "model_type", "")),
        **asdict(recipe),
        "parameters": again,
        "tensors": tensors,
        "same": same,
    }
    before = _files(folder)
    _write(folder / tensors, content)
    _write(folder / _CONFIG, (json.dumps(config, indent=2) + "\n").encode())
    for old in before - {folder / tensors}:
        old.unlink(missing_ok=True)
    return folder / _CONFIG


def load_routers(
    model: Model, directory: str | Path, *, router: RouterFactory | None = None
) -> Model:
    """Read what `save_routers` wrote into `model`, attaching it first where nothing is attached.

    Args:
        model: the base model, or one that is attached in the same way.
        directory: that was written.
        router: the function that made the routers, where it was a function.

    Returns:
        `model` itself; as it was before where an error is raised.

    Raises:
        AttachError: no such files, damaged ones, or another shape: the message names the layer and
            both shapes.
    """
    folder = Path(directory)
    config = _read_config(folder)
    tensors = _read_tensors(folder, config)
    fresh = not hasattr(model, "_wye_attachment")
    if fresh:
        _attach_again(model, config, router)
    try:
        expected = added_tensors(model)
        _compare(expected, tensors, str(folder))
    except AttachError:
        if fresh:
            detach(model)
        raise
    with torch.no_grad():
        for name, target in expected.items():
            target.copy_(tensors[name])
    return model


def added_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Every tensor that `wye.attach` added to `model`, by its key in `state_dict()`."""
    return {
        f"{name}.wye.{key}": tensor
        for name in attachment_of(model).originals
        for key, tensor in model.get_submodule(f"{name}.wye").state_dict().items()
    }


def _attach_again(
    model: nn.Module, config: Mapping[str, Any], router: RouterFactory | None
) -> None:
    asked = router if router is not None else config["router"]
    parameters = {} if router is not None else config["parameters"]
    if asked is None or parameters is None:
        raise AttachError(
            "these routers were made by a function, or with parameters that JSON cannot hold: "
            "pass load_routers(..., router=that function), or attach the model in the same way and "
            "load then"
        )
    attach(
        model,
        asked,
        experts=config["experts"],
        k=config["k"],
        layers=config["layers"],
        slices=config["slices"],
        carries_losses=config["carries_losses"],
        **parameters,
    )


def _compare(expected: Mapping[str, Tensor], tensors: Mapping[str, Tensor], place: str) -> None:
    missing = [name for name in expected if name not in tensors]
    unknown = [name for name in tensors if name not in expected]
    if missing or unknown:
        raise AttachError(
            f"{place} holds other parts than the model: it lacks {_some(missing)} and has "
            f"{_some(unknown)} besides; attach the model as it was when it was saved"
        )
    for name, tensor in expected.items():
        if tensors[name].shape != tensor.shape:
            layer, _, part = name.partition(".wye.")
            raise AttachError(
                f"{place} holds {part} of shape {tuple(tensors[name].shape)} for layer {layer}, "
                f"the model's has shape {tuple(tensor.shape)}: it was saved from a model of "
                "another width, number of experts or router"
            )


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:3]) or "nothing"
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / _CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise AttachError(
            f"{folder} holds no {_CONFIG}: expected a directory that wye.save_routers wrote"
        ) from error
    except (OSError, ValueError) as error:
        raise AttachError(f"{path} cannot be read: {error}") from error
    needed = {"router", "parameters", "experts", "k", "slices", "layers", "carries_losses"}
    if not isinstance(config, dict) or not needed | {"tensors", "same"} <= set(config):
        raise AttachError(f"{path} is no record of attached routers")
    if config.get("format") != _FORMAT:
        raise AttachError(
            f"{path} has format {config.get('format')!r}, this version of wye reads {_FORMAT}"
        )
    return config


def _read_tensors(folder: Path, config: Mapping[str, Any]) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    path = folder / Path(str(config["tensors"])).name
    try:
        kept: dict[str, Tensor] = load_file(path)
        return {**kept, **{name: kept[other] for name, other in config["same"].items()}}
    except Exception as error:
        raise AttachError(f"{path} cannot be read: {type(error).__name__}: {error}") from error


def _files(folder: Path) -> set[Path]:
    return set(folder.glob("wye_routers-*.safetensors"))


def _write(path: Path, content: bytes) -> None:
    """The file appears whole or not at all."""
    temporary = path.with_name(path.name + ".part")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
