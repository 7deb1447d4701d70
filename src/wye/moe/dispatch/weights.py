"""The weights of E stacked experts as every path of dispatch takes them, checked once.

    f_e(x) = down_e (act(gate_e x + b) * (up_e x + b')) + c        gated (SwiGLU and its kin)
    f_e(x) = down_e act(up_e x + b) + c                            plain

Shape letters: S tokens, E experts, D width, F hidden width, P = 2F rows of `up` where gated (the
rows of the gate first), else F.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from wye.core import Plan
from wye.moe.base import MoEError
from wye.moe.dispatch.activations import Activation, activation_of


@dataclass(frozen=True, eq=False, slots=True)
class ExpertWeights:
    """Stacked weights of E experts.

    Attributes:
        up: `[E, P, D]`.
        down: `[E, D, F]`.
        up_bias: `[E, P]` or None.
        down_bias: `[E, D]` or None.
        activation: of the gate, or of the one projection where there is no gate.
        gated: whether `up` holds a gate and an up projection.
    """

    up: Tensor
    down: Tensor
    up_bias: Tensor | None
    down_bias: Tensor | None
    activation: Activation
    gated: bool

    @property
    def hidden(self) -> int:
        """F."""
        return int(self.down.shape[2])

    def tensors(self) -> tuple[Tensor, ...]:
        """Those that are there."""
        found = (self.up, self.down, self.up_bias, self.down_bias)
        return tuple(t for t in found if t is not None)

    def to(self, dtype: torch.dtype) -> ExpertWeights:
        """The same in another dtype; gradients flow back to the originals."""
        return replace(
            self,
            up=self.up.to(dtype),
            down=self.down.to(dtype),
            up_bias=None if self.up_bias is None else self.up_bias.to(dtype),
            down_bias=None if self.down_bias is None else self.down_bias.to(dtype),
        )

    def activate(self, h: Tensor) -> Tensor:
        """Hidden values `[..., F]` of projections `[..., P]`, differentiable."""
        if not self.gated:
            return self.activation.apply(h)
        g, u = h.chunk(2, dim=-1)
        return self.activation.apply(g) * u

    def activate_(self, h: Tensor) -> Tensor:
        """The same in the memory of `h`, without gradient."""
        if not self.gated:
            return self.activation.into(h, h)
        g, u = h.chunk(2, dim=-1)
        return self.activation.into(g, g).mul_(u)


def checked_weights(
    x_SD: Tensor,
    plan: Plan,
    up_EPD: Tensor,
    down_EDF: Tensor,
    *,
    activation: str,
    gated: bool,
    up_bias: Tensor | None,
    down_bias: Tensor | None,
) -> ExpertWeights:
    """The weights, once they and the plan are found to fit `x_SD`.

    Raises:
        MoEError: what does not fit, and what to do about it.
    """
    check_plan(x_SD, plan)
    kind = activation_of(activation)
    if up_EPD.ndim != 3 or down_EDF.ndim != 3:
        raise MoEError(
            f"up has shape {tuple(up_EPD.shape)} and down {tuple(down_EDF.shape)}, expected "
            "[E, 2F or F, D] and [E, D, F]: stack the experts' nn.Linear weights along dimension 0"
        )
    width = x_SD.shape[1]
    experts, projected, up_width = up_EPD.shape
    hidden = down_EDF.shape[2]
    if experts != plan.n_targets or down_EDF.shape[0] != plan.n_targets:
        raise MoEError(
            f"up holds {experts} experts and down {down_EDF.shape[0]}, but the plan has "
            f"{plan.n_targets} targets: all three must agree"
        )
    if up_width != width or down_EDF.shape[1] != width:
        raise MoEError(
            f"x is {width} wide, but up has shape {tuple(up_EPD.shape)} and down "
            f"{tuple(down_EDF.shape)}: expected [E, P, {width}] and [E, {width}, F] (nn.Linear's "
            "layout [out, in]; transpose weights that are stored [in, out])"
        )
    expected = 2 * hidden if gated else hidden
    if projected != expected:
        raise MoEError(
            f"up has {projected} rows and down takes {hidden} hidden values: expected {expected} "
            f"rows with gated={gated}" + (" (pass gated=False?)" if projected == hidden else "")
        )
    for name, bias, size in (("up_bias", up_bias, projected), ("down_bias", down_bias, width)):
        if bias is not None and tuple(bias.shape) != (experts, size):
            raise MoEError(f"{name} has shape {tuple(bias.shape)}, expected [{experts}, {size}]")
    weights = ExpertWeights(up_EPD, down_EDF, up_bias, down_bias, kind, gated)
    for tensor in weights.tensors():
        if tensor.device != x_SD.device:
            raise MoEError(
                f"weights are on {tensor.device} and x on {x_SD.device}: move one to the other"
            )
        if tensor.dtype != up_EPD.dtype:
            raise MoEError(
                f"weights are {up_EPD.dtype} and {tensor.dtype}: convert all of them to one dtype"
            )
    return weights


def check_plan(x_SD: Tensor, plan: Plan) -> None:
    """Raise MoEError unless `plan` routes the tokens of `x_SD` `[S, D]` on their device."""
    if x_SD.ndim != 2 or not x_SD.dtype.is_floating_point:
        raise MoEError(
            f"x has shape {tuple(x_SD.shape)} and dtype {x_SD.dtype}, expected floats [S, D]: "
            "flatten batch and length first"
        )
    if plan.n_sources != x_SD.shape[0]:
        raise MoEError(
            f"the plan routes {plan.n_sources} tokens and x holds {x_SD.shape[0]}: route the same "
            "tokens that are executed"
        )
    if not isinstance(plan.source, Tensor) or not isinstance(plan.weight, Tensor):
        raise MoEError(
            f"the plan holds {type(plan.source).__name__} and {type(plan.weight).__name__}, "
            "expected PyTorch tensors"
        )
    if plan.source.device != x_SD.device:
        raise MoEError(
            f"the plan is on {plan.source.device} and x on {x_SD.device}: move one to the other"
        )
