"""How many experts a token gets on average, set from outside by the share of masked tokens.

With mask ratio r and a shape s(r) of mean 1/2 over r ~ U(0, 1), so that all shapes cost the same:
    k(r) = clamp(round(k_min + (k_max - k_min) s(r)), k_min, k_max)
    linear            s = r
    linear_reverse    s = 1 - r
    cosine            s = (1 - cos(pi r)) / 2
    cosine_reverse    s = (1 + cos(pi r)) / 2
    gaussian          s = (exp(-(r - 1/2)^2 / (2 sigma^2)) - e0) / (1 - e0), e0 its value at r = 0
    gaussian_reverse  s = 1 - gaussian

Source: EC-DLM (arXiv 2604.01622), timestep-dependent capacity. The gaussian has mean 1/2 at the
published sigma of 0.22 to within 0.01 (`mean` gives it for any other).

Shape letters: B sequences.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from wye.moe.base import MoEError

Profile = Literal[
    "linear", "linear_reverse", "cosine", "cosine_reverse", "gaussian", "gaussian_reverse"
]
PROFILES: tuple[str, ...] = get_args(Profile)


@dataclass(frozen=True, kw_only=True)
class MaskSchedule:
    """Mean experts per token as a function of the mask ratio.

    Attributes:
        k_min, k_max: bounds, integers with 1 <= k_min <= k_max.
        profile: the shape s(r).
        sigma: width of the gaussian.

    Raises:
        MoEError: bounds out of order, an unknown profile, a sigma that is not positive.

    Example:
        >>> MaskSchedule(k_min=1, k_max=5)(torch.tensor([0.0, 0.5, 1.0])).tolist()
        [5, 3, 1]
    """

    k_min: int
    k_max: int
    profile: Profile = "linear_reverse"
    sigma: float = 0.22

    def __post_init__(self) -> None:
        if not 1 <= self.k_min <= self.k_max:
            raise MoEError(
                f"k_min={self.k_min} and k_max={self.k_max}, expected 1 <= k_min <= k_max"
            )
        if self.profile not in PROFILES:
            raise MoEError(f"profile={self.profile!r}, expected one of {PROFILES}")
        if not self.sigma > 0:
            raise MoEError(f"sigma={self.sigma}, expected a number > 0")

    def share(self, ratio_B: Tensor) -> Tensor:
        """s(r) in [0, 1] of mask ratios `[B]`."""
        base, _, reverse = self.profile.partition("_")
        share = _SHAPES[base](ratio_B, self.sigma)
        # A cosine that is reversed is its complement, as all others are.
        return 1.0 - share if reverse else share

    def __call__(self, ratio_B: Tensor) -> Tensor:
        """k of sequences with mask ratios `[B]`, int64 `[B]`.

        Raises:
            MoEError: a ratio outside [0, 1], or NaN.
        """
        if not bool(((ratio_B >= 0) & (ratio_B <= 1)).all()):
            raise MoEError(f"mask ratios {ratio_B.tolist()}, expected shares in [0, 1]")
        k_B = self.k_min + (self.k_max - self.k_min) * self.share(ratio_B.double())
        return torch.round(k_B).clamp(self.k_min, self.k_max).long()

    def mean(self, n: int = 100_001) -> float:
        """Mean of k(r) over r ~ U(0, 1), the static k of the same cost; by `n` midpoints."""
        ratio = (torch.arange(n, dtype=torch.float64) + 0.5) / n
        return float(self(ratio).double().mean())


def _linear(ratio: Tensor, sigma: float) -> Tensor:
    return ratio


def _cosine(ratio: Tensor, sigma: float) -> Tensor:
    return (1.0 - torch.cos(math.pi * ratio)) / 2.0


def _gaussian(ratio: Tensor, sigma: float) -> Tensor:
    edge = math.exp(-0.125 / sigma**2)
    return (torch.exp(-((ratio - 0.5) ** 2) / (2.0 * sigma**2)) - edge) / (1.0 - edge)


_SHAPES: dict[str, Callable[[Tensor, float], Tensor]] = {
    "linear": _linear,
    "cosine": _cosine,
    "gaussian": _gaussian,
}
