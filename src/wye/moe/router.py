"""A router made of parts: scores, gate rule, selection, balance controllers, transforms.

    z = scores(x)            logits [S, E], float32
    a = gate.affinity(z)     affinities; each transform may change them
    plan = selection(a, a + sum of biases)
    g = gate.weigh(plan)     gates

Every part is a value: `router.selection = TopP(0.4)` swaps one. Most published routers are a
composition of such parts and differ in one of them.

Shape letters: S tokens, E experts, D width.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor, nn

from wye.core import Plan, SelectionError, weigh
from wye.moe.base import Context, Contracts, Router, Routing
from wye.moe.parts.balance import Balance, Routed
from wye.moe.parts.gates import Gate
from wye.moe.parts.scores import Scores
from wye.moe.parts.selection import Candidates, Capped, Selection


class Transform(nn.Module):
    """Changes affinities `[S, E]` between the gate's activation and the selection."""

    def forward(self, affinity: Tensor, candidates: Candidates) -> Tensor:
        """The changed affinities `[S, E]`."""
        return affinity


class ComposedRouter(Router):
    """Scores, then a gate's affinities, then a selection, then the gate's weights.

    Args:
        width: D.
        scores: source of logits for E experts.
        gate: affinity and gate rule.
        selection: who goes where.
        balance: controllers, in the order in which their losses are listed.
        transforms: applied to the affinities, in order.
        contracts: what holds in evaluation mode.

    Example:
        >>> import torch
        >>> from wye.moe.parts.scores import LinearScores
        >>> from wye.moe.parts.selection import TopK
        >>> router = ComposedRouter(
        ...     4, LinearScores(4, 3), gate=Gate(normalise=True), selection=TopK(2)
        ... )
        >>> router(torch.ones(5, 4), Context(batch=1, length=5)).plan
        Plan(10 pairs, 5 sources -> 3 targets)
    """

    def __init__(
        self,
        width: int,
        scores: Scores,
        *,
        gate: Gate,
        selection: Selection,
        balance: Iterable[Balance] = (),
        transforms: Iterable[Transform] = (),
        contracts: Contracts | None = None,
    ) -> None:
        super().__init__(width, scores.n_experts)
        self.scores = scores
        self.gate = gate
        self.selection = selection
        self.balance: list[Balance] = nn.ModuleList(balance)  # type: ignore[assignment]
        self.transforms: list[Transform] = nn.ModuleList(transforms)  # type: ignore[assignment]
        if contracts is not None:
            self.contracts = contracts

    def forward(self, x_SD: Tensor, context: Context) -> Routing:
        self.check_width(x_SD)
        if not torch.is_autocast_enabled(x_SD.device.type):
            return self._route(x_SD, context)
        with torch.autocast(x_SD.device.type, enabled=False):
            return self._route(x_SD, context)

    def _route(self, x_SD: Tensor, context: Context) -> Routing:
        scored = self.scores(x_SD, context)
        affinity = self.gate.affinity_of(scored.logits)
        candidates = Candidates(affinity, scored.logits, x_SD, context)
        for transform in self.transforms:
            candidates = replace(candidates, affinity=transform(candidates.affinity, candidates))
        for controller in self.balance:
            bias = controller.bias(candidates)
            if bias is not None:
                total = bias if candidates.bias is None else candidates.bias + bias
                candidates = replace(candidates, bias=total)
        cap = self.selection if isinstance(self.selection, Capped) else None
        rule = self.selection if cap is None else cap.inner
        chosen = self.select(candidates, rule)
        plan = chosen
        if not rule.weighs:
            plan = self.gate.weigh(chosen, k=rule.fan_out)
        if cap is not None:
            plan = cap.limit(plan, chosen, context)
        losses: dict[str, Tensor] = {}
        if self.training and len(self.balance):
            routed = Routed(scored, candidates, self.probabilities(candidates.affinity), chosen)
            for controller in self.balance:
                for name, loss in controller.losses(routed).items():
                    # Two controllers of a kind (a loss per batch and one per sequence) add up.
                    losses[name] = losses[name] + loss if name in losses else loss
        return Routing(plan, scored.logits, candidates.affinity, losses, scored.state)

    def select(self, candidates: Candidates, rule: Selection) -> Plan:
        """The plan of `rule`, with an error that names the router's side of the problem."""
        try:
            plan: Plan = rule(candidates)
        except SelectionError as error:
            logits = candidates.logits
            if bool((logits.isnan() | (logits == torch.inf)).any()):
                raise SelectionError(
                    f"the router's logits hold NaN or infinite values: {error}. Look at the hidden "
                    "states that enter the layer and at its weights"
                ) from error
            raise
        return plan

    def probabilities(self, affinity: Tensor) -> Tensor:
        """`[S, E]` affinities as the losses read them: rows that sum to 1."""
        if self.gate.affinity == "softmax" and not len(self.transforms):
            return affinity
        if self.gate.affinity == "identity":
            return torch.softmax(affinity, dim=-1)
        return affinity / (affinity.sum(dim=-1, keepdim=True) + 1e-20)

    def weigh(self, plan: Plan, routing: Routing) -> Plan:
        affinity = routing.probabilities
        if not (self.gate.normalise and isinstance(self.selection, Capped)):
            return self.gate.weigh(plan, affinity)
        # Dropped pairs are gone from the plan and still count in the sum that the gates are
        # divided by; they are the best of the others.
        whole = _filled(plan, affinity, self.selection.k)
        gates = self.gate.weigh(whole, affinity).dense()
        return weigh(plan, gates)

    def after_step(self) -> None:
        self.scores.after_step()
        for controller in self.balance:
            controller.after_step()


def _filled(plan: Plan, affinity: Tensor, k: int) -> Plan:
    """`plan` with the best other experts of every token that has fewer than `k`."""
    taken = torch.zeros_like(affinity, dtype=torch.bool)
    taken.view(-1)[plan.cells()] = True
    rest = affinity.detach().masked_fill(taken, -torch.inf)
    order = rest.argsort(dim=1, descending=True, stable=True)[:, :k]
    missing = (k - plan.fan_out()).clamp(min=0)
    wanted = torch.arange(order.shape[1], device=order.device) < missing[:, None]
    source, rank = wanted.nonzero(as_tuple=True)
    target = order[source, rank]
    return Plan(
        torch.cat([plan.source, source]),
        torch.cat([plan.target, target]),
        torch.cat([plan.weight, affinity[source, target]]),
        plan.n_sources,
        plan.n_targets,
    )
