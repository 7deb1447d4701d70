"""Union of Experts: a dense block cut into experts that add up to it, then routed.

Routes tokens to slices of the feed-forward network (UoME) and to attention heads (SMHA), or whole
sequences to slices, on the hidden states that enter the layer. Paper: arXiv 2503.02495.

    y = sum_i E_i(x) + b,  E_i(x) = act(x A_i) B_i      `decompose_mlp`; heads `decompose_attention`
    P = softmax(x W_g + b_g)                            [S, n]
    M = top-k mask of P per token
    G = P * M                                           ranks the tokens of an expert
    UoME: expert i takes the c = floor(share S) tokens of its sequence with the largest G
    SMHA: head i takes every token with G > 0, which is the token's own top k
    y_t = sum over the experts that took t, with weight P_ti / stopgrad(P_ti) = 1

Full selection (k = n, share = 1) is the dense block exactly. The weight of 1 whose gradient is that
of ln P is ours: in the release the gate gets no gradient (`learned=False`).

Causal twin, ours: c tokens of a sequence cannot be chosen without looking at later ones. With
`causal=True` expert i takes a token if G_ti > 0 reaches a running quantile of G_i over earlier
training batches, in training and in evaluation. The count is then `share` on average and not exact.

The release ranks G normalised over the batch, G / sum_b G * floor(cf B); `over_batch=True` does so
in training, never in evaluation, where it would make one user's output depend on another's. Where
fewer than c tokens have G > 0, the release fills up with arbitrary ones; here P decides.

Expert selection routes a sequence by the mean of its hidden states instead of by all of them
flattened, which fixes the length. It sees the whole sequence.

Ours where the paper's code leaves it to configuration: n = 8, k = n / 2, cf = 1, eps = 1e-6, share
1/2. Pretrained decoders need their first token at every head: `first` serves it everywhere.

Shape letters: S tokens, E experts (n of the paper), B sequences, D width.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from wye.core import Plan, SelectionError
from wye.moe.base import Context, Contracts, MoEError, Routing
from wye.moe.build import Shape
from wye.moe.experts import Experts, FeedForward
from wye.moe.layer import MoELayer
from wye.moe.models.compacted_attention import LanguageModelHeads, RoutedHeads
from wye.moe.models.language_model import LanguageModel
from wye.moe.parts.quantile import RunningQuantile
from wye.moe.parts.scores import LinearScores, Scored, Scores
from wye.moe.parts.selection import Candidates, Selection, TopK
from wye.moe.parts.sequence_choice import best_per_sequence
from wye.moe.parts.thresholds import chosen_where
from wye.moe.parts.unit_gate import UnitGate
from wye.moe.router import ComposedRouter
from wye.moe.surgery.decompose import decompose_mlp
from wye.moe.surgery.decompose_attention import decompose_attention

Routes = Literal["tokens", "sequences"]
SEES_THE_FUTURE = Contracts(causal=False, batch_invariant=True, padding=True)
_EPS = 1e-6


class UnionChoice(Selection):
    """Experts take the best of the tokens that have them among their own top k.

    Args:
        n_experts: E.
        k: experts that a token proposes itself to.
        share: of the tokens of a sequence that an expert takes, in (0, 1].
        causal: by a running quantile of G instead of the rank in the sequence.
        over_batch: rank G divided by its sum over the batch, in training; not with `causal`.
        momentum: of the running quantile.

    Raises:
        MoEError: k or share out of range, or `over_batch` with `causal`.
    """

    def __init__(
        self,
        n_experts: int,
        *,
        k: int,
        share: float = 0.5,
        causal: bool = True,
        over_batch: bool = False,
        momentum: float = 0.9,
    ) -> None:
        super().__init__()
        if not isinstance(k, int) or isinstance(k, bool) or not 1 <= k <= n_experts:
            raise MoEError(f"k={k!r} with {n_experts} experts, expected 1 to {n_experts}")
        if not 0 < share <= 1:
            raise MoEError(f"share={share}, expected a number in (0, 1]")
        if causal and over_batch:
            raise MoEError("over_batch ranks by other samples of the batch: not with causal=True")
        self.proposed, self.share, self.over_batch = k, share, over_batch
        self.threshold = (
            RunningQuantile(1.0 - share, columns=n_experts, momentum=momentum) if causal else None
        )

    def forward(self, candidates: Candidates) -> Plan:
        ranked_SE = candidates.ranked
        if bool(ranked_SE.isnan().any()):
            raise SelectionError("affinities hold NaN: a selection never guesses")
        own_SE = torch.zeros_like(ranked_SE, dtype=torch.bool)
        best = torch.topk(ranked_SE, self.proposed, dim=1).indices
        own_SE = own_SE.scatter(1, best, True)
        scores_SE = ranked_SE * own_SE
        if self.threshold is not None:
            known = self.threshold.observe(scores_SE) if self.training else self.threshold.value
            return chosen_where(own_SE & (scores_SE >= known), candidates.affinity)
        context = candidates.context
        if self.over_batch and self.training:
            scores_SE = _normalised_over_batch(scores_SE, context)
        # Places that no token proposed itself to are filled by P, below every proposal.
        scores_SE = torch.where(own_SE, scores_SE, ranked_SE - 1.0)
        sequence_S = context.sequence(scores_SE.device)
        lengths_B = torch.bincount(sequence_S, minlength=context.batch)
        places_B = torch.floor(lengths_B.double() * self.share + 1e-9).long()
        capacity_B = torch.minimum(places_B.clamp(min=1), lengths_B)
        return best_per_sequence(scores_SE, candidates.affinity, sequence_S, capacity_B)

    def extra_repr(self) -> str:
        return f"k={self.proposed}, share={self.share}, over_batch={self.over_batch}"


class OwnChoice(Selection):
    """The top k of every token, and for the first tokens of every sequence all experts.

    Args:
        k: experts per token.
        first: tokens at the start of a sequence that all experts serve.

    Raises:
        MoEError: k below 1, a negative `first`.
    """

    def __init__(self, k: int, *, first: int = 1) -> None:
        super().__init__()
        if k < 1 or first < 0:
            raise MoEError(f"k={k} and first={first}, expected k >= 1 and first >= 0")
        self.own, self.first = TopK(k), first

    def forward(self, candidates: Candidates) -> Plan:
        plan: Plan = self.own(candidates)
        taken = torch.zeros_like(candidates.affinity, dtype=torch.bool)
        taken = taken.index_put((plan.source, plan.target), torch.ones_like(plan.source).bool())
        start_S1 = candidates.context.position(taken.device)[:, None] < self.first
        return chosen_where(taken | start_S1, candidates.affinity)

    def extra_repr(self) -> str:
        return f"k={self.own.k}, first={self.first}"


class SequenceMeanScores(Scores):
    """z_t = mean over the tokens of its sequence of x, times W_g: one choice per sequence."""

    def __init__(self, width: int, n_experts: int) -> None:
        super().__init__(n_experts)
        self.linear = LinearScores(width, n_experts, bias=True)

    def forward(self, x_SD: Tensor, context: Context) -> Scored:
        sequence_S = context.sequence(x_SD.device)
        total_BD = x_SD.new_zeros(context.batch, x_SD.shape[1], dtype=torch.float32)
        total_BD = total_BD.index_add(0, sequence_S, x_SD.float())
        count_B = torch.bincount(sequence_S, minlength=context.batch).clamp(min=1)
        scored: Scored = self.linear(total_BD / count_B[:, None], context)
        return Scored(scored.logits[sequence_S])


class UnionMLP(MoELayer):
    """The slices of a feed-forward network behind a router; the bias of the sum is always added.

    Args:
        dense: network that `decompose_mlp` reads; its values are copied.
        router: to as many experts as it is cut into.
        carries_losses: as in `RoutedModule`.
    """

    def __init__(
        self, dense: nn.Module, router: ComposedRouter, *, carries_losses: bool = True
    ) -> None:
        sliced = decompose_mlp(dense, router.n_experts)
        n, rows, width = sliced.up.shape
        experts = Experts(
            n,
            width,
            rows // 2 if sliced.gated else rows,
            activation=sliced.activation,
            gated=sliced.gated,
            device=sliced.up.device,
            dtype=sliced.up.dtype,
        )
        experts.up.data.copy_(sliced.up)
        experts.down.data.copy_(sliced.down)
        if sliced.up_bias is not None:
            experts.up_bias = nn.Parameter(sliced.up_bias.detach().clone())
        super().__init__(router, experts, carries_losses=carries_losses)
        bias = sliced.down_bias
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone())

    def execute(self, x_SD: Tensor, routing: Routing, context: Context) -> Tensor:
        y_SD = super().execute(x_SD, routing, context)
        return y_SD if self.bias is None else y_SD + self.bias


def router(
    width: int,
    n_experts: int,
    *,
    k: int | None = None,
    share: float = 0.5,
    routes: Routes = "tokens",
    causal: bool = True,
    learned: bool = True,
    over_batch: bool = False,
    momentum: float = 0.9,
) -> ComposedRouter:
    """UoME's router.

    Args:
        width: D.
        n_experts: E.
        k: experts that a token proposes itself to, or that a sequence goes to; E / 2 when not
            given.
        share: of the tokens that an expert takes.
        routes: "tokens", or "sequences" as a whole.
        causal: as in `UnionChoice`; whole sequences are never routed causally.
        learned: give the gate a gradient.
        over_batch, momentum: as in `UnionChoice`.

    Raises:
        MoEError: unknown `routes`, or as `UnionChoice`.
    """
    if routes not in ("tokens", "sequences"):
        raise MoEError(f"routes={routes!r}, expected 'tokens' or 'sequences'")
    k = max(1, n_experts // 2) if k is None else k
    gate = UnitGate(learned=learned)
    if routes == "sequences":
        scores: Scores = SequenceMeanScores(width, n_experts)
        return ComposedRouter(
            width, scores, gate=gate, selection=TopK(k), contracts=SEES_THE_FUTURE
        )
    return ComposedRouter(
        width,
        LinearScores(width, n_experts, bias=True),
        gate=gate,
        selection=UnionChoice(
            n_experts, k=k, share=share, causal=causal, over_batch=over_batch, momentum=momentum
        ),
        contracts=Contracts() if causal else SEES_THE_FUTURE,
    )


def build(
    shape: Shape,
    *,
    k: int | None = None,
    share: float = 0.5,
    routes: Routes = "tokens",
    causal: bool = True,
    learned: bool = True,
    over_batch: bool = False,
    momentum: float = 0.9,
    gated: bool = True,
    activation: str = "silu",
    bias: bool = False,
    carries_losses: bool = True,
) -> list[nn.Module]:
    """Feed-forwards: dense networks of hidden width E F, cut into E experts of F and routed.

    `shape.k` is not read, since the number of experts per token varies; `k` is what a token
    proposes itself to.

    Args:
        shape: sizes.
        k, share, routes, causal, learned, over_batch, momentum: as in `router`.
        gated, activation, bias: of the dense networks.
        carries_losses: as in `RoutedModule`.
    """
    return [
        UnionMLP(
            FeedForward(
                shape.width,
                shape.n_experts * shape.hidden,
                activation=activation,
                gated=gated,
                bias=bias,
            ),
            router(
                shape.width,
                shape.n_experts,
                k=k,
                share=share,
                routes=routes,
                causal=causal,
                learned=learned,
                over_batch=over_batch,
                momentum=momentum,
            ),
            carries_losses=carries_losses,
        )
        for _ in range(shape.n_layers)
    ]


def heads_router(
    width: int, n_heads: int, *, k: int | None = None, first: int = 1, learned: bool = True
) -> ComposedRouter:
    """SMHA's router: every token goes to its k best heads; causal as it stands.

    Args:
        width: D.
        n_heads: E.
        k: heads per token; E / 2 when not given.
        first: tokens at the start of a sequence that all heads serve.
        learned: give the gate a gradient.
    """
    return ComposedRouter(
        width,
        LinearScores(width, n_heads, bias=True),
        gate=UnitGate(learned=learned),
        selection=OwnChoice(max(1, n_heads // 2) if k is None else k, first=first),
    )


def route_heads(
    model: LanguageModel, *, k: int | None = None, first: int = 1, learned: bool = True
) -> LanguageModel:
    """Put routed heads in the place of the attention of every block, on its own weights.

    Args:
        model: changed in place, and returned.
        k, first, learned: as in `heads_router`.

    Raises:
        MoEError: attention that is routed already.
    """
    for block in model.blocks:
        dense: nn.Module = block.attention  # type: ignore[assignment]
        heads = decompose_attention(dense)
        smha = heads_router(heads.width, heads.n_heads, k=k, first=first, learned=learned)
        block.attention = LanguageModelHeads(RoutedHeads(dense, smha, causal=model.causal))
    return model


def _normalised_over_batch(scores_SE: Tensor, context: Context) -> Tensor:
    """G / (sum over the batch at the same position + eps) * floor(cf B), with cf = 1."""
    position_S = context.position(scores_SE.device)
    total_LE = scores_SE.new_zeros(context.length, scores_SE.shape[1])
    total_LE = total_LE.index_add(0, position_S, scores_SE)
    return scores_SE / (total_LE[position_S] + _EPS) * context.batch
