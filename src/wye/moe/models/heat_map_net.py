"""A small convolutional network that finds objects: a heat map of centres per class, and a count.

Three stages (convolution, BatchNorm, SiLU), each followed by a given block on its feature map;
a 1 x 1 head makes the logits of the heat map at the last stage's stride, and a linear head on
pooled features the number of objects.

Shape letters: B images, C channels, K classes, H and W of the heat map.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class HeatMapNet(nn.Module):
    """Stages with a block each, and the two heads.

    Args:
        make_block: channels of a stage -> module `[B, C, H, W] -> [B, C, H, W]`.
        n_classes: K.
        channels: of each stage.
        strides: of each stage; their product is the stride of the heat map.
        prior: probability of a centre that the head starts with.

    Example:
        >>> net = HeatMapNet(lambda channels: nn.Identity(), 10)
        >>> heat, count = net(torch.zeros(2, 1, 32, 32))
        >>> heat.shape, count.shape
        (torch.Size([2, 10, 8, 8]), torch.Size([2]))
    """

    def __init__(
        self,
        make_block: Callable[[int], nn.Module],
        n_classes: int,
        *,
        channels: Sequence[int] = (16, 32, 64),
        strides: Sequence[int] = (2, 2, 1),
        prior: float = 0.01,
    ) -> None:
        super().__init__()
        stages = []
        before = 1
        for width, stride in zip(channels, strides, strict=True):
            stages.append(
                nn.Sequential(
                    nn.Conv2d(before, width, 3, stride=stride, padding=1, bias=False),
                    nn.BatchNorm2d(width),
                    nn.SiLU(),
                )
            )
            before = width
        self.stages = nn.ModuleList(stages)
        self.blocks = nn.ModuleList(make_block(width) for width in channels)
        self.heat = nn.Conv2d(before, n_classes, 1)
        self.count = nn.Linear(before, 1)
        nn.init.constant_(self.heat.get_parameter("bias"), float(torch.logit(torch.tensor(prior))))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits `[B, K, H, W]` of centres and the expected count `[B]` of images `[B, 1, ...]`."""
        for stage, block in zip(self.stages, self.blocks, strict=True):
            x = block(stage(x))
        return self.heat(x), self.count(x.mean(dim=(2, 3)))[:, 0]


def focal_loss(logits: Tensor, target: Tensor, *, gamma: float = 2.0) -> Tensor:
    """Binary cross-entropy weighted by (1 - p of the truth)^gamma, per positive.

    Lin et al. 2017 (arXiv 1708.02002, equation 4), summed and divided by the number of positives.

    Args:
        logits: any shape.
        target: zeros and ones of that shape.
        gamma: 0 is plain cross-entropy.
    """
    each = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return (each * (-torch.expm1(-each)) ** gamma).sum() / target.sum().clamp(min=1)


def peaks(heat: Tensor, *, least: float = 0.3) -> Tensor:
    """Where a class has a local maximum over 3 x 3 cells of at least `least`, `[B, K, H, W]`.

    Args:
        heat: `[B, K, H, W]` probabilities.
        least: smallest probability of a peak.
    """
    return (heat >= least) & (heat == F.max_pool2d(heat, 3, stride=1, padding=1))
