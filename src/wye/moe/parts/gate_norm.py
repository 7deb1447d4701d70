"""RMSNorm of the affinities of a token, in place of the sum to 1 of a softmax.

    g_ti = a_ti / sqrt(mean_i a_ti^2 + eps) * w_i

over all E experts, zeros included: a_t may be the output of a ReLU, in which zero means inactive.
Scaling a_t changes nothing, so that the router cannot grow its gates; fewer active experts have
larger ones. Source: BlockFFN (arXiv 2507.08771).

Shape letters: S tokens, E experts.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wye.moe.parts.selection import Candidates
from wye.moe.router import Transform


class RMSNormGate(Transform):
    """Affinities divided by their root mean square and scaled by a learned w, 1 at the start.

    A token whose affinities are all zero keeps zeros.

    Args:
        n_experts: E.
        eps: added to the mean square.

    Example:
        >>> norm = RMSNormGate(2)
        >>> norm.normalised(torch.tensor([[3.0, 0.0], [0.0, 0.0]])).tolist()[1]
        [0.0, 0.0]
    """

    def __init__(self, n_experts: int, *, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(n_experts))
        self.eps = eps

    def normalised(self, affinity: Tensor) -> Tensor:
        """`[S, E]` affinities over their root mean square, before the learned scale."""
        return affinity * torch.rsqrt((affinity * affinity).mean(dim=-1, keepdim=True) + self.eps)

    def forward(self, affinity: Tensor, candidates: Candidates) -> Tensor:
        return self.normalised(affinity) * self.weight.float()

    def extra_repr(self) -> str:
        return f"n_experts={self.weight.shape[0]}, eps={self.eps}"
