"""Experts of different kinds: any module per target, on the tokens that chose it.

Shape letters: S tokens, T targets, D width.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from wye.core import Plan
from wye.moe.base import MoEError
from wye.moe.dispatch.order import segments_of
from wye.moe.dispatch.precision import accumulator
from wye.moe.dispatch.weights import check_plan


def run_modules(
    x_SD: Tensor,
    plan: Plan,
    modules: Sequence[nn.Module | None] | nn.ModuleList,
    *,
    shape: Sequence[int] | None = None,
) -> Tensor:
    """Run each target's module on its tokens and combine: y_s = sum of weight * module(x_s).

    A target's module runs once, on all its tokens; a target without tokens does not run, so its
    parameters get no gradient (None, not zero).

    Args:
        x_SD: `[S, D]`, or `[S, ...]` where what is routed is larger than a vector: S images
            `[S, C, H, W]`, for instance.
        plan: N pairs between S tokens and T targets.
        modules: T modules `[n, D] -> [n, D]` (or of rows `[n, ...]`), None for a target that adds
            nothing. `nn.Identity()` gives weight * x.
        shape: of one row of the result; that of a row of `x_SD` when not given.

    Returns:
        `[S, D]`, or `[S, *shape]`, in the dtype of `x_SD`.

    Raises:
        MoEError: another number of modules, a plan of other tokens, a module whose rows have
            another shape.

    Example:
        >>> import torch
        >>> from wye.core import Plan
        >>> pair = torch.tensor([0]), torch.tensor([1]), torch.tensor([0.5])
        >>> run_modules(torch.ones(1, 2), Plan(*pair, 1, 2), [None, torch.nn.Identity()]).tolist()
        [[0.5, 0.5]]
    """
    check_plan(x_SD.flatten(1) if x_SD.ndim > 2 else x_SD, plan)
    if len(modules) != plan.n_targets:
        raise MoEError(
            f"{len(modules)} modules for {plan.n_targets} targets, expected one each (None for a "
            "target that adds nothing)"
        )
    segments = segments_of(plan)
    dtype = accumulator(x_SD.dtype)
    row = tuple(x_SD.shape[1:] if shape is None else shape)
    y_SD = x_SD.new_zeros((x_SD.shape[0], *row), dtype=dtype)
    weight_N = plan.weight.index_select(0, segments.order).to(dtype)
    for target, start, stop in segments.spans:
        module = modules[target]
        if module is None:
            continue
        source = segments.source[start:stop]
        x_nD = x_SD.index_select(0, source)
        y_nD = module(x_nD)
        if tuple(y_nD.shape) != (stop - start, *row):
            raise MoEError(
                f"module {target} ({type(module).__name__}) made {tuple(y_nD.shape)} of "
                f"{tuple(x_nD.shape)}, expected {(stop - start, *row)}"
            )
        weight = weight_N[start:stop].reshape(-1, *(1 for _ in row))
        y_SD = y_SD.index_add(0, source, y_nD.to(dtype) * weight)
    return y_SD.to(x_SD.dtype)
