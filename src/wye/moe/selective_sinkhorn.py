"""SSR: now and then a training pass is routed by optimal transport instead of softmax top-k.

Token -> its k experts, when the batch passes the layer: normally of largest softmax probability,
from its hidden state alone; with probability p in a training step by the transport plan of the
whole batch, from which choice and gates are read. Evaluation is always softmax top-k.
Paper: Nguyen et al. 2025, arXiv 2511.08972, equations 3 to 6.

    H = x W_r^T,  C = softmax(H) ("softmax") or H ("linear"), plus alpha N(0, 1) noise
    Pi = argmax <Pi, C> - xi <Pi, log Pi>  s.t.  rows sum to 1, columns to m / n
    until row and column residuals are below delta, at most `rounds` times
    S_t = the k largest of Pi_t,  g_tj = Pi_tj / sum_S Pi_tl
No loss.

The paper does not state whether the coin falls per layer or per step: ours per layer and step, from
a generator seeded by (seed, step, layer), so that all micro-batches of a step agree and a
recomputed pass repeats itself. Nor whether the gates are differentiated through the iterations:
`gradient="envelope"` (ours) lets gradients flow through C at fixed potentials, "unroll" through the
iterations too, "none" lets none. p = 0.01, xi = 0.05, delta = 1e-4, 100 rounds and no noise are our
choices within the published ranges.

Shape letters: S tokens, E experts, K choices.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from wye.core import Plan, Potentials, SelectionError, shared, top_k, transport_potentials, weigh
from wye.moe.base import MoEError
from wye.moe.build import Shape, routed_stack
from wye.moe.losses import recomputing
from wye.moe.parts.balanced_selections import checked_k
from wye.moe.parts.gates import Gate
from wye.moe.parts.scores import LinearScores
from wye.moe.parts.selection import Candidates, Selection
from wye.moe.router import ComposedRouter

Cost = Literal["softmax", "linear"]
Gradient = Literal["envelope", "none", "unroll"]
NoiseWhere = Literal["ot", "softmax", "both"]
_TRACED = 1000


@dataclass(frozen=True)
class Solve:
    """One training pass of a layer.

    Attributes:
        step: optimiser steps before it.
        branch: "ot" or "softmax".
        rounds: of the solver; 0 for softmax.
        row_residual, column_residual: Euclidean norms at the end; 0 for softmax.
        converged: whether both fell below delta.
    """

    step: int
    branch: Literal["ot", "softmax"]
    rounds: int = 0
    row_residual: float = 0.0
    column_residual: float = 0.0
    converged: bool = True


class SelectiveSinkhorn(Selection):
    """Softmax top-k, or with probability p in a training step the top k of a transport plan.

    Args:
        k: experts per token.
        p: probability of the transport branch.
        cost: C, the softmax or the logits.
        epsilon: xi.
        delta: largest residual.
        rounds: most iterations.
        noise: standard deviation alpha.
        noise_where: which branches see it, in training.
        gradient: what the gates of the transport branch are differentiated through.
        seed, layer: of the coin and the noise.

    Attributes:
        step: optimiser steps so far, saved with the router.
        trace: the last 1000 training passes.

    Raises:
        MoEError: p outside [0, 1], numbers out of range, unknown options.
    """

    step: Tensor
    weighs = True

    def __init__(
        self,
        k: int = 2,
        *,
        p: float = 0.01,
        cost: Cost = "softmax",
        epsilon: float = 0.05,
        delta: float = 1e-4,
        rounds: int = 100,
        noise: float = 0.0,
        noise_where: NoiseWhere = "ot",
        gradient: Gradient = "envelope",
        seed: int = 0,
        layer: int = 0,
    ) -> None:
        super().__init__()
        if not 0 <= p <= 1:
            raise MoEError(f"p={p}, expected a probability")
        if not (epsilon > 0 and delta > 0 and noise >= 0 and rounds >= 1):
            raise MoEError(
                f"epsilon={epsilon}, delta={delta}, noise={noise}, rounds={rounds}: expected "
                "epsilon, delta > 0, noise >= 0 and rounds >= 1"
            )
        options = {"cost": (cost, Cost), "gradient": (gradient, Gradient)}
        for name, (value, kinds) in {**options, "noise_where": (noise_where, NoiseWhere)}.items():
            if value not in kinds.__args__:  # type: ignore[attr-defined]
                raise MoEError(f"{name}={value!r}, expected one of {kinds.__args__}")  # type: ignore[attr-defined]
        self.k = self.fan_out = checked_k(k)
        self.p, self.cost, self.epsilon, self.delta, self.rounds = p, cost, epsilon, delta, rounds
        self.noise, self.noise_where, self.gradient = noise, noise_where, gradient
        self.seed, self.layer = seed, layer
        self.trace: deque[Solve] = deque(maxlen=_TRACED)
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))
        self._gate = Gate(normalise=k > 1)
        self._passes = 0

    def forward(self, candidates: Candidates) -> Plan:
        if not self.training:
            return self._by_softmax(candidates, None)
        if not recomputing():
            self._passes += 1
        step = int(self.step)
        if candidates.affinity.shape[0] == 0 or not self.transported(step):
            if not recomputing():
                self.trace.append(Solve(step, "softmax"))
            return self._by_softmax(candidates, self._drawn(candidates, "softmax"))
        return self._by_transport(candidates, self._drawn(candidates, "ot"))

    def transported(self, step: int) -> bool:
        """Whether a training step takes the transport branch."""
        return float(self._generator(step, 0).random()) < self.p

    def after_step(self) -> None:
        """Throw the next coin, once per optimiser step."""
        self.step += 1
        self._passes = 0

    def solve(self, cost_SE: Tensor) -> tuple[Tensor, Potentials]:
        """The transport plan `[S, E]` of a cost matrix and its potentials."""
        n_tokens, n_experts = cost_SE.shape
        # The residual of the core is relative to the norm of the column marginals.
        size = n_tokens / n_experts**0.5
        unroll = self.gradient == "unroll"
        found = transport_potentials(
            cost_SE,
            epsilon=self.epsilon,
            rounds=self.rounds,
            tolerance=self.delta / size,
            unroll=unroll,
        )
        mass = found.mass(cost_SE.detach() if self.gradient == "none" else cost_SE)
        return mass, found

    def _by_softmax(self, candidates: Candidates, noise: Tensor | None) -> Plan:
        bias = candidates.bias
        if noise is not None:
            bias = noise if bias is None else bias + noise
        plan = top_k(candidates.affinity, self.k, bias=bias)
        return self._gate.weigh(plan, k=self.k)

    def _by_transport(self, candidates: Candidates, noise: Tensor | None) -> Plan:
        cost = candidates.affinity if self.cost == "softmax" else candidates.logits
        if not bool(torch.isfinite(cost).all()):
            raise SelectionError("scores hold NaN or infinite values, which no plan can weigh")
        mass, found = self.solve(cost if noise is None else cost + noise)
        if not recomputing():
            self.trace.append(self._traced(mass.detach(), found))
        return shared(weigh(top_k(mass.detach(), self.k), mass))

    def _traced(self, mass: Tensor, found: Potentials) -> Solve:
        n_tokens, n_experts = mass.shape
        row = float((mass.sum(dim=1) - 1).norm())
        column = float((mass.sum(dim=0) - n_tokens / n_experts).norm())
        met = found.residual <= self.delta / (n_tokens / n_experts**0.5)
        return Solve(int(self.step), "ot", found.rounds, row, column, met)

    def _drawn(self, candidates: Candidates, branch: Literal["ot", "softmax"]) -> Tensor | None:
        if self.noise == 0 or self.noise_where not in (branch, "both"):
            return None
        draws = self._generator(int(self.step), self._passes)
        shape = tuple(candidates.affinity.shape)
        noise = draws.standard_normal(shape, dtype=np.float32)
        return self.noise * torch.as_tensor(noise, device=candidates.affinity.device)

    def _generator(self, step: int, number: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, step, self.layer, number])

    def extra_repr(self) -> str:
        return f"k={self.k}, p={self.p}, cost={self.cost!r}, epsilon={self.epsilon}"


class SelectiveSinkhornRouter(ComposedRouter):
    """Tells its selection when the optimiser has stepped."""

    selection: SelectiveSinkhorn

    def after_step(self) -> None:
        super().after_step()
        self.selection.after_step()


def router(
    width: int,
    n_experts: int,
    *,
    k: int = 2,
    p: float = 0.01,
    cost: Cost = "softmax",
    epsilon: float = 0.05,
    delta: float = 1e-4,
    rounds: int = 100,
    noise: float = 0.0,
    noise_where: NoiseWhere = "ot",
    gradient: Gradient = "envelope",
    seed: int = 0,
    layer: int = 0,
) -> SelectiveSinkhornRouter:
    """Softmax top k with a random share of transport.

    Args:
        width: D.
        n_experts: E.
        k, p, cost, epsilon, delta, rounds, noise, noise_where, gradient, seed, layer: as in
            `SelectiveSinkhorn`.
    """
    selection = SelectiveSinkhorn(
        k,
        p=p,
        cost=cost,
        epsilon=epsilon,
        delta=delta,
        rounds=rounds,
        noise=noise,
        noise_where=noise_where,
        gradient=gradient,
        seed=seed,
        layer=layer,
    )
    return SelectiveSinkhornRouter(
        width, LinearScores(width, n_experts), gate=Gate(normalise=k > 1), selection=selection
    )


def build(
    shape: Shape,
    *,
    p: float = 0.01,
    cost: Cost = "softmax",
    epsilon: float = 0.05,
    delta: float = 1e-4,
    rounds: int = 100,
    noise: float = 0.0,
    noise_where: NoiseWhere = "ot",
    gradient: Gradient = "envelope",
    seed: int = 0,
    gated: bool = True,
) -> list[nn.Module]:
    """One such layer per layer of `shape`, each with a coin of its own."""
    return routed_stack(
        shape,
        lambda index: router(
            shape.width,
            shape.n_experts,
            k=shape.k,
            p=p,
            cost=cost,
            epsilon=epsilon,
            delta=delta,
            rounds=rounds,
            noise=noise,
            noise_where=noise_where,
            gradient=gradient,
            seed=seed,
            layer=index,
        ),
        gated=gated,
    )
