"""A dense feed-forward network read as weights, and cut into experts that add up to it.

    y = down (act(gate x + b) * (up x + b')) + c      gated (SwiGLU and its kin)
    y = down act(up x + b) + c                        plain

The activation acts on each hidden value alone, so that any partition of the F hidden values into n
blocks gives n experts E_i with y = sum_i E_i(x) + c exactly: the matrix partition of tensor
parallelism, read as a mixture (Union of Experts, arXiv 2503.02495, section 3.1).

Which linear layer of a module is which is found out by running it: every assignment of roles that
fits the shapes is tried on a few random inputs, and the one that reproduces the module is taken. So
a module of unknown names works, and one that computes something else is refused.

Shape letters: n tokens of a probe, E experts (the slices), D width, F hidden width, P = 2F rows of
`up` where gated (the rows of the gate first), else F.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import permutations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wye.moe.base import MoEError
from wye.moe.dispatch.activations import ACTIVATIONS, activation_of

_GATE_NAMES = ("gate", "w1", "wi_0", "linear_g")
_PROBE_TOKENS = 8


@dataclass(frozen=True, eq=False)
class MLPWeights:
    """The weights of one dense feed-forward network, in the layout of `wye.moe.Experts`.

    Gradients flow to the parameters of the module that they were read from.

    Attributes:
        up: `[P, D]`.
        down: `[D, F]`.
        up_bias: `[P]` or None.
        down_bias: `[D]` or None.
        activation: as `wye.moe.Experts` names it.
        gated: whether `up` holds a gate and an up projection.
        dropout: share of outputs that the module drops in training.
    """

    up: Tensor
    down: Tensor
    up_bias: Tensor | None
    down_bias: Tensor | None
    activation: str
    gated: bool
    dropout: float = 0.0

    @property
    def width(self) -> int:
        """D."""
        return int(self.down.shape[0])

    @property
    def hidden(self) -> int:
        """F."""
        return int(self.down.shape[1])

    def __call__(self, x: Tensor) -> Tensor:
        """`[..., D] -> [..., D]`, without dropout."""
        h = F.linear(x, self.up, self.up_bias)
        act = activation_of(self.activation).apply
        if self.gated:
            g, u = h.chunk(2, dim=-1)
            return F.linear(act(g) * u, self.down, self.down_bias)
        return F.linear(act(h), self.down, self.down_bias)


@dataclass(frozen=True, eq=False)
class SlicedMLP:
    """E experts of F/E hidden values each whose sum, plus `down_bias`, is the dense network.

    Attributes:
        up: `[E, P/E, D]`.
        down: `[E, D, F/E]`.
        up_bias: `[E, P/E]` or None.
        down_bias: `[D]` or None; belongs to the sum, not to any expert.
        activation, gated: as in `MLPWeights`.
    """

    up: Tensor
    down: Tensor
    up_bias: Tensor | None
    down_bias: Tensor | None
    activation: str
    gated: bool

    def expert(self, index: int) -> MLPWeights:
        """One expert, without the bias of the sum."""
        bias = None if self.up_bias is None else self.up_bias[index]
        return MLPWeights(self.up[index], self.down[index], bias, None, self.activation, self.gated)


def read_mlp(module: nn.Module) -> MLPWeights:
    """The weights of a dense feed-forward network of whatever names.

    It may hold nn.Linear layers or the transposed Conv1D of GPT-2: two (up, down), three (gate, up,
    down), or two with gate and up in one.

    Args:
        module: called as `module(x)` with `x` `[n, D]`; left as it is.

    Raises:
        MoEError: other layers, an activation that experts do not know, or a module that computes
            something else.

    Example:
        >>> import torch
        >>> mlp = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.ReLU(), torch.nn.Linear(6, 4))
        >>> read_mlp(mlp).hidden, read_mlp(mlp).activation
        (6, 'relu')
    """
    own = _own_weights(module)
    if own is not None:
        return own
    read = ((name, _linear(child)) for name, child in module.named_children())
    linears = {name: linear for name, linear in read if linear is not None}
    x, expected = _probe(module, linears)
    readings = list(_candidates(module, linears))
    if readings and expected is None:
        return readings[0]
    if readings and expected is not None:
        errors = [_error(weights, x, expected) for weights in readings]
        best = min(range(len(errors)), key=errors.__getitem__)
        if errors[best] <= _tolerance(x.dtype):
            return readings[best]
    raise MoEError(
        f"{type(module).__name__} with linear layers {_shapes(linears)} is no feed-forward network "
        "that can be read: expected down(act(gate(x)) * up(x)) or down(act(up(x))), and "
        + (
            f"no assignment of them, with {readings[0].activation} between, gives its output"
            if readings
            else f"one activation among {list(ACTIVATIONS)}"
        )
    )


def decompose_mlp(
    module: nn.Module | MLPWeights, n: int, *, order: Tensor | None = None
) -> SlicedMLP:
    """Cut a dense feed-forward network into n experts of equal size that add up to it.

    Gradients flow from the slices to the parameters of `module`; detach and clone them for experts
    of their own.

    Args:
        module: what `read_mlp` reads, or what it returned.
        n: experts; F must be a multiple of it.
        order: `[F]`, a permutation of the hidden values; expert i takes places i F/n to
            (i+1) F/n - 1 of it. The order of the module when not given.

    Raises:
        MoEError: n that does not divide F, an order that is no permutation, or as `read_mlp`.

    Example:
        >>> import torch
        >>> mlp = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.ReLU(), torch.nn.Linear(6, 4))
        >>> x, parts = torch.ones(1, 4), decompose_mlp(mlp, 3)
        >>> total = sum(parts.expert(i)(x) for i in range(3)) + parts.down_bias
        >>> torch.allclose(total, mlp(x), atol=1e-6)
        True
    """
    weights = module if isinstance(module, MLPWeights) else read_mlp(module)
    hidden = weights.hidden
    if not isinstance(n, int) or isinstance(n, bool) or n < 1 or hidden % n:
        raise MoEError(
            f"n={n!r} experts of a network with {hidden} hidden values: expected a divisor of "
            f"{hidden}, so that all experts have the same size"
        )
    if order is not None:
        index = torch.arange(hidden, device=order.device)
        if order.shape != (hidden,) or not torch.equal(order.long().sort().values, index):
            raise MoEError(f"order is no permutation of the {hidden} hidden values")
    up, down, bias = weights.up, weights.down, weights.up_bias
    if order is not None:
        place = order.to(up.device).long()
        rows = torch.cat([place, place + hidden]) if weights.gated else place
        up, down = up.index_select(0, rows), down.index_select(1, place)
        bias = None if bias is None else bias.index_select(0, rows)
    width = weights.width
    return SlicedMLP(
        _blocks(up, n, weights.gated),
        down.reshape(width, n, hidden // n).transpose(0, 1),
        None if bias is None else _blocks(bias[:, None], n, weights.gated)[..., 0],
        weights.down_bias,
        weights.activation,
        weights.gated,
    )


def _blocks(up: Tensor, n: int, gated: bool) -> Tensor:
    """Rows `[P, ...]` in n blocks `[n, P/n, ...]`, each with the rows of its own gate first."""
    parts = 2 if gated else 1
    columns = up.shape[1]
    cut = up.reshape(parts, n, up.shape[0] // (parts * n), columns)
    return cut.transpose(0, 1).reshape(n, up.shape[0] // n, columns)


def activation_name(act: Callable[[Tensor], Tensor]) -> str | None:
    """The name of an activation among those that experts know, recognised by its values.

    Example:
        >>> activation_name(torch.nn.SiLU())
        'silu'
    """
    z = torch.linspace(-8.0, 8.0, 257, dtype=torch.float64)
    with torch.no_grad():
        try:
            values = act(z)
        except (TypeError, RuntimeError, ValueError):
            return None  # no function of one tensor, whatever else it is
    if not isinstance(values, Tensor) or values.shape != z.shape:
        return None
    for name, known in ACTIVATIONS.items():
        if torch.allclose(values.to(z), known.apply(z), atol=1e-5, rtol=1e-5):
            return name
    return None


_Linear = tuple[Tensor, Tensor | None]


def _linear(module: nn.Module) -> _Linear | None:
    """Weight `[out, in]` and bias of a linear layer; None for any other module."""
    weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
    if not isinstance(weight, Tensor) or weight.ndim != 2 or not weight.is_floating_point():
        return None
    if isinstance(module, nn.Linear):
        return weight, bias
    # GPT-2's layer of that name stores [in, out]; it says so by its numbers nx and nf.
    if type(module).__name__ == "Conv1D" and weight.shape[1] == getattr(module, "nf", None):
        return weight.T, bias
    return None


def _own_weights(module: nn.Module) -> MLPWeights | None:
    from wye.moe.experts import FeedForward

    if not isinstance(module, FeedForward):
        return None
    return MLPWeights(
        module.up,
        module.down,
        module.up_bias,
        module.down_bias,
        module.activation,
        module.gated,
    )


def _candidates(module: nn.Module, linears: dict[str, _Linear]) -> Iterator[MLPWeights]:
    """Every reading of the linear layers that fits their shapes, the usual ones first."""
    activation, dropout = _activation(module), _dropout(module)
    if activation is None or len(linears) not in (2, 3):
        return
    names = sorted(linears, key=lambda name: not any(g in name for g in _GATE_NAMES))
    for *inner, last in permutations(names):
        down, down_bias = linears[last]
        width, hidden = down.shape
        ups = [linears[name] for name in inner]
        if any(weight.shape[1] != width for weight, _ in ups):
            continue
        rows = [int(weight.shape[0]) for weight, _ in ups]
        gated = sum(rows) == 2 * hidden
        if len(set(rows)) != 1 or not (gated or rows == [hidden]):
            continue
        biases = [bias for _, bias in ups if bias is not None]
        if biases and len(biases) != len(ups):
            continue
        swaps = (False, True) if gated and len(ups) == 1 else (False,)
        for swap in swaps:
            up = _joined([weight for weight, _ in ups], swap)
            bias = _joined(biases, swap) if biases else None
            yield MLPWeights(up, down, bias, down_bias, activation, gated, dropout)


def _joined(parts: list[Tensor], swap: bool) -> Tensor:
    if swap:
        first, second = parts[0].chunk(2)
        return torch.cat([second, first])
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _activation(module: nn.Module) -> str | None:
    """The name of the one activation in `module`."""
    found = {activation_name(act) for act in _functions(module)} - {None}
    return found.pop() if len(found) == 1 else None


def _functions(module: nn.Module) -> Iterator[Callable[[Tensor], Tensor]]:
    for child in module.children():
        if _linear(child) is None and not isinstance(child, nn.Dropout):
            yield child
    for name, value in vars(module).items():
        if name.startswith("act") and callable(value):
            yield value


def _dropout(module: nn.Module) -> float:
    children = [child.p for child in module.children() if isinstance(child, nn.Dropout)]
    named = [v for k, v in vars(module).items() if "dropout" in k and isinstance(v, float)]
    return max([*children, *named], default=0.0)


def _probe(module: nn.Module, linears: dict[str, _Linear]) -> tuple[Tensor, Tensor | None]:
    """Random inputs and what the module makes of them; None where it holds no values yet."""
    if not linears:
        raise MoEError(
            f"{type(module).__name__} holds no linear layers of its own (it has "
            f"{[n for n, _ in module.named_children()]}): name the module that does"
        )
    first = next(iter(linears.values()))[0]
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(_PROBE_TOKENS, int(first.shape[1]), generator=generator).to(first)
    if first.device.type == "meta":
        return x, None
    training = [m for m in module.modules() if m.training]
    try:
        module.eval()
        with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
            made = module(x)
    except Exception as error:
        raise MoEError(
            f"{type(module).__name__} does not run on hidden states {tuple(x.shape)} alone "
            f"({type(error).__name__}: {error}): expected a feed-forward network called as mlp(x)"
        ) from error
    finally:
        for m in training:
            m.training = True
    if not isinstance(made, Tensor) or made.shape != x.shape:
        raise MoEError(
            f"{type(module).__name__} does not return hidden states of the shape of its input "
            f"{tuple(x.shape)}: expected a feed-forward network"
        )
    return x, made


def _error(weights: MLPWeights, x: Tensor, expected: Tensor) -> float:
    """Largest difference from the module's output, relative to the largest output."""
    if weights.up.shape[1] != x.shape[1]:
        return float("inf")
    with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
        made = weights(x).float()
    scale = expected.float().abs().max().clamp(min=1e-30)
    return float((made - expected.float()).abs().max() / scale)


def _tolerance(dtype: torch.dtype) -> float:
    """Rounding of a whole network; the best of several readings is far below it."""
    return 5e-2 if dtype.itemsize < 4 else 2e-3


def _shapes(linears: dict[str, _Linear]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(weight.shape) for name, (weight, _) in linears.items()}
