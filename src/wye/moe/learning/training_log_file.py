"""A training log on disk: one `.safetensors` file, so that `wye inspect` can read it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from wye.moe.base import MoEError
from wye.moe.learning.training import TrainingLog

_MARK = "wye.moe training log"
_COLUMNS = ("loss", "auxiliary", "tokens", "drop_share", "seconds")


def save_log(log: TrainingLog, path: str | Path) -> Path:
    """Write a log; the file appears whole or not at all.

    Raises:
        MoEError: a suffix other than .safetensors.
    """
    from safetensors.numpy import save_file

    target = Path(path)
    if target.suffix != ".safetensors":
        raise MoEError(f"{target} should end in .safetensors")
    flat = {name: np.ascontiguousarray(getattr(log, name)) for name in _COLUMNS}
    for number, name in enumerate(log.layers):
        flat[f"load/{number}"] = np.ascontiguousarray(log.loads[name])
    about = {"layers": list(log.layers), "tokens_per_step": log.tokens_per_step}
    temporary = target.with_name(target.name + ".part")
    try:
        save_file(flat, temporary, metadata={_MARK: json.dumps(about)})
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    return target


def load_log(path: str | Path) -> TrainingLog:
    """The log that `save_log` wrote.

    Raises:
        MoEError: no such file, or it holds no log.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            about = json.loads((file.metadata() or {}).get(_MARK, "null"))
            if about is None:
                raise MoEError(f"{path} holds no training log: write one with save_log")
            columns = {name: file.get_tensor(name) for name in _COLUMNS}
            loads = {
                name: file.get_tensor(f"load/{number}")
                for number, name in enumerate(about["layers"])
            }
    except (OSError, SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise MoEError(f"{path} cannot be read as a training log: {error}") from error
    return TrainingLog(
        layers=tuple(about["layers"]),
        loads=loads,
        tokens_per_step=int(about["tokens_per_step"]),
        **columns,
    )
