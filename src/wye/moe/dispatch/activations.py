"""The activations of experts, with results and derivatives written into given memory.

Execution expert by expert reuses one buffer for all experts, which keeps it in cache; the plain
functions of PyTorch allocate a new one at every call.

    silu(g) = g sigmoid(g);  gelu(g) = g Phi(g), or its tanh form;  relu(g) = max(g, 0)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from wye.moe.base import MoEError

_aten: Any = torch.ops.aten


@dataclass(frozen=True)
class Activation:
    """One activation.

    Attributes:
        name: what users type.
        apply: `g -> f(g)`, differentiable.
        into: `(g, out)` writes f(g) to `out`.
        gradient_into: `(gradient, g, out)` writes gradient * f'(g) to `out`.
    """

    name: str
    apply: Callable[[Tensor], Tensor]
    into: Callable[[Tensor, Tensor], Tensor]
    gradient_into: Callable[[Tensor, Tensor, Tensor], Tensor]


def _silu_into(g: Tensor, out: Tensor) -> Tensor:
    made: Tensor = _aten.silu.out(g, out=out)
    return made


def _silu_gradient_into(gradient: Tensor, g: Tensor, out: Tensor) -> Tensor:
    made: Tensor = _aten.silu_backward.grad_input(gradient, g, grad_input=out)
    return made


def _gelu_into(g: Tensor, out: Tensor) -> Tensor:
    made: Tensor = _aten.gelu.out(g, out=out)
    return made


def _gelu_gradient_into(gradient: Tensor, g: Tensor, out: Tensor) -> Tensor:
    made: Tensor = _aten.gelu_backward.grad_input(gradient, g, grad_input=out)
    return made


def _gelu_tanh(g: Tensor) -> Tensor:
    return F.gelu(g, approximate="tanh")


def _gelu_tanh_into(g: Tensor, out: Tensor) -> Tensor:
    made: Tensor = _aten.gelu.out(g, approximate="tanh", out=out)
    return made


def _gelu_tanh_gradient_into(gradient: Tensor, g: Tensor, out: Tensor) -> Tensor:
    made: Tensor = _aten.gelu_backward.grad_input(gradient, g, approximate="tanh", grad_input=out)
    return made


def _relu_into(g: Tensor, out: Tensor) -> Tensor:
    return torch.clamp(g, min=0, out=out)


def _relu_gradient_into(gradient: Tensor, g: Tensor, out: Tensor) -> Tensor:
    made: Tensor = _aten.threshold_backward.grad_input(gradient, g, 0, grad_input=out)
    return made


ACTIVATIONS: dict[str, Activation] = {
    a.name: a
    for a in (
        Activation("silu", F.silu, _silu_into, _silu_gradient_into),
        Activation("gelu", F.gelu, _gelu_into, _gelu_gradient_into),
        Activation("gelu_tanh", _gelu_tanh, _gelu_tanh_into, _gelu_tanh_gradient_into),
        Activation("relu", F.relu, _relu_into, _relu_gradient_into),
    )
}
"""By the name that `run_experts` and `Experts` take."""


def activation_of(name: str) -> Activation:
    """The activation of that name.

    Raises:
        MoEError: there is none.
    """
    found = ACTIVATIONS.get(name)
    if found is None:
        raise MoEError(f"activation={name!r}, expected one of {', '.join(ACTIVATIONS)}")
    return found
