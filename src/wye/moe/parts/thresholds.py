"""Selections in which a token's own scores decide how many experts it gets.

    above a quantile   S_t = {i : a_ti > theta}, never without the best of t
    positive           S_t = {i : z_ti > 0}, possibly empty

theta is a quantile of the affinities of all tokens and experts of a batch. A percentile of the
token's own affinities gives every token the same number of experts, which `percentile_fan_out`
says without comparing floats: top-k in disguise.

Shape letters: S tokens, E experts, N routed pairs.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from wye.core import Plan, SelectionError
from wye.moe.base import MoEError
from wye.moe.parts.quantile import RunningQuantile, quantile
from wye.moe.parts.selection import Candidates, Selection


def percentile_fan_out(n_experts: int, tau: float) -> int:
    """How many of n distinct values lie above their own `tau` percentile; at least 1.

    max(1, n - 1 - floor(tau (n - 1))), whatever the values are.

    Args:
        n_experts: n.
        tau: 0 to 1.

    Raises:
        MoEError: tau or n out of range.

    Example:
        >>> percentile_fan_out(5, 0.5), percentile_fan_out(5, 0.0), percentile_fan_out(5, 1.0)
        (2, 4, 1)
    """
    _check_tau(tau)
    if n_experts < 1:
        raise MoEError(f"n_experts={n_experts}, expected at least 1")
    return max(1, n_experts - 1 - math.floor(tau * (n_experts - 1) + 1e-9))


class AboveQuantile(Selection):
    """Every expert whose affinity lies above a quantile of the batch; always the best one.

    In training theta is the quantile of the batch itself; in evaluation the mean over training
    batches, so that no token's choice depends on another token. Before any training theta is -inf
    and every token takes all experts, up to `max_k`.

    Args:
        tau: level of the quantile, 0 to 1.
        momentum: of the running mean.
        max_k: experts of a token at most, the best ones; None for no limit.

    Raises:
        MoEError: tau, momentum or max_k out of range.
    """

    def __init__(self, tau: float, *, momentum: float = 0.99, max_k: int | None = None) -> None:
        super().__init__()
        _check_tau(tau)
        if max_k is not None and max_k < 1:
            raise MoEError(f"max_k={max_k}, expected at least 1 or None")
        self.tau, self.max_k = tau, max_k
        self.threshold = RunningQuantile(tau, momentum=momentum)

    def forward(self, candidates: Candidates) -> Plan:
        ranked = candidates.ranked
        _refuse_nan(ranked)
        taken = (ranked > self._theta(ranked)) & (ranked > -torch.inf)
        if ranked.shape[0]:
            taken.scatter_(1, ranked.argmax(dim=1, keepdim=True), True)
        if self.max_k is not None and self.max_k < ranked.shape[1]:
            best = ranked.topk(self.max_k, dim=1).indices
            taken &= torch.zeros_like(taken).scatter_(1, best, True)
        return chosen_where(taken, candidates.affinity)

    def _theta(self, ranked: Tensor) -> Tensor:
        open_values = ranked[ranked > -torch.inf].reshape(-1, 1)
        if not self.training or not open_values.shape[0]:
            return self.threshold.value
        self.threshold.observe(open_values)
        return quantile(open_values, self.tau)

    def extra_repr(self) -> str:
        return f"tau={self.tau}, max_k={self.max_k}"


class Positive(Selection):
    """Every expert whose logit is above zero, which may be none (ReLU routing).

    It reads the logits, not the affinities: a learned scale after the ReLU may turn negative, and
    an expert that it multiplies is active all the same.
    """

    def forward(self, candidates: Candidates) -> Plan:
        z = candidates.logits.detach()
        z = z if candidates.bias is None else z + candidates.bias
        _refuse_nan(z)
        return chosen_where(z > 0, candidates.affinity)


def chosen_where(taken: Tensor, affinity: Tensor) -> Plan:
    """The plan of the pairs where `taken` `[S, E]` is True, weighted by their affinities.

    Pairs come source by source, in order of the expert.
    """
    source, target = taken.nonzero(as_tuple=True)
    n_sources, n_experts = taken.shape
    return Plan(source, target, affinity[source, target], n_sources, n_experts)


def _refuse_nan(values: Tensor) -> None:
    if bool(values.isnan().any()):
        raise SelectionError(
            "affinities hold NaN: a selection never guesses; look at the hidden states that enter "
            "the layer and at the router's weights"
        )


def _check_tau(tau: float) -> None:
    if not 0 <= tau <= 1:
        raise MoEError(f"tau={tau}, expected a level in [0, 1]")
