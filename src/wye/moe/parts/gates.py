"""How logits become affinities, and affinities become the weights of a plan.

With p = softmax(z) or s = sigmoid(z) over E experts and S_t the chosen ones of token t:
    raw           g_ti = p_ti                                (sum below 1; k = 1 must use this)
    renormalised  g_ti = p_ti / sum_{j in S_t} p_tj          (Mixtral; softmax over the kept logits)
    scaled        g_ti = c s_ti / sum_{j in S_t} s_tj        (DeepSeek-V3, c = 2.5)
All of it in float32.

Shape letters: S tokens, E experts, N routed pairs, K choices.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from wye.core import Plan, shared, weigh
from wye.moe.base import MoEError

Affinity = Literal["softmax", "sigmoid", "sqrt_softplus", "relu", "identity"]
_AFFINITIES = ("softmax", "sigmoid", "sqrt_softplus", "relu", "identity")


@dataclass(frozen=True, kw_only=True)
class Gate:
    """A gate rule.

    Attributes:
        affinity: of the logits over all experts: softmax, sigmoid, square root of softplus, relu,
            or the logits themselves.
        normalise: divide the chosen affinities of a token by their sum. With one choice per token
            that makes every gate 1 and leaves the router without gradient.
        scale: multiplies every gate.
        temperature: divides the logits first.

    Raises:
        MoEError: an unknown affinity, a temperature that is not positive.

    Example:
        >>> import torch
        >>> Gate(normalise=True).affinity_of(torch.zeros(1, 4)).tolist()
        [[0.25, 0.25, 0.25, 0.25]]
    """

    affinity: Affinity = "softmax"
    normalise: bool = False
    scale: float = 1.0
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if self.affinity not in _AFFINITIES:
            raise MoEError(f"affinity={self.affinity!r}, expected one of {_AFFINITIES}")
        if not self.temperature > 0:
            raise MoEError(f"temperature={self.temperature}, expected a number > 0")

    def affinity_of(self, logits: Tensor) -> Tensor:
        """Affinities `[S, E]` of float32 logits `[S, E]`; -inf stays out of every softmax."""
        z = logits if self.temperature == 1.0 else logits / self.temperature
        if self.affinity == "softmax":
            return torch.softmax(z, dim=-1)
        if self.affinity == "sigmoid":
            return torch.sigmoid(z)
        if self.affinity == "sqrt_softplus":
            # The slope of the root at 0 is infinite, and a closed expert (-inf) stands there.
            tiny = torch.finfo(z.dtype).tiny
            return torch.sqrt(F.softplus(z).clamp(min=tiny))
        return torch.relu(z) if self.affinity == "relu" else z

    def weigh(self, plan: Plan, affinity: Tensor | None = None, *, k: int | None = None) -> Plan:
        """The same pairs with the weights of this rule.

        Args:
            plan: its weights are the affinities of its pairs, unless `affinity` is given.
            affinity: `[S, E]` to read them from.
            k: choices per token, where the plan lists exactly k pairs token by token.
        """
        if affinity is not None:
            plan = weigh(plan, affinity)
        weight = plan.weight
        if self.normalise and k is not None:
            rows = weight.reshape(plan.n_sources, k)
            total = rows.sum(dim=1, keepdim=True)
            weight = (rows / torch.where(total == 0, 1.0, total)).reshape(-1)
        elif self.normalise:
            weight = shared(plan).weight
        if self.scale != 1.0:
            weight = weight * self.scale
        return plan if weight is plan.weight else plan.with_weight(weight)
