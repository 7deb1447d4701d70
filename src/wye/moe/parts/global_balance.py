"""The load-balance loss with loads counted over a whole optimiser step, or any part of it.

    loss_b = weight * E sum_i f_i p^b_i
p^b_i is the mean probability of expert i in micro-batch b, with gradient; f_i its share of pairs in
    "sequence"  every sequence by itself
    "micro"     micro-batch b
    "ranks"     micro-batch b on all processes
    "buffer"    all micro-batches of this step up to b, on all processes
    "exact"     all micro-batches of this step, on all processes, counted in a pass before
Since f carries no gradient, one vector of E counts is all that is shared. With "exact" the mean of
loss_b over the micro-batches is E sum_i f_i p_i of the whole step, and so are its gradients.

Source: Qiu et al. 2025, arXiv 2501.11873, section 3.

Shape letters: S tokens, E experts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from wye.core import Plan, load_balance
from wye.moe.base import Context, Interceptor, MoEError, RoutedModule, Routing, routed_layers
from wye.moe.losses import recomputing
from wye.moe.parts.balance import Balance, LoadBalanceLoss, Routed

Scope = Literal["micro", "sequence", "ranks", "buffer", "exact"]
_SCOPES = ("micro", "sequence", "ranks", "buffer", "exact")


class GlobalBalanceLoss(Balance):
    """The load-balance loss with a counting scope.

    The counts are those of training passes since the last `after_step`; evaluation and the second
    run under activation checkpointing do not count. "exact" needs `global_batch(model)`.

    Args:
        n_experts: E.
        weight: of the loss in this layer.
        scope: over which loads are counted.
        local: weight, relative to `weight`, of a loss of the micro-batch on top; the paper's 0.01
            restores local balance at almost no price.

    Raises:
        MoEError: an unknown scope.
    """

    def __init__(
        self, n_experts: int, weight: float = 0.01, *, scope: Scope = "buffer", local: float = 0.0
    ) -> None:
        super().__init__()
        if scope not in _SCOPES:
            raise MoEError(f"scope={scope!r}, expected one of {_SCOPES}")
        self.n_experts, self.weight, self.scope, self.local = n_experts, weight, scope, local
        self._sequence = LoadBalanceLoss(1.0, scope="sequence")
        # No buffers of the module: the counts of half a step belong into no checkpoint.
        self._pairs_E: Tensor | None = None
        self._known_E: Tensor | None = None
        self._tokens, self._passes = 0, 0
        self._share_E: Tensor | None = None

    @property
    def counts(self) -> Tensor:
        """Pairs per expert since the last step, on this process alone, int64 `[E]`."""
        if self._pairs_E is None:
            return torch.zeros(self.n_experts, dtype=torch.int64)
        return self._pairs_E

    def losses(self, routed: Routed) -> dict[str, Tensor]:
        p, plan = routed.probabilities, routed.plan
        if not recomputing():
            load = plan.load()
            self._pairs_E = load if self._pairs_E is None else self._pairs_E.to(load) + load
        if self.scope == "sequence":
            value = self._sequence.losses(routed).get("balance", p.sum() * 0.0)
        elif self.scope == "micro":
            value = load_balance(p, plan)
        else:
            if not recomputing() or self._share_E is None:
                self._share_E = self._shares(plan)
            mean = p.sum(dim=0) / max(p.shape[0], 1)
            value = self.n_experts * (self._share_E.to(mean) * mean).sum()
            if self.scope == "exact":
                value = value * self._part(p.shape[0])
        if self.local:
            value = value + self.local * load_balance(p, plan)
        return {"balance": self.weight * value}

    def note(self, plan: Plan) -> None:
        """Count a plan of the pass before the step, for "exact"."""
        load = plan.load()
        self._known_E = load if self._known_E is None else self._known_E.to(load) + load
        self._tokens += plan.n_sources
        self._passes += 1

    def after_step(self) -> None:
        self._pairs_E = self._known_E = self._share_E = None
        self._tokens = self._passes = 0

    def _shares(self, plan: Plan) -> Tensor:
        """f `[E]`, the same on all processes."""
        if self.scope == "ranks":
            counts = plan.load()
        elif self.scope == "buffer":
            counts = self.counts.clone()
        else:
            if self._known_E is None:
                raise MoEError(
                    "scope='exact' needs the loads of the whole step before its first micro-batch: "
                    "open `with global_batch(model) as step:` and call step.count(...) on each of "
                    "its micro-batches first, or use scope='buffer'"
                )
            counts = self._known_E.clone()
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(counts)
        share: Tensor = counts.float() / counts.sum().clamp(min=1)
        return share

    def _part(self, n_tokens: int) -> float:
        """Micro-batches of unequal size weigh by their tokens, though their mean is taken."""
        return n_tokens * self._passes / max(self._tokens, 1)

    def extra_repr(self) -> str:
        return f"weight={self.weight}, scope={self.scope!r}, local={self.local}"


class GlobalBatch:
    """One optimiser step, as `global_batch` gives it out."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def count(self, *args: Any, run: Callable[..., Any] | None = None, **named: Any) -> None:
        """Run a micro-batch without gradient and count its loads; nothing unless a scope needs it.

        Args:
            *args, **named: of the model.
            run: called with them in place of the model.
        """
        if needs_counting(self.model):
            with _counting(self.model), torch.no_grad():
                (self.model if run is None else run)(*args, **named)


@contextmanager
def global_batch(model: nn.Module) -> Iterator[GlobalBatch]:
    """One optimiser step: counts start at zero inside, and are zero again after it.

    Example:
        >>> import torch
        >>> from wye.moe import LanguageModel, Shape
        >>> shape = Shape(n_layers=1, width=8, hidden=4, n_experts=4)
        >>> model = LanguageModel.build(
        ...     "global_batch_lbl", shape, length=8, options={"scope": "exact"}
        ... )
        >>> micro_batches = torch.randint(0, 256, (2, 3, 8))
        >>> with global_batch(model) as step:
        ...     for ids in micro_batches:
        ...         step.count(ids)
        ...     for ids in micro_batches:
        ...         model(ids).sum().backward()
    """
    _reset(model)
    try:
        yield GlobalBatch(model)
    finally:
        _reset(model)


def needs_counting(model: nn.Module) -> bool:
    """Whether a layer of `model` counts its loads in a pass before the step."""
    return any(c.scope == "exact" for c in _controllers(model))


def _controllers(model: nn.Module) -> list[GlobalBalanceLoss]:
    return [m for m in model.modules() if isinstance(m, GlobalBalanceLoss)]


def _reset(model: nn.Module) -> None:
    for controller in _controllers(model):
        controller.after_step()


@contextmanager
def _counting(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, in which only loads are noted: no other controller counts the pass."""

    def noting(controllers: list[GlobalBalanceLoss]) -> Interceptor:
        def note(layer: RoutedModule, x: Tensor, context: Context, routing: Routing) -> Routing:
            for controller in controllers:
                controller.note(routing.plan)
            return routing

        return note

    added = [(layer, noting(_controllers(layer.router))) for layer in routed_layers(model).values()]
    modes = [(module, module.training) for module in model.modules()]
    for layer, interceptor in added:
        layer._interceptors.append(interceptor)
    model.eval()
    try:
        yield
    finally:
        for layer, interceptor in added:
            layer._interceptors.remove(interceptor)
        for module, training in modes:
            module.training = training
