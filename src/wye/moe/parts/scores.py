"""Where a router's logits come from.

Every source of scores is a module `(x_SD, context) -> Scored`, computed in float32 whatever the
dtype of the hidden states: bfloat16 logits flip near ties between a forward pass and its
recomputation.

Shape letters: S tokens, E experts, D width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wye.moe.base import Context, MoEError

# Standard deviation of a standard normal truncated at two deviations.
_TRUNCATED_STD = 0.87962566103423978


@dataclass(frozen=True)
class Scored:
    """Logits, and what a score source leaves for the parts that come after it.

    Attributes:
        logits: `[S, E]` float32; -inf closes an expert to a token.
        state: handed to the router of the layer above, first dimension S.
        clean: `[S, E]` logits without the noise that `logits` hold.
        noise: `[S, E]` standard deviation of that noise.
    """

    logits: Tensor
    state: Tensor | None = None
    clean: Tensor | None = None
    noise: Tensor | None = None


class Scores(nn.Module, ABC):
    """A source of logits for E experts."""

    def __init__(self, n_experts: int) -> None:
        super().__init__()
        self.n_experts = n_experts

    @abstractmethod
    def forward(self, x_SD: Tensor, context: Context) -> Scored:
        """Score S tokens `[S, D]`."""

    def after_step(self) -> None:
        """Called once after every optimiser step."""


class LinearScores(Scores):
    """z = x W_r^T, with jitter of the input as in Switch (arXiv 2101.03961, section 2.2).

    Args:
        width: D.
        n_experts: E.
        bias: add a learned bias per expert.
        init_std: standard deviation of W_r at the start.
        init_scale: in its place, a normal truncated at two deviations with variance
            init_scale / D (Switch: 0.1).
        jitter: in training the input is multiplied by draws from U(1 - jitter, 1 + jitter) of
            PyTorch's global generator.

    Raises:
        MoEError: jitter outside [0, 1), a scale that is not positive.
    """

    def __init__(
        self,
        width: int,
        n_experts: int,
        *,
        bias: bool = False,
        init_std: float = 0.02,
        init_scale: float | None = None,
        jitter: float = 0.0,
    ) -> None:
        super().__init__(n_experts)
        if init_scale is not None and not init_scale > 0:
            raise MoEError(f"init_scale={init_scale}, expected a number > 0 or None")
        if not 0 <= jitter < 1:
            raise MoEError(f"jitter={jitter}, expected a number in [0, 1)")
        self.weight = nn.Parameter(torch.empty(n_experts, width))
        self.bias = nn.Parameter(torch.zeros(n_experts)) if bias else None
        self.jitter = jitter
        self.init_std = init_std if init_scale is None else (init_scale / width) ** 0.5
        if init_scale is None:
            nn.init.normal_(self.weight, std=init_std)
        else:
            std = self.init_std / _TRUNCATED_STD
            nn.init.trunc_normal_(self.weight, std=std, a=-2 * std, b=2 * std)

    def forward(self, x_SD: Tensor, context: Context) -> Scored:
        x = x_SD.float()
        if self.training and self.jitter > 0:
            x = x * torch.empty_like(x).uniform_(1 - self.jitter, 1 + self.jitter)
        bias = None if self.bias is None else self.bias.float()
        return Scored(F.linear(x, self.weight.float(), bias))

    def extra_repr(self) -> str:
        return f"width={self.weight.shape[1]}, n_experts={self.n_experts}, jitter={self.jitter}"


class NoisyScores(Scores):
    """h = x W_g + eps (softplus(x W_n) + floor), eps ~ N(0, 1), in training; x W_g in evaluation.

    Source: noisy top-k gating (Shazeer et al. 2017, arXiv 1701.06538, equations 3 to 5). The draws
    come from PyTorch's global generator.

    Args:
        width: D.
        n_experts: E.
        floor: least standard deviation of the noise.
        init_std: of W_g and W_n at the start; 0 as in the paper.

    Raises:
        MoEError: a negative floor or deviation.
    """

    def __init__(
        self, width: int, n_experts: int, *, floor: float = 0.01, init_std: float = 0.0
    ) -> None:
        super().__init__(n_experts)
        if not (floor >= 0 and init_std >= 0):
            raise MoEError(f"floor={floor} and init_std={init_std}, expected numbers >= 0")
        self.weight = nn.Parameter(torch.empty(n_experts, width))
        self.noise = nn.Parameter(torch.empty(n_experts, width))
        self.floor, self.init_std = floor, init_std
        for weight in (self.weight, self.noise):
            nn.init.normal_(weight, std=init_std)

    def forward(self, x_SD: Tensor, context: Context) -> Scored:
        x = x_SD.float()
        clean = F.linear(x, self.weight.float())
        if not self.training:
            return Scored(clean)
        noise = F.softplus(F.linear(x, self.noise.float())) + self.floor
        return Scored(clean + torch.randn_like(clean) * noise, clean=clean, noise=noise)

    def extra_repr(self) -> str:
        return f"width={self.weight.shape[1]}, n_experts={self.n_experts}, floor={self.floor}"


class CosineScores(Scores):
    """z_ti = cos(x_t, c_i) / temperature, to learned prototypes c_i.

    Source: the cosine routers of Chi et al. 2022 (arXiv 2204.09179) and ProMoE (arXiv 2510.24711).

    Args:
        width: D.
        n_experts: E.
        temperature: > 0.
        init_std: standard deviation of the prototypes at the start.
    """

    def __init__(
        self, width: int, n_experts: int, *, temperature: float = 1.0, init_std: float = 0.02
    ) -> None:
        super().__init__(n_experts)
        if not temperature > 0:
            raise MoEError(f"temperature={temperature}, expected a number > 0")
        self.prototypes = nn.Parameter(torch.empty(n_experts, width))
        self.temperature = temperature
        nn.init.normal_(self.prototypes, std=init_std)

    def forward(self, x_SD: Tensor, context: Context) -> Scored:
        x = F.normalize(x_SD.float(), dim=-1)
        c = F.normalize(self.prototypes.float(), dim=-1)
        return Scored(F.linear(x, c) / self.temperature)


class NoScores(Scores):
    """Zero logits: for selections that read no score (hash, uniform)."""

    def forward(self, x_SD: Tensor, context: Context) -> Scored:
        return Scored(torch.zeros(x_SD.shape[0], self.n_experts, device=x_SD.device))


class PerceptronScores(Scores):
    """z = W_2 GELU(W_1 x + b_1) + b_2.

    Args:
        width: D.
        n_experts: E.
        hidden: width of the hidden layer.
    """

    def __init__(self, width: int, n_experts: int, *, hidden: int) -> None:
        super().__init__(n_experts)
        self.first = nn.Linear(width, hidden)
        self.second = nn.Linear(hidden, n_experts)

    def forward(self, x_SD: Tensor, context: Context) -> Scored:
        x = F.linear(x_SD.float(), self.first.weight.float(), self.first.bias.float())
        hidden = F.gelu(x)
        return Scored(F.linear(hidden, self.second.weight.float(), self.second.bias.float()))
