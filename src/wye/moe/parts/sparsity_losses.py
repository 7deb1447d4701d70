"""Losses that decide how many experts a ReLU router leaves active, and whether neighbours agree.

With logits z_t, a_t = ReLU(z_t):
    locality    mean_{t,i} BCE(sigmoid(beta z_{t-1,i}), target sigmoid(beta z_{t,i}))
    chunk       mean_{chunks,i} [1 - prod_{t in chunk} (1 - p_ti)],   p_t = a_t / (sum_i a_ti + eps)
    L1          mean_t sum_i a_ti

Locality pulls consecutive tokens of one document to the same experts; chunk is the probability
that a draw of one expert per token by p touches expert i somewhere in the chunk.

Sources: BlockFFN (arXiv 2507.08771) for the first two, ReMoE (arXiv 2412.14711) for L1.

Shape letters: S tokens, E experts, C chunks.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from wye.moe.base import MoEError
from wye.moe.parts.balance import Balance, Routed
from wye.moe.parts.chunks import Chunks, chunks_of, consecutive
from wye.moe.parts.loss_weight import LossWeight, as_weight

EPS = 1e-5
# ln(1 - p) of a token with one active expert would be infinite.
LARGEST_SHARE = 0.999


def locality(left: Tensor, right: Tensor, *, beta: float = 100.0) -> Tensor:
    """Binary cross-entropy of sigmoid(beta left) against the target sigmoid(beta right).

    At equality it is the target's binary entropy, which is its minimum over `left`.

    Args:
        left, right: logits of consecutive tokens, one shape.
        beta: steepness.
    """
    target = torch.sigmoid(beta * right)
    return F.binary_cross_entropy_with_logits(beta * left, target)


def chunk_use(share_SE: Tensor, chunks: Chunks) -> Tensor:
    """Probability `[C, E]` that a chunk draws each expert at least once.

    Args:
        share_SE: `[S, E]` probabilities of each token's draw; clamped at 0.999.
        chunks: of the S tokens.
    """
    absent = torch.log1p(-share_SE.clamp(max=LARGEST_SHARE))
    total = absent.new_zeros(chunks.number, share_SE.shape[1]).index_add(0, chunks.index, absent)
    return -torch.expm1(total)


class LocalityLoss(Balance):
    """Consecutive tokens should use the same experts.

    Args:
        weight: of the loss in this layer.
        beta: steepness of the sigmoid that stands for "active".
        detach_target: move only the earlier token of a pair; the release moves both.
        boundary: token id that ends a document, if documents are packed into sequences.
    """

    def __init__(
        self,
        weight: float | LossWeight = 2e-3,
        *,
        beta: float = 100.0,
        detach_target: bool = False,
        boundary: int | None = None,
    ) -> None:
        super().__init__()
        self.weight = as_weight(weight)
        self.beta, self.detach_target, self.boundary = beta, detach_target, boundary

    def losses(self, routed: Routed) -> dict[str, Tensor]:
        z = routed.scored.logits
        left = consecutive(routed.candidates.context, z.device, boundary=self.boundary)
        if not left.numel():
            return {}
        target = z[left + 1]
        loss = locality(z[left], target.detach() if self.detach_target else target, beta=self.beta)
        self.weight.observe(loss)
        return {"locality": self.weight.value * loss}

    def after_step(self) -> None:
        self.weight.after_step()

    def extra_repr(self) -> str:
        return f"beta={self.beta}, detach_target={self.detach_target}, boundary={self.boundary}"


class ChunkLoss(Balance):
    """A chunk of consecutive tokens should use few experts.

    Args:
        weight: of the loss in this layer; a `RatioWeight` is told the loss.
        chunk: tokens per chunk.
        boundary: token id that ends a document; chunks then never straddle documents.

    Raises:
        MoEError: chunks of less than one token.
    """

    def __init__(
        self, weight: float | LossWeight = 5e-2, *, chunk: int = 64, boundary: int | None = None
    ) -> None:
        super().__init__()
        if chunk < 1:
            raise MoEError(f"chunk={chunk}, expected at least 1 token")
        self.weight = as_weight(weight)
        self.chunk, self.boundary = chunk, boundary

    def losses(self, routed: Routed) -> dict[str, Tensor]:
        active = torch.relu(routed.scored.logits)
        if not active.shape[0]:
            return {}
        share = active / (active.sum(dim=1, keepdim=True) + EPS)
        context = routed.candidates.context
        chunks = chunks_of(context, self.chunk, active.device, boundary=self.boundary)
        loss = chunk_use(share, chunks).mean()
        self.weight.observe(loss)
        return {"chunk": self.weight.value * loss}

    def after_step(self) -> None:
        self.weight.after_step()

    def extra_repr(self) -> str:
        return f"chunk={self.chunk}, boundary={self.boundary}"


class L1Loss(Balance):
    """Fewer active experts per token.

    Args:
        weight: of the loss in this layer; a `TargetWeight` is told the share of active experts.
    """

    def __init__(self, weight: float | LossWeight) -> None:
        super().__init__()
        self.weight = as_weight(weight)

    def losses(self, routed: Routed) -> dict[str, Tensor]:
        active = torch.relu(routed.scored.logits)
        if not active.shape[0]:
            return {}
        self.weight.observe((active > 0).float().mean())
        return {"l1": self.weight.value * active.sum(dim=1).mean()}

    def after_step(self) -> None:
        self.weight.after_step()
