"""What `wye inspect` reads: traces, training logs, language models and saved routers.

A trace (`wye.moe.save_trace`): load over all recorded passes. A training log (`wye.moe.save_log`):
load over the last tenth of the steps. The directory of `LanguageModel.save`: load on a text that
is given, or that of the `training_log.safetensors` in it. The directory of `wye.save_routers`: the
parts of every router, which have no load without their model.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from wye.moe.base import MoEError
from wye.moe.diagnostics.report import Report, report_loads, report_trace

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

LOG_NAME = "training_log.safetensors"
_WINDOW, _WINDOWS = 256, 64


@dataclass(frozen=True)
class RouterPart:
    """One tensor of a saved router.

    Attributes:
        layer: that it was attached to.
        part: its name within the layer.
        shape: of the tensor.
        spread: standard deviation of its entries.
        least, most: smallest and largest entry.
    """

    layer: str
    part: str
    shape: tuple[int, ...]
    spread: float
    least: float
    most: float


@dataclass(frozen=True)
class SavedRouters:
    """The parts of every saved router; printing it with Rich shows the table.

    Attributes:
        source: the directory.
        router: name of the system; empty where a function made them.
        parts: layer by layer.
    """

    source: str
    router: str
    parts: tuple[RouterPart, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-serialisable form."""
        return {
            "source": self.source,
            "router": self.router,
            "parts": [{**vars(part), "shape": list(part.shape)} for part in self.parts],
        }

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.table import Table

        title = f"{self.source}: routers of {self.router or 'a function'}"
        table = Table(title=title, title_justify="left")
        table.add_column("layer")
        table.add_column("part")
        for name in ("shape", "spread", "least", "most"):
            table.add_column(name, justify="right")
        for p in self.parts:
            shape = " x ".join(map(str, p.shape)) or "one"
            table.add_row(
                p.layer, p.part, shape, f"{p.spread:.4g}", f"{p.least:.4g}", f"{p.most:.4g}"
            )
        yield table


def inspect_saved(path: str | Path, *, text: bytes | None = None) -> Report | SavedRouters:
    """Read whatever of the table above is at `path`.

    Args:
        path: a file or directory.
        text: run through a saved language model of bytes; only for such a directory.

    Raises:
        MoEError: nothing there, or nothing that wye wrote; the message says what was expected.
    """
    path = Path(path)
    if not path.exists():
        raise MoEError(f"{path} does not exist: give a trace, a training log or a saved model")
    if path.is_dir():
        return _directory(path, text)
    if text is not None:
        raise MoEError(f"a text goes with a saved language model, and {path} is a file")
    if path.suffix != ".safetensors":
        raise MoEError(f"{path} is no .safetensors file: {_EXPECTED}")
    kinds = _metadata(path)
    if any("trace" in kind for kind in kinds):
        from wye.moe.recording import load_trace

        return report_trace(load_trace(path), source=str(path))
    if any("training log" in kind for kind in kinds):
        return _log(path)
    raise MoEError(f"{path} holds tensors, but neither a trace nor a training log: {_EXPECTED}")


_EXPECTED = (
    "expected a trace (wye.moe.save_trace), a training log (wye.moe.save_log), or the directory of "
    "LanguageModel.save or wye.save_routers"
)


def _directory(path: Path, text: bytes | None) -> Report | SavedRouters:
    if (path / "language_model.json").is_file():
        if text is not None:
            return _run(path, text)
        if (path / LOG_NAME).is_file():
            return _log(path / LOG_NAME)
        raise MoEError(
            f"{path} holds a language model and no {LOG_NAME}: give a text to run through it "
            "(--text FILE)"
        )
    if (path / "wye_routers.json").is_file():
        if text is not None:
            raise MoEError(
                f"{path} holds routers without their model, through which no text can run: attach "
                "them, record a pass, and inspect the trace"
            )
        return _routers(path)
    raise MoEError(f"{path} holds nothing to inspect: {_EXPECTED}")


def _metadata(path: Path) -> tuple[str, ...]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            return tuple(file.metadata() or {})
    except (OSError, SafetensorError) as error:
        raise MoEError(f"{path} cannot be read: {error}") from error


def _log(path: Path) -> Report:
    from wye.moe.learning.training_log_file import load_log

    log = load_log(path)
    steps = max(1, len(log.loss) // 10)
    loads = {name: load[-steps:].sum(axis=0) for name, load in log.loads.items()}
    tokens = {name: int(log.tokens[-steps:, i].sum()) for i, name in enumerate(log.layers)}
    source = f"{path}, last {steps} of {len(log.loss)} steps, loss {log.loss[-steps:].mean():.4f}"
    return report_loads(loads, tokens, source=source)


def _run(path: Path, text: bytes) -> Report:
    import torch

    from wye.moe.models.language_model import load_language_model
    from wye.moe.recording import record

    model = load_language_model(path)
    if model.vocabulary < 256:
        raise MoEError(f"{path} knows {model.vocabulary} ids, expected 256 or more for bytes")
    length = min(_WINDOW, model.length)
    ids = torch.frombuffer(bytearray(text), dtype=torch.uint8).long() if text else torch.zeros(0)
    windows = min(_WINDOWS, ids.shape[0] // length)
    if not windows:
        raise MoEError(f"the text has {len(text)} bytes, expected at least {length}")
    with torch.no_grad(), record(model) as trace:
        for some in torch.split(ids[: windows * length].reshape(windows, length), 8):
            model(some)
    return report_trace(trace, source=f"{path} on {windows * length} bytes")


def _routers(path: Path) -> SavedRouters:
    from safetensors import SafetensorError, safe_open

    try:
        config = json.loads((path / "wye_routers.json").read_text(encoding="utf-8"))
        with safe_open(path / config["tensors"], framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise MoEError(f"{path} holds damaged routers: {error}") from error
    parts = []
    for name, tensor in tensors.items():
        layer, _, part = name.partition(".wye.")
        values = np.asarray(tensor.double().numpy()).reshape(-1)
        if values.size:
            parts.append(
                RouterPart(
                    layer,
                    part,
                    tuple(tensor.shape),
                    float(values.std()),
                    float(values.min()),
                    float(values.max()),
                )
            )
    return SavedRouters(str(path), str(config.get("router") or ""), tuple(parts))
