"""A training controller for sparse routers that starts broad and ends sharp, by its own entropies.

With P_x the router's probabilities of source x over E experts,
    H_tok = mean_x H(P_x) / ln E      confidence: low where every source is decided
    H_use = H(mean_x P_x) / ln E      coverage: high where all experts are used
H_tok <= H_use always, since entropy is concave.
    stage 1  L = -lambda_c H_use
    stage 2  L = -lambda_c H_use + lambda_s ramp H_tok
The switch comes when the running mean of H_use has been at the threshold for a whole window of
steps: coverage has been reached and has held. It comes not before a first share of the training, is
forced at a later one, and is never taken back. Where coverage falls under a floor in stage 2, the
ramp waits until it has recovered.

Source: MAGNET (arXiv 2602.20723), of which the abstract and third-party notes were available: which
entropy is watched, the constants and the ramp are this project's reading.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from wye.core import entropy
from wye.moe.base import MoEError
from wye.moe.losses import recomputing
from wye.moe.parts.balance import Balance, Routed


class EntropySchedule(Balance):
    """Coverage first, then confidence.

    Args:
        steps: optimiser steps of the whole training.
        n_experts: E.
        coverage: lambda_c.
        confidence: lambda_s; 0 never sharpens.
        threshold: of the running mean of H_use.
        window: steps for which it must hold.
        earliest, latest: shares of the training before which the switch never comes, and at which
            it is forced. Equal ones fix the step; both 0 start in stage 2.
        ramp: steps over which lambda_s grows from 0 to its value.
        floor: of the running mean of H_use, under which the ramp waits.
        settled: also ask that the running mean of H_tok moved less than this over the window; None
            does not ask.
        momentum: of the running means.
        small: sources per step below which H_use is read off a running mean of the probabilities,
            since the entropy of the mean of few is biased low.

    Raises:
        MoEError: shares out of order, or a number out of its range.
    """

    counters: Tensor
    averages: Tensor
    usage_E: Tensor
    past: Tensor

    def __init__(
        self,
        steps: int,
        n_experts: int,
        *,
        coverage: float = 0.1,
        confidence: float = 0.05,
        threshold: float = 0.9,
        window: int = 200,
        earliest: float = 0.1,
        latest: float = 0.6,
        ramp: int = 500,
        floor: float = 0.6,
        settled: float | None = None,
        momentum: float = 0.99,
        small: int = 256,
    ) -> None:
        super().__init__()
        if not 0 <= earliest <= latest <= 1:
            raise MoEError(
                f"earliest={earliest} and latest={latest}, expected shares of the training in "
                "order, 0 to 1"
            )
        for name, value in (("steps", steps), ("window", window), ("n_experts", n_experts)):
            if value < 1:
                raise MoEError(f"{name}={value}, expected at least 1")
        if not 0 <= momentum < 1 or ramp < 0:
            raise MoEError(f"momentum={momentum} and ramp={ramp}, expected [0, 1) and at least 0")
        self.steps, self.window, self.ramp = steps, window, ramp
        self.coverage, self.confidence = coverage, confidence
        self.threshold, self.floor, self.settled = threshold, floor, settled
        self.first, self.last = math.ceil(earliest * steps), math.ceil(latest * steps)
        self.momentum, self.small = momentum, small
        # step, steps in a row at the threshold, step of the switch (-1: none), ramped steps, forced
        self.register_buffer("counters", torch.tensor([0, 0, -1, 0, 0]))
        self.register_buffer("averages", torch.full((2,), -1.0))
        self.register_buffer("usage_E", torch.zeros(n_experts))
        self.register_buffer("past", torch.full((window,), torch.inf))
        self._seen: list[tuple[float, Tensor]] = []

    @property
    def stage(self) -> int:
        """1 while all experts are to be used, 2 from the switch on."""
        return 1 if int(self.counters[2]) < 0 else 2

    @property
    def switched_at(self) -> int | None:
        """Step of the switch; None before it."""
        return None if self.stage == 1 else int(self.counters[2])

    @property
    def forced(self) -> bool:
        """Whether the switch came because its time was up."""
        return bool(self.counters[4])

    @property
    def sharpening(self) -> float:
        """The present weight of H_tok."""
        if self.stage == 1:
            return 0.0
        share = 1.0 if self.ramp == 0 else min(int(self.counters[3]) / self.ramp, 1.0)
        return self.confidence * share

    def losses(self, routed: Routed) -> dict[str, Tensor]:
        p = routed.probabilities
        if p.shape[0] == 0 or p.shape[1] == 1:
            return {}
        scale = math.log(p.shape[1])
        h_token, h_use = entropy(p) / scale, entropy(p.mean(dim=0, keepdim=True)) / scale
        if not recomputing():
            self._seen.append((float(h_token.detach()) * len(p), p.detach().sum(dim=0)))
            self._rows = getattr(self, "_rows", 0) + len(p)
        return {
            "coverage": -self.coverage * h_use,
            "confidence": self.sharpening * h_token,
        }

    @torch.no_grad()
    def after_step(self) -> None:
        if not self._seen:
            return
        rows, seen = self._rows, self._seen
        self._seen, self._rows = [], 0
        mean = torch.stack([p for _, p in seen]).sum(dim=0) / rows
        empty = not bool(self.usage_E.any())
        self.usage_E.copy_(mean if empty else self.usage_E.lerp(mean, 1 - self.momentum))
        used = self.usage_E if rows < self.small else mean
        h_use = float(entropy(used[None])) / math.log(len(used))
        self.observe(sum(h for h, _ in seen) / rows, h_use)

    @torch.no_grad()
    def observe(self, h_token: float, h_use: float) -> None:
        """Take note of the entropies of one optimiser step."""
        fresh = torch.tensor([h_token, h_use], device=self.averages.device)
        started = float(self.averages[0]) >= 0
        self.averages.copy_(self.averages.lerp(fresh, 1 - self.momentum) if started else fresh)
        step, streak = int(self.counters[0]), int(self.counters[1])
        covered = float(self.averages[1]) >= self.threshold
        streak = streak + 1 if covered else 0
        moved = abs(float(self.averages[0] - self.past[step % self.window]))
        self.past[step % self.window] = self.averages[0]
        self.counters[0], self.counters[1] = step + 1, streak
        if self.stage == 2:
            if float(self.averages[1]) >= self.floor:
                self.counters[3] += 1
            return
        quiet = self.settled is None or moved < self.settled
        ready = streak >= self.window and quiet and step >= self.first
        if ready or step >= self.last:
            self.counters[2], self.counters[4] = step, int(not ready)

    def extra_repr(self) -> str:
        return f"stage={self.stage}, coverage={self.coverage}, confidence={self.confidence}"
