"""The contract of the expert scale: what a router reads, what it returns, what it promises.

A router sends tokens to experts. It reads the hidden states of S tokens (and whatever else a
`Context` carries), and returns a `Routing`: a plan and the terms it adds to the training loss. It
never runs an expert: dispatch is the business of `wye.moe.dispatch`, joined by the plan alone.

Padding never reaches a router: `RoutedModule` takes the padded tokens out before routing and gives
them an output of zero, so that no count, capacity, price or marginal ever sees one.

Shape letters: S tokens, E experts (the targets of the plan), N routed pairs, D width, B batch,
L length (S = B L unless padding was taken out), H heads.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from wye.core import Plan
from wye.core.contracts import Contracts as Contracts
from wye.errors import WyeError
from wye.moe.losses import carry, recomputing


class MoEError(WyeError):
    """A router, an expert layer or their input that cannot work; the message says what to do."""


@dataclass(frozen=True, kw_only=True)
class Context:
    """What a router may know of its S tokens besides their hidden states.

    Attributes:
        batch: B.
        length: L.
        place: `[S]` where each token stands in the flattened `[B, L]` grid; None where S = B L and
            every token stands at its own index (nothing was taken out as padding).
        token_ids: `[S]` integers, ids in the vocabulary.
        attention: `[B, H, L, L]` attention of the layer before, rows that sum to 1.
        labels: `[B]` integers, class of each sequence.
        mask_ratio: `[B]` floats in [0, 1], share of masked tokens of a diffusion language model.
        state: what the router of the layer below handed up, first dimension S.
    """

    batch: int
    length: int
    place: Tensor | None = None
    token_ids: Tensor | None = None
    attention: Tensor | None = None
    labels: Tensor | None = None
    mask_ratio: Tensor | None = None
    state: Tensor | None = None

    def sequence(self, device: torch.device | None = None) -> Tensor:
        """Index of the sequence of every token, int64 `[S]`."""
        if self.place is not None:
            return self.place // self.length
        grid = torch.arange(self.batch, device=device)
        return grid.repeat_interleave(self.length)

    def position(self, device: torch.device | None = None) -> Tensor:
        """Position of every token in its sequence, int64 `[S]`."""
        if self.place is not None:
            return self.place % self.length
        return torch.arange(self.length, device=device).repeat(self.batch)

    def need(self, name: str, by: str) -> Tensor:
        """The attribute `name`, which `by` cannot do without.

        Raises:
            MoEError: it was not given.
        """
        value = getattr(self, name)
        if value is None:
            raise MoEError(
                f"{by} needs {name}, which was not given: pass {name}=... to the layer, or use a "
                "model that hands it to its layers"
            )
        found: Tensor = value
        return found

    def without_padding(self, place: Tensor) -> Context:
        """The context of the tokens at `place` `[S']` of the grid; `state` is theirs already."""
        ids = None if self.token_ids is None else self.token_ids[place]
        return replace(self, place=place, token_ids=ids)


@dataclass(frozen=True)
class Routing:
    """Where S tokens go, and what that adds to the loss.

    Attributes:
        plan: N pairs between S tokens and E experts; gradients flow through its weights.
        logits: `[S, E]` float32 scores; zeros where the router has none.
        probabilities: `[S, E]` float32 affinities that gates and losses are read from.
        losses: weighted scalars by name, each to be added to the training loss once.
        state: handed to the router of the layer above, first dimension S.
    """

    plan: Plan
    logits: Tensor
    probabilities: Tensor
    losses: Mapping[str, Tensor] = field(default_factory=dict)
    state: Tensor | None = None

    def detached(self) -> Routing:
        """The same without gradient history."""
        return Routing(
            self.plan.with_weight(self.plan.weight.detach()),
            self.logits.detach(),
            self.probabilities.detach(),
            {name: loss.detach() for name, loss in self.losses.items()},
            None if self.state is None else self.state.detach(),
        )


class Router(nn.Module, ABC):
    """Sends tokens to experts.

    Attributes:
        width: D of the hidden states that it reads.
        n_experts: E.
        contracts: what holds in evaluation mode.
    """

    contracts: Contracts = Contracts()

    def __init__(self, width: int, n_experts: int) -> None:
        super().__init__()
        for name, value in (("width", width), ("n_experts", n_experts)):
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise MoEError(f"{name}={value!r}, expected an integer of at least 1")
        self.width = width
        self.n_experts = n_experts

    @abstractmethod
    def forward(self, x_SD: Tensor, context: Context) -> Routing:
        """Route S tokens.

        Args:
            x_SD: `[S, D]` hidden states.
            context: what else is known of them.

        Raises:
            MoEError: another width, or the context lacks what the router needs.
            SelectionError: hidden states that give NaN logits.
        """

    @abstractmethod
    def weigh(self, plan: Plan, routing: Routing) -> Plan:
        """Any pairs of the same tokens, weighted by this router's gate rule; for replay."""

    def after_step(self) -> None:
        """Update what is updated once per optimiser step (biases, counts); nothing by default."""

    def check_width(self, x_SD: Tensor) -> None:
        """Raise MoEError unless `x_SD` is `[S, D]` of this router's width."""
        if x_SD.ndim != 2 or x_SD.shape[1] != self.width:
            raise MoEError(
                f"hidden states have shape {tuple(x_SD.shape)}, expected [S, {self.width}]: the "
                f"router was built with width={self.width}"
            )


Interceptor = Callable[["RoutedModule", Tensor, Context, Routing], Routing]
"""Called after a layer has routed; what it returns is what the layer executes."""


class RoutedModule(nn.Module):
    """A layer that routes tokens: the base of every layer that `wye` records, replays, inspects.

    It takes padding out, calls the router, lets interceptors (`wye.moe.record`, `replay`,
    `override`) see or change the routing, keeps the last routing, and puts the auxiliary losses on
    the activation.

    Attributes:
        router: the router.
        carries_losses: whether the losses travel on the activation (their gradients then come
            about in the backward pass of whatever loss the model is trained on), or wait for
            `wye.aux_loss(model)` to be added by hand.
    """

    def __init__(self, router: Router, *, carries_losses: bool = True) -> None:
        super().__init__()
        self.router = router
        self.carries_losses = carries_losses
        self._interceptors: list[Interceptor] = []
        self._last: Routing | None = None
        self._last_context: Context | None = None

    def __getstate__(self) -> dict[str, Any]:
        # Copies and pickles take the layer along, not what passed through it.
        return self.__dict__ | {"_interceptors": [], "_last": None, "_last_context": None}

    @property
    def last(self) -> Routing:
        """The routing of the last forward pass, without gradient.

        Raises:
            MoEError: there was none.
        """
        if self._last is None:
            raise MoEError("this layer has routed nothing yet: run the model first")
        return self._last.detached()

    @property
    def last_context(self) -> Context:
        """The context of the last forward pass.

        Raises:
            MoEError: there was none.
        """
        if self._last_context is None:
            raise MoEError("this layer has routed nothing yet: run the model first")
        return self._last_context

    def route(self, x_SD: Tensor, context: Context) -> Routing:
        """Route tokens without padding, and keep the routing.

        Args:
            x_SD: `[S, D]`.
            context: of these S tokens.
        """
        routing: Routing = self.router(x_SD, context)
        for intercept in self._interceptors:
            routing = intercept(self, x_SD, context, routing)
        # Activation checkpointing routes the same tokens again inside the backward pass.
        if not recomputing():
            graph = torch.is_grad_enabled() and self.carries_losses
            kept = routing.detached() if graph else routing
            self._last = kept if kept.state is None else replace(kept, state=None)
            heavy = context.state is not None or context.attention is not None
            self._last_context = replace(context, state=None, attention=None) if heavy else context
        return routing

    def run(self, x_SD: Tensor, context: Context) -> tuple[Tensor, Routing]:
        """Route and execute S tokens that hold no padding: output `[S, D]` and the routing."""
        routing = self.route(x_SD, context)
        y_SD = self.execute(x_SD, routing, context).to(x_SD.dtype)
        if self.carries_losses and self.training and routing.losses:
            y_SD = carry(y_SD, torch.stack(list(routing.losses.values())).sum())
        return y_SD, routing

    def execute(self, x_SD: Tensor, routing: Routing, context: Context) -> Tensor:
        """Run the experts on their tokens and combine: `[S, D]`."""
        raise TypeError(f"{type(self).__name__} does not say how it runs its experts: add execute")

    def forward(
        self,
        x: Tensor,
        *,
        mask: Tensor | None = None,
        token_ids: Tensor | None = None,
        attention: Tensor | None = None,
        labels: Tensor | None = None,
        mask_ratio: Tensor | None = None,
    ) -> Tensor:
        """The routed experts' output, of the shape and dtype of `x`; zero at padded tokens.

        Args:
            x: `[B, L, D]`, `[S, D]` (one sequence) or `[D]` (one token).
            mask: `[B, L]` or `[S]`, False or 0 at padding.
            token_ids: `[B, L]` or `[S]` integers.
            attention, labels, mask_ratio: as in `Context`.

        Raises:
            MoEError: shapes that do not match, or the router needs what was not given.
        """
        context = make_context(
            x,
            token_ids=token_ids,
            attention=attention,
            labels=labels,
            mask_ratio=mask_ratio,
        )
        return self.run_masked(x, context, mask)[0]

    def run_masked(
        self, x: Tensor, context: Context, mask: Tensor | None
    ) -> tuple[Tensor, Routing]:
        """`run` on the tokens that are no padding; `[...]` output as `x`, zero at padding."""
        flat = x.reshape(-1, x.shape[-1])
        if mask is None:
            y_SD, routing = self.run(flat, context)
            return y_SD.reshape(x.shape), routing
        place = _unpadded(mask, x).nonzero(as_tuple=True)[0]
        y_SD, routing = self.run(flat[place], context.without_padding(place))
        return torch.zeros_like(flat).index_copy(0, place, y_SD).reshape(x.shape), routing


def _unpadded(mask: Tensor, x: Tensor) -> Tensor:
    """The mask of hidden states `[..., D]` as booleans `[S]`."""
    if tuple(mask.shape) not in (tuple(x.shape[:-1]), (x[..., 0].numel(),)):
        raise MoEError(
            f"mask has shape {tuple(mask.shape)}, expected {tuple(x.shape[:-1])} for hidden states "
            f"of shape {tuple(x.shape)}: one entry a token, False or 0 at padding"
        )
    if mask.dtype != torch.bool and not bool(((mask == 0) | (mask == 1)).all()):
        raise MoEError(
            "mask holds other values than 0 and 1: pass True (or 1) at tokens and False (or 0) at "
            "padding; a mask that is added to attention scores means the opposite"
        )
    return mask.reshape(-1).to(torch.bool)


def make_context(
    x: Tensor,
    *,
    token_ids: Tensor | None = None,
    attention: Tensor | None = None,
    labels: Tensor | None = None,
    mask_ratio: Tensor | None = None,
    state: Tensor | None = None,
) -> Context:
    """The context of hidden states `[B, L, D]`, `[S, D]` or `[D]`.

    Raises:
        MoEError: no such shape, or token ids of another number.
    """
    if not 1 <= x.ndim <= 3:
        raise MoEError(
            f"hidden states have shape {tuple(x.shape)}, expected [B, L, D], [S, D] or [D]"
        )
    batch = int(x.shape[0]) if x.ndim == 3 else 1
    length = int(x.shape[-2]) if x.ndim >= 2 else 1
    if token_ids is not None:
        if token_ids.numel() != batch * length:
            raise MoEError(
                f"token_ids have shape {tuple(token_ids.shape)}, expected {batch * length} ids for "
                f"hidden states of shape {tuple(x.shape)}"
            )
        token_ids = token_ids.reshape(-1)
    return Context(
        batch=batch,
        length=length,
        token_ids=token_ids,
        attention=attention,
        labels=labels,
        mask_ratio=mask_ratio,
        state=state,
    )


def routed_layers(model: nn.Module) -> dict[str, RoutedModule]:
    """Every routed layer of `model` by its name, in the order of the model.

    Example:
        >>> import torch
        >>> routed_layers(torch.nn.Linear(2, 2))
        {}
    """
    return {n: m for n, m in model.named_modules() if isinstance(m, RoutedModule)}


def after_step(model: nn.Module) -> None:
    """Tell every router of `model` that the optimiser has stepped.

    Call it once after each optimiser step, however many micro-batches went before; or hand the
    optimiser to `track`, which calls it by itself.
    """
    seen: set[int] = set()
    for module in model.modules():
        if isinstance(module, Router) and id(module) not in seen:
            seen.add(id(module))
            module.after_step()


def track(model: nn.Module, optimiser: torch.optim.Optimizer) -> Any:
    """Call `after_step(model)` after every step of `optimiser`; returns a handle to `remove()`."""

    def stepped(*_: Any) -> None:
        after_step(model)

    return optimiser.register_step_post_hook(stepped)
