"""The contract of the adapter scale: what is routed to LoRA adapters, what is kept, what is saved.

Adapters are PEFT's own LoRA layers, read and written in PEFT's own files. A system of this scale
adds a router to them: for every source (a query or a token) it decides which adapters act, with
what weight. The model itself is never copied; its weights stay as they are.

`save` writes what was added and nothing else: each adapter as PEFT writes it, the router's tensors
in `wye_adapters.safetensors`, and `wye_adapters.json`, which says which system it was and how it
was built. PEFT's plain loader would read the adapters and leave the router out, so `load` is the
system's own.

Shape letters: S sources, T targets, B batch, L length.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from wye.core import Plan
from wye.core.contracts import Contracts as Contracts
from wye.errors import WyeError

CONFIG_FILE = "wye_adapters.json"
TENSOR_FILE = "wye_adapters.safetensors"
_FORMAT = 1


class AdapterError(WyeError):
    """Adapters, a router or their input that cannot work; the message says what to do."""


class RoutedAdapters(nn.Module, ABC):
    """A causal language model whose LoRA adapters are chosen by a router.

    Attributes:
        system: name of the system, written to the saved record.
        source: what is routed.
        contracts: what holds in evaluation mode.
        inner: the Hugging Face model that the adapters were put into; call it or its `generate`
            as before, the routing is part of it.
    """

    system: str
    source: Literal["query", "token"]
    contracts: Contracts
    inner: nn.Module

    @property
    @abstractmethod
    def targets(self) -> tuple[str, ...]:
        """Names of the T targets; the last one is the model without adapters."""

    @property
    @abstractmethod
    def trace(self) -> Mapping[str, Plan]:
        """The plans of the last forward pass, by the place that made them, without gradient.

        Raises:
            AdapterError: nothing was routed yet.
        """

    @abstractmethod
    def remove_router(self) -> None:
        """Take the router off the model; its adapters stay, as PEFT left them."""

    @abstractmethod
    def save(self, directory: str | Path) -> Path:
        """Write adapters and router; returns the JSON file."""

    @classmethod
    @abstractmethod
    def load(cls, model: nn.Module, directory: str | Path) -> Self:
        """Put what `save` wrote into the base model `model`.

        Raises:
            AdapterError: no such record, one of another system, or tensors that do not fit.
        """

    def generate(self, *args: Any, **settings: Any) -> Any:
        """`generate` of the model, with its own arguments."""
        generate: Any = self.inner.generate
        return generate(*args, **settings)

    @property
    def device(self) -> torch.device:
        """Where the model's first parameter is."""
        return next(self.inner.parameters()).device


def write_record(
    directory: str | Path, system: str, settings: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> Path:
    """Write a router's settings and tensors beside the adapters; the JSON file comes last.

    Args:
        directory: made where it is missing.
        system: name of the system.
        settings: what JSON can hold.
        tensors: the router's own, by name.

    Returns:
        The JSON file.
    """
    from safetensors.torch import save_file

    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {name: t.detach().cpu().contiguous() for name, t in tensors.items()}, folder / TENSOR_FILE
    )
    record = {"format": _FORMAT, "system": system, "settings": dict(settings)}
    path = folder / CONFIG_FILE
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    part.replace(path)
    return path


def read_record(directory: str | Path, system: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Settings and tensors that `write_record` wrote for `system`.

    Raises:
        AdapterError: no such files, damaged ones, another format or another system.
    """
    from safetensors.torch import load_file

    folder = Path(directory)
    path = folder / CONFIG_FILE
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise AdapterError(
            f"{folder} holds no {CONFIG_FILE}: expected a directory that the system's `save` "
            "wrote; adapters alone are read by PEFT, or by the `read` of a registry of modules"
        ) from error
    except (OSError, ValueError) as error:
        raise AdapterError(f"{path} cannot be read: {error}") from error
    if not isinstance(record, dict) or not {"format", "system", "settings"} <= set(record):
        raise AdapterError(f"{path} is no record of routed adapters")
    if record["format"] != _FORMAT:
        raise AdapterError(f"{path} has format {record['format']!r}, expected {_FORMAT}")
    if record["system"] != system:
        raise AdapterError(
            f"{path} was written by the system {record['system']!r}, expected {system!r}: load it "
            "with that system"
        )
    try:
        tensors: dict[str, Tensor] = load_file(folder / TENSOR_FILE)
    except Exception as error:
        raise AdapterError(
            f"{folder / TENSOR_FILE} cannot be read: {type(error).__name__}: {error}"
        ) from error
    return record["settings"], tensors
