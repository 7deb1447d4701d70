"""wye's dispatch as an experts implementation of transformers, under the name "wye".

`model.set_experts_implementation("wye")` runs any mixture of transformers on it, attached or not.
An attached layer hands its whole plan through the same interface, since a plan may give tokens
different numbers of experts, which rows of indices cannot say.

Shape letters: S tokens, K choices, E experts, D width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from wye.attachment.errors import AttachError
from wye.core import Plan
from wye.moe.dispatch import run_experts
from wye.moe.surgery.decompose import activation_name

NAME = "wye"
_ACTIVATION = "_wye_activation"


def register_experts() -> None:
    """Make "wye" known to transformers; safe to repeat."""
    from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

    if NAME not in ALL_EXPERTS_FUNCTIONS:
        type(ALL_EXPERTS_FUNCTIONS).register(NAME, run_hugging_face_experts)


def run_hugging_face_experts(
    experts: Any,
    hidden_states: Tensor,
    top_k_index: Tensor | Plan,
    top_k_weights: Tensor | None = None,
) -> Tensor:
    """Run the experts module of a transformers model on wye's dispatch.

    Args:
        experts: has `gate_up_proj` or `up_proj`, `down_proj`, and the flags of
            `use_experts_implementation`.
        hidden_states: `[S, D]`.
        top_k_index: `[S, K]` experts of each token, or a whole plan.
        top_k_weights: `[S, K]` gates; None beside a plan.

    Raises:
        AttachError: experts with interleaved gates, a gate of their own or a norm after them.
        MoEError: as `run_experts`.
    """
    if isinstance(top_k_index, Plan):
        plan = top_k_index
    elif top_k_weights is None:
        raise AttachError("top_k_weights are missing: expected gates [S, K] beside top_k_index")
    else:
        plan = Plan.from_rows(top_k_index.long(), top_k_weights, int(experts.num_experts))
    gated, transposed = bool(experts.has_gate), bool(experts.is_transposed)
    up = experts.gate_up_proj if gated else experts.up_proj
    bias = None
    if experts.has_bias:
        bias = experts.gate_up_proj_bias if gated else experts.up_proj_bias
    return run_experts(
        hidden_states,
        plan,
        up.transpose(1, 2) if transposed else up,
        experts.down_proj.transpose(1, 2) if transposed else experts.down_proj,
        activation=activation_of_experts(experts),
        gated=gated,
        up_bias=bias,
        down_bias=experts.down_proj_bias if experts.has_bias else None,
    )


def activation_of_experts(experts: Any) -> str:
    """The activation of an experts module, by the name that wye's dispatch takes.

    Raises:
        AttachError: experts that compute something else than act(gate) * up.
    """
    known: str | None = getattr(experts, _ACTIVATION, None)
    if known is None:
        known = _recognise(experts)
        setattr(experts, _ACTIVATION, known)
    return known


def forget_activation(experts: nn.Module) -> None:
    """Remove what `activation_of_experts` left on the module."""
    if hasattr(experts, _ACTIVATION):
        delattr(experts, _ACTIVATION)


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _recognise(experts: Any) -> str:
    from transformers.integrations.moe import _default_apply_gate

    kind = type(experts).__name__
    own_gate = getattr(type(experts), "_apply_gate", _default_apply_gate) is not _default_apply_gate
    if not getattr(experts, "is_concatenated", False) or experts.has_post_expert_norm or own_gate:
        raise AttachError(
            f"{kind} interleaves gate and up projection, has a gate of its own or a norm after "
            "its experts, which wye's dispatch does not compute: keep the model's own "
            "experts_implementation"
        )
    name = activation_name(experts.act_fn)
    if name is None:
        raise AttachError(f"{kind} uses an activation that wye's dispatch does not know")
    return name
