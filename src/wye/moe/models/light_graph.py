"""Propagation without weights on a graph of users and items (LightGCN, arXiv 2002.02126).

    E^(k+1) = D^{-1/2} A D^{-1/2} E^(k),   z = mean_k E^(k),  k = 0..K

Shape letters: V nodes, N edges, D width, U users, I items.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import functional as F

from wye.moe.base import MoEError


def normalised_adjacency(edges: Tensor, weights: Tensor, n_nodes: int) -> Tensor:
    """D^{-1/2} A D^{-1/2} of an undirected graph, `[V, V]`; isolated nodes have zero rows.

    Sparse where that is faster to multiply with, dense for small dense graphs.

    Args:
        edges: `[2, N]` pairs of nodes, each edge once in either direction; repeated ones add up.
        weights: `[N]`, >= 0; edges of weight 0 are left out.
        n_nodes: V.

    Raises:
        MoEError: negative weights.
    """
    if bool((weights < 0).any()):
        raise MoEError("weights hold negative values, of which a degree means nothing")
    edges, weights = edges[:, weights > 0], weights[weights > 0].float()
    both = torch.cat([edges, edges.flip(0)], dim=1)
    twice = torch.cat([weights, weights])
    degree = torch.zeros(n_nodes).index_add(0, both[0], twice)
    scale = torch.where(degree > 0, degree.clamp(min=1e-30).rsqrt(), 0.0)
    values = scale[both[0]] * twice * scale[both[1]]
    shape = (n_nodes, n_nodes)
    sparse = torch.sparse_coo_tensor(both, values, shape, check_invariants=False).coalesce()
    # A gathered product runs at about a tenth of the rate of a dense one.
    return sparse.to_dense() if n_nodes**2 < 10 * sparse._nnz() else sparse


def propagate(adjacency: Tensor, embeddings: Tensor, depth: int) -> Tensor:
    """Mean of the embeddings `[V, D]` after 0 to `depth` propagations."""
    total = current = embeddings
    for _ in range(depth):
        dense = adjacency.layout is torch.strided
        current = adjacency @ current if dense else torch.sparse.mm(adjacency, current)
        total = total + current
    return total / (depth + 1)


def content_edges(
    features: Iterable[Tensor],
    users: Tensor,
    items: Tensor,
    n_users: int,
    *,
    neighbours: int = 10,
    weight: float = 0.1,
) -> tuple[Tensor, Tensor]:
    """Edges that content suggests: between similar items, and from users to items like theirs.

    Args:
        features: of the items, one `[I, any]` per modality; similarity is the cosine.
        users, items: `[N]` training interactions.
        n_users: U; item i is node U + i.
        neighbours: similar items per item, itself excluded.
        weight: of an edge from a user to the neighbours of an item; edges between items weigh
            their cosine times weight / 0.1.

    Returns:
        Edges `[2, *]` and weights `[*]`, negative similarities left out.
    """
    pairs, values = [torch.zeros(2, 0, dtype=torch.int64)], [torch.zeros(0)]
    for matrix in features:
        unit = F.normalize(matrix.float(), dim=1)
        cosine = unit @ unit.T
        cosine.fill_diagonal_(-torch.inf)
        near = cosine.topk(min(neighbours, len(unit) - 1), dim=1)
        kept = near.values > 0
        start = torch.arange(len(unit))[:, None].expand_as(near.indices)
        pairs.append(n_users + torch.stack([start[kept], near.indices[kept]]))
        values.append(near.values[kept] * weight / 0.1)
        liked = near.indices[items]
        who = users[:, None].expand_as(liked)
        fit = kept[items]
        edge = torch.unique(torch.stack([who[fit], n_users + liked[fit]]), dim=1)
        pairs.append(edge)
        values.append(torch.full((edge.shape[1],), weight))
    return torch.cat(pairs, dim=1), torch.cat(values)
