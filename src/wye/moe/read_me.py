"""Read-ME: a dense decoder refactored into experts by domain, routed before it runs.

Routes tokens to the channels of a domain, one expert per token and the same in every layer, before
the model runs, on token ids alone. Paper: arXiv 2410.19123.

    experts   `domain_channels`: B_m, the channels most active on domain m, share rho of the width
    router    `pregate`: a small causal transformer on ids, argmax -> expert of the token
    serving   `lookahead` batches requests of the same experts, `expert_cache` evicts by Belady's
              rule; both know the routes of everything queued, since routing needs no model

`refactor` puts this into a pretrained decoder, where attention, embeddings and norms stay as they
are; `build` gives layers for training from scratch, whose channels are drawn at random because no
trained activations tell domains apart. Published recipe after that: the router 100 steps
(`train_pregate`, on activations of the dense model), then everything else 200 steps on the
language-model loss with routed forward passes, 5 to 6 rounds at falling rates.

Shape letters: S tokens, B batch, L length, M domains (the experts), D width, F hidden channels.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from wye.core import Plan, top_k
from wye.moe.base import Context, MoEError, Router, Routing
from wye.moe.build import Shape
from wye.moe.experts import FeedForward
from wye.moe.layer import MoELayer
from wye.moe.models.pregate import Pregate, pregate_loss
from wye.moe.parts.unit_gate import UnitGate
from wye.moe.surgery.domain_channels import (
    DomainChannels,
    DomainExperts,
    channel_profile,
    domain_channels,
)

_CERTAIN = 50.0


def build(
    shape: Shape,
    *,
    rho: float = 0.5,
    vocabulary: int = 256,
    inner: int = 128,
    router_layers: int = 2,
    router_heads: int = 2,
    seed: int = 0,
    gated: bool = True,
    activation: str = "silu",
    carries_losses: bool = True,
) -> list[nn.Module]:
    """Feed-forwards of hidden width F / rho, of which each token uses the F channels of its expert.

    Args:
        shape: sizes; `shape.hidden` is the active width F. One expert per token, whatever `k`.
        rho: share of the channels that an expert keeps.
        vocabulary: of the ids that the router reads.
        inner, router_layers, router_heads: of the one router, as in `Pregate`.
        seed: of the channels.
        gated, activation: of the feed-forwards.
        carries_losses: as in `RoutedModule`.

    Raises:
        MoEError: rho outside (0, 1].
    """
    if not 0 < rho <= 1:
        raise MoEError(f"rho={rho}, expected a share in (0, 1]")
    router = Pregate(
        shape.width,
        shape.n_experts,
        vocabulary=vocabulary,
        inner=inner,
        n_layers=router_layers,
        n_heads=router_heads,
    )
    whole = math.ceil(shape.hidden / rho - 1e-9)
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.rand(shape.n_experts, shape.n_layers, whole, generator=generator)
    channels = domain_channels(drawn, shape.hidden / whole)
    return [
        MoELayer(
            router,
            DomainExperts(
                FeedForward(shape.width, whole, gated=gated, activation=activation),
                channels.of_layer(layer),
            ),
            carries_losses=carries_losses,
        )
        for layer in range(shape.n_layers)
    ]


@dataclass(frozen=True, eq=False)
class Extraction:
    """Experts of a dense model.

    Attributes:
        domains: names, in the order of the experts.
        mlps: names of the feed-forwards, in the order of the layers.
        channels: who keeps what.
        profile: `[M, L, F]` that they were chosen by.
    """

    domains: tuple[str, ...]
    mlps: tuple[str, ...]
    channels: DomainChannels
    profile: Tensor


def mlps_of(model: nn.Module) -> dict[str, nn.Module]:
    """The feed-forwards of a Hugging Face decoder: its modules called `mlp`.

    Raises:
        MoEError: there are none.
    """
    found = {n: m for n, m in model.named_modules() if n.rsplit(".", 1)[-1] == "mlp"}
    if not found:
        raise MoEError(f"{type(model).__name__} has no module called mlp: name its feed-forwards")
    return found


def extract_experts(
    model: nn.Module,
    domains: Mapping[str, Iterable[Tensor]],
    rho: float = 0.5,
    *,
    mlps: Sequence[str] | None = None,
) -> Extraction:
    """One expert per domain, from the activations of a dense model.

    Args:
        model: called on ids `[B, L]`.
        domains: batches of ids by domain, without padding.
        rho: share of the channels that every expert keeps.
        mlps: names of its feed-forwards; those of `mlps_of` when not given.

    Raises:
        MoEError: no domains, no batches, feed-forwards that cannot be read, rho out of range.
    """
    if not domains:
        raise MoEError("no domains to extract experts for")
    parts = mlps_of(model) if mlps is None else {n: model.get_submodule(n) for n in mlps}
    profile = torch.stack([channel_profile(model, parts, ids) for ids in domains.values()])
    return Extraction(tuple(domains), tuple(parts), domain_channels(profile, rho), profile)


class _Board(Router):
    """Where the routes of the tokens that are about to run are written, and every layer reads."""

    def __init__(self, width: int, pregate: Pregate) -> None:
        super().__init__(width, pregate.n_experts)
        # The router is registered once, on the model, and not once per layer.
        self._pregate = (pregate,)
        self._logits: Tensor | None = None
        self._ids: Tensor | None = None
        self.fixed: int | None = None
        self.gate = UnitGate()

    def write(self, ids_BL: Tensor, mask: Tensor | None, past: int) -> None:
        """Route the tokens of a pass; under a cache, those before it count as well."""
        if past:
            if self._ids is None or self._ids.shape != (ids_BL.shape[0], past):
                raise MoEError(
                    f"the cache holds {past} tokens that the router has not seen: start with the "
                    "whole prompt, and keep the order of the batch"
                )
            ids_BL = torch.cat([self._ids, ids_BL], dim=1)
        self._ids = ids_BL
        if self.fixed is None:
            counted = None if mask is None or mask.ndim != 2 else mask.bool()
            self._logits = self._pregate[0].routes(ids_BL, counted)[:, past:].flatten(0, 1)
        else:
            certain = torch.zeros(ids_BL[:, past:].numel(), self.n_experts, device=ids_BL.device)
            certain[:, self.fixed] = _CERTAIN
            self._logits = certain

    def forward(self, x_SD: Tensor, context: Context) -> Routing:
        self.check_width(x_SD)
        logits = self._logits
        if logits is None or logits.shape[0] != x_SD.shape[0]:
            routed = 0 if logits is None else logits.shape[0]
            raise MoEError(
                f"{x_SD.shape[0]} tokens reach the layer and {routed} were routed: run the whole "
                "model on ids"
            )
        p = torch.softmax(logits, dim=-1)
        return Routing(self.gate.weigh(top_k(p, 1)), logits, p)

    def weigh(self, plan: Plan, routing: Routing) -> Plan:
        return self.gate.weigh(plan, routing.probabilities)


class Refactored:
    """A decoder whose feed-forwards are routed by domain, until `remove`.

    Attributes:
        model: the decoder, changed in place; `generate` works, with its cache (not with beams,
            which change the order of the batch).
        pregate: the router, registered on the model as `pregate`.
    """

    def __init__(self, model: nn.Module, extraction: Extraction, pregate: Pregate) -> None:
        if pregate.n_experts != extraction.channels.kept.shape[0]:
            raise MoEError(
                f"the router chooses among {pregate.n_experts} experts and "
                f"{extraction.channels.kept.shape[0]} were extracted"
            )
        self.model, self.pregate, self._extraction = model, pregate, extraction
        self._board = _Board(pregate.width, pregate)
        self._dense: dict[str, nn.Module] = {}
        model.add_module("pregate", pregate)
        for layer, name in enumerate(extraction.mlps):
            self._dense[name] = model.get_submodule(name)
            experts = DomainExperts(self._dense[name], extraction.channels.of_layer(layer))
            _put(model, name, MoELayer(self._board, experts).train(model.training))
        self._handle = model.register_forward_pre_hook(self._before, with_kwargs=True)

    @contextmanager
    def fixed(self, expert: int | str) -> Iterator[None]:
        """Send every token to one expert while it lasts.

        Args:
            expert: its number, or the name of its domain.
        """
        names = self._extraction.domains
        number = names.index(expert) if isinstance(expert, str) else expert
        if not 0 <= number < self.pregate.n_experts:
            raise MoEError(f"expert={expert!r}, expected 0 to {self.pregate.n_experts - 1}")
        self._board.fixed = number
        try:
            yield
        finally:
            self._board.fixed = None

    def remove(self) -> nn.Module:
        """Put the dense feed-forwards back, as they were, and return the model."""
        self._handle.remove()
        for name, dense in self._dense.items():
            _put(self.model, name, dense)
        del self.model.pregate
        return self.model

    def _before(self, model: nn.Module, positional: tuple[Any, ...], named: dict[str, Any]) -> None:
        ids = positional[0] if positional else named.get("input_ids")
        if not isinstance(ids, Tensor) or ids.is_floating_point():
            raise MoEError("the router reads token ids: call the model with input_ids")
        cache = named.get("past_key_values")
        past = 0 if cache is None else int(cache.get_seq_length())
        self._board.write(ids, named.get("attention_mask"), past)


def refactor(model: nn.Module, extraction: Extraction, pregate: Pregate) -> Refactored:
    """Put extracted experts and their router into the decoder that they came from.

    Args:
        model: changed in place; its feed-forwards are replaced by copies that are routed.
        extraction: of this model.
        pregate: router for as many experts.

    Raises:
        MoEError: another number of experts, or feed-forwards that cannot be read.
    """
    return Refactored(model, extraction, pregate)


def train_pregate(
    pregate: Pregate,
    ids_NL: Tensor,
    affinity_LNTM: Tensor,
    *,
    steps: int,
    batch: int = 32,
    rate: float = 3e-3,
    seed: int = 0,
) -> list[float]:
    """Teach the router what the dense model activated; the loss of every step.

    Args:
        pregate: trained in place.
        ids_NL: `[N, T]` sequences of ids of all domains.
        affinity_LNTM: `[layers, N, T, M]` of `domain_affinity` for those tokens.
        steps: optimiser steps (AdamW, cosine to zero).
        batch: sequences per step, drawn over all domains.
        rate: at the start.
        seed: of the order.

    Raises:
        MoEError: shapes that do not match.
    """
    if affinity_LNTM.shape[1:3] != ids_NL.shape or affinity_LNTM.shape[3] != pregate.n_experts:
        raise MoEError(
            f"affinities have shape {tuple(affinity_LNTM.shape)}, expected [layers, "
            f"{ids_NL.shape[0]}, {ids_NL.shape[1]}, {pregate.n_experts}]"
        )
    optimiser = torch.optim.AdamW(pregate.parameters(), lr=rate)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    generator = torch.Generator().manual_seed(seed)
    losses = []
    for _ in range(steps):
        rows = torch.randperm(ids_NL.shape[0], generator=generator)[:batch]
        logits = pregate.routes(ids_NL[rows]).flatten(0, 1)
        loss = pregate_loss(logits, affinity_LNTM[:, rows].flatten(1, 2))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        falling.step()
        losses.append(float(loss.detach()))
    return losses


def _put(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, module)
