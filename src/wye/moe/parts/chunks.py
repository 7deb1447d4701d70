"""Chunks of consecutive tokens: which experts a chunk needs, and running it with those alone.

Speculative decoding checks a few consecutive tokens in one pass, and a weak device is held up by
loading weights: the cost of a chunk is the union of its tokens' experts. `union_over_chunks` is the
plan of chunks, `run_by_chunk` executes a chunk on the weights of its union.

Source: BlockFFN (arXiv 2507.08771), inference with speculative decoding.

Shape letters: S tokens, E experts, C chunks, U experts of a union, D width, F hidden width, P rows
of `up`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from wye.core import Plan
from wye.moe.base import Context, MoEError
from wye.moe.dispatch.activations import activation_of
from wye.moe.dispatch.weights import check_plan
from wye.moe.experts import Experts


@dataclass(frozen=True)
class Chunks:
    """Tokens grouped into chunks.

    Attributes:
        index: `[S]` int64, the chunk of every token.
        size: `[C]` int64, tokens per chunk, none empty.
    """

    index: Tensor
    size: Tensor

    @property
    def number(self) -> int:
        """C."""
        return int(self.size.shape[0])


def chunks_of(
    context: Context, length: int, device: torch.device, *, boundary: int | None = None
) -> Chunks:
    """Chunks of `length` consecutive tokens of one sequence; the last of each may be shorter.

    Args:
        context: of S tokens.
        length: tokens per chunk.
        device: of the result.
        boundary: token id that ends a document; chunks then never straddle documents.

    Raises:
        MoEError: a length below 1, or a boundary without token ids.
    """
    if length < 1:
        raise MoEError(f"chunks of {length} tokens, expected at least 1")
    per_sequence = -(-context.length // length)
    key = context.sequence(device) * per_sequence + context.position(device) // length
    if boundary is not None:
        ended = (context.need("token_ids", "a document boundary") == boundary).long()
        document = ended.cumsum(0) - ended
        key = key * (document.max() + 1 if document.numel() else 1) + document
    found: tuple[Tensor, Tensor, Tensor] = torch.unique(
        key, return_inverse=True, return_counts=True
    )
    return Chunks(found[1], found[2])


def consecutive(context: Context, device: torch.device, *, boundary: int | None = None) -> Tensor:
    """Index of every token whose successor is the next of the S tokens, int64, ascending.

    Args:
        context: of S tokens.
        device: of the result.
        boundary: token id that ends a document; its successor belongs to another.

    Raises:
        MoEError: a boundary without token ids.
    """
    sequence, position = context.sequence(device), context.position(device)
    linked = (sequence[1:] == sequence[:-1]) & (position[1:] == position[:-1] + 1)
    if boundary is not None:
        ids = context.need("token_ids", "a document boundary")
        linked &= ids[:-1] != boundary
    left: Tensor = linked.nonzero(as_tuple=True)[0]
    return left


def union_over_chunks(plan: Plan, chunks: Chunks) -> Plan:
    """The plan of chunks: which experts the tokens of each chunk use.

    Args:
        plan: of S tokens.
        chunks: of the same tokens.

    Returns:
        A plan between C chunks and E experts, chunk by chunk, experts ascending; the weight is the
        number of pairs that the chunk has with the expert.

    Raises:
        MoEError: chunks of another number of tokens.
    """
    if chunks.index.shape[0] != plan.n_sources:
        raise MoEError(
            f"chunks of {chunks.index.shape[0]} tokens and a plan of {plan.n_sources}, expected "
            "the same tokens"
        )
    cell = chunks.index[plan.source] * plan.n_targets + plan.target
    cells, count = torch.unique(cell, return_counts=True)
    return Plan(
        cells // plan.n_targets,
        cells % plan.n_targets,
        count.float(),
        chunks.number,
        plan.n_targets,
    )


def run_by_chunk(x_SD: Tensor, plan: Plan, experts: Experts, chunks: Chunks) -> Tensor:
    """The output of `experts(x_SD, plan)`, chunk by chunk, with the weights of its union alone.

    A chunk takes one product per projection with the stacked weights of its U experts. It pays
    where weights are slow to load and the tokens of a chunk agree.

    Args:
        x_SD: `[S, D]`.
        plan: of S tokens over E experts.
        experts: that run.
        chunks: of the S tokens.

    Raises:
        MoEError: a plan or chunks of other tokens.
    """
    check_plan(x_SD, plan)
    union = union_over_chunks(plan, chunks)
    weight_SE = plan.dense().to(x_SD.dtype)
    act = activation_of(experts.activation).apply
    order = torch.argsort(chunks.index, stable=True)
    ends: list[int] = chunks.size.cumsum(0).tolist()
    uses: list[int] = union.fan_out().tolist()
    y_SD = torch.zeros_like(x_SD)
    token = pair = 0
    for end, used in zip(ends, uses, strict=True):
        rows, token = order[token:end], end
        chosen, pair = union.target[pair : pair + used], pair + used
        if not used:
            continue
        up_UPD, down_UDF = experts.up[chosen], experts.down[chosen]
        h = torch.einsum("sd,upd->sup", x_SD[rows], up_UPD)
        if experts.up_bias is not None:
            h = h + experts.up_bias[chosen]
        if experts.gated:
            gate, value = h.chunk(2, dim=-1)
            h = act(gate) * value
        else:
            h = act(h)
        weight_su = weight_SE[rows][:, chosen]
        y = torch.einsum("suf,udf->sd", h * weight_su[:, :, None], down_UDF)
        if experts.down_bias is not None:
            y = y + weight_su @ experts.down_bias[chosen]
        y_SD = y_SD.index_copy(0, rows, y)
    return y_SD
