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


class LinearScores(Scores):
    """z = x W_r^T, with jitter of the input as in Switch (arXiv 2101.03961, section 2.2).

    Args:
        width: D.
        n_experts: E.
        bias: add a learned bias per expert.
        init_std: standard deviation of W_r at the start.
        jitter: in training the input is multiplied by draws from U(1 - jitter, 1 + jitter) of
            PyTorch's global generator.

    Raises:
        MoEError: jitter outside [0, 1).
    """

    def __init__(
        self,
        width: int,
        n_experts: int,
        *,
        bias: bool = False,
        init_std: float = 0.02,
        jitter: float = 0.0,
    ) -> None:
        super().__init__(n_experts)
        if not 0 <= jitter < 1:
            raise MoEError(f"jitter={jitter}, expected a number in [0, 1)")
        self.weight = nn.Parameter(torch.empty(n_experts, width))
        self.bias = nn.Parameter(torch.zeros(n_experts)) if bias else None
        self.jitter = jitter
        self.init_std = init_std
        nn.init.normal_(self.weight, std=init_std)

    def forward(self, x_SD: Tensor, context: Context) -> Scored:
        x = x_SD.float()
        if self.training and self.jitter > 0:
            x = x * torch.empty_like(x).uniform_(1 - self.jitter, 1 + self.jitter)
        bias = None if self.bias is None else self.bias.float()
        return Scored(F.linear(x, self.weight.float(), bias))

    def extra_repr(self) -> str:
        return f"width={self.weight.shape[1]}, n_experts={self.n_experts}, jitter={self.jitter}"


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
