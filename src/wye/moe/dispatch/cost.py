"""Which path takes the least time, predicted from five speeds of a device.

A path is predicted to take

    calls * call + max(flops / rate, weight bytes / bandwidth) + moved bytes * move

where a product of few rows reads weights at the bandwidth of one thread, unless it is cut over
threads as `gathered` does. The speeds shipped here are round values from timings of single
operations on two cores of a server CPU (PyTorch 2.13, float32). They decide between paths whose
times differ by factors, so another CPU seldom needs others; `calibrate(install=True)` measures and
sets them for the process.
Choices are a function of shapes alone: the same call takes the same path in every
run, which keeps results reproducible to the bit.

Accelerators run grouped products where those can run. Under `torch.compile` bfloat16 does too;
every other dtype takes segments as one operator (`wye.moe.dispatch.opaque`).

Shape letters: S tokens, E experts, N routed pairs, D width, P rows of `up`, F hidden width.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from wye.core import Plan
from wye.moe.dispatch import grouped
from wye.moe.dispatch.weights import ExpertWeights

_FEW_ROWS = 16
"""Products with fewer rows run on one thread in the usual BLAS libraries."""


@dataclass(frozen=True, kw_only=True)
class Speeds:
    """Speeds of a device.

    Attributes:
        call: seconds of one small operation.
        flop: seconds per floating-point operation of a large product.
        read: seconds per byte of weights read by all threads.
        read_alone: seconds per byte of weights read by one thread.
        move: seconds per byte that goes through fresh memory (gathered, activated, scattered).
    """

    call: float = 4e-6
    flop: float = 8e-12
    read: float = 6e-11
    read_alone: float = 1.1e-10
    move: float = 4e-10


@dataclass(frozen=True)
class Shapes:
    """What the predictions read.

    Attributes:
        tokens, experts, pairs: S, E, N.
        width, hidden, rows: D, F, P.
        itemsize: bytes of a number.
        training: whether a backward pass follows.
    """

    tokens: int
    experts: int
    pairs: int
    width: int
    hidden: int
    rows: int
    itemsize: int
    training: bool

    @property
    def expert_size(self) -> int:
        """Weights of one expert."""
        return self.rows * self.width + self.width * self.hidden

    @property
    def busy(self) -> float:
        """Experts that N uniform draws are expected to meet: E (1 - (1 - 1/E)^N)."""
        return self.experts * (1.0 - (1.0 - 1.0 / self.experts) ** self.pairs)


_speeds = Speeds()


def cheapest(x_SD: Tensor, plan: Plan, weights: ExpertWeights) -> str:
    """The name of the path of least predicted time."""
    pairs = len(plan)
    if torch.compiler.is_compiling():
        # Grouped products can be traced in bfloat16 alone.
        traced = x_SD.dtype == torch.bfloat16 and grouped.refusal(x_SD, weights) is None
        return "grouped" if traced else "segments"
    if x_SD.device.type != "cpu" and grouped.refusal(x_SD, weights) is None:
        return "grouped"
    if not pairs or not plan.n_targets:
        return "segments"
    training = torch.is_grad_enabled() and any(
        t.requires_grad for t in (x_SD, plan.weight, *weights.tensors())
    )
    shapes = Shapes(
        x_SD.shape[0],
        plan.n_targets,
        pairs,
        x_SD.shape[1],
        weights.hidden,
        weights.up.shape[1],
        x_SD.dtype.itemsize,
        training,
    )
    times = predicted(shapes, _speeds)
    if grouped.refusal(x_SD, weights) is not None:
        del times["grouped"]
    return min(times, key=times.__getitem__)


def predicted(shapes: Shapes, speeds: Speeds) -> dict[str, float]:
    """Seconds that each path is predicted to take on a CPU.

    Args:
        shapes: of the call.
        speeds: of the device.
    """
    passes = 3 if shapes.training else 1
    busy, size = shapes.busy, shapes.expert_size
    weight_bytes = busy * size * shapes.itemsize
    flops = 2.0 * shapes.pairs * size
    row_bytes = (2 * shapes.width + shapes.rows + shapes.hidden) * shapes.itemsize
    fresh = shapes.pairs * row_bytes * speeds.move
    alone = shapes.pairs / busy < _FEW_ROWS
    product = max(flops * speeds.flop, weight_bytes * (speeds.read_alone if alone else speeds.read))
    all_bytes = shapes.experts * size * shapes.itemsize
    dense_flops = 2.0 * shapes.tokens * shapes.experts * size
    dense_product = max(dense_flops * speeds.flop, all_bytes * speeds.read)
    dense_bytes = shapes.tokens * shapes.experts * row_bytes
    # Rows that padding to the fullest of E balanced random groups adds, three standard deviations.
    mean = shapes.pairs / shapes.experts
    padding = 1.0 + 3.0 / max(mean, 1e-9) ** 0.5
    capacity_product = max(
        flops * padding * speeds.flop, shapes.experts * size * shapes.itemsize * speeds.read
    )
    times = {
        # A quarter of the moves: the buffers that all experts share stay in cache.
        "segments": passes * (product + (10 * busy + 20) * speeds.call) + 0.25 * passes * fresh,
        "grouped": passes * (product + (2 * busy + 30) * speeds.call + fresh),
        "capacity": passes * (capacity_product + 40 * speeds.call + padding * fresh),
        "dense": passes * (dense_product + dense_bytes * speeds.move + 10 * speeds.call),
    }
    if shapes.training:
        # The chosen weights are copied, and so are their gradients.
        copies = 4.0 * shapes.pairs * size * shapes.itemsize * speeds.move
        times["gathered"] = 3 * (shapes.pairs * size * speeds.read + 12 * speeds.call) + copies
    else:
        reads = max(1.5 * flops * speeds.flop, weight_bytes * speeds.read)
        times["gathered"] = reads + (5 * busy + 15) * speeds.call + fresh
    return times


def calibrate(*, install: bool = False, seconds: float = 0.5) -> Speeds:
    """Measure the speeds of this machine's CPU in float32, with the threads PyTorch has.

    Args:
        install: let the choices of this process go by them.
        seconds: how long to measure, about.

    Example:
        >>> calibrate(seconds=0.01).call > 0
        True
    """
    global _speeds
    share = seconds / 5
    row = torch.randn(1, 512)
    # Larger than caches, so that weights come from memory as those of a whole model do.
    stack = torch.randn(24, 2048, 512)
    square = torch.randn(512, 512)
    nth = iter(range(1 << 30))
    one = stack[0].numel() * stack.element_size()
    cut = [w.view(2, 1024, 512).transpose(1, 2) for w in stack]
    rows = row.expand(2, 1, 512)
    fresh = torch.randn(1 << 20)
    with torch.no_grad():
        found = Speeds(
            call=_median(lambda: torch.relu(row), share),
            flop=_median(lambda: torch.mm(square, square), share) / (2 * 512**3),
            read=_median(lambda: torch.bmm(rows, cut[next(nth) % 24]), share) / one,
            read_alone=_median(lambda: torch.mm(row, stack[next(nth) % 24].t()), share) / one,
            move=_median(fresh.clone, share) / (fresh.numel() * fresh.element_size()),
        )
    if install:
        _speeds = found
    return found


def _median(call: Callable[[], object], seconds: float) -> float:
    call()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while not times or time.perf_counter() < end:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return sorted(times)[len(times) // 2]
