"""Experts as modules: stacked, owned by a bank that several layers view, or one dense network.

Shape letters: S tokens, E experts, D width, F hidden width, P = 2F rows of `up` where gated (the
rows of the gate first), else F.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wye.core import Plan
from wye.moe.base import MoEError
from wye.moe.dispatch import Method, run_experts
from wye.moe.dispatch.activations import activation_of


class Experts(nn.Module):
    """E feed-forward networks with stacked weights.

        f_e(x) = down_e (act(gate_e x) * up_e x)    gated (SwiGLU with silu, arXiv 2002.05202)
        f_e(x) = down_e act(up_e x)                 plain

    Every parameter has the experts as its first dimension, so that it can be sharded over them.

    Args:
        n_experts: E.
        width: D.
        hidden: F, of one expert.
        activation: "silu", "gelu", "gelu_tanh" or "relu".
        gated: whether a gate multiplies the up projection.
        bias: whether both projections have a bias.
        init_std: standard deviation of normal draws for all weights, biases then zero; when not
            given, uniform draws as nn.Linear makes them, U(-1/sqrt(fan_in), 1/sqrt(fan_in)).
        method: of `run_experts`.
        device, dtype: of the parameters.

    Raises:
        MoEError: a size below 1, an unknown activation, a negative `init_std`.

    Example:
        >>> import torch
        >>> from wye.core import top_k
        >>> experts = Experts(4, width=8, hidden=16)
        >>> experts(torch.ones(3, 8), top_k(torch.rand(3, 4), 2)).shape
        torch.Size([3, 8])
    """

    def __init__(
        self,
        n_experts: int,
        width: int,
        hidden: int,
        *,
        activation: str = "silu",
        gated: bool = True,
        bias: bool = False,
        init_std: float | None = None,
        method: Method = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        _check_sizes(n_experts=n_experts, width=width, hidden=hidden)
        activation_of(activation)
        self.n_experts, self.width, self.hidden = n_experts, width, hidden
        self.activation, self.gated, self.method = activation, gated, method
        rows = 2 * hidden if gated else hidden
        self.up = nn.Parameter(torch.empty(n_experts, rows, width, device=device, dtype=dtype))
        self.down = nn.Parameter(torch.empty(n_experts, width, hidden, device=device, dtype=dtype))
        self.up_bias = _bias(bias, n_experts, rows, self.up)
        self.down_bias = _bias(bias, n_experts, width, self.down)
        self.init_std = _checked_std(init_std)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all parameters anew from PyTorch's global generator."""
        _draw(self.up, self.up_bias, self.init_std)
        _draw(self.down, self.down_bias, self.init_std)

    def forward(self, x_SD: Tensor, plan: Plan) -> Tensor:
        """The combined output `[S, D]` of the pairs of `plan`.

        Raises:
            MoEError: as `run_experts`.
        """
        return run_experts(
            x_SD,
            plan,
            self.up,
            self.down,
            activation=self.activation,
            gated=self.gated,
            up_bias=self.up_bias,
            down_bias=self.down_bias,
            method=self.method,
        )

    def extra_repr(self) -> str:
        return (
            f"n_experts={self.n_experts}, width={self.width}, hidden={self.hidden}, "
            f"activation={self.activation!r}, gated={self.gated}, bias={self.up_bias is not None}"
        )


class ExpertBank(Experts):
    """Experts that no layer owns: registered once, viewed by many layers.

    Register the bank in one place of the model; give each layer a `view` of it. Its parameters
    then occur once in `state_dict()` and in `parameters()`, however many layers use them.

    Example:
        >>> bank = ExpertBank(6, width=8, hidden=16)
        >>> view = bank.view(range(2, 5))
        >>> view.n_experts, sum(1 for _ in view.parameters())
        (3, 0)
    """

    def view(self, experts: Sequence[int] | None = None) -> BankView:
        """A layer's window on the bank.

        Args:
            experts: which experts of the bank the layer may choose, in the order in which its
                router numbers them; a contiguous range costs nothing. All when not given.

        Raises:
            MoEError: none, one out of range, or one twice.
        """
        return BankView(self, range(self.n_experts) if experts is None else experts)


class BankView(nn.Module):
    """The experts of a bank that one layer may choose; it has no parameters of its own.

    Attributes:
        n_experts: how many experts the view shows.
        experts: their indices in the bank.
    """

    def __init__(self, bank: ExpertBank, experts: Sequence[int]) -> None:
        super().__init__()
        chosen = [int(e) for e in experts]
        if not chosen or min(chosen) < 0 or max(chosen) >= bank.n_experts:
            raise MoEError(
                f"experts={chosen}, expected at least one index from 0 to {bank.n_experts - 1}"
            )
        if len(set(chosen)) != len(chosen):
            raise MoEError(f"experts={chosen} names an expert twice, expected each once")
        # In a tuple the bank is no submodule, so its parameters are registered where it is alone.
        self._bank = (bank,)
        self.experts = tuple(chosen)
        self.n_experts, self.width, self.hidden = len(chosen), bank.width, bank.hidden
        self._contiguous = chosen == list(range(chosen[0], chosen[0] + len(chosen)))

    @property
    def bank(self) -> ExpertBank:
        """The bank that owns the parameters."""
        return self._bank[0]

    def forward(self, x_SD: Tensor, plan: Plan) -> Tensor:
        """The combined output `[S, D]` of a plan over the experts of this view.

        Raises:
            MoEError: as `run_experts`.
        """
        if plan.n_targets != self.n_experts:
            raise MoEError(
                f"the plan has {plan.n_targets} targets and the view shows {self.n_experts} "
                "experts: all must agree"
            )
        return self.bank.forward(x_SD, self.in_bank(plan))

    def in_bank(self, plan: Plan) -> Plan:
        """The same pairs over all experts of the bank."""
        if self._contiguous:
            target = plan.target + self.experts[0] if self.experts[0] else plan.target
        else:
            table = plan.target.new_tensor(self.experts)
            target = table.index_select(0, plan.target)
        return Plan(plan.source, target, plan.weight, plan.n_sources, self.bank.n_experts)

    def extra_repr(self) -> str:
        shown = f"{self.experts[0]}..{self.experts[-1]}" if self._contiguous else f"{self.experts}"
        return f"experts={shown} of {self.bank.n_experts}"


class FeedForward(nn.Module):
    """One dense feed-forward network of the same form as an expert.

    Args:
        width: D.
        hidden: F.
        activation, gated, bias, init_std, device, dtype: as in `Experts`.

    Raises:
        MoEError: as `Experts`.
    """

    def __init__(
        self,
        width: int,
        hidden: int,
        *,
        activation: str = "silu",
        gated: bool = True,
        bias: bool = False,
        init_std: float | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        _check_sizes(width=width, hidden=hidden)
        self.width, self.hidden = width, hidden
        self.activation, self.gated = activation, gated
        activation_of(activation)
        rows = 2 * hidden if gated else hidden
        self.up = nn.Parameter(torch.empty(rows, width, device=device, dtype=dtype))
        self.down = nn.Parameter(torch.empty(width, hidden, device=device, dtype=dtype))
        self.up_bias = _bias(bias, rows, None, self.up)
        self.down_bias = _bias(bias, width, None, self.down)
        self.init_std = _checked_std(init_std)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all parameters anew from PyTorch's global generator."""
        _draw(self.up, self.up_bias, self.init_std)
        _draw(self.down, self.down_bias, self.init_std)

    def forward(self, x: Tensor) -> Tensor:
        """`[..., D] -> [..., D]`."""
        h = F.linear(x, self.up, self.up_bias)
        act = activation_of(self.activation).apply
        if self.gated:
            g, u = h.chunk(2, dim=-1)
            return F.linear(act(g) * u, self.down, self.down_bias)
        return F.linear(act(h), self.down, self.down_bias)

    def extra_repr(self) -> str:
        return (
            f"width={self.width}, hidden={self.hidden}, activation={self.activation!r}, "
            f"gated={self.gated}, bias={self.up_bias is not None}"
        )


def _check_sizes(**sizes: int) -> None:
    for name, value in sizes.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise MoEError(f"{name}={value!r}, expected an integer of at least 1")


def _checked_std(std: float | None) -> float | None:
    if std is not None and not std >= 0:
        raise MoEError(f"init_std={std}, expected a number of at least 0, or None")
    return std


def _bias(wanted: bool, first: int, second: int | None, like: Tensor) -> nn.Parameter | None:
    if not wanted:
        return None
    shape = (first,) if second is None else (first, second)
    return nn.Parameter(like.new_zeros(shape))


def _draw(weight: Tensor, bias: Tensor | None, std: float | None) -> None:
    bound = weight.shape[-1] ** -0.5
    with torch.no_grad():
        if std is not None:
            weight.normal_(std=std)
        else:
            weight.uniform_(-bound, bound)
        if bias is not None:
            bias.zero_() if std is not None else bias.uniform_(-bound, bound)
