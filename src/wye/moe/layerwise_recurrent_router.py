"""RMoE: a router that remembers, over depth, how a token was seen and routed below.

Token -> its k experts at every layer, when the token passes the layer, from its hidden state and
the state of a small GRU that walks up the layers with it (Qiu et al. 2024, arXiv 2408.06793):
    u_i = Proj_i x_i
    r = sigmoid(W_ir u_i + b_ir + W_hr s_{i-1} + b_hr)
    z = sigmoid(W_iz u_i + b_iz + W_hz s_{i-1} + b_hz)
    n = tanh(W_in u_i + b_in + r * (W_hn s_{i-1} + b_hn))
    s_i = (1 - z) * n + z * s_{i-1},   s_0 = 0
    logits_i = G_i s_i,   p = softmax(logits_i),   S = the k largest,   g = p_S / sum p_S
The experts see x_i, not s_i. Proj_i and G_i are each layer's own, the GRU is shared by all. The
recurrence runs over layers, not over time, so that generation needs no further cache. The gradient
flows through s_{i-1}: cutting it costs the paper more than leaving s_{i-1} out.

Loss: 0.01 times the load-balance loss of each layer. Ours: weights start normal with standard
deviation 0.02 and biases at zero; the default width of the cell is the 128 of the paper's smaller
runs.
"""

from __future__ import annotations

from torch import nn

from wye.moe.build import Shape, routed_stack
from wye.moe.parts.balance import LoadBalanceLoss
from wye.moe.parts.gates import Gate
from wye.moe.parts.recurrent import CellKind, DepthCell, RecurrentScores
from wye.moe.parts.selection import TopK
from wye.moe.router import ComposedRouter


def router(
    width: int,
    n_experts: int,
    *,
    k: int = 2,
    cell: DepthCell | None = None,
    registers_cell: bool = True,
    cell_width: int = 128,
    pass_state: bool = True,
    detach_state: bool = False,
    residual_logits: float = 0.0,
    balance_weight: float = 0.01,
) -> ComposedRouter:
    """The router of one layer; layers that share a `cell` form one recurrent router.

    Args:
        width: D.
        n_experts: E.
        k: experts per token.
        cell: shared with the other layers; a GRU of its own when not given.
        registers_cell: whether the cell's parameters are registered here; True in one layer.
        cell_width: of the cell where none is given.
        pass_state, detach_state, residual_logits: as in `RecurrentScores`.
        balance_weight: of the load-balance loss; 0 for none.
    """
    scores = RecurrentScores(
        width,
        n_experts,
        DepthCell(cell_width) if cell is None else cell,
        registers_cell=registers_cell,
        pass_state=pass_state,
        detach_state=detach_state,
        residual_logits=residual_logits,
    )
    return ComposedRouter(
        width,
        scores,
        gate=Gate(normalise=k > 1),
        selection=TopK(k),
        balance=[LoadBalanceLoss(balance_weight)] if balance_weight else [],
    )


def build(
    shape: Shape,
    *,
    cell_width: int = 128,
    cell: CellKind = "gru",
    pass_state: bool = True,
    detach_state: bool = False,
    residual_logits: float = 0.0,
    balance_weight: float = 0.01,
    gated: bool = True,
) -> list[nn.Module]:
    """Layers that share one cell, whose parameters are registered in the first.

    Args:
        shape: sizes.
        cell_width: P.
        cell: "gru", "rnn" or "lstm".
        pass_state, detach_state, residual_logits: as in `RecurrentScores`.
        balance_weight: of the load-balance loss of each layer.
        gated: experts are gated.
    """
    shared = DepthCell(cell_width, kind=cell)
    return routed_stack(
        shape,
        lambda index: router(
            shape.width,
            shape.n_experts,
            k=shape.k,
            cell=shared,
            registers_cell=index == 0,
            pass_state=pass_state,
            detach_state=detach_state,
            residual_logits=residual_logits,
            balance_weight=balance_weight,
        ),
        gated=gated,
    )
