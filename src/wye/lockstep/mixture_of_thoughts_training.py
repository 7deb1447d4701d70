"""What a mixture of thoughts learns from: its answers, and three terms that keep roles open.

    L = L_LM + l_ent L_ent + l_bal L_bal + l_con L_con

    L_LM    next-token cross-entropy of the primary on answer tokens
    L_ent   - H(softmax(s)), mean over the batch
    L_bal   (std_m f_m / mean_m f_m)^2 of the soft shares f_m = mean_b softmax(s)_m
    L_con   1/2 [KL(p1 || p2) + KL(p2 || p1)] of the primary's laws under two draws of the Gumbel
            noise with the same primary, at temperature 2

Without the last three the method is reported to fall below plain routing. arXiv 2509.21164; the
coefficients 0.01, 0.01 and 0.05, AdamW at 1e-3 (router) and 3e-4 (interaction), that L_LM is of the
first draw and L_con over answer tokens are ours.

Shape letters: B queries, L length, V vocabulary, M models, D width of z.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from wye.core import entropy, squared_variation, symmetric_divergence
from wye.lockstep.base import LockstepError
from wye.lockstep.descent import descend
from wye.lockstep.mixture_of_thoughts import MixtureOfThoughts, Thoughts
from wye.lockstep.offsets import Tokens

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Questions:
    """Questions with their answers, as every model reads them.

    Attributes:
        texts: by model, n texts `[n, L + 1]`; one for models of one tokenizer.
        counted: by model as `texts`, `[n, L]` booleans: which of the places 1 to L are answer.
        z: `[n, D]` embeddings of the prompts.
    """

    texts: tuple[Tokens, ...]
    counted: tuple[Tensor, ...]
    z: Tensor

    def __post_init__(self) -> None:
        for text, counted in zip(self.texts, self.counted, strict=True):
            if counted.shape != text.ids[:, 1:].shape or len(text.ids) != len(self.z):
                raise LockstepError(
                    f"texts {tuple(text.ids.shape)}, counted {tuple(counted.shape)} and "
                    f"embeddings {tuple(self.z.shape)}, expected [n, L + 1], [n, L] and [n, D]"
                )

    def text(self, member: int) -> Tokens:
        """As `member` reads it."""
        return self.texts[member if len(self.texts) > 1 else 0]

    def answers(self, member: int) -> Tensor:
        """Where the answers are for `member`."""
        return self.counted[member if len(self.counted) > 1 else 0]


@dataclass(frozen=True, kw_only=True)
class ThoughtWeights:
    """Coefficients of the auxiliary losses."""

    entropy: float = 0.01
    balance: float = 0.01
    consistency: float = 0.05


CONSISTENCY_TEMPERATURE = 2.0


def thoughts_loss(
    mixture: MixtureOfThoughts,
    questions: Questions,
    rows: Tensor,
    *,
    weights: ThoughtWeights | None = None,
    generator: torch.Generator | None = None,
    peer_rows: Tensor | None = None,
) -> Tensor:
    """L of some questions, a scalar.

    Args:
        mixture: in training mode, for noise.
        questions: with answers.
        rows: `[B]` which of them.
        weights: of the auxiliary losses.
        generator: of the noise.
        peer_rows: `[B]` as in `MixtureOfThoughts.forward`.
    """
    weights = weights or ThoughtWeights()
    z = questions.z[rows]
    read = [_without_last(questions.text(m).rows(rows)) for m in range(len(mixture.members))]
    first = mixture(read, z, generator=generator, peer_rows=peer_rows)
    loss = answer_loss(first, questions, rows)
    law = torch.softmax(first.roles.scores, dim=-1)
    loss = loss - weights.entropy * entropy(law) + weights.balance * squared_variation(law.mean(0))
    if weights.consistency:
        again = mixture.router(z, noise=True, generator=generator, primary=first.roles.primary)
        second = mixture(read, z, roles=again, peer_rows=peer_rows)
        loss = loss + weights.consistency * _consistency(first, second, questions, rows)
    total: Tensor = loss
    return total


def answer_loss(thoughts: Thoughts, questions: Questions, rows: Tensor) -> Tensor:
    """L_LM: mean cross-entropy over the answer tokens of a batch, in nats."""
    total = thoughts.roles.scores.new_zeros(())
    count = 0
    for group in thoughts.groups:
        here = rows[group.rows]
        counted = questions.answers(group.primary)[here]
        target = questions.text(group.primary).ids[here, 1:]
        said = group.logits[counted].float()
        total = total + F.cross_entropy(said, target[counted], reduction="sum")
        count += int(counted.sum())
    return total / max(count, 1)


def fit_thoughts(
    mixture: MixtureOfThoughts,
    questions: Questions,
    *,
    steps: int,
    batch: int = 16,
    router_rate: float = 1e-3,
    interaction_rate: float = 3e-4,
    weights: ThoughtWeights | None = None,
    shuffle_peers: bool = False,
    seed: int = 0,
) -> Floats:
    """Train router and interactions by AdamW.

    Args:
        mixture: trained in place.
        questions: with answers.
        steps: of AdamW.
        batch: B.
        router_rate, interaction_rate: constant learning rates.
        weights: of the auxiliary losses.
        shuffle_peers: peers read the texts of other questions of the batch: what is left is what
            the interaction is worth without the content of thoughts.
        seed: of order, noise and dropout.

    Returns:
        The loss of every step.

    Raises:
        LockstepError: no questions, or a loss that is not finite.
    """
    if not len(questions.z) or batch < 1:
        raise LockstepError(
            f"{len(questions.z)} questions in batches of {batch}, expected at least 1 each"
        )
    optimiser = torch.optim.AdamW(
        [
            {"params": list(mixture.router.parameters()), "lr": router_rate},
            {"params": list(mixture.interactions.parameters()), "lr": interaction_rate},
        ]
    )
    learned = [p for group in optimiser.param_groups for p in group["params"]]
    losses = np.zeros(steps)
    generator = torch.Generator().manual_seed(seed)
    was_training = mixture.training
    mixture.train()
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for step in range(steps):
                rows = torch.randint(len(questions.z), (batch,), generator=generator)
                peers = torch.randperm(batch, generator=generator) if shuffle_peers else None
                loss = thoughts_loss(
                    mixture,
                    questions,
                    rows,
                    weights=weights,
                    generator=generator,
                    peer_rows=peers,
                )
                remedy = "lower the rates"
                losses[step] = descend(optimiser, learned, loss, step=step, remedy=remedy)
    finally:
        mixture.train(was_training)
    return losses


def _consistency(first: Thoughts, second: Thoughts, questions: Questions, rows: Tensor) -> Tensor:
    """L_con over the answer tokens of a batch."""
    ones: list[Tensor] = []
    others: list[Tensor] = []
    for member in sorted({g.primary for g in first.groups}):
        (here, one), (_, other) = first.of_primary(member), second.of_primary(member)
        counted = questions.answers(member)[rows[here]]
        ones.append(one[counted].float())
        others.append(other[counted].float())
    total = sum(
        (symmetric_divergence(a / CONSISTENCY_TEMPERATURE, b / CONSISTENCY_TEMPERATURE) * len(a))
        for a, b in zip(ones, others, strict=True)
    )
    mean: Tensor = total / max(sum(len(a) for a in ones), 1)
    return mean


def _without_last(text: Tokens) -> Tokens:
    return Tokens(text.ids[:, :-1], text.seen[:, :-1], text.complete[:, :-1])


def shared_questions(ids: Tensor, counted: Tensor, z: Tensor) -> Questions:
    """Questions for models of one tokenizer.

    Args:
        ids: `[n, L + 1]`, padded at their ends, where no token that counts sees it.
        counted: `[n, L]` booleans.
        z: `[n, D]`.
    """
    return Questions((Tokens.counted(ids),), (counted,), z)
