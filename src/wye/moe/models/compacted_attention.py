"""Attention in which every head sees only the tokens that were routed to it.

Head h computes queries for its tokens T_h alone, keys and values for the tokens of its group (the
union of T_h over the heads that share them), attends with the causal order of the original
positions, and writes back to T_h. Work falls with |T_h| / L in the projections and with its square
in the scores. With all tokens at all heads it is the dense layer.

Source: SMHA of Union of Experts (arXiv 2503.02495, section 3.2). The release pads short rows with
tokens that attend and write; here padding does neither. The release turns queries and keys by
their positions in the compacted order; here by their own. Segment memory is left to the model:
hand both segments to the layer and keep the second half of what comes out.

Shape letters: B batch, L length, S tokens, H heads, G groups of keys and values, A width of a head,
D width, C places per packed row, N pairs of a token and a column (a head or a group).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wye.core import Plan
from wye.moe.base import Context, MoEError, RoutedModule, Router, Routing
from wye.moe.models.rotary import rotary_turns, turned
from wye.moe.surgery.decompose_attention import HeadWeights, decompose_attention


@dataclass(frozen=True)
class _Packed:
    """Chosen tokens of every (sequence, column), packed to the left in order of position.

    Attributes:
        position: `[B, X, C]` positions of the packed tokens, 0 where there is none.
        valid: `[B, X, C]` whether the place holds a token.
        token: `[N]` index of each token, column by column.
        cell: `[N]` its place in the flattened `[B, X, C]`.
        sizes: tokens of each column.
    """

    position: Tensor
    valid: Tensor
    token: Tensor
    cell: Tensor
    sizes: list[int]


def compacted_attention(
    x_SD: Tensor,
    heads: HeadWeights,
    plan: Plan,
    context: Context,
    *,
    turns: Tensor | None = None,
    causal: bool = True,
) -> Tensor:
    """Every head on its own tokens: `[S, D]`, only the output's bias where no head served.

    Args:
        x_SD: hidden states without padding.
        heads: the weights.
        plan: from the S tokens to the H heads, each pair at most once; its weight multiplies what
            the head writes.
        context: says of which sequence each token is, and where it stands.
        turns: `[L, A/2, 2]` rotary positions; none when not given.
        causal: a token attends to itself and to those before it, else to all of its sequence.

    Raises:
        MoEError: a plan or heads of other sizes.
    """
    S, D = x_SD.shape
    H, G = heads.n_heads, heads.n_groups
    if (plan.n_sources, plan.n_targets) != (S, H) or heads.width != D:
        raise MoEError(
            f"the plan goes from {plan.n_sources} tokens to {plan.n_targets} heads and the hidden "
            f"states are {(S, D)}, expected {S} tokens and {H} heads of width {heads.width}"
        )
    if S == 0:
        return x_SD
    chosen_SH = torch.zeros(S * H, dtype=torch.bool, device=x_SD.device)
    chosen_SH = chosen_SH.index_fill(0, plan.cells(), True).view(S, H)
    asking = _packed(chosen_SH, context)
    serving = _packed(chosen_SH.view(S, G, H // G).any(dim=2), context)
    position_S = context.position(x_SD.device)
    turns_S = None if turns is None else turns[position_S]
    q = _projected(x_SD, asking, heads.query, heads.query_bias, turns_S)
    k = _projected(x_SD, serving, heads.key, heads.key_bias, turns_S)
    v = _projected(x_SD, serving, heads.value, heads.value_bias, None)
    k, v = (t.repeat_interleave(H // G, dim=1) for t in (k, v))
    visible = _visible(asking, serving, H // G, causal)
    z_BHCA = F.scaled_dot_product_attention(q, k, v, attn_mask=visible, scale=heads.scale)
    z_NA = z_BHCA.reshape(-1, heads.head_width)[asking.cell]
    weight_SH = plan.dense().to(x_SD.dtype)
    y_SD = torch.zeros_like(x_SD)
    for head, (token, z) in enumerate(
        zip(_columns(asking.token, asking), _columns(z_NA, asking), strict=True)
    ):
        written = F.linear(z, heads.output[head]) * weight_SH[token, head, None]
        y_SD = y_SD.index_add(0, token, written.to(y_SD.dtype))
    return y_SD if heads.output_bias is None else y_SD + heads.output_bias


class RoutedHeads(RoutedModule):
    """An attention layer whose heads are experts: a router says which head serves which token.

    The weights stay those of the dense layer, which it holds as `dense`.

    Args:
        dense: attention layer that `decompose_attention` reads.
        router: from tokens to as many experts as the layer has heads.
        causal: as in `compacted_attention`.
        rotary_base: of the rotary positions; None for none.
        carries_losses: as in `RoutedModule`.

    Raises:
        MoEError: a layer that cannot be read, or a router for another number of heads.
    """

    def __init__(
        self,
        dense: nn.Module,
        router: Router,
        *,
        causal: bool = True,
        rotary_base: float | None = 10_000.0,
        carries_losses: bool = True,
    ) -> None:
        super().__init__(router, carries_losses=carries_losses)
        n_heads = decompose_attention(dense).n_heads
        if router.n_experts != n_heads:
            raise MoEError(
                f"the router chooses among {router.n_experts} heads and the layer has {n_heads}: "
                "build it with n_experts equal to the heads"
            )
        self.dense = dense
        self.causal = causal
        self.rotary_base = rotary_base

    def execute(self, x_SD: Tensor, routing: Routing, context: Context) -> Tensor:
        heads = decompose_attention(self.dense)
        turns = None
        if self.rotary_base is not None:
            position_L = torch.arange(context.length, device=x_SD.device)
            turns = rotary_turns(position_L, heads.head_width, base=self.rotary_base)
        return compacted_attention(
            x_SD, heads, routing.plan, context, turns=turns, causal=self.causal
        )


class LanguageModelHeads(nn.Module):
    """`RoutedHeads` in the place of the attention of a `wye.moe.LanguageModel`."""

    def __init__(self, heads: RoutedHeads) -> None:
        super().__init__()
        self.heads = heads

    def forward(
        self, x_BLD: Tensor, turns: Tensor, seen: Tensor | None, explicit: bool
    ) -> tuple[Tensor, None]:
        """Output `[B, L, D]`; the positions are those of `turns`, which count from 0.

        Raises:
            MoEError: attention weights are asked for; heads of different tokens have no one matrix.
        """
        if explicit:
            raise MoEError(
                "a router of this block reads attention weights, which routed heads do not have: "
                "leave the attention of this model dense"
            )
        mask = None if seen is None else _counted(seen, self.heads.causal)
        y: Tensor = self.heads(x_BLD, mask=mask)
        return y, None


def _counted(seen: Tensor, causal: bool) -> Tensor:
    """`[B, L]` tokens that are no padding, read off who attends to whom `[B, 1, L, L]`.

    Every token sees itself there. The last one of a causal model is seen by nobody else, so that
    whether it is padding makes no difference to any other, and it counts.
    """
    mask = seen[:, 0, -1, :].clone()
    if not causal and mask.shape[1] > 1:
        mask[:, -1] = seen[:, 0, 0, -1]
    return mask


def _packed(chosen_SX: Tensor, context: Context) -> _Packed:
    device = chosen_SX.device
    B, X = context.batch, chosen_SX.shape[1]
    column_N, token_N = chosen_SX.T.nonzero(as_tuple=True)
    sequence_N = context.sequence(device)[token_N]
    # Pairs come column by column and, in a column, in the order of the tokens: rows are runs.
    run_N = column_N * B + sequence_N
    count_XB = torch.bincount(run_N, minlength=X * B)
    start_XB = torch.cumsum(count_XB, 0) - count_XB
    place_N = torch.arange(len(run_N), device=device) - start_XB[run_N]
    most = int(count_XB.max()) if len(run_N) else 0
    cell_N = (sequence_N * X + column_N) * most + place_N
    position = torch.zeros(B * X * most, dtype=torch.int64, device=device)
    position[cell_N] = context.position(device)[token_N]
    valid = torch.zeros(B * X * most, dtype=torch.bool, device=device)
    valid[cell_N] = True
    return _Packed(
        position.view(B, X, most),
        valid.view(B, X, most),
        token_N,
        cell_N,
        count_XB.view(X, B).sum(dim=1).tolist(),
    )


def _projected(
    x_SD: Tensor,
    packed: _Packed,
    weight_XAD: Tensor,
    bias_XA: Tensor | None,
    turns_S: Tensor | None,
) -> Tensor:
    """Projections of the packed tokens of every column, `[B, X, C, A]`, zero beyond them."""
    made_NA = torch.cat(
        [
            F.linear(x_SD[some], weight_XAD[column], None if bias_XA is None else bias_XA[column])
            for column, some in enumerate(_columns(packed.token, packed))
        ]
    )
    if turns_S is not None:
        made_NA = turned(made_NA, turns_S[packed.token])
    B, X, C = packed.valid.shape
    flat = made_NA.new_zeros(B * X * C, made_NA.shape[1])
    return flat.index_copy(0, packed.cell, made_NA).view(B, X, C, made_NA.shape[1])


def _columns(values_N: Tensor, packed: _Packed) -> tuple[Tensor, ...]:
    """`[N, ...]` in one piece per column."""
    return torch.split(values_N, packed.sizes)


def _visible(asking: _Packed, serving: _Packed, heads_per_group: int, causal: bool) -> Tensor:
    """`[B, H, C, C']` which packed token attends to which.

    A place without a token sees everything, so that no softmax is empty; nobody reads it.
    """
    visible = serving.valid.repeat_interleave(heads_per_group, dim=1)[..., None, :]
    if causal:
        position_k = serving.position.repeat_interleave(heads_per_group, dim=1)
        visible = visible & (position_k[..., None, :] <= asking.position[..., :, None])
    return visible | ~asking.valid[..., :, None]
