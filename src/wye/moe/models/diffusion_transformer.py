"""A small diffusion transformer for images, with any feed-forward layers.

Patches of an image become tokens; every block modulates its two branches by the time and the label
(adaLN-zero, Peebles and Xie 2022, arXiv 2212.09748, section 3.2). Trained by rectified flow (Liu et
al. 2022, arXiv 2209.03003):
    x_t = (1 - t) x_0 + t eps,  the model predicts eps - x_0,  t = sigmoid(N(0, 1))
and sampled by Euler steps from t = 1 to 0 under classifier-free guidance.

Shape letters: B batch, C channels, L tokens of an image, D width, H heads.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wye.moe.base import MoEError, RoutedModule


class DiffusionTransformer(nn.Module):
    """Predicts the velocity of noisy images.

    Args:
        feed_forwards: one module `[B, L, D] -> [B, L, D]` per block; routed layers also get the
            labels.
        size: height and width of the square images.
        channels: C.
        patch: side of a patch, which divides `size`.
        width: D.
        n_heads: H, which divides D.
        n_classes: labels 0 to n_classes - 1; n_classes itself is the null label.

    Raises:
        MoEError: sizes that do not divide.
    """

    def __init__(
        self,
        feed_forwards: Sequence[nn.Module],
        *,
        size: int,
        channels: int = 1,
        patch: int = 2,
        width: int = 64,
        n_heads: int = 4,
        n_classes: int = 10,
    ) -> None:
        super().__init__()
        if size % patch or width % n_heads:
            raise MoEError(
                f"size={size} with patch={patch} and width={width} with n_heads={n_heads}: "
                "expected the second to divide the first"
            )
        self.size, self.channels, self.patch, self.n_classes = size, channels, patch, n_classes
        tokens = (size // patch) ** 2
        self.embed = nn.Linear(channels * patch * patch, width)
        self.positions = nn.Parameter(torch.randn(tokens, width) * 0.02)
        self.times = nn.Sequential(nn.Linear(64, width), nn.SiLU(), nn.Linear(width, width))
        self.labels = nn.Embedding(n_classes + 1, width)
        self.blocks = nn.ModuleList(_Block(width, n_heads, ff) for ff in feed_forwards)
        self.final = nn.Linear(width, 2 * width)
        self.head = nn.Linear(width, channels * patch * patch)
        for zero in (self.final, self.head):
            nn.init.zeros_(zero.weight)
            nn.init.zeros_(zero.bias)

    @property
    def null_label(self) -> int:
        """Label of a sample without label."""
        return self.n_classes

    def forward(self, images: Tensor, time: Tensor, labels: Tensor) -> Tensor:
        """The velocity `[B, C, size, size]`.

        Args:
            images: `[B, C, size, size]` noisy images.
            time: `[B]` in [0, 1].
            labels: `[B]` integers, `null_label` for none.

        Raises:
            MoEError: images of another shape.
        """
        shape = (self.channels, self.size, self.size)
        if tuple(images.shape[1:]) != shape:
            raise MoEError(f"images have shape {tuple(images.shape)}, expected [B, *{shape}]")
        x = self.embed(self._patches(images)) + self.positions
        condition = F.silu(self.times(_frequencies(time)) + self.labels(labels))
        for block in self.blocks:
            x = block(x, condition, labels)
        shift, scale = self.final(condition)[:, None].chunk(2, dim=-1)
        x = F.layer_norm(x, x.shape[-1:]) * (1 + scale) + shift
        return self._image(self.head(x))

    def _patches(self, images: Tensor) -> Tensor:
        side, p = self.size // self.patch, self.patch
        x = images.reshape(-1, self.channels, side, p, side, p)
        return x.permute(0, 2, 4, 1, 3, 5).reshape(-1, side * side, self.channels * p * p)

    def _image(self, x: Tensor) -> Tensor:
        side, p = self.size // self.patch, self.patch
        x = x.reshape(-1, side, side, self.channels, p, p).permute(0, 3, 1, 4, 2, 5)
        return x.reshape(-1, self.channels, self.size, self.size)


def flow_loss(
    model: DiffusionTransformer, images: Tensor, time: Tensor, noise: Tensor, labels: Tensor
) -> Tensor:
    """Mean squared error of the predicted velocity at given times `[B]` and noise."""
    t = time[:, None, None, None]
    predicted = model((1 - t) * images + t * noise, time, labels)
    return F.mse_loss(predicted, noise - images)


def draw_times(n: int, generator: torch.Generator) -> Tensor:
    """`[n]` logit-normal times."""
    return torch.sigmoid(torch.randn(n, generator=generator))


def drop_labels(
    labels: Tensor, null_label: int, share: float, generator: torch.Generator
) -> Tensor:
    """Labels `[B]`, each replaced by `null_label` with probability `share`."""
    dropped = torch.rand(labels.shape, generator=generator) < share
    return torch.where(dropped.to(labels.device), null_label, labels)


@torch.no_grad()
def sample(
    model: DiffusionTransformer,
    labels: Tensor,
    *,
    steps: int = 20,
    guidance: float = 1.5,
    generator: torch.Generator,
) -> Tensor:
    """Images `[B, C, size, size]` of the given labels by Euler steps.

    Args:
        model: in evaluation mode.
        labels: `[B]`.
        steps: of the solver.
        guidance: v = v_null + guidance (v_label - v_null); 1 for none.
        generator: of the noise that sampling starts from.
    """
    shape = (labels.shape[0], model.channels, model.size, model.size)
    x = torch.randn(shape, generator=generator).to(labels.device)
    null = torch.full_like(labels, model.null_label)
    for step in range(steps):
        time = torch.full(labels.shape, 1.0 - step / steps, device=labels.device)
        velocity = model(x, time, labels)
        if guidance != 1.0:
            without = model(x, time, null)
            velocity = without + guidance * (velocity - without)
        x = x - velocity / steps
    return x


class _Block(nn.Module):
    def __init__(self, width: int, n_heads: int, feed_forward: nn.Module) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.modulation = nn.Linear(width, 6 * width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.feed_forward = feed_forward
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, x: Tensor, condition: Tensor, labels: Tensor) -> Tensor:
        parts = self.modulation(condition)[:, None].chunk(6, dim=-1)
        shift_a, scale_a, gate_a, shift_f, scale_f, gate_f = parts
        h = F.layer_norm(x, x.shape[-1:]) * (1 + scale_a) + shift_a
        x = x + gate_a * self._attend(h)
        h = F.layer_norm(x, x.shape[-1:]) * (1 + scale_f) + shift_f
        routed = isinstance(self.feed_forward, RoutedModule)
        y: Tensor = self.feed_forward(h, labels=labels) if routed else self.feed_forward(h)
        out: Tensor = x + gate_f * y
        return out

    def _attend(self, h: Tensor) -> Tensor:
        batch, length, width = h.shape
        qkv = self.qkv(h).reshape(batch, length, 3, self.n_heads, width // self.n_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v)
        out: Tensor = self.out(y.transpose(1, 2).reshape(batch, length, width))
        return out


def _frequencies(time: Tensor, size: int = 64) -> Tensor:
    half = size // 2
    rates = torch.exp(-math.log(10_000.0) * torch.arange(half, device=time.device) / half)
    angle = 1000.0 * time[:, None] * rates[None]
    return torch.cat([torch.cos(angle), torch.sin(angle)], dim=1)
