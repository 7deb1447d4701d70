"""`run_experts`: a plan executed on stacked experts, by whichever path is fastest.

Shape letters: S tokens, E experts, D width, F hidden width, P = 2F or F rows of `up`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from wye.core import Plan
from wye.moe.base import MoEError
from wye.moe.dispatch import capacity, dense, gathered, grouped, opaque, segments
from wye.moe.dispatch.cost import cheapest
from wye.moe.dispatch.precision import computing
from wye.moe.dispatch.weights import ExpertWeights, checked_weights

Method = Literal["auto", "segments", "grouped", "gathered", "capacity", "dense"]


def _segments(x_SD: Tensor, plan: Plan, weights: ExpertWeights) -> Tensor:
    if torch.compiler.is_compiling():
        return opaque.run(x_SD, plan, weights)
    return segments.run(x_SD, plan, weights)


_PATHS: dict[str, Callable[[Tensor, Plan, ExpertWeights], Tensor]] = {
    "segments": _segments,
    "grouped": grouped.run,
    "gathered": gathered.run,
    "capacity": capacity.run,
    "dense": dense.run,
}


def run_experts(
    x_SD: Tensor,
    plan: Plan,
    up_EPD: Tensor,
    down_EDF: Tensor,
    *,
    activation: str = "silu",
    gated: bool = True,
    up_bias: Tensor | None = None,
    down_bias: Tensor | None = None,
    method: Method = "auto",
) -> Tensor:
    """Run every token through the experts of its pairs and add up what they return.

    y_s = sum over pairs (s, e, w) of w down_e(act(gate_e x_s) * up_e x_s). Every method gives the
    same result and the same gradients up to rounding; experts without tokens get gradients of
    zero. Gradients flow to `x_SD`, `plan.weight` and all weights.

    Args:
        x_SD: `[S, D]` hidden states, any float dtype.
        plan: N pairs between S tokens and E experts; a pair may occur more than once. Its weights
            may be float32 with any `x_SD`.
        up_EPD: `[E, 2F, D]`, the rows of the gate first; `[E, F, D]` without gate.
        down_EDF: `[E, D, F]`.
        activation: "silu", "gelu", "gelu_tanh" or "relu".
        gated: whether `up_EPD` holds a gate and an up projection.
        up_bias: `[E, P]`.
        down_bias: `[E, D]`.
        method: "auto" takes the path of least predicted time (see `wye.moe.dispatch.cost`); the
            others force one.

    Returns:
        `[S, D]` in the dtype of `x_SD`; zero where a token has no pair.

    Raises:
        MoEError: shapes, dtypes or devices that do not fit, an unknown activation or method, a
            method that cannot run on these tensors.

    Example:
        >>> import torch
        >>> from wye.core import top_k
        >>> x, up, down = torch.ones(1, 2), torch.ones(3, 4, 2), torch.ones(3, 2, 2)
        >>> run_experts(x, top_k(torch.eye(1, 3)), up, down).shape
        torch.Size([1, 2])
    """
    weights = checked_weights(
        x_SD,
        plan,
        up_EPD,
        down_EDF,
        activation=activation,
        gated=gated,
        up_bias=up_bias,
        down_bias=down_bias,
    )
    x, weights = computing(x_SD, weights)
    path = _PATHS.get(cheapest(x, plan, weights) if method == "auto" else method)
    if path is None:
        raise MoEError(f"method={method!r}, expected 'auto' or one of {', '.join(_PATHS)}")
    if not torch.is_autocast_enabled(x.device.type):
        return path(x, plan, weights).to(x_SD.dtype)
    with torch.autocast(x.device.type, enabled=False):
        return path(x, plan, weights).to(x_SD.dtype)
