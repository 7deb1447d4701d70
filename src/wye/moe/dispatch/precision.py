"""In which dtype experts compute, and in which their outputs are summed.

Experts compute in the dtype of their input, or in autocast's where that is on; sums over the
experts of a token are kept in float32 where the input is narrower, since every rounding of a
partial sum would add to the last.
"""

from __future__ import annotations

import torch
from torch import Tensor

from wye.moe.base import MoEError
from wye.moe.dispatch.weights import ExpertWeights


def accumulator(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which outputs of `dtype` are summed."""
    return torch.float32 if dtype.itemsize < 4 else dtype


def computing(x_SD: Tensor, weights: ExpertWeights) -> tuple[Tensor, ExpertWeights]:
    """Input and weights in the dtype that the experts compute in.

    Raises:
        MoEError: the two have different dtypes and autocast is off.
    """
    kind = x_SD.device.type
    # Autocast leaves float64 alone, and so does this.
    if torch.is_autocast_enabled(kind) and torch.float64 not in (x_SD.dtype, weights.up.dtype):
        dtype = torch.get_autocast_dtype(kind)
        return x_SD.to(dtype), weights.to(dtype)
    if weights.up.dtype != x_SD.dtype:
        raise MoEError(
            f"x is {x_SD.dtype} and the experts' weights are {weights.up.dtype}: convert one of "
            "them, or run under torch.autocast"
        )
    return x_SD, weights
