"""How sparse a routing is, by the token and by the chunk of consecutive tokens.

    TLS     share of (token, expert) that is inactive
    CLS_L   share of (window, expert) in which the expert is inactive for all L tokens

Windows are every L consecutive tokens of one sequence, overlapping. CLS_1 = TLS, and CLS_L never
rises with L. CLS can be bought by using the same few experts everywhere: read it beside the number
of experts that are alive.

Source: BlockFFN (arXiv 2507.08771). Shape letters: S tokens, E experts, N routed pairs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from wye.core import Plan
from wye.moe.base import Context, MoEError


@dataclass(frozen=True)
class FanOut:
    """Experts per token.

    Attributes:
        mean: of all tokens.
        deviation: standard deviation over tokens.
        single: share of tokens with exactly one.
        histogram: tokens with 0, 1, ..., E experts.
    """

    mean: float
    deviation: float
    single: float
    histogram: tuple[int, ...]


def fan_out(plan: Plan) -> FanOut:
    """Experts per token of a plan.

    Raises:
        MoEError: the plan routes no token.

    Example:
        >>> import torch
        >>> one, two = torch.tensor([0, 1, 1]), torch.tensor([2, 0, 1])
        >>> fan_out(Plan(one, two, torch.ones(3), 2, 3)).histogram
        (0, 1, 1, 0)
    """
    _refuse_empty(plan)
    count = torch.as_tensor(plan.fan_out()).double()
    histogram = torch.bincount(count.long(), minlength=plan.n_targets + 1).tolist()
    return FanOut(
        float(count.mean()),
        float(count.std(correction=0)),
        float((count == 1).double().mean()),
        tuple(histogram),
    )


def token_sparsity(plan: Plan) -> float:
    """TLS: share of (token, expert) that the plan leaves out.

    Raises:
        MoEError: the plan routes no token.
    """
    _refuse_empty(plan)
    return 1.0 - float(_active(plan).double().mean())


def chunk_sparsity(plan: Plan, context: Context, length: int) -> float:
    """CLS_L: share of (window, expert) in which no token of the window uses the expert.

    Args:
        plan: of S tokens.
        context: of the same tokens; windows hold consecutive positions of one sequence.
        length: L >= 1, tokens per window.

    Returns:
        NaN where no sequence has L consecutive tokens.

    Raises:
        MoEError: a length below 1, or a plan without tokens.
    """
    if length < 1:
        raise MoEError(f"length={length}, expected windows of at least 1 token")
    _refuse_empty(plan)
    active = _active(plan)
    sequence, position = context.sequence(active.device), context.position(active.device)
    if sequence.shape[0] != plan.n_sources:
        raise MoEError(
            f"the context has {sequence.shape[0]} tokens and the plan {plan.n_sources}, expected "
            "the context that was routed"
        )
    if plan.n_sources < length:
        return math.nan
    gap = length - 1
    last = plan.n_sources - gap
    whole = (sequence[gap:] == sequence[:last]) & (position[gap:] - position[:last] == gap)
    used = active.unfold(0, length, 1).any(dim=-1)[whole]
    return 1.0 - float(used.double().mean()) if used.shape[0] else math.nan


def alive_experts(plan: Plan, *, least: float = 0.0) -> int:
    """Experts that more than the share `least` of all tokens use.

    Raises:
        MoEError: the plan routes no token.
    """
    _refuse_empty(plan)
    share = _active(plan).double().mean(dim=0)
    return int((share > least).sum())


def _active(plan: Plan) -> Tensor:
    """`[S, E]` booleans; a pair is active whatever its weight."""
    cells = torch.as_tensor(plan.cells())
    active = torch.zeros(plan.n_sources * plan.n_targets, dtype=torch.bool, device=cells.device)
    active[cells] = True
    return active.view(plan.n_sources, plan.n_targets)


def _refuse_empty(plan: Plan) -> None:
    if not plan.n_sources:
        raise MoEError("the plan routes no token: measure where there is at least one")
