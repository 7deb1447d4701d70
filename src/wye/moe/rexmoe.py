"""ReXMoE: layers that reuse the experts of their neighbours.

Token -> its k experts among the r N of its layer's group, when the token passes the layer, from its
hidden state alone (Tan et al. 2025, arXiv 2510.17483). Layers are cut into groups of r consecutive
ones; U^l holds the N experts of every layer in the group of layer l:
    s = softmax(W^l h) over the open candidates,   W^l in R^{rN x d}
    h' = sum over the k largest of g_i U^l_i(h),   g = s_S / sum s_S
Expert weights are the same tensors for the r layers: their gradients add up. Only the router grows.
Foreign experts open gradually (progressive scaling routing): see `wye.moe.parts.open_targets`,
where n(t) candidates are open at step t; the published run opens them from step 10,000 to 30,000.

Ours, where the paper does not say: groups are blocks [0..r-1], [r..2r-1], ... (the last may be
shorter); foreign experts open in a fixed random order of each layer; their rows start as the own
ones do. Candidate g N + i of a group is expert i of its g-th layer. The balance loss (weight 0.01)
counts the n(t) open candidates. r of 2 or 4 is what the paper uses; 16 and 32 left dead experts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch import nn

from wye.moe.base import MoEError
from wye.moe.build import Shape
from wye.moe.experts import ExpertBank
from wye.moe.layer import MoELayer
from wye.moe.parts.gates import Gate
from wye.moe.parts.open_targets import Opening, OpenScores, balance_of_open
from wye.moe.parts.scores import LinearScores
from wye.moe.parts.selection import TopK
from wye.moe.router import ComposedRouter


def build(
    shape: Shape,
    *,
    reuse: int = 4,
    opening: tuple[int, int] | None = (10_000, 30_000),
    seed: int = 0,
    balance: Literal["loss", "bias", "none"] = "loss",
    balance_weight: float = 0.01,
    bias_rate: float = 1e-3,
    normalise: bool | None = None,
    gated: bool = True,
) -> list[nn.Module]:
    """Layers in groups that share a bank of experts, registered in the first layer of the group.

    Args:
        shape: sizes; `n_experts` is N, the experts that each layer brings.
        reuse: r, layers per group.
        opening: optimiser steps t0 and t1 between which foreign experts open; None has all open
            from the start.
        seed: of the order in which they open.
        balance: a loss, a loss-free bias per candidate, or none.
        balance_weight: of the loss.
        bias_rate: of the bias.
        normalise: divide the k gates by their sum; by default where k > 1.
        gated: experts are gated.

    Raises:
        MoEError: r below 1, an opening out of order, an unknown balance.
    """
    if not isinstance(reuse, int) or isinstance(reuse, bool) or reuse < 1:
        raise MoEError(f"reuse={reuse!r}, expected an integer of at least 1")
    own = shape.n_experts
    layers: list[nn.Module] = []
    for first in range(0, shape.n_layers, reuse):
        members = range(first, min(first + reuse, shape.n_layers))
        bank = ExpertBank(own * len(members), shape.width, shape.hidden, gated=gated)
        for index in members:
            place = index - first
            scores = OpenScores(
                LinearScores(shape.width, bank.n_experts),
                range(place * own, (place + 1) * own),
                opening=None if opening is None else Opening(*opening),
                seed=seed + index,
            )
            router = ComposedRouter(
                shape.width,
                scores,
                gate=Gate(normalise=shape.k > 1 if normalise is None else normalise),
                selection=TopK(shape.k),
                balance=balance_of_open(bank.n_experts, balance, balance_weight, bias_rate),
            )
            layer = MoELayer(router, bank.view())
            if place == 0:
                layer.registered_bank = bank
            layers.append(layer)
    return layers


def physical_load(
    loads: Mapping[str, NDArray[np.float64]], reuse: int
) -> list[NDArray[np.float64]]:
    """Pairs of every expert tensor, summed over the layers of its group: `[r N]` per group.

    Balance over each layer's candidates and balance over the tensors are different things, and
    either may hold without the other.

    Args:
        loads: by layer, in order, `[r N]`, as `wye.moe.learning.training` gives them.
        reuse: r that the layers were built with.

    Raises:
        MoEError: layers of one group with different numbers of candidates.
    """
    each: Sequence[NDArray[np.float64]] = list(loads.values())
    groups = [each[first : first + reuse] for first in range(0, len(each), reuse)]
    for group in groups:
        if len({len(load) for load in group}) != 1:
            raise MoEError(
                f"layers of one group have {[len(load) for load in group]} candidates, expected "
                f"the same: were they built with reuse={reuse}?"
            )
    return [np.sum(group, axis=0) for group in groups]
