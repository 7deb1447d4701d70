"""Energy of answers in joules: from a table of joules per token, or from counters of the machine.

`TokenTable` is a stated model and works everywhere. `CounterMeter` reads RAPL (Intel and AMD
processors) and NVML (NVIDIA cards) through the library Zeus, the extra `energy`; both count the
whole machine, so that answers measured at the same time share what is counted.

Where no joules per token are known for a model, its parameters stand in: 0.05 J per token and
billion parameters, which is what LLaMA 65B took on A100 cards (3 to 4 J per output token: Samsi et
al. 2023, arXiv 2310.03003). Small models on small batches take more.

Shape letters: Q queries, M models.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from wye.query.base import FloatArray, RouterError

if TYPE_CHECKING:
    from wye.data import RoutingData

JOULES_PER_TOKEN_AND_BILLION = 0.05


@dataclass
class Reading:
    """What one answer took; `joules` is NaN until it has ended."""

    joules: float = float("nan")


class EnergyMeter(ABC):
    """Says how much energy an answer took."""

    @contextmanager
    def measure(self, model: str) -> Iterator[Reading]:
        """Measure what happens inside the `with`; the reading holds the joules afterwards.

        Example:
            >>> meter = TokenTable({"small": 0.5})
            >>> with meter.measure("small") as reading:
            ...     meter.count("small", output_tokens=20)
            >>> reading.joules
            10.0
        """
        mark = self._begin(model)
        reading = Reading()
        try:
            yield reading
        finally:
            reading.joules = self._end(model, mark)

    @abstractmethod
    def _begin(self, model: str) -> Any:
        """Start; what it returns is handed to `_end`."""

    @abstractmethod
    def _end(self, model: str, mark: Any) -> float:
        """Joules since `_begin`."""


@dataclass
class TokenTable(EnergyMeter):
    """A constant number of joules per output token of each model.

    Args:
        joules_per_token: by model, >= 0.

    Raises:
        RouterError: a figure that is negative or not finite.
    """

    joules_per_token: Mapping[str, float]
    _tokens: dict[str, float] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        for model, joules in self.joules_per_token.items():
            if not (np.isfinite(joules) and joules >= 0):
                raise RouterError(
                    f"joules_per_token of {model!r} is {joules}, expected a finite number >= 0"
                )

    @classmethod
    def from_parameters(cls, data: RoutingData) -> TokenTable:
        """A table from the billions of parameters of each model; models without are left out."""
        sizes = data.models["params_b"].to_numpy(np.float64, na_value=np.nan)
        return cls(
            {
                model: float(size) * JOULES_PER_TOKEN_AND_BILLION
                for model, size in zip(data.model_names, sizes, strict=True)
                if np.isfinite(size)
            }
        )

    def joules(self, model: str, output_tokens: float) -> float:
        """Joules of an answer of that many tokens; NaN for a model that is not in the table."""
        return self.joules_per_token.get(model, float("nan")) * output_tokens

    def of_log(self, data: RoutingData) -> FloatArray:
        """Joules `[Q, M]` of a log by its output tokens; NaN where either is unknown."""
        per_token = [self.joules_per_token.get(m, float("nan")) for m in data.model_names]
        return np.asarray(data.matrix("output_tokens") * np.array(per_token), np.float64)

    def count(self, model: str, *, output_tokens: float) -> None:
        """Tell of tokens that were generated inside a `measure`."""
        self._tokens[model] = self._tokens.get(model, 0.0) + output_tokens

    def _begin(self, model: str) -> float:
        return self._tokens.get(model, 0.0)

    def _end(self, model: str, mark: Any) -> float:
        return self.joules(model, self._tokens.get(model, 0.0) - float(mark))


class CounterMeter(EnergyMeter):
    """The machine's own counters: RAPL and NVML through Zeus (`zeus.monitor.ZeusMonitor`).

    Raises:
        RouterError: Zeus is not installed, or the machine shows neither counter.
    """

    def __init__(self) -> None:
        if find_spec("zeus") is None:
            raise RouterError(
                "energy counters are read with Zeus, which is not installed; install it with: "
                'pip install "wye[energy]"'
            )
        from zeus.device import get_cpus, get_gpus
        from zeus.monitor import ZeusMonitor

        found = {"RAPL": _available(get_cpus), "NVML": _available(get_gpus)}
        self.sources = tuple(name for name, there in found.items() if there)
        if not self.sources:
            raise RouterError(
                "this machine shows neither RAPL nor NVML (a virtual machine usually hides both, "
                "and RAPL wants read access to /sys/class/powercap); use TokenTable"
            )
        self._monitor: Any = ZeusMonitor(
            cpu_indices=None if found["RAPL"] else [],
            gpu_indices=None if found["NVML"] else [],
        )
        self._windows = 0

    def _begin(self, model: str) -> str:
        self._windows += 1
        key = f"{model}-{self._windows}"
        self._monitor.begin_window(key, sync_execution=False)
        return key

    def _end(self, model: str, mark: Any) -> float:
        measured = self._monitor.end_window(mark, sync_execution=False)
        parts = [measured.gpu_energy, measured.cpu_energy, measured.dram_energy]
        return float(sum(sum(part.values()) for part in parts if part))


def _available(get: Any) -> bool:
    """Whether Zeus finds at least one device of a kind."""
    try:
        return len(get()) > 0
    except Exception:  # noqa: BLE001 - Zeus raises its drivers' own errors where there is no device
        return False
