"""From a dense feed-forward network to experts that start where it stands (arXiv 2212.05055).

Every expert starts as a copy of the dense network, so that a router whose gates sum to 1 leaves the
model as it was at step 0, whatever it chooses:
    sum_i g_i f(x) = f(x)  where  sum_i g_i = 1
Copies that stay equal learn the same; what sets them apart is the router's choice and, on request:
    noise           W_i = W + noise * std(W) * N(0, 1)
    reinitialise    drop-upcycling (arXiv 2502.19261): in every expert a random share of the hidden
                    values gets weights drawn anew from N(mean(W), std(W)^2)
    slices = m      fine-grained experts (arXiv 2410.07524): each copy is cut into m experts of F/m
                    hidden values, `down` times m. The m router rows of a copy start equal, so that
                    a token takes whole copies, each slice with g/m: the model is as it was again.

Both disturbances are applied copy by copy, before slicing. What drop-upcycling draws per matrix,
and the order of slices (copy by copy), are our choices.

Shape letters: C copies, E = C m experts, D width, F hidden width, P rows of `up`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wye.moe.base import MoEError, Router
from wye.moe.experts import Experts
from wye.moe.parts.scores import LinearScores
from wye.moe.surgery.decompose import MLPWeights, decompose_mlp, read_mlp


def upcycle_mlp(
    module: nn.Module | MLPWeights,
    copies: int,
    *,
    slices: int = 1,
    noise: float = 0.0,
    reinitialise: float = 0.0,
    generator: torch.Generator | None = None,
) -> Experts:
    """Experts that start as copies, or as slices of copies, of a dense feed-forward network.

    Args:
        module: what `wye.moe.surgery.decompose.read_mlp` reads; left as it is.
        copies: C.
        slices: m, a divisor of the network's hidden width.
        noise: standard deviation of the noise, in units of that of each weight matrix.
        reinitialise: share of the hidden values of every copy, in [0, 1], drawn anew.
        generator: of all draws, on the CPU; PyTorch's global one when not given.

    Returns:
        C m experts, on the device and in the dtype of `module`; expert c m + j is slice j of copy
        c.

    Raises:
        MoEError: a number out of range, or as `read_mlp` and `decompose_mlp`.

    Example:
        >>> import torch
        >>> from wye.core import top_k
        >>> mlp = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.ReLU(), torch.nn.Linear(6, 4))
        >>> x, plan = torch.ones(3, 4), top_k(torch.rand(3, 8), 2, weight="softmax")
        >>> torch.allclose(upcycle_mlp(mlp, 8)(x, plan), mlp(x), atol=1e-6)
        True
    """
    if not isinstance(copies, int) or isinstance(copies, bool) or copies < 1:
        raise MoEError(f"copies={copies!r}, expected an integer of at least 1")
    if not noise >= 0:
        raise MoEError(f"noise={noise}, expected a number of at least 0")
    if not 0 <= reinitialise <= 1:
        raise MoEError(f"reinitialise={reinitialise}, expected a share in [0, 1]")
    dense = module if isinstance(module, MLPWeights) else read_mlp(module)
    has_bias = dense.up_bias is not None or dense.down_bias is not None
    decompose_mlp(dense, slices)  # refuses slices that do not fit, before anything is built
    experts = Experts(
        copies * slices,
        dense.width,
        dense.hidden // slices,
        activation=dense.activation,
        gated=dense.gated,
        bias=has_bias,
        device="meta",
        dtype=dense.up.dtype,
    ).to_empty(device=dense.up.device)
    with torch.no_grad():
        for copy in range(copies):
            place = slice(copy * slices, (copy + 1) * slices)
            changed = _disturbed(dense, noise, reinitialise, generator)
            cut = decompose_mlp(changed, slices)
            experts.up[place] = cut.up
            experts.down[place] = cut.down * slices
            if experts.up_bias is not None and experts.down_bias is not None:
                # Gates of a token sum to 1 over all its slices, so each has the whole bias.
                experts.up_bias[place] = 0 if cut.up_bias is None else cut.up_bias
                experts.down_bias[place] = 0 if cut.down_bias is None else cut.down_bias
    return experts


def tie_slices(router: Router, slices: int) -> bool:
    """Let every slice of a copy start with the router row of the copy's first slice.

    Args:
        router: chooses among C m experts, copy by copy.
        slices: m.

    Returns:
        Whether it could: the router has `LinearScores`. Another router takes slices of different
        copies from the first step on, which is no error and no identity at step 0.

    Raises:
        MoEError: m that does not divide the number of experts.
    """
    if slices < 1 or router.n_experts % slices:
        raise MoEError(
            f"slices={slices} of {router.n_experts} experts, expected a divisor of their number"
        )
    scores = getattr(router, "scores", None)
    if not isinstance(scores, LinearScores):
        return slices == 1
    with torch.no_grad():
        scores.weight.copy_(scores.weight[::slices].repeat_interleave(slices, dim=0))
    return True


def _disturbed(
    dense: MLPWeights, noise: float, share: float, generator: torch.Generator | None
) -> MLPWeights:
    up, down, bias = dense.up.detach(), dense.down.detach(), dense.up_bias
    if share > 0:
        chosen = torch.randperm(dense.hidden, generator=generator)[: round(share * dense.hidden)]
        chosen = chosen.to(up.device)
        rows = torch.cat([chosen, chosen + dense.hidden]) if dense.gated else chosen
        up = up.index_copy(0, rows, _drawn_like(up, (len(rows), dense.width), generator))
        down = down.index_copy(1, chosen, _drawn_like(down, (dense.width, len(chosen)), generator))
        # A bias fitted to the old weights means nothing to the new ones.
        bias = None if bias is None else bias.detach().index_fill(0, rows, 0.0)
    if noise > 0:
        up = up + noise * _drawn_like(up, up.shape, generator, centred=True)
        down = down + noise * _drawn_like(down, down.shape, generator, centred=True)
    return MLPWeights(up, down, bias, dense.down_bias, dense.activation, dense.gated)


def _drawn_like(
    weight: Tensor,
    shape: tuple[int, ...],
    generator: torch.Generator | None,
    *,
    centred: bool = False,
) -> Tensor:
    """Normal draws with the mean (unless centred) and standard deviation of `weight`."""
    wide = weight.float()
    mean = 0.0 if centred else float(wide.mean())
    drawn = torch.randn(shape, generator=generator) * float(wide.std(correction=0)) + mean
    return drawn.to(weight)
