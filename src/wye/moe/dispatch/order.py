"""The pairs of a plan, expert by expert, as execution in segments walks through them.

Shape letters: N routed pairs, E experts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from wye.core import Plan


@dataclass(frozen=True, eq=False, slots=True)
class Segments:
    """The pairs of a plan sorted by expert.

    Attributes:
        order: `[N]` positions in the plan, stable inside an expert.
        source: `[N]` token of each sorted pair.
        spans: expert, first and last-plus-one sorted pair, of every expert that has any.
        empty: the experts that have none.
        largest: pairs of the fullest expert.
    """

    order: Tensor
    source: Tensor
    spans: list[tuple[int, int, int]]
    empty: list[int]
    largest: int

    def __len__(self) -> int:
        return int(self.order.shape[0])


def segments_of(plan: Plan) -> Segments:
    """The segments of `plan`; reads its targets on the host."""
    order, counts = _sorted(plan)
    spans: list[tuple[int, int, int]] = []
    start = 0
    for expert, n in enumerate(counts):
        if n:
            spans.append((expert, start, start + n))
            start += n
    empty = [expert for expert, n in enumerate(counts) if not n]
    return Segments(order, plan.source.index_select(0, order), spans, empty, max(counts, default=0))


def _sorted(plan: Plan) -> tuple[Tensor, list[int]]:
    if plan.target.device.type != "cpu":
        order, offsets = plan.by_target()
        return order, torch.diff(offsets).tolist()
    # NumPy sorts 16-bit integers by radix, ten times faster than PyTorch sorts any.
    target = plan.target.numpy()
    narrow = target.astype(np.int16) if plan.n_targets <= 1 << 15 else target
    counts: list[int] = np.bincount(target, minlength=plan.n_targets).tolist()
    return torch.from_numpy(np.argsort(narrow, kind="stable")), counts
