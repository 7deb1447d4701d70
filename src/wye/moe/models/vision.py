"""A small vision transformer over patches, whose feed-forward layers are whatever it is given.

Patches are embedded with a learned position, pass the blocks of `wye.moe.models.language_model`
without a causal mask, and their mean is classified (arXiv 2010.11929, with the mean in place of a
class token).

Shape letters: B batch, L patches, P numbers per patch, D width, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from wye.moe.base import MoEError, make_context
from wye.moe.models.language_model import Block
from wye.moe.models.rotary import rotary_turns


class VisionTransformer(nn.Module):
    """Classifies images cut into patches.

    Args:
        feed_forwards: one module per block; routed layers get a context.
        patch: P.
        length: L.
        width: D.
        n_heads: H, a divisor of D that leaves an even width per head.
        n_classes: C.

    Raises:
        MoEError: no blocks, or a width that the heads cannot share.
    """

    def __init__(
        self,
        feed_forwards: Sequence[nn.Module],
        *,
        patch: int,
        length: int,
        width: int,
        n_heads: int = 4,
        n_classes: int = 10,
    ) -> None:
        super().__init__()
        if not feed_forwards or width % n_heads or width // n_heads % 2:
            raise MoEError(
                f"{len(feed_forwards)} blocks of width={width} with n_heads={n_heads}, expected at "
                "least one block and an even width per head"
            )
        self.patch, self.length = patch, length
        self.embedding = nn.Linear(patch, width)
        self.positions = nn.Parameter(torch.randn(length, width) * 0.02)
        self.blocks = nn.ModuleList(Block(f, width, n_heads, False) for f in feed_forwards)
        self.norm = nn.RMSNorm(width)
        self.head = nn.Linear(width, n_classes)
        turns = rotary_turns(torch.arange(length), width // n_heads)
        self.register_buffer("turns", turns, persistent=False)
        self.turns: Tensor

    def forward(self, patches: Tensor) -> Tensor:
        """Logits `[B, C]`.

        Args:
            patches: `[B, L, P]`.

        Raises:
            MoEError: another shape.
        """
        if patches.ndim != 3 or tuple(patches.shape[1:]) != (self.length, self.patch):
            raise MoEError(
                f"patches have shape {tuple(patches.shape)}, expected [B, {self.length}, "
                f"{self.patch}]"
            )
        x = self.embedding(patches) + self.positions
        context = make_context(x)
        state: Tensor | None = None
        for block in self.blocks:
            x, state = block(x, state, self.turns, context, None, None)
        logits: Tensor = self.head(self.norm(x).mean(dim=1))
        return logits


def cut(images: Tensor, side: int) -> Tensor:
    """Images `[B, 1, height, width]` as patches `[B, L, side * side]`, row by row.

    Raises:
        MoEError: a side that does not divide the image.

    Example:
        >>> cut(torch.zeros(3, 1, 8, 8), 2).shape
        torch.Size([3, 16, 4])
    """
    B, _, height, width = images.shape
    if height % side or width % side:
        raise MoEError(f"images of {height} x {width} cannot be cut into patches of side {side}")
    tiles = images.reshape(B, height // side, side, width // side, side)
    return tiles.transpose(2, 3).reshape(B, -1, side * side)
