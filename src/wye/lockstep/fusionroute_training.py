"""The two stages in which FusionRoute's router learns.

Stage 1, on texts of all domains, trains the router's language model and its head together:

    L_SFT = L_LM + lambda L_route

L_LM is the router's own next-token cross-entropy, L_route the mixture likelihood on informative
positions (`expert_records`). Stage 2, on preference pairs, trains the language model alone on
L_SFT + L_CDPO (`preference_loss`): preferences on the head collapse it onto one expert.
arXiv 2601.05106. Not stated in what could be read, and ours: the form of L_route, lambda = 1,
beta = 0.1, AdamW with 3% warm-up and a cosine to 0.

Shape letters: B batch, L length, N experts.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from wye.lockstep.base import LockstepError
from wye.lockstep.descent import descend
from wye.lockstep.expert_records import ExpertRecord, record_experts, routing_loss
from wye.lockstep.fusionroute import TokenFusion
from wye.lockstep.preference_loss import complemented_dpo, sequence_log_probability

Floats = NDArray[np.float64]
WARM_UP = 0.03


@dataclass(frozen=True)
class Texts:
    """Texts to imitate, with what the experts say of them.

    Attributes:
        ids: `[n, L + 1]`, padded at their ends.
        counted: `[n, L]` booleans: which of the predicted places 1 to L are learned from.
        record: of the experts on `ids`.
    """

    ids: Tensor
    counted: Tensor
    record: ExpertRecord

    @classmethod
    def of(cls, fusion: TokenFusion, ids: Tensor, counted: Tensor | None = None) -> Texts:
        """Texts read once by the experts of `fusion`; all places count when not told otherwise.

        Raises:
            LockstepError: shapes that do not match.
        """
        if counted is None:
            counted = torch.ones_like(ids[:, 1:], dtype=torch.bool)
        if counted.shape != ids[:, 1:].shape:
            raise LockstepError(
                f"counted has shape {tuple(counted.shape)}, expected {tuple(ids[:, 1:].shape)}"
            )
        return cls(ids, counted, record_experts(fusion.experts, ids))


@dataclass(frozen=True)
class Preferences:
    """Pairs of texts that begin alike, of which one is preferred.

    Attributes:
        preferred, rejected: ids `[n, L + 1]`, padded at their ends.
        preferred_counted, rejected_counted: `[n, L]` booleans: the places of the answers.
    """

    preferred: Tensor
    rejected: Tensor
    preferred_counted: Tensor
    rejected_counted: Tensor

    def __post_init__(self) -> None:
        for name, ids, counted in (
            ("preferred", self.preferred, self.preferred_counted),
            ("rejected", self.rejected, self.rejected_counted),
        ):
            if ids.ndim != 2 or counted.shape != ids[:, 1:].shape:
                raise LockstepError(
                    f"{name} has shapes {tuple(ids.shape)} and {tuple(counted.shape)}, expected "
                    "ids [n, L + 1] and counted [n, L]"
                )
        if len(self.preferred) != len(self.rejected) or not len(self.preferred):
            raise LockstepError(
                f"{len(self.preferred)} preferred and {len(self.rejected)} rejected texts, "
                "expected as many, at least one"
            )

    def log_probabilities(self, fusion: TokenFusion, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Of some preferred and some rejected answers under the whole group, `[B]` each."""
        first = _said(fusion, self.preferred[rows], self.preferred_counted[rows])
        return first, _said(fusion, self.rejected[rows], self.rejected_counted[rows])


def sft_loss(
    fusion: TokenFusion,
    texts: Texts,
    rows: Tensor,
    *,
    route_weight: float = 1.0,
    one_hot: bool = False,
) -> Tensor:
    """L_SFT of some texts, a scalar in nats per token.

    Args:
        fusion: whose experts made the record of `texts`.
        texts: to imitate.
        rows: `[B]` which of them.
        route_weight: lambda.
        one_hot: the alternative form of `routing_loss`.
    """
    ids, counted = texts.ids[rows], texts.counted[rows]
    logits, scores = fusion.route(ids[:, :-1])
    target = ids[:, 1:].masked_fill(~counted, -100)
    imitation = F.cross_entropy(logits.float().transpose(1, 2), target, reduction="sum")
    imitation = imitation / counted.sum().clamp(min=1)
    route = routing_loss(scores, texts.record.rows(rows), one_hot=one_hot, counted=counted)
    return imitation + route_weight * route


def fit_sft(
    fusion: TokenFusion,
    texts: Texts,
    *,
    steps: int,
    batch: int = 16,
    rate: float = 1e-5,
    route_weight: float = 1.0,
    one_hot: bool = False,
    seed: int = 0,
) -> Floats:
    """Stage 1: language model and head together.

    Args:
        fusion: trained in place.
        texts: of all domains.
        steps: of AdamW.
        batch: texts of a step.
        rate: the highest; 1e-5 for a pretrained router, 3e-4 for a small one from scratch.
        route_weight, one_hot: as in `sft_loss`.
        seed: of the order of texts.

    Returns:
        L_SFT of every step.

    Raises:
        LockstepError: no texts, or a loss that is not finite.
    """
    order = _rows(len(texts.ids), batch, seed)

    def loss() -> Tensor:
        return sft_loss(fusion, texts, order(), route_weight=route_weight, one_hot=one_hot)

    return _descend(fusion, list(fusion.parameters()), loss, steps, rate)


def fit_cdpo(
    fusion: TokenFusion,
    texts: Texts,
    pairs: Preferences,
    *,
    steps: int,
    batch: int = 16,
    rate: float = 1e-5,
    beta: float = 0.1,
    route_weight: float = 1.0,
    one_hot: bool = False,
    seed: int = 0,
) -> Floats:
    """Stage 2: the language model alone, on texts and preferences mixed in every step.

    The reference is the group as it is when this is called.

    Args:
        fusion: after stage 1; trained in place.
        texts: as in `fit_sft`.
        pairs: preferences.
        steps, rate, route_weight, one_hot, seed: as in `fit_sft`.
        batch: texts and, besides, pairs of a step.
        beta: of CDPO.

    Returns:
        The whole loss of every step.

    Raises:
        LockstepError: no texts, or a loss that is not finite.
    """
    with torch.no_grad():
        fusion.eval()
        parts = torch.split(torch.arange(len(pairs.preferred)), batch)
        said = [pairs.log_probabilities(fusion, rows) for rows in parts]
        reference = [torch.cat(column) for column in zip(*said, strict=True)]
    text_order = _rows(len(texts.ids), batch, seed)
    pair_order = _rows(len(pairs.preferred), batch, seed + 1)

    def loss() -> Tensor:
        imitation = sft_loss(
            fusion, texts, text_order(), route_weight=route_weight, one_hot=one_hot
        )
        rows = pair_order()
        first, second = pairs.log_probabilities(fusion, rows)
        return imitation + complemented_dpo(
            first, second, reference[0][rows], reference[1][rows], beta=beta
        )

    learned = [p for p in fusion.router.parameters() if p.requires_grad]
    fusion.head.requires_grad_(False)
    try:
        return _descend(fusion, learned, loss, steps, rate)
    finally:
        fusion.head.requires_grad_(True)


def _said(fusion: TokenFusion, ids: Tensor, counted: Tensor) -> Tensor:
    return sequence_log_probability(fusion(ids[:, :-1]).logits, ids[:, 1:], counted)


def _rows(n: int, batch: int, seed: int) -> Callable[[], Tensor]:
    """Draws of `batch` rows, every row once before any comes twice."""
    if n < 1 or batch < 1:
        raise LockstepError(f"{n} texts in batches of {batch}, expected at least 1 each")
    generator = torch.Generator().manual_seed(seed)
    left: list[Tensor] = []

    def draw() -> Tensor:
        if not left:
            left.extend(reversed(torch.split(torch.randperm(n, generator=generator), batch)))
        return left.pop()

    return draw


def _descend(
    fusion: TokenFusion,
    learned: list[nn.Parameter],
    loss_of: Callable[[], Tensor],
    steps: int,
    rate: float,
) -> Floats:
    optimiser = torch.optim.AdamW(learned, lr=rate)
    losses = np.zeros(max(steps, 0))
    was_training = fusion.training
    fusion.train()
    try:
        for step in range(steps):
            for group in optimiser.param_groups:
                group["lr"] = rate * _share_of_rate(step, steps)
            remedy = f"lower rate={rate}"
            losses[step] = descend(optimiser, learned, loss_of(), step=step, remedy=remedy)
    finally:
        fusion.train(was_training)
    return losses


def _share_of_rate(step: int, steps: int) -> float:
    warm = max(1, round(WARM_UP * steps))
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))
