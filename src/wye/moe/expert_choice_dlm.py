"""EC-DLM: experts choose tokens in a masked diffusion model, more of them the fewer are masked.

Routes tokens to experts, within each sequence, at every layer and denoising step, on the hidden
states of the whole sequence and on the share of masked tokens r. Paper: arXiv 2604.01622. For
bidirectional models only: the choice of a token depends on later ones.

    Z = X W^T                                             router logits [S, E]
    T_e = the c tokens of largest Z[:, e],  c = max(1, floor(S k / E))
    g_te = exp(Z_te) / sum_{e': t in T_e'} exp(Z_te')     gates; a token chosen by nobody gets 0
    y_t = a(q_t) sum_e g_te FFN_e(x_t) + shared(x_t)      q_t experts chose token t
    a(q) = E[ sqrt(n_shared) / ||p||_2 ],  p = softmax of q draws from N(0, 1);  a(0) = 1
    k = k(r)                                              `MaskSchedule`; static k is its mean
No balance loss: the load is exact by construction. z-loss of weight 1e-3.

The parts: `sequence_choice` (who takes whom), `mask_schedules` (k of r), `masked_diffusion` (what
such a model is trained on, and how it writes). `retrofit` turns a token-choice model into this one.

Ours: equal logits fall to positions in a scattered order instead of being moved by noise; the gate
variant "pre" works with a capacity per sample, which the release does not offer.

Shape letters: S tokens, E experts, N routed pairs, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor, nn

from wye.core import Plan
from wye.moe.base import Contracts, MoEError, routed_layers
from wye.moe.build import Shape, routed_stack
from wye.moe.experts import FeedForward
from wye.moe.parts.balance import ZLoss
from wye.moe.parts.gates import Gate
from wye.moe.parts.mask_schedules import MaskSchedule, Profile
from wye.moe.parts.scores import LinearScores
from wye.moe.parts.selection import Capped, Selection
from wye.moe.parts.sequence_choice import SequenceChoice
from wye.moe.router import ComposedRouter

GateKind = Literal["post", "pre", "sigmoid"]
SEES_THE_FUTURE = Contracts(causal=False, batch_invariant=True, padding=True)
_GATES = ("post", "pre", "sigmoid")
_DRAWS = 10_000


@lru_cache(maxsize=64)
def norm_scales(n_experts: int, n_shared: int, *, draws: int = _DRAWS) -> tuple[float, ...]:
    """a(q) for q = 0 to E: brings the routed sum to the norm of `n_shared` shared experts.

    A mixture of q outputs of equal norm with gates p has norm ||p||_2 times that of one.

    Args:
        n_experts: E.
        n_shared: shared experts, at least 1.
        draws: of the Monte Carlo mean; its seed is fixed.

    Example:
        >>> norm_scales(4, 1)[:2]
        (1.0, 1.0)
    """
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(draws, n_experts, generator=generator, dtype=torch.float64).exp()
    inverse_norm = z.cumsum(dim=1) / (z * z).cumsum(dim=1).sqrt()
    scales = inverse_norm.mean(dim=0) * n_shared**0.5
    return (1.0, *scales.tolist())


@dataclass(frozen=True, kw_only=True)
class NormMatchedGate(Gate):
    """A gate rule whose weights are also multiplied by a(q) of their token.

    Attributes:
        n_shared: shared experts whose norm is matched; 0 leaves the weights as they are.
    """

    n_shared: int = 0

    def weigh(self, plan: Plan, affinity: Tensor | None = None, *, k: int | None = None) -> Plan:
        weighed = super().weigh(plan, affinity, k=k)
        if self.n_shared == 0:
            return weighed
        scale_Q = weighed.weight.new_tensor(norm_scales(plan.n_targets, self.n_shared))
        return weighed.with_weight(weighed.weight * scale_Q[plan.fan_out()[plan.source]])


def router(
    width: int,
    n_experts: int,
    *,
    k: float = 2,
    k_min: int | None = None,
    k_max: int | None = None,
    profile: Profile = "linear_reverse",
    gate: GateKind = "post",
    n_shared: int = 0,
    z_weight: float = 1e-3,
) -> ComposedRouter:
    """Expert choice within sequences.

    Args:
        width: D.
        n_experts: E.
        k: experts per token on average, where no schedule is given.
        k_min, k_max: bounds of the schedule; both or neither.
        profile: shape of the schedule.
        gate: "post", softmax over the experts that chose the token; "pre", softmax over all
            experts, not renormalised; "sigmoid", renormalised sigmoids.
        n_shared: shared experts whose norm the routed part is brought to; 0 for none.
        z_weight: of the z-loss.

    Raises:
        MoEError: one bound without the other, k or k_max above n_experts, an unknown gate.
    """
    if gate not in _GATES:
        raise MoEError(f"gate={gate!r}, expected one of {_GATES}")
    capacity = _capacity(k, k_min, k_max, profile)
    most = capacity.k_max if isinstance(capacity, MaskSchedule) else capacity
    if most > n_experts:
        raise MoEError(
            f"{most} experts per token with {n_experts} experts: expected at most that many"
        )
    return ComposedRouter(
        width,
        LinearScores(width, n_experts),
        gate=NormMatchedGate(
            affinity="sigmoid" if gate == "sigmoid" else "softmax",
            normalise=gate != "pre",
            n_shared=n_shared,
        ),
        selection=SequenceChoice(capacity, ranking="affinity" if gate == "pre" else "logits"),
        balance=[ZLoss(z_weight)],
        contracts=SEES_THE_FUTURE,
    )


def build(
    shape: Shape,
    *,
    k_min: int | None = None,
    k_max: int | None = None,
    profile: Profile = "linear_reverse",
    gate: GateKind = "post",
    n_shared: int = 1,
    match_norms: bool = True,
    z_weight: float = 1e-3,
    gated: bool = True,
    activation: str = "silu",
    carries_losses: bool = True,
) -> list[nn.Module]:
    """Feed-forwards of a bidirectional model; without bounds every token gets `shape.k` on average.

    Args:
        shape: sizes; `shape.k` is the static k.
        k_min, k_max, profile, gate, z_weight: as in `router`.
        n_shared: shared experts, one network of `n_shared` times the hidden width; 0 for none.
        match_norms: scale the routed part by a(q).
        gated, activation, carries_losses: as in `routed_stack`.
    """
    hidden = n_shared * shape.hidden
    return routed_stack(
        shape,
        lambda _: router(
            shape.width,
            shape.n_experts,
            k=shape.k,
            k_min=k_min,
            k_max=k_max,
            profile=profile,
            gate=gate,
            n_shared=n_shared if match_norms else 0,
            z_weight=z_weight,
        ),
        gated=gated,
        activation=activation,
        make_shared=(
            (lambda _: FeedForward(shape.width, hidden, gated=gated, activation=activation))
            if n_shared
            else None
        ),
        carries_losses=carries_losses,
    )


def retrofit(model: nn.Module, *, schedule: MaskSchedule | None = None) -> int:
    """Let the experts of a trained token-choice model choose their tokens; every weight stays.

    Scores, gate rule, experts and shared parts are the same objects afterwards. Each selection
    becomes a choice per sequence of the same k; balance losses and biases, which an exact balance
    has no use for, leave the routers, and z-losses stay. Fine-tune afterwards.

    Args:
        model: bidirectional, with routers of fixed fan-out.
        schedule: k by mask ratio; each router's own k when not given.

    Returns:
        How many routers were changed; one shared by several layers counts once.

    Raises:
        MoEError: an autoregressive model, no routed layer, or a router without scores, gate and a
            selection of fixed fan-out. Nothing is changed then.
    """
    if getattr(model, "causal", False):
        raise MoEError(
            "the model is autoregressive, and experts that choose tokens look at later ones: "
            "retrofit a bidirectional model"
        )
    routers: dict[int, tuple[ComposedRouter, int]] = {}
    for name, layer in routed_layers(model).items():
        found = layer.router
        k = _fan_out(found.selection) if isinstance(found, ComposedRouter) else None
        if not isinstance(found, ComposedRouter) or k is None:
            raise MoEError(
                f"layer {name!r} has a {type(found).__name__} without a selection of fixed fan-out:"
                " only token-choice routers can be retrofitted"
            )
        routers[id(found)] = found, k
    if not routers:
        raise MoEError("the model has no routed layer to retrofit")
    for found, k in routers.values():
        ranking: Literal["affinity", "logits"] = "logits" if found.gate.normalise else "affinity"
        chosen = SequenceChoice(k if schedule is None else schedule, ranking=ranking)
        found.selection = chosen.train(found.training)
        kept = [part for part in found.balance if isinstance(part, ZLoss)]
        found.balance = nn.ModuleList(kept)  # type: ignore[assignment]
        found.contracts = SEES_THE_FUTURE
    return len(routers)


def _fan_out(selection: Selection) -> int | None:
    """Experts per token of a selection of fixed fan-out, with or without a capacity."""
    return selection.k if isinstance(selection, Capped) else selection.fan_out


def _capacity(
    k: float, k_min: int | None, k_max: int | None, profile: Profile
) -> float | MaskSchedule:
    if k_min is None and k_max is None:
        return k
    if k_min is None or k_max is None:
        raise MoEError(f"k_min={k_min} and k_max={k_max}: a schedule needs both bounds")
    return MaskSchedule(k_min=k_min, k_max=k_max, profile=profile)
