"""What stands in a model where its feed-forward block stood.

Each keeps the children of the block it replaces, under their names: `state_dict()` keeps its keys,
and `detach` puts the very same modules back. The child `wye` is what was added.

Shape letters: S tokens, B batch, L length, D width, E experts.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wye.attachment.adapters import MoEAdapter
from wye.attachment.errors import AttachError
from wye.attachment.experts import NAME
from wye.attachment.passes import Pass, PassHolder
from wye.core import Plan
from wye.moe.base import Context, RoutedModule, Router, Routing, make_context
from wye.moe.experts import Experts


class AttachedLayer(RoutedModule):
    """The routed layer in a Hugging Face model: a router, and experts that it owns or borrows.

    Args:
        router: sends tokens to E experts.
        index: of this layer among the attached ones, from below.
        holder: of the pass under way.
        experts: upcycled experts, owned by this layer; None where it borrows.
        borrowed: experts of the model, which stay registered where they were.
        carries_losses: as in `RoutedModule`.
    """

    def __init__(
        self,
        router: Router,
        *,
        index: int,
        holder: PassHolder,
        experts: Experts | None = None,
        borrowed: nn.Module | None = None,
        carries_losses: bool = True,
    ) -> None:
        super().__init__(router, carries_losses=carries_losses)
        self.index, self.holder = index, holder
        self.experts = experts
        self._borrowed: tuple[nn.Module | None] = (borrowed,)  # a tuple registers nothing
        self.logits: Tensor | None = None

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
        """Route `[B, L, D]` in the pass under way; outside any pass as `RoutedModule` does."""
        under_way = self.holder.current
        explicit = (mask, token_ids, attention, labels, mask_ratio)
        if under_way is None or any(e is not None for e in explicit):
            y, routing = self.run_masked(
                x,
                make_context(
                    x,
                    token_ids=token_ids,
                    attention=attention,
                    labels=labels,
                    mask_ratio=mask_ratio,
                ),
                mask,
            )
            self.logits = routing.logits if mask is None else None
            return y
        return self._in_pass(x, under_way)

    def execute(self, x_SD: Tensor, routing: Routing, context: Context) -> Tensor:
        y_SD: Tensor
        if self.experts is not None:
            y_SD = self.experts(x_SD, routing.plan)
            return y_SD
        borrowed: Any = self._borrowed[0]
        if borrowed.config._experts_implementation == NAME:
            y_SD = borrowed(x_SD, routing.plan, None)
            return y_SD
        y_SD = borrowed(x_SD, *_rows(routing.plan))
        return y_SD.to(x_SD.dtype)

    def _in_pass(self, x: Tensor, under_way: Pass) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        if flat.shape[0] != under_way.batch * under_way.length:
            raise AttachError(
                f"hidden states have shape {tuple(x.shape)} in a pass of {under_way.batch} x "
                f"{under_way.length} tokens: an attached layer sees all tokens of the pass"
            )
        context = Context(
            batch=under_way.batch,
            length=under_way.length,
            token_ids=under_way.token_ids,
            state=under_way.states.get(self.index - 1),
        )
        place = under_way.place
        if place is None:
            y_SD, routing = self.run(flat, context)
            self.logits = routing.logits
        else:
            kept_SD, routing = self.run(flat[place], context.without_padding(place))
            y_SD = torch.zeros_like(flat).index_copy(0, place, kept_SD)
            padded = routing.logits.new_zeros(flat.shape[0], routing.logits.shape[1])
            self.logits = padded.index_copy(0, place, routing.logits)
        if routing.state is not None:
            self._hand_up(routing.state, under_way)
        return y_SD.reshape(x.shape)

    def _hand_up(self, state: Tensor, under_way: Pass) -> None:
        if self.training and not torch.is_grad_enabled() and self._learns():
            raise AttachError(
                "this router hands a state from layer to layer, whose gradient reentrant "
                "checkpointing would lose: enable it with gradient_checkpointing_kwargs="
                "{'use_reentrant': False}, or call model.eval() where nothing is trained"
            )
        # A second run under checkpointing gives the same values; the graph is that of the first.
        under_way.states.setdefault(self.index, state)

    def _learns(self) -> bool:
        return any(p.requires_grad for p in self.router.parameters())


class AttachedMoE(nn.Module):
    """A model's mixture-of-experts block with its gate's work done by a wye router.

    Args:
        block: the model's own block.
        adapter: where its parts are.
        layer: routes, and runs the block's experts.
    """

    def __init__(self, block: nn.Module, adapter: MoEAdapter, layer: AttachedLayer) -> None:
        super().__init__()
        _adopt(self, block)
        self.adapter = adapter
        self.jitter = 0.0 if adapter.jitter is None else float(getattr(block, adapter.jitter))
        self.wye = layer
        gate = getattr(block, adapter.gate)
        # The gate is called with the router's logits and returns them, for whoever listens to it.
        gate.forward = _report
        self.train(block.training)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """`[B, L, D] -> [B, L, D]`; zero at padding but for what shared experts add."""
        x = hidden_states
        if self.training and self.jitter > 0:
            x = x * torch.empty_like(x).uniform_(1.0 - self.jitter, 1.0 + self.jitter)
        y: Tensor = self.wye(x)
        gate = getattr(self, self.adapter.gate)
        if gate._forward_hooks and self.wye.logits is not None:
            gate(self.wye.logits)
        self.wye.logits = None
        for name in self.adapter.shared:
            y = y + getattr(self, name)(hidden_states)
        return y


class UpcycledMLP(nn.Module):
    """Experts where a dense feed-forward network stood, whose weights stay beside them.

    Args:
        block: the dense network.
        layer: routes, and owns the experts.
        dropout: share of outputs dropped in training, as the dense network did.
    """

    def __init__(self, block: nn.Module, layer: AttachedLayer, dropout: float) -> None:
        super().__init__()
        _adopt(self, block)
        self.wye = layer
        self.dropout_share = dropout
        self.train(block.training)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """`[..., D] -> [..., D]`; zero at padding."""
        y: Tensor = self.wye(hidden_states)
        self.wye.logits = None
        return F.dropout(y, self.dropout_share, self.training) if self.dropout_share else y


def _adopt(block: nn.Module, original: nn.Module) -> None:
    """Register children, parameters and buffers of `original` under their names."""
    for name, child in original._modules.items():
        if name in ("wye", "adapter") or hasattr(type(block), name):
            raise AttachError(
                f"{type(original).__name__} has a part called {name!r}, a name that wye uses"
            )
        block.add_module(name, child)
    for name, parameter in original._parameters.items():
        block.register_parameter(name, parameter)
    for name, buffer in original._buffers.items():
        persistent = name not in original._non_persistent_buffers_set
        block.register_buffer(name, buffer, persistent=persistent)


def _report(logits: Tensor) -> tuple[Tensor, None, None]:
    return logits, None, None


def _rows(plan: Plan) -> tuple[Tensor, Tensor]:
    """A plan of fixed fan-out, listed token by token, as `[S, K]` indices and weights."""
    k = 0 if plan.n_sources == 0 else len(plan) // plan.n_sources
    expected = torch.arange(plan.n_sources, device=plan.source.device).repeat_interleave(k)
    if plan.source.shape != expected.shape or not torch.equal(plan.source, expected):
        raise AttachError(
            "this router gives tokens different numbers of experts, which only wye's own experts "
            f"implementation runs: call model.set_experts_implementation({NAME!r})"
        )
    return plan.target.reshape(-1, k), plan.weight.reshape(-1, k)
