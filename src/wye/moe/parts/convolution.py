"""Parts of a mixture on feature maps: convolution experts, and what a router reads of a map.

Facts from YOLO-Master's public code (arXiv 2512.23273); norm and SiLU after each convolution of an
expert are ours.

Shape letters: B images, C channels, H and W of a map, E experts.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wye.moe.base import MoEError

Norm = Literal["batch", "group"]


class DepthwiseSeparable(nn.Module):
    """Depthwise k x k convolution, then pointwise; norm and SiLU after each.

    Args:
        channels: C of the input.
        out_channels: of the output.
        kernel: k, odd.
        norm: "batch", or "group" where batches are small.
    """

    def __init__(self, channels: int, out_channels: int, kernel: int, *, norm: Norm) -> None:
        super().__init__()
        self.kernel = kernel
        self.depthwise = nn.Conv2d(
            channels, channels, kernel, padding=kernel // 2, groups=channels, bias=False
        )
        self.inner_norm = norm_of(norm, channels)
        self.pointwise = nn.Conv2d(channels, out_channels, 1, bias=False)
        self.outer_norm = norm_of(norm, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C, H, W]` -> `[B, C_out, H, W]`."""
        h = F.silu(self.inner_norm(self.depthwise(x)))
        return F.silu(self.outer_norm(self.pointwise(h)))

    def multiply_adds(self, height: int, width: int) -> int:
        """Of one image of that size."""
        out, inner = self.pointwise.weight.shape[:2]
        return height * width * (inner * self.kernel**2 + inner * out)


class PooledFeatures(nn.Module):
    """What the router reads of a map: the mean of every channel, `[B, C]`."""

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C, H, W]` -> `[B, C]`."""
        return x.mean(dim=(2, 3))


class PlaceVotes(nn.Module):
    """What the router reads of a map: ln of the mean softmax over its places, `[B, E]`.

    The map is pooled by `pool`; a depthwise-separable 3 x 3 convolution with GroupNorm makes E
    logits per place, with Gaussian noise in training and clamped to [-30, 30].

    Args:
        channels: C.
        n_experts: E.
        pool: edge of the squares that are averaged first.
        noise: standard deviation of the noise, from PyTorch's global generator.
    """

    def __init__(self, channels: int, n_experts: int, *, pool: int = 8, noise: float = 1.0) -> None:
        super().__init__()
        self.pool, self.noise = pool, noise
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.pointwise = nn.Conv2d(channels, channels, 1, bias=False)
        self.norm = norm_of("group", channels)
        self.vote = nn.Conv2d(channels, n_experts, 1)
        nn.init.normal_(self.vote.weight, std=0.01)
        nn.init.zeros_(self.vote.get_parameter("bias"))

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C, H, W]` -> `[B, E]`."""
        edge = min(self.pool, x.shape[2], x.shape[3])
        h = F.silu(self.norm(self.pointwise(self.depthwise(F.avg_pool2d(x, edge)))))
        z = self.vote(h).float()
        if self.training and self.noise > 0:
            z = z + self.noise * torch.randn_like(z)
        votes = torch.softmax(z.clamp(-30, 30), dim=1).mean(dim=(2, 3))
        return votes.log()


def norm_of(norm: str, channels: int) -> nn.Module:
    """BatchNorm, or GroupNorm of the most groups (8 at most) that divide `channels`.

    Raises:
        MoEError: an unknown norm.
    """
    if norm == "batch":
        return nn.BatchNorm2d(channels)
    if norm != "group":
        raise MoEError(f"norm={norm!r}, expected 'batch' or 'group'")
    groups = max(g for g in range(1, 9) if channels % g == 0)
    return nn.GroupNorm(groups, channels)
