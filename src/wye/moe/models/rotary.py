"""Rotary positions: pairs of a query or key turned by an angle that grows with the position.

Pair (i, i + A/2) of position p is turned by p base^(-2i/A) (RoFormer, arXiv 2104.09864, in the
layout of Llama). Positions are given, so that tokens taken out of a sequence keep their own.

Shape letters: L positions, A width of a head.
"""

from __future__ import annotations

import torch
from torch import Tensor


def rotary_turns(position_L: Tensor, head_width: int, *, base: float = 10_000.0) -> Tensor:
    """Cosines and sines `[L, A/2, 2]` of positions `[L]`, float32.

    Args:
        position_L: integers >= 0.
        head_width: A, even.
        base: of the rates.
    """
    pair = torch.arange(0, head_width, 2, dtype=torch.float64, device=position_L.device)
    angle = position_L.double()[:, None] * base ** (-pair / head_width)
    return torch.stack([angle.cos(), angle.sin()], dim=-1).float()


def turned(x: Tensor, turns: Tensor) -> Tensor:
    """Queries or keys `[..., A]` turned by `[..., A/2, 2]`; leading dimensions broadcast.

    Example:
        >>> x = torch.ones(2, 4)
        >>> turned(x, rotary_turns(torch.zeros(2), 4)).equal(x)
        True
    """
    first, second = x.chunk(2, dim=-1)
    cos, sin = turns.to(x.dtype).unbind(-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
