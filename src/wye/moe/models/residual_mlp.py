"""A residual network without attention, around given feed-forward modules: one vector, one token.

    h = x W_in + b,   h <- h + feed_forward(norm(h)) per layer,   logits = norm(h) W_out + b

Source: the networks of DynaMoE (arXiv 2603.01697), in which an image is one routed vector.

Shape letters: S samples, D width.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from wye.moe.base import MoEError


class ResidualMLP(nn.Module):
    """Pre-norm residual layers between two linear maps.

    Args:
        feed_forwards: one module `[S, D] -> [S, D]` per layer, routed or dense.
        n_inputs: numbers per sample.
        width: D.
        n_outputs: logits per sample.

    Raises:
        MoEError: no layers.

    Example:
        >>> import torch
        >>> from wye.moe import FeedForward
        >>> ResidualMLP([FeedForward(8, 16)], 64, 8, 10)(torch.zeros(3, 64)).shape
        torch.Size([3, 10])
    """

    def __init__(
        self, feed_forwards: Sequence[nn.Module], n_inputs: int, width: int, n_outputs: int
    ) -> None:
        super().__init__()
        if not feed_forwards:
            raise MoEError("feed_forwards is empty, expected one module per layer")
        self.input = nn.Linear(n_inputs, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in feed_forwards)
        self.feed_forwards = nn.ModuleList(feed_forwards)
        self.norm = nn.LayerNorm(width)
        self.output = nn.Linear(width, n_outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Logits `[S, n_outputs]` of samples `[S, n_inputs]`."""
        h = self.input(x)
        for norm, feed_forward in zip(self.norms, self.feed_forwards, strict=True):
            h = h + feed_forward(norm(h))
        logits: Tensor = self.output(self.norm(h))
        return logits
