"""Interaction layer: one model reads the hidden states of others in a shared width.

With u_m = P_m LN(h_m) of every active model m, and the primary model m*:

    Q = u_m* W_Q,   K = U W_K,   V = U W_V,   U = the u_m one after the other
    c = softmax(Q K^T / sqrt(d_head) + mask) V W_O
    h_m* <- h_m* + R_m* c

Hidden norms of models differ by orders of magnitude, hence LN before P. R starts at 0, so that at
first nothing changes. Mixture of Thoughts, arXiv 2509.21164.

Shape letters: B batch, L length, S source places, D width of a model, U shared width, H heads.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn

from wye.lockstep.base import LockstepError


class Interaction(nn.Module):
    """Projections into and out of the shared width, and the attention in it.

    Args:
        widths: D of every model.
        shared: U.
        n_heads: H, a divisor of U.

    Raises:
        LockstepError: no models, or heads that do not divide the width.
    """

    def __init__(self, widths: Sequence[int], *, shared: int = 128, n_heads: int = 4) -> None:
        super().__init__()
        if not widths or shared < 1 or n_heads < 1 or shared % n_heads:
            raise LockstepError(
                f"widths={list(widths)}, shared={shared}, n_heads={n_heads}; expected at least one "
                "model and a shared width that the number of heads divides"
            )
        self.shared, self.n_heads = shared, n_heads
        self.norms = nn.ModuleList(nn.LayerNorm(width) for width in widths)
        self.into = nn.ModuleList(nn.Linear(width, shared, bias=False) for width in widths)
        self.back = nn.ModuleList(nn.Linear(shared, width, bias=False) for width in widths)
        self.query = nn.Linear(shared, shared, bias=False)
        self.key = nn.Linear(shared, shared, bias=False)
        self.value = nn.Linear(shared, shared, bias=False)
        self.output = nn.Linear(shared, shared, bias=False)
        for weight in self.back.parameters():
            nn.init.zeros_(weight)

    def project(self, member: int, hidden: Tensor) -> Tensor:
        """u `[B, L, U]` of the hidden states `[B, L, D]` of a model."""
        u: Tensor = self.into[member](self.norms[member](hidden.float()))
        return u

    def attend(self, reader: Tensor, sources: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        """c `[B, L, U]`, and the attention that each source got, `[B, L, S]`, mean over heads.

        Args:
            reader: u of the primary `[B, L, U]`.
            sources: U `[B, S, U]`.
            seen: `[B, L, S]` booleans; every row sees something.
        """
        B, L, _ = reader.shape
        q, k, v = (
            layer(x).view(B, -1, self.n_heads, self.shared // self.n_heads).transpose(1, 2)
            for layer, x in ((self.query, reader), (self.key, sources), (self.value, sources))
        )
        scores = (q @ k.transpose(-1, -2)) / math.sqrt(q.shape[-1])
        weights = scores.masked_fill(~seen[:, None], -math.inf).softmax(dim=-1)
        mixed = (weights @ v).transpose(1, 2).reshape(B, L, self.shared)
        c: Tensor = self.output(mixed)
        return c, weights.detach().mean(dim=1)

    def update(self, member: int, hidden: Tensor, c: Tensor, weight: Tensor) -> Tensor:
        """h + a R c `[B, L, D]`, with the weight a `[B]` of each row.

        Raises:
            LockstepError: hidden states that are not a batch of sequences.
        """
        if hidden.ndim != 3:
            raise LockstepError(
                f"a layer gives hidden states {tuple(hidden.shape)}, expected [B, L, D]"
            )
        change = weight[:, None, None] * self.back[member](c)
        changed: Tensor = hidden + change.to(hidden.dtype)
        return changed


def stack_ends(n_layers: int, n_stacks: int, *, last: bool = False) -> list[int]:
    """Index of the last layer of each of Q stacks of about the same size.

    Args:
        n_layers: of the model.
        n_stacks: Q, at most `n_layers`.
        last: also that of the last stack.

    Raises:
        LockstepError: more stacks than layers.

    Example:
        >>> stack_ends(30, 4)
        [7, 14, 22]
    """
    if not 1 <= n_stacks <= n_layers:
        raise LockstepError(
            f"{n_stacks} stacks of {n_layers} layers, expected 1 to {n_layers}: lower n_stacks"
        )
    ends = [-(-n_layers * q // n_stacks) - 1 for q in range(1, n_stacks + 1)]
    return ends if last else ends[:-1]
