"""Experts cut out of dense feed-forwards: the hidden channels that a domain of text uses most.

    a_m[j] = mean over the tokens of domain m of |v_j|,  v = act(gate x) * (up x), input of `down`
    B_m    = the floor(rho F) channels with the largest a_m
    R      = intersection of all B_m (the shared core),  P_m = B_m without R (private)
    y_t    = down[:, B_m] v[B_m]                         for a token with expert m
Every expert has the same active width; private channels of two domains may overlap.

Source: Read-ME (arXiv 2410.19123), expert extraction. The release keeps the channels strictly above
the N-th largest, one fewer than meant and fewer with ties; here it is exactly N, equal channels by
the lower index.

Shape letters: M domains (the experts), L layers, F hidden channels, D width, S tokens, C channels
of an expert.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.hooks import RemovableHandle

from wye.core import Plan
from wye.moe.base import MoEError
from wye.moe.dispatch.activations import activation_of
from wye.moe.experts import Experts
from wye.moe.surgery.decompose import MLPWeights, read_mlp

Run = Callable[[Tensor], object]
"""Runs the model on a batch of ids; what it returns is not read."""


@dataclass(frozen=True, eq=False)
class DomainChannels:
    """Which channels every domain keeps in every layer.

    Attributes:
        kept: `[M, L, F]` booleans, B_m; the same number in every domain and layer.
    """

    kept: Tensor

    @property
    def shared(self) -> Tensor:
        """`[L, F]` booleans, R."""
        return self.kept.all(dim=0)

    @property
    def private(self) -> Tensor:
        """`[M, L, F]` booleans, P_m."""
        return self.kept & ~self.shared

    @property
    def shared_share(self) -> Tensor:
        """|R| / |B| of every layer, `[L]`: near 1, the experts are one pruned dense model."""
        size = self.kept[0].sum(dim=1)
        return self.shared.sum(dim=1) / size

    def of_layer(self, layer: int) -> Tensor:
        """Indices of the channels of every domain in one layer, `[M, C]` ascending."""
        kept_MF = self.kept[:, layer]
        return kept_MF.nonzero()[:, 1].view(kept_MF.shape[0], -1)


def domain_channels(profile_MLF: Tensor, rho: float = 0.5) -> DomainChannels:
    """The channels of largest profile.

    Args:
        profile_MLF: a of every domain.
        rho: share of the channels that an expert keeps, in (0, 1].

    Raises:
        MoEError: rho out of range or so small that no channel is kept, a profile with NaN.
    """
    n = math.floor(rho * profile_MLF.shape[2] + 1e-9) if 0 < rho <= 1 else 0
    if n < 1:
        raise MoEError(
            f"rho={rho} of {profile_MLF.shape[2]} channels, expected a share in (0, 1] that keeps "
            "at least one"
        )
    if bool(profile_MLF.isnan().any()):
        raise MoEError("the profile holds NaN: look at the activations of the model")
    best = profile_MLF.sort(dim=2, descending=True, stable=True).indices[..., :n]
    kept = torch.zeros_like(profile_MLF, dtype=torch.bool).scatter(2, best, True)
    return DomainChannels(kept)


@torch.no_grad()
def channel_profile(run: Run, mlps: Mapping[str, nn.Module], batches: Iterable[Tensor]) -> Tensor:
    """Mean absolute activation of every channel, `[L, F]` float32.

    Args:
        run: of the model that holds the feed-forwards.
        mlps: dense feed-forwards of one F, by name, in the order of the layers.
        batches: ids of one domain, without padding.

    Raises:
        MoEError: no batches, or feed-forwards of different F.
    """
    totals: dict[int, Tensor] = {}
    tokens = 0

    def add(layer: int, values_SF: Tensor) -> None:
        seen = values_SF.abs().sum(dim=0, dtype=torch.float32)
        totals[layer] = totals[layer] + seen if layer in totals else seen

    with watching(mlps, add):
        for ids in batches:
            run(ids)
            tokens += ids.numel()
    if tokens == 0:
        raise MoEError("no tokens to profile: give at least one batch of each domain")
    return torch.stack([totals[layer] for layer in range(len(mlps))]) / tokens


@contextmanager
def watching(mlps: Mapping[str, nn.Module], see: Callable[[int, Tensor], None]) -> Iterator[None]:
    """While it lasts, hand the channel activations `[S, F]` of every layer to a function.

    Args:
        mlps: dense feed-forwards by name.
        see: called with the number of the layer and its activations, input of `down`.

    Raises:
        MoEError: none, one that cannot be read, or feed-forwards of different F.
    """
    read = [read_mlp(mlp) for mlp in mlps.values()]
    if len({weights.hidden for weights in read}) != 1:
        raise MoEError(
            f"feed-forwards with {[w.hidden for w in read]} channels, expected one number for all, "
            "and at least one feed-forward"
        )
    handles = [
        _watch(partial(see, layer), mlp, weights)
        for layer, (mlp, weights) in enumerate(zip(mlps.values(), read, strict=True))
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _watch(see: Callable[[Tensor], None], mlp: nn.Module, weights: MLPWeights) -> RemovableHandle:
    for child in mlp.children():
        if isinstance(child, nn.Linear) and child.weight is weights.down:
            return child.register_forward_pre_hook(lambda _, x: see(x[0].flatten(0, -2)))
    # The activations pass no module of their own: they are computed from the input again.
    return mlp.register_forward_pre_hook(
        lambda _, x: see(hidden_values(weights, x[0].flatten(0, -2)))
    )


def hidden_values(weights: MLPWeights, x_SD: Tensor) -> Tensor:
    """The activations `[S, F]` that enter `down`."""
    h = F.linear(x_SD, weights.up, weights.up_bias)
    act = activation_of(weights.activation).apply
    if not weights.gated:
        return act(h)
    g, u = h.chunk(2, dim=-1)
    return act(g) * u


class DomainExperts(nn.Module):
    """A dense feed-forward of which every token uses the channels of its expert alone.

    The experts share the weights, so that what one learns in the core all learn; the other
    channels are not computed. The weights are copies of those of `dense`.

    Args:
        dense: feed-forward that `read_mlp` reads.
        channels: `[M, C]` indices, as `DomainChannels.of_layer` gives them.

    Raises:
        MoEError: indices out of range or of another shape.
    """

    channels_MC: Tensor

    def __init__(self, dense: nn.Module, channels: Tensor) -> None:
        super().__init__()
        weights = read_mlp(dense)
        if channels.ndim != 2 or not channels.numel():
            raise MoEError(f"channels have shape {tuple(channels.shape)}, expected [M, C]")
        if int(channels.min()) < 0 or int(channels.max()) >= weights.hidden:
            raise MoEError(f"channels name more than the {weights.hidden} of the feed-forward")
        self.n_experts = int(channels.shape[0])
        self.activation, self.gated = weights.activation, weights.gated
        self.up = nn.Parameter(weights.up.detach().clone())
        self.down = nn.Parameter(weights.down.detach().clone())
        self.up_bias = _copied(weights.up_bias)
        self.down_bias = _copied(weights.down_bias)
        self.register_buffer("channels_MC", channels.to(weights.up.device).clone())

    def forward(self, x_SD: Tensor, plan: Plan) -> Tensor:
        """The combined output `[S, D]` of the pairs of `plan`; the bias of the sum is always added.

        Raises:
            MoEError: a plan for another number of experts.
        """
        if plan.n_targets != self.n_experts:
            raise MoEError(f"the plan has {plan.n_targets} targets, expected {self.n_experts}")
        order, offsets = plan.by_target()
        y_SD = torch.zeros_like(x_SD)
        for expert, (start, end) in enumerate(pairwise(offsets.tolist())):
            pairs = order[start:end]
            if not len(pairs):
                continue
            tokens = plan.source[pairs]
            out = self.slice(expert)(x_SD[tokens]) * plan.weight[pairs, None].to(x_SD.dtype)
            y_SD = y_SD.index_add(0, tokens, out.to(y_SD.dtype))
        return y_SD if self.down_bias is None else y_SD + self.down_bias

    def slice(self, expert: int) -> MLPWeights:
        """The weights of one expert, without the bias of the sum; gradients flow to the whole."""
        place = self.channels_MC[expert]
        rows = torch.cat([place, place + self.down.shape[1]]) if self.gated else place
        bias = None if self.up_bias is None else self.up_bias[rows]
        up, down = self.up[rows], self.down[:, place]
        return MLPWeights(up, down, bias, None, self.activation, self.gated)

    @torch.no_grad()
    def materialised(self) -> Experts:
        """The same experts with weights of their own, for serving; core channels are repeated.

        Raises:
            MoEError: the feed-forward has biases at its output, which no expert owns.
        """
        if self.down_bias is not None:
            raise MoEError("a bias of the sum belongs to no expert: keep the shared weights")
        width, size = int(self.down.shape[0]), int(self.channels_MC.shape[1])
        experts = Experts(
            self.n_experts,
            width,
            size,
            activation=self.activation,
            gated=self.gated,
            bias=self.up_bias is not None,
            device=self.up.device,
            dtype=self.up.dtype,
        )
        for expert in range(self.n_experts):
            part = self.slice(expert)
            experts.up[expert] = part.up
            experts.down[expert] = part.down
            if part.up_bias is not None and experts.up_bias is not None:
                experts.up_bias[expert] = part.up_bias
        if experts.down_bias is not None:
            experts.down_bias.zero_()
        return experts


def _copied(bias: Tensor | None) -> nn.Parameter | None:
    return None if bias is None else nn.Parameter(bias.detach().clone())
