"""Fine-grained and shared experts: the same computation in more, smaller experts.

    split m: m E experts of hidden width F / m, of which m k are chosen
    shared K_s: K_s of the fine experts run for every token; the others are routed, so that
    m E - K_s are there and m k - K_s are chosen, at the parameters and cost of before

Source: DeepSeekMoE (arXiv 2401.06066, sections 3.1 and 3.2). K_s experts that always run are one
dense network of K_s times their width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from torch import nn

from wye.moe.base import MoEError
from wye.moe.build import Shape
from wye.moe.experts import FeedForward


def fine_grained(shape: Shape, split: int, n_shared: int = 0) -> Shape:
    """The routed part of `shape` when every expert is split, and some fine ones are shared.

    Args:
        shape: before.
        split: m, a divisor of the hidden width.
        n_shared: K_s, fewer than m k.

    Raises:
        MoEError: numbers that do not fit.

    Example:
        >>> fine = fine_grained(Shape(n_layers=1, width=8, hidden=16, n_experts=4, k=2), 2, 1)
        >>> fine.hidden, fine.n_experts, fine.k
        (8, 7, 3)
    """
    if split < 1 or shape.hidden % split:
        raise MoEError(f"split={split}, expected a divisor of hidden={shape.hidden}")
    if not 0 <= n_shared < split * shape.k:
        raise MoEError(
            f"n_shared={n_shared} of the {split * shape.k} experts that a token uses, expected 0 "
            f"to {split * shape.k - 1}: split further, raise k or share fewer"
        )
    return replace(
        shape,
        hidden=shape.hidden // split,
        n_experts=split * shape.n_experts - n_shared,
        k=split * shape.k - n_shared,
    )


def shared_part(
    shape: Shape, n_shared: int, *, gated: bool = True
) -> Callable[[int], nn.Module] | None:
    """For `routed_stack(make_shared=...)`: the dense network of `n_shared` experts; None for 0.

    Args:
        shape: of the fine experts.
        n_shared: K_s.
        gated: as the experts.
    """
    if n_shared == 0:
        return None
    return lambda _: FeedForward(shape.width, n_shared * shape.hidden, gated=gated)
