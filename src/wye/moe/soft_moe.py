"""Soft MoE: experts work on slots, each a mixture of all tokens; nothing is chosen or dropped.

Tokens -> slots -> tokens, when a sequence passes the layer, from the hidden states of all its
tokens: for encoders. A layer of its own, since it makes no plan between tokens and experts.
Paper: Puigcerver et al. 2023, arXiv 2308.00951, section 2.1 and algorithm 2.

    L = scale * norm(X) norm(Phi)      [n, E q] logits of n tokens for q slots of each of E experts
    D = softmax of L over the tokens   dispatch; slot inputs D^T X
    C = softmax of L over the slots    combine
    Y = C f(D^T X),  expert floor(s / q) on slot s
norm() brings tokens and the columns of Phi to length 1; scale is learned. q = n / E slots per
expert cost as much as one expert per token.

Shape letters: B sequences, L tokens, D width, E experts, P slots of all experts.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wye.core import Plan
from wye.moe.base import Contracts, MoEError
from wye.moe.build import Shape
from wye.moe.experts import Experts


class SoftMoE(nn.Module):
    """A soft mixture of experts.

    Attributes:
        contracts: what holds of it; an output depends on all tokens of its sequence.
        takes_mask: it wants to be told of padding.

    Args:
        experts: E of them.
        slots: q, per expert.

    Raises:
        MoEError: no slots.

    Example:
        >>> layer = SoftMoE(Experts(4, width=8, hidden=16), slots=2)
        >>> layer(torch.ones(3, 5, 8)).shape
        torch.Size([3, 5, 8])
    """

    contracts = Contracts(causal=False, batch_invariant=True, padding=True)
    takes_mask = True

    def __init__(self, experts: Experts, *, slots: int = 1) -> None:
        super().__init__()
        if not isinstance(slots, int) or isinstance(slots, bool) or slots < 1:
            raise MoEError(f"slots={slots!r}, expected an integer of at least 1")
        self.experts = experts
        self.slots = slots
        self.phi = nn.Parameter(torch.empty(experts.width, experts.n_experts * slots))
        self.scale = nn.Parameter(torch.ones(()))
        nn.init.normal_(self.phi, std=experts.width**-0.5)

    def forward(self, x: Tensor, *, mask: Tensor | None = None) -> Tensor:
        """Output of the shape and dtype of `x`; zero at padded tokens.

        Args:
            x: `[B, L, D]`, or `[L, D]` for one sequence.
            mask: `[B, L]` or `[L]`, False or 0 at padding.

        Raises:
            MoEError: another shape, NaN among the hidden states.
        """
        x_BLD, mask_BL = self._batched(x, mask)
        if 0 in x_BLD.shape:
            return x
        with torch.autocast(x.device.type, enabled=False):
            dispatch_BLP, combine_BLP = self.weights(x_BLD, mask_BL)
            slots_BPD = dispatch_BLP.transpose(1, 2) @ self._valid(x_BLD, mask_BL).float()
        y_BPD = self._run(slots_BPD.to(x.dtype))
        y_BLD = combine_BLP @ y_BPD.float()
        return self._valid(y_BLD, mask_BL).to(x.dtype).reshape(x.shape)

    def weights(self, x_BLD: Tensor, mask_BL: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Dispatch and combine weights `[B, L, P]` in float32.

        Columns of dispatch sum to 1 over the tokens that are no padding (to 0 where there are
        none), rows of combine over the slots.

        Args:
            x_BLD: hidden states.
            mask_BL: booleans, False at padding.

        Raises:
            MoEError: NaN or infinite hidden states.
        """
        x = F.normalize(self._valid(x_BLD, mask_BL).float(), dim=-1)
        logits = self.scale.float() * (x @ F.normalize(self.phi.float(), dim=0))
        if not bool(torch.isfinite(logits).all()):
            raise MoEError(
                "the hidden states hold NaN or infinite values: look at the layers before this one"
            )
        combine = torch.softmax(logits, dim=2)
        if mask_BL is not None:
            logits = logits.masked_fill(~mask_BL[..., None], -torch.inf)
            # A sequence of padding alone has no token to take anything from.
            some = mask_BL.any(dim=1)[:, None, None]
            logits = torch.where(some, logits, 0.0)
            return torch.softmax(logits, dim=1) * some, combine
        return torch.softmax(logits, dim=1), combine

    def _run(self, slots_BPD: Tensor) -> Tensor:
        B, P, D = slots_BPD.shape
        place = torch.arange(B * P, device=slots_BPD.device)
        ones = torch.ones(B * P, device=slots_BPD.device)
        plan = Plan(place, place % P // self.slots, ones, B * P, self.experts.n_experts)
        y: Tensor = self.experts(slots_BPD.reshape(B * P, D), plan)
        return y.view(B, P, D)

    def _valid(self, x_BLD: Tensor, mask_BL: Tensor | None) -> Tensor:
        # Padding may hold anything, NaN included.
        return x_BLD if mask_BL is None else torch.where(mask_BL[..., None], x_BLD, 0.0)

    def _batched(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        if x.ndim not in (2, 3) or x.shape[-1] != self.experts.width:
            raise MoEError(
                f"hidden states have shape {tuple(x.shape)}, expected [B, L, {self.experts.width}] "
                f"or [L, {self.experts.width}]"
            )
        x_BLD = x if x.ndim == 3 else x[None]
        if mask is None:
            return x_BLD, None
        if mask.numel() != x_BLD.shape[0] * x_BLD.shape[1]:
            raise MoEError(
                f"mask has shape {tuple(mask.shape)}, expected {tuple(x.shape[:-1])}: one entry a "
                "token"
            )
        return x_BLD, mask.reshape(x_BLD.shape[:2]).to(torch.bool)

    def extra_repr(self) -> str:
        return f"slots={self.slots}"


def build(shape: Shape, *, slots: int = 1, gated: bool = True) -> list[nn.Module]:
    """One Soft MoE layer per layer of `shape`; `slots` per expert stand for its k.

    Sequences of n tokens cost as much as with k experts per token where slots = k n / E.
    """
    return [
        SoftMoE(Experts(shape.n_experts, shape.width, shape.hidden, gated=gated), slots=slots)
        for _ in range(shape.n_layers)
    ]
