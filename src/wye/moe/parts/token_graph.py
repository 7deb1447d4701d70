"""Token graphs, and affinities smoothed over them: tokens that belong together route together.

    R' = (1 - share) R + share S R      R [L, E] of one sequence, S [L, L] row-stochastic

S_ij says how much token i lets token j decide for it. Padding has neither rows nor columns; a
causal graph has no column of a later token. A token whose row is empty keeps its own affinities.

A call sees the tokens that it is given: generation that feeds one token at a time has no earlier
tokens to smooth over, so generate without a cache, or feed the whole sequence.

Shape letters: S tokens, E experts, B batch, L length, D width, H heads, R rank.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wye.core import row_stochastic, smoothed
from wye.moe.base import Context, MoEError
from wye.moe.parts.selection import Candidates
from wye.moe.router import Transform


class TokenGraph(nn.Module, ABC):
    """Weights between the tokens of every sequence.

    Attributes:
        needs_attention: whether the model must compute attention weights for it.
    """

    needs_attention: bool = False

    @abstractmethod
    def forward(self, candidates: Candidates, allowed: Tensor) -> Tensor:
        """Weights >= 0 `[B, L, L]`, not yet normalised.

        Args:
            candidates: what the selection reads.
            allowed: `[B, L, L]` booleans; what lies outside them is dropped afterwards.
        """


class AttentionGraph(TokenGraph):
    """S = sum_h pi_h A^h, the attention that the tokens have just passed.

    Args:
        n_heads: H, to learn one logit of pi per head; pi is uniform when not given.
    """

    needs_attention = True

    def __init__(self, n_heads: int | None = None) -> None:
        super().__init__()
        self.heads = None if n_heads is None else nn.Parameter(torch.zeros(n_heads))

    def forward(self, candidates: Candidates, allowed: Tensor) -> Tensor:
        attention = candidates.context.need("attention", "smoothing over the attention graph")
        B, L, _ = allowed.shape
        H = attention.shape[1] if self.heads is None and attention.ndim == 4 else None
        H = H if self.heads is None else self.heads.shape[0]
        if tuple(attention.shape) != (B, H, L, L):
            raise MoEError(
                f"attention has shape {tuple(attention.shape)}, expected [{B}, "
                f"{'H' if H is None else H}, {L}, {L}]: that of the layer's own block, after "
                "softmax"
            )
        weights = attention.float()
        if self.heads is None:
            return weights.mean(dim=1)
        return torch.einsum("h,bhij->bij", torch.softmax(self.heads.float(), dim=0), weights)


class SimilarityGraph(TokenGraph):
    """S_ij = softmax_j( (Q u_i)^T (K u_j) / (sqrt(R) tau) ), with learned Q, K and tau.

    Args:
        width: D.
        rank: R.
        init_std: of Q and K; tau starts at 1.
    """

    def __init__(self, width: int, *, rank: int = 64, init_std: float = 0.02) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.empty(rank, width))
        self.key = nn.Parameter(torch.empty(rank, width))
        self.log_temperature = nn.Parameter(torch.zeros(()))
        nn.init.normal_(self.query, std=init_std)
        nn.init.normal_(self.key, std=init_std)

    def forward(self, candidates: Candidates, allowed: Tensor) -> Tensor:
        u = on_grid(candidates.x_SD.float(), candidates.context)
        q, k = F.linear(u, self.query.float()), F.linear(u, self.key.float())
        scale = math.sqrt(self.query.shape[0]) * self.log_temperature.float().exp()
        return _exponentials(q @ k.transpose(1, 2) / scale, allowed)


class CosineGraph(TokenGraph):
    """S_ij = softmax_j( cos(u_i, u_j) / temperature ), without parameters.

    Raises:
        MoEError: a temperature that is not positive.
    """

    def __init__(self, temperature: float = 0.1) -> None:
        super().__init__()
        if not temperature > 0:
            raise MoEError(f"temperature={temperature}, expected a number > 0")
        self.temperature = temperature

    def forward(self, candidates: Candidates, allowed: Tensor) -> Tensor:
        u = F.normalize(on_grid(candidates.x_SD.float(), candidates.context), dim=-1)
        return _exponentials(u @ u.transpose(1, 2) / self.temperature, allowed)


class GraphSmoothing(Transform):
    """Smooths affinities over a token graph.

    Args:
        graph: where the weights come from.
        share: in [0, 1]; 1 erases what a token itself says.
        learn_share: train the share, as a sigmoid, from this start (then inside (0, 1)).
        causal: no edges to later tokens.
        drop_first: no edges to the first token of a sequence, which attention uses as a sink;
            by default where the graph is causal.

    Raises:
        MoEError: a share out of range.
    """

    def __init__(
        self,
        graph: TokenGraph,
        *,
        share: float = 0.5,
        learn_share: bool = False,
        causal: bool = True,
        drop_first: bool | None = None,
    ) -> None:
        super().__init__()
        if not 0 <= share <= 1 or (learn_share and share in (0, 1)):
            raise MoEError(
                f"share={share} with learn_share={learn_share}, expected a number in [0, 1], and "
                "inside (0, 1) to learn it"
            )
        self.graph = graph
        self.causal = causal
        self.drop_first = causal if drop_first is None else drop_first
        self._share = share
        start = torch.tensor(math.log(share / (1 - share))) if learn_share else None
        self.share_logit = None if start is None else nn.Parameter(start)

    @property
    def share(self) -> Tensor | float:
        """Weight of the graph."""
        return self._share if self.share_logit is None else torch.sigmoid(self.share_logit.float())

    def mixing(self, candidates: Candidates) -> Tensor:
        """S `[B, L, L]`, rows that sum to 1, or to 0 where a token has no edge."""
        allowed = self._allowed(candidates)
        weights = self.graph(candidates, allowed)
        mixing: Tensor = row_stochastic(weights, allowed=allowed, check=False)
        return mixing

    def forward(self, affinity: Tensor, candidates: Candidates) -> Tensor:
        if affinity.shape[0] == 0:
            return affinity
        context = candidates.context
        grid = on_grid(affinity, context)
        mixed: Tensor = smoothed(grid, self.mixing(candidates), share=self.share)
        flat = mixed.reshape(-1, affinity.shape[1])
        return flat if context.place is None else flat[context.place]

    def _allowed(self, candidates: Candidates) -> Tensor:
        """Which edges may be, booleans `[B, L, L]`."""
        context, x = candidates.context, candidates.x_SD
        present = on_grid(x.new_ones(x.shape[0], 1, dtype=torch.float32), context)[..., 0] > 0
        columns = present
        if self.drop_first:
            columns = present & (present.cumsum(dim=1) > 1)
        allowed = present[:, :, None] & columns[:, None, :]
        return allowed.tril() if self.causal else allowed

    def extra_repr(self) -> str:
        return f"share={float(self.share):.3g}, causal={self.causal}, drop_first={self.drop_first}"


def on_grid(values: Tensor, context: Context) -> Tensor:
    """Values `[S, ...]` of tokens at their places in `[B, L, ...]`, zero at padding."""
    shape = (context.batch, context.length, *values.shape[1:])
    if context.place is None:
        return values.reshape(shape)
    grid = values.new_zeros(context.batch * context.length, *values.shape[1:])
    return grid.index_copy(0, context.place, values).reshape(shape)


def posterior_attention(attention: Tensor, contributions: Tensor) -> Tensor:
    """One head out of H, token by token, by how much each explains the output of attention.

    pi_ih = softmax_h( <c_ih, sum_h c_ih> / sqrt(D) ), and the result is sum_h pi_ih A^h_ij. A model
    that computes the contributions hands the result to its layers as their attention.

    Args:
        attention: `[B, H, L, L]`, A.
        contributions: `[B, H, L, D]`, c^h = A^h V^h W_o^h, which sum to the output over h.

    Returns:
        `[B, 1, L, L]`, rows that sum to 1.

    Raises:
        MoEError: shapes that do not match.
    """
    if attention.ndim != 4 or contributions.shape[:3] != attention.shape[:3]:
        raise MoEError(
            f"attention and contributions have shapes {tuple(attention.shape)} and "
            f"{tuple(contributions.shape)}, expected [B, H, L, L] and [B, H, L, D]"
        )
    c = contributions.float()
    agree = (c * c.sum(dim=1, keepdim=True)).sum(dim=-1) / math.sqrt(c.shape[-1])
    share = torch.softmax(agree, dim=1)
    return (share[..., None] * attention.float()).sum(dim=1, keepdim=True)


def _exponentials(logits: Tensor, allowed: Tensor) -> Tensor:
    """exp(logits), scaled by row so that nothing overflows; zero where not allowed."""
    shut = logits.masked_fill(~allowed, -torch.inf)
    peak = shut.detach().amax(dim=-1, keepdim=True)
    return torch.exp(shut - torch.where(torch.isfinite(peak), peak, 0.0))
