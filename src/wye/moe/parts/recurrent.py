"""Scores with a memory over depth: one small recurrent cell walks up the layers with every token.

    u_i = Proj_i x_i,   s_i = cell(u_i, s_{i-1}),   logits_i = G_i s_i,   s_0 = 0

The state belongs to the token: it stays in token order, goes from layer to layer through
`Context.state` and `Routing.state`, and starts anew for each token at the lowest routed layer. All
of it runs in float32, since saturating gates stall in bfloat16.

Shape letters: S tokens, E experts, D width, P width of the cell.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wye.moe.base import Context, MoEError
from wye.moe.parts.scores import Scored, Scores

CellKind = Literal["gru", "rnn", "lstm"]
_GATES = {"gru": 3, "rnn": 1, "lstm": 4}


class DepthCell(nn.Module):
    """A recurrent cell that all layers share.

    With gates in the order of `torch.nn.GRUCell`, `RNNCell` (tanh) and `LSTMCell`, whose
    parameters fit.

    Args:
        width: P, of input and output.
        kind: "gru", "rnn" or "lstm".
        init_std: standard deviation of the weights at the start; biases start at zero.

    Raises:
        MoEError: an unknown kind, a width below 1.
    """

    def __init__(self, width: int, *, kind: CellKind = "gru", init_std: float = 0.02) -> None:
        super().__init__()
        if kind not in get_args(CellKind):
            raise MoEError(f"kind={kind!r}, expected one of {get_args(CellKind)}")
        if not isinstance(width, int) or isinstance(width, bool) or width < 1:
            raise MoEError(f"width={width!r}, expected an integer of at least 1")
        self.width, self.kind = width, kind
        rows = _GATES[kind] * width
        self.weight_ih = nn.Parameter(torch.empty(rows, width))
        self.weight_hh = nn.Parameter(torch.empty(rows, width))
        self.bias_ih = nn.Parameter(torch.zeros(rows))
        self.bias_hh = nn.Parameter(torch.zeros(rows))
        nn.init.normal_(self.weight_ih, std=init_std)
        nn.init.normal_(self.weight_hh, std=init_std)

    @property
    def memory(self) -> int:
        """Numbers per token that go up from layer to layer: P, or 2 P where the cell is an LSTM."""
        return 2 * self.width if self.kind == "lstm" else self.width

    def forward(self, u_SP: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Output `[S, P]` and memory `[S, memory]`, both float32.

        Args:
            u_SP: `[S, P]`.
            memory: `[S, memory]` of the layer below.
        """
        u, h = u_SP.float(), memory.float()
        weights = [w.float() for w in (self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh)]
        if self.kind == "lstm":
            before = torch.split(h, self.width, dim=1)
            out, cell = torch.lstm_cell(u, before, *weights)
            return out, torch.cat([out, cell], dim=1)
        out = (torch.gru_cell if self.kind == "gru" else torch.rnn_tanh_cell)(u, h, *weights)
        return out, out

    def extra_repr(self) -> str:
        return f"width={self.width}, kind={self.kind}"


class RecurrentScores(Scores):
    """Logits of one layer, read from the state of a cell that other layers share.

    Args:
        width: D.
        n_experts: E.
        cell: shared by all layers.
        registers_cell: whether the cell's parameters are registered here; True in one layer.
        pass_state: False replaces s_{i-1} by zero, with the same parameters.
        detach_state: cut the gradient through s_{i-1}.
        residual_logits: alpha; adds alpha * softmax(logits_{i-1}).
        init_std: of Proj_i and G_i at the start.

    Raises:
        MoEError: where it is called, a state that no such layer handed up.

    Source: RMoE (arXiv 2408.06793).
    """

    def __init__(
        self,
        width: int,
        n_experts: int,
        cell: DepthCell,
        *,
        registers_cell: bool = True,
        pass_state: bool = True,
        detach_state: bool = False,
        residual_logits: float = 0.0,
        init_std: float = 0.02,
    ) -> None:
        super().__init__(n_experts)
        self.projection = nn.Parameter(torch.empty(cell.width, width))
        self.head = nn.Parameter(torch.empty(n_experts, cell.width))
        nn.init.normal_(self.projection, std=init_std)
        nn.init.normal_(self.head, std=init_std)
        if registers_cell:
            self.registered_cell = cell
        # In a tuple the cell is no submodule, so its parameters are registered in one layer alone.
        self._cell = (cell,)
        self.pass_state, self.detach_state = pass_state, detach_state
        self.residual_logits = residual_logits

    @property
    def cell(self) -> DepthCell:
        """The cell, wherever it is registered."""
        return self._cell[0]

    def freeze(self, *, cell: bool = True) -> None:
        """For fine-tuning: train neither G_i nor (unless `cell=False`) the shared cell."""
        self.head.requires_grad_(False)
        if cell:
            self.cell.requires_grad_(False)

    def forward(self, x_SD: Tensor, context: Context) -> Scored:
        u_SP = F.linear(x_SD.float(), self.projection.float())
        memory, previous = self._below(u_SP, context.state)
        s_SP, memory = self.cell(u_SP, memory)
        logits = F.linear(s_SP, self.head.float())
        if not self.residual_logits:
            return Scored(logits, state=memory)
        if previous is not None:
            logits = logits + self.residual_logits * previous
        return Scored(logits, state=torch.cat([memory, torch.softmax(logits, dim=1)], dim=1))

    def _below(self, u_SP: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Memory `[S, memory]` and probabilities `[S, E]` of the layer below."""
        zero = u_SP.new_zeros(u_SP.shape[0], self.cell.memory)
        if state is None:
            return zero, None
        expected = (u_SP.shape[0], zero.shape[1] + (self.n_experts if self.residual_logits else 0))
        if tuple(state.shape) != expected:
            raise MoEError(
                f"the layer below handed up a state of shape {tuple(state.shape)}, expected "
                f"{expected}: layers that hand a state on must share one cell"
            )
        memory = state[:, : zero.shape[1]]
        previous = state[:, zero.shape[1] :] if self.residual_logits else None
        if not self.pass_state:
            return zero, previous
        return memory.detach() if self.detach_state else memory, previous

    def extra_repr(self) -> str:
        return (
            f"width={self.projection.shape[1]}, n_experts={self.n_experts}, "
            f"pass_state={self.pass_state}, detach_state={self.detach_state}, "
            f"residual_logits={self.residual_logits}"
        )
