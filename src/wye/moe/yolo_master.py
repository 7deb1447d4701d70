"""YOLO-Master's ES-MoE: whole feature maps go to convolution experts (arXiv 2512.23273).

Image -> its k experts of largest weight, or all of them, when its feature map passes the block,
from pooled features of that map alone. The experts are depthwise-separable convolutions of kernel
3, 5, 7, ... (unequal costs). wye holds the block and its routers, not the detector.

    z = W_2 SiLU(W_1 GAP(x))                    [B, E], W_1 to max(C / 8, 8) channels
    w = softmax(z); with top_k masked to the k largest and divided by their sum
    y = SiLU(BatchNorm(sum_e w_e expert_e(x)))  no residual

Training computes all experts, with weight 0 where masked: gradients are exact, shapes static, and
every expert's BatchNorm sees all images, as its frozen statistics assume. Evaluation runs an expert
on the images that chose it. Pruning in evaluation skips an expert of rank above 1 whose weight is
below `least` (0.4 in the release); the other weights stay as they are, or are `renormalise`d. With
two choices that keeps the second where the two are nearly tied.

    L_bal = mean_e (u_e - 1/E)^2,  u_e = mean of w_e over the batch

The later block of the release is `EsMoE(votes=True, shared=True, norm="group", ...)`: a router that
lets every place of a map pooled by 8 vote by softmax, and a shared expert beside the routed ones.

Source: facts of the public code; ours: BatchNorm and SiLU after each convolution of an expert, the
weight of L_bal (0.01), no z-loss of the votes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wye.core import Plan, weigh
from wye.moe.base import Context, MoEError, RoutedModule, Routing
from wye.moe.build import Shape, routed_stack
from wye.moe.dispatch import run_modules
from wye.moe.losses import carry
from wye.moe.parts.balance import Balance, Routed
from wye.moe.parts.convolution import DepthwiseSeparable, Norm, PlaceVotes, PooledFeatures, norm_of
from wye.moe.parts.gates import Gate
from wye.moe.parts.scores import Scored, Scores
from wye.moe.parts.selection import Candidates, Selection, TopK
from wye.moe.router import ComposedRouter
from wye.moe.surgery.prune import cut, cut_router, cut_rows


class BottleneckScores(Scores):
    """z = W_2 SiLU(W_1 x + b_1) + b_2, through max(D / 8, 8) units."""

    def __init__(self, width: int, n_experts: int) -> None:
        super().__init__(n_experts)
        self.down = nn.Linear(width, max(width // 8, 8))
        self.up = nn.Linear(max(width // 8, 8), n_experts)

    def forward(self, x_SD: Tensor, context: Context) -> Scored:
        h = F.silu(F.linear(x_SD.float(), self.down.weight.float(), self.down.bias.float()))
        return Scored(F.linear(h, self.up.weight.float(), self.up.bias.float()))


class GivenScores(Scores):
    """The input itself as logits: what routes was computed before."""

    def forward(self, x_SD: Tensor, context: Context) -> Scored:
        return Scored(x_SD.float())


class MaskedSoftmax(Selection):
    """The k largest softmax weights divided by their sum; weak ones are skipped in evaluation.

    Args:
        k: experts per image, or None for all of them, undivided.
        least: in evaluation an expert of rank above 1 needs at least this weight; 0 skips none.
        renormalise: divide what is left by its sum.

    Raises:
        MoEError: k below 1, a negative `least`.
    """

    weighs = True

    def __init__(
        self, k: int | None = None, *, least: float = 0.0, renormalise: bool = False
    ) -> None:
        super().__init__()
        if k is not None and (not isinstance(k, int) or isinstance(k, bool) or k < 1):
            raise MoEError(f"k={k!r}, expected an integer of at least 1 or None")
        if not least >= 0:
            raise MoEError(f"least={least}, expected a weight >= 0")
        self.k, self.least, self.renormalise = k, least, renormalise

    def forward(self, candidates: Candidates) -> Plan:
        k = candidates.affinity.shape[1] if self.k is None else self.k
        plan: Plan = TopK(k)(candidates)
        plan = weigh(plan, self.weights(candidates.affinity))
        if self.training or self.least == 0:
            return plan
        first = torch.arange(len(plan), device=plan.source.device) % k == 0
        plan = plan.where(first | (plan.weight >= self.least))
        return Gate(normalise=True).weigh(plan) if self.renormalise else plan

    def weights(self, affinity: Tensor) -> Tensor:
        """`[S, E]` softmax over the sum of its k largest."""
        if self.k is None:
            return affinity
        return affinity / affinity.topk(self.k, dim=1).values.sum(dim=1, keepdim=True)

    def extra_repr(self) -> str:
        return f"k={self.k}, least={self.least}, renormalise={self.renormalise}"


class MeanWeightBalance(Balance):
    """weight * mean_e (u_e - 1/E)^2, u_e the mean weight of expert e over the batch.

    Soft weights can balance while the choice does not: look at the load beside it.
    """

    def __init__(self, weight: float = 0.01) -> None:
        super().__init__()
        self.weight = weight

    def losses(self, routed: Routed) -> dict[str, Tensor]:
        plan = routed.plan
        if not plan.n_sources:
            return {}
        mean = plan.dense().sum(dim=0) / plan.n_sources
        return {"balance": self.weight * ((mean - 1 / plan.n_targets) ** 2).mean()}


class ImageRouter(ComposedRouter):
    """Routes images by a vector each; replayed pairs get the weights of its selection."""

    selection: MaskedSoftmax

    def weigh(self, plan: Plan, routing: Routing) -> Plan:
        weighed = weigh(plan, self.selection.weights(routing.probabilities))
        if self.selection.renormalise and self.selection.least > 0 and not self.training:
            return Gate(normalise=True).weigh(weighed)
        return weighed


class EsMoE(RoutedModule):
    """A mixture of convolution experts on whole feature maps.

    Args:
        channels: C of the input.
        out_channels: of the output; C when not given.
        n_experts: E.
        top_k: experts per image; None mixes all of them, in evaluation too.
        kernels: of the experts, odd; 3, 5, 7, ... when not given.
        least: pruning threshold in evaluation, 0 for none.
        renormalise: divide the weights that pruning leaves by their sum.
        balance: weight of L_bal; 0 leaves it out.
        votes: route by `PlaceVotes` in place of pooled features.
        shared: an expert of the first kernel that every image passes, with weight 1.
        norm: of the experts and of the output.
        sparse: in evaluation run an expert on its images alone, or all experts on all images with
            weight 0 where not chosen (the same function).
        carries_losses: as in `RoutedModule`.

    Raises:
        MoEError: top_k above n_experts, kernels of another number or even.

    Example:
        >>> import torch
        >>> block = EsMoE(8, out_channels=16, n_experts=3, top_k=2)
        >>> block(torch.randn(2, 8, 6, 6)).shape
        torch.Size([2, 16, 6, 6])
    """

    def __init__(
        self,
        channels: int,
        *,
        out_channels: int | None = None,
        n_experts: int = 3,
        top_k: int | None = None,
        kernels: Sequence[int] | None = None,
        least: float = 0.0,
        renormalise: bool = False,
        balance: float = 0.01,
        votes: bool = False,
        shared: bool = False,
        norm: Norm = "batch",
        sparse: bool = True,
        carries_losses: bool = True,
    ) -> None:
        if top_k is not None and not 1 <= top_k <= n_experts:
            raise MoEError(f"top_k={top_k} with {n_experts} experts, expected 1 to {n_experts}")
        kernels = [3 + 2 * e for e in range(n_experts)] if kernels is None else list(kernels)
        if len(kernels) != n_experts or any(k < 1 or k % 2 == 0 for k in kernels):
            raise MoEError(f"kernels={kernels}, expected {n_experts} odd sizes")
        made = router(
            n_experts if votes else channels,
            n_experts,
            k=top_k,
            least=least,
            renormalise=renormalise,
            balance=balance,
        )
        if votes:
            made.scores = GivenScores(n_experts)
        super().__init__(made, carries_losses=carries_losses)
        self.channels, self.out_channels = channels, out_channels or channels
        self.sparse = sparse
        self.reader = PlaceVotes(channels, n_experts) if votes else PooledFeatures()
        self.experts = nn.ModuleList(
            DepthwiseSeparable(channels, self.out_channels, k, norm=norm) for k in kernels
        )
        self.shared = (
            DepthwiseSeparable(channels, self.out_channels, kernels[0], norm=norm)
            if shared
            else None
        )
        self.norm = norm_of(norm, self.out_channels)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """`[B, C, H, W]` -> `[B, C_out, H, W]`, in the dtype of `x`.

        Raises:
            MoEError: another number of channels.
        """
        if x.ndim != 4 or x.shape[1] != self.channels:
            raise MoEError(
                f"feature maps have shape {tuple(x.shape)}, expected [B, {self.channels}, H, W]"
            )
        context = Context(batch=int(x.shape[0]), length=1)
        routing = self.route(self.reader(x), context)
        y = self.execute(x, routing, context)
        if self.carries_losses and self.training and routing.losses:
            y = carry(y, torch.stack(list(routing.losses.values())).sum())
        return y

    def execute(self, x_SD: Tensor, routing: Routing, context: Context) -> Tensor:
        """`x_SD` holds S whole feature maps `[S, C, H, W]`."""
        if self.training or not self.sparse:
            mixed = self._all(x_SD, routing.plan)
        else:
            shape = (self.out_channels, *x_SD.shape[2:])
            mixed = run_modules(x_SD, routing.plan, self.experts, shape=shape)
        if self.shared is not None:
            mixed = mixed + self.shared(x_SD)
        return F.silu(self.norm(mixed)).to(x_SD.dtype)

    def _all(self, x: Tensor, plan: Plan) -> Tensor:
        weight_SE = plan.dense().to(x.dtype)
        mixed = x.new_zeros(x.shape[0], self.out_channels, *x.shape[2:])
        for expert, weight in zip(self.experts, weight_SE.unbind(1), strict=True):
            mixed = mixed + weight[:, None, None, None] * expert(x)
        return mixed

    def multiply_adds(self, plan: Plan, height: int, width: int) -> float:
        """Of the experts that a plan runs, mean per image of that size.

        Raises:
            MoEError: a plan without images.
        """
        if not plan.n_sources:
            raise MoEError("the plan routes no image")
        each = torch.tensor(
            [e.multiply_adds(height, width) for e in self.experts],  # type: ignore[operator]
            dtype=torch.float64,
        )
        routed = float((plan.load().cpu().double() * each).sum()) / plan.n_sources
        return routed + (self.shared.multiply_adds(height, width) if self.shared else 0)


def router(
    width: int,
    n_experts: int,
    *,
    k: int | None = None,
    least: float = 0.0,
    renormalise: bool = False,
    balance: float = 0.01,
) -> ImageRouter:
    """The router of the block, for any vectors: pooled features of images, or tokens.

    Args:
        width: D.
        n_experts: E.
        k: experts per source; None mixes all of them.
        least, renormalise: as in `MaskedSoftmax`.
        balance: weight of L_bal; 0 leaves it out.
    """
    return ImageRouter(
        width,
        BottleneckScores(width, n_experts),
        gate=Gate(),
        selection=MaskedSoftmax(k, least=least, renormalise=renormalise),
        balance=[MeanWeightBalance(balance)] if balance else [],
    )


def build(
    shape: Shape,
    *,
    least: float = 0.4,
    renormalise: bool = False,
    balance: float = 0.01,
    gated: bool = True,
) -> list[nn.Module]:
    """The block's router before feed-forward experts, token by token; top `shape.k`.

    Feature maps take `EsMoE`.
    """
    return routed_stack(
        shape,
        lambda _: router(
            shape.width,
            shape.n_experts,
            k=shape.k,
            least=least,
            renormalise=renormalise,
            balance=balance,
        ),
        gated=gated,
    )


@cut.register
def _(module: BottleneckScores, kept: Tensor) -> None:
    cut_rows(module.up, kept, "weight", "bias")
    module.up.out_features = module.n_experts = len(kept)


@cut.register
def _(module: GivenScores, kept: Tensor) -> None:
    module.n_experts = len(kept)


@cut.register
def _(module: EsMoE, kept: Tensor) -> None:
    cut_router(module.router, kept)
    module.experts = nn.ModuleList(module.experts[i] for i in kept.tolist())
    if isinstance(module.reader, PlaceVotes):
        cut_rows(module.reader.vote, kept, "weight", "bias")
        module.reader.vote.out_channels = module.router.width = len(kept)
