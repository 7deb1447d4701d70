"""Experts take tokens, in every sequence separately, as many as the sequence has places for.

    c_b = min(S_b, max(1, floor(S_b k_b / E)))       places per expert in sequence b
    T_be = the c_b tokens of sequence b with the largest scores of expert e

A token gets 0 to E experts, sum_b E c_b / S on average, and the load is balanced exactly. The
choice of one token depends on the later tokens of its sequence: for encoders and diffusion models.
Padding never gets here, so S_b counts valid tokens alone.

Equal scores, which masked tokens produce, fall to positions in a fixed scattered order of each
expert: the lower index first would hand all of them to the start of the sequence.

Source: expert choice (arXiv 2202.09368) within sequences and with a capacity per sample, as EC-DLM
(arXiv 2604.01622) has it; the exact rule for ties is ours.

Shape letters: S tokens, E experts, N routed pairs, B sequences, L tokens of the longest sequence.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from wye.core import Plan, SelectionError
from wye.moe.base import MoEError
from wye.moe.parts.mask_schedules import MaskSchedule
from wye.moe.parts.selection import Candidates, Selection

Ranking = Literal["affinity", "logits"]


class SequenceChoice(Selection):
    """Every expert takes its best tokens of every sequence; weights are their affinities.

    Args:
        k: experts per token on average, a number > 0, the same for all sequences; or a schedule of
            the mask ratio, which the context must then give.
        ranking: by what the experts choose: "affinity" (plus bias), or "logits", which ranks each
            column of a softmax without comparing tokens by their denominators.

    Raises:
        MoEError: k that is neither, an unknown ranking.

    Example:
        >>> from wye.moe.base import Context
        >>> scores = torch.tensor([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.3, 0.7]])
        >>> context = Context(batch=2, length=2)
        >>> plan = SequenceChoice(1)(Candidates(scores, scores, scores, context))
        >>> plan.source.tolist(), plan.target.tolist()
        ([0, 1, 3, 2], [0, 1, 0, 1])
    """

    def __init__(self, k: float | MaskSchedule, *, ranking: Ranking = "affinity") -> None:
        super().__init__()
        if not isinstance(k, MaskSchedule) and not (math.isfinite(k) and k > 0):
            raise MoEError(f"k={k!r}, expected a number > 0 or a MaskSchedule")
        if ranking not in ("affinity", "logits"):
            raise MoEError(f"ranking={ranking!r}, expected 'affinity' or 'logits'")
        self.k = k
        self.ranking = ranking

    def forward(self, candidates: Candidates) -> Plan:
        scores_SE = candidates.ranked
        if self.ranking == "logits":
            scores_SE = candidates.logits.detach()
            scores_SE = scores_SE if candidates.bias is None else scores_SE + candidates.bias
        context = candidates.context
        sequence_S = context.sequence(scores_SE.device)
        lengths_B = torch.bincount(sequence_S, minlength=context.batch)
        capacity_B = self.capacity(lengths_B, scores_SE.shape[1], context.mask_ratio)
        return best_per_sequence(scores_SE, candidates.affinity, sequence_S, capacity_B)

    def capacity(self, lengths_B: Tensor, n_experts: int, ratio_B: Tensor | None) -> Tensor:
        """Tokens that every expert takes of each sequence, int64 `[B]`; 0 of an empty one.

        Args:
            lengths_B: valid tokens of each sequence.
            n_experts: E.
            ratio_B: mask ratios, needed by a schedule.

        Raises:
            MoEError: a schedule without mask ratios, or with another number of them.
        """
        if isinstance(self.k, MaskSchedule):
            if ratio_B is None or ratio_B.shape != lengths_B.shape:
                given = None if ratio_B is None else tuple(ratio_B.shape)
                raise MoEError(
                    f"mask_ratio has shape {given}, expected [{lengths_B.shape[0]}]: a capacity "
                    "that follows the mask ratio needs that of every sequence"
                )
            places = (lengths_B * self.k(ratio_B.to(lengths_B.device))) // n_experts
        else:
            places = torch.floor(lengths_B.double() * self.k / n_experts + 1e-9).long()
        return torch.minimum(places.clamp(min=1), lengths_B)

    def extra_repr(self) -> str:
        return f"k={self.k}, ranking={self.ranking}"


def best_per_sequence(
    scores_SE: Tensor, weight_SE: Tensor, sequence_S: Tensor, capacity_B: Tensor
) -> Plan:
    """The `capacity_B[b]` tokens of sequence b with the largest scores of each expert.

    Pairs come sequence by sequence, expert by expert, best first.

    Args:
        scores_SE: `[S, E]` finite floats that decide.
        weight_SE: `[S, E]` weights of the pairs; gradients flow to it.
        sequence_S: `[S]` sequence of every token, in ascending order.
        capacity_B: `[B]` at most as many as the sequence has tokens.

    Raises:
        SelectionError: NaN among the scores.
    """
    if bool(torch.isnan(scores_SE).any()):
        raise SelectionError("scores hold NaN: a selection never guesses")
    n_tokens, n_experts = scores_SE.shape
    if n_tokens == 0:
        none = sequence_S.new_zeros(0)
        return Plan(none, none, weight_SE.reshape(-1), 0, n_experts)
    lengths_B = torch.bincount(sequence_S, minlength=capacity_B.shape[0])
    start_B = torch.cumsum(lengths_B, 0) - lengths_B
    length = int(lengths_B.max())
    row_S = torch.arange(n_tokens, device=scores_SE.device) - start_B[sequence_S]
    grid_BLE = scores_SE.new_full((lengths_B.shape[0], length, n_experts), -math.inf)
    grid_BLE[sequence_S, row_S] = scores_SE
    token_BEC = _ranked(grid_BLE, int(capacity_B.max()))
    rank_C = torch.arange(token_BEC.shape[2], device=scores_SE.device)
    keep_BEC = (rank_C < capacity_B[:, None, None]).expand_as(token_BEC)
    source = (token_BEC + start_B[:, None, None])[keep_BEC]
    expert_E1 = torch.arange(n_experts, device=scores_SE.device)[:, None]
    target = expert_E1.expand_as(token_BEC)[keep_BEC]
    return Plan(source, target, weight_SE[source, target], n_tokens, n_experts)


def _ranked(grid_BLE: Tensor, most: int) -> Tensor:
    """Rows of each sequence by falling score for each expert, `[B, E, most]`."""
    _, length, n_experts = grid_BLE.shape
    scattered_EL = scattered_order(length, n_experts, grid_BLE.device)
    index_BEL = scattered_EL.expand(grid_BLE.shape[0], -1, -1)
    grid_BEL = grid_BLE.transpose(1, 2).gather(2, index_BEL)
    order = torch.sort(grid_BEL, dim=2, descending=True, stable=True).indices[:, :, :most]
    return index_BEL.gather(2, order)


def scattered_order(length: int, n_experts: int, device: torch.device) -> Tensor:
    """A fixed order of the positions 0 to L-1 for each expert, int64 `[E, L]`.

    Two positions stand in the same order whatever the length, so that padding changes no tie.
    """
    position = torch.arange(length, device=device)[None, :]
    expert = torch.arange(n_experts, device=device)[:, None]
    # A multiplicative hash (Knuth, vol. 3, section 6.4) of both numbers, mixed once more.
    key = (position * 2_654_435_761 + expert * 40_503 + 12_345) & 0xFFFFFFFF
    key = ((key ^ (key >> 15)) * 2_246_822_519) & 0xFFFFFFFF
    return torch.argsort(key ^ (key >> 13), dim=1, stable=True)
