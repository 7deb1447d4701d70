"""A PEFT LoRA layer whose modules are chosen token by token by the layer's own input.

Each module i carries a vector v_i [n] beside its A_i [r, n] and B_i [m, r], in the same PEFT files.
    gate training   y = W u + sigmoid(v_i . u) Delta_i(u)
    routing         alpha_i = LN(v_i) . LN(u) / sqrt(n), LN without affine, over the n coordinates
                    y = W u + sum_{i in top-k} w_i Delta_i(u),  w = softmax(alpha) over all
where Delta_i(u) = s_i B_i A_i u. The sigmoid of gate training is not used when routing: of v_i only
the direction is. A null target of score 0 and no update may take part. A vector that was never
trained (constant, so that LN has nothing to scale) keeps its module out. Only the chosen modules
are computed, on the tokens that chose them.

Shape letters: S tokens, T targets (the modules, then null), n width of the layer's input.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from peft.tuners.lora.layer import Linear
from torch import Tensor, nn
from torch.nn import functional as F

from wye.core import Plan, top_k

Mode = Literal["route", "plain", "gate", "mean", "base"]
_EPS = 1e-5


def standardised(x: Tensor) -> Tensor:
    """LN without affine over the last dimension, in float32; a constant vector becomes 0."""
    return F.layer_norm(x.float(), x.shape[-1:], eps=_EPS)


def is_trained(vector: Tensor) -> bool:
    """Whether a gate vector says anything; one that is constant does not."""
    return bool((vector.detach() != vector.detach()[0]).any())


def affinities(u_Sn: Tensor, v_Tn: Tensor) -> Tensor:
    """alpha `[S, T]` of S activations for T vectors.

    Vectors are scaled to unit deviation without an eps, since trained ones may be tiny.
    """
    v = v_Tn.float()
    v = v - v.mean(dim=-1, keepdim=True)
    spread = v.square().mean(dim=-1, keepdim=True).sqrt()
    v = torch.where(spread > 0, v / spread.clamp_min(torch.finfo(v.dtype).tiny), 0.0)
    return standardised(u_Sn) @ v.T / math.sqrt(u_Sn.shape[-1])


@dataclass
class TokenRouting:
    """What all routed layers of one model share.

    Attributes:
        modules: names, in the order of the targets; the null target follows them.
        k: targets of a token.
        null: whether "no module" takes part.
        renormalise: whether the k weights are divided by their sum.
        mode: "route", or one module alone ("plain") or under its sigmoid gate ("gate"), the mean of
            all modules' updates ("mean"), or "base".
        alone: that module.
        mask: `[B, L]` booleans, False at padding, of the running forward pass; None if all real.
        plans: of the last forward pass, by layer.
    """

    modules: list[str] = field(default_factory=list)
    k: int = 2
    null: bool = True
    renormalise: bool = False
    mode: Mode = "route"
    alone: str = ""
    mask: Tensor | None = None
    plans: dict[str, Plan] = field(default_factory=dict)

    @contextmanager
    def using(self, mode: Mode, alone: str = "") -> Iterator[None]:
        """Another mode inside."""
        before = self.mode, self.alone
        self.mode, self.alone = mode, alone
        try:
            yield
        finally:
            self.mode, self.alone = before


class RoutedLinear(Linear):
    """PEFT's LoRA layer with a gate vector for each module.

    Attributes:
        lora_gate: v_i `[n]` by module, 0 until trained.
        routing: shared by the layers of a model; the layer is PEFT's own where it is None.
        place: name of the layer.
    """

    adapter_layer_names = (*Linear.adapter_layer_names, "lora_gate")
    routing: TokenRouting | None = None
    place: str = ""

    def update_layer(self, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        # PEFT's constructor calls this before a subclass could make the container.
        if not hasattr(self, "lora_gate"):
            self.lora_gate = nn.ParameterDict()
        weight: Any = self.get_base_layer().weight
        zeros = torch.zeros(weight.shape[1], device=weight.device, dtype=torch.float32)
        self.lora_gate[adapter_name] = nn.Parameter(zeros)
        super().update_layer(adapter_name, *args, **kwargs)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        routing = self.routing
        if routing is None:
            plain: Tensor = super().forward(x, *args, **kwargs)
            return plain
        result: Tensor = self.base_layer(x, *args, **kwargs)
        if routing.mode == "route":
            return self._routed(x, result, routing)
        if routing.mode == "mean":
            for name in routing.modules:
                if name in self.lora_A:
                    result = result + (self.update(name, x) / len(routing.modules)).to(result.dtype)
            return result
        if routing.mode == "base" or routing.alone not in self.lora_A:
            return result
        delta = self.update(routing.alone, x)
        if routing.mode == "gate":
            gate = torch.sigmoid(x.float() @ self.lora_gate[routing.alone])[..., None]
            delta = gate.to(delta.dtype) * delta
        return result + delta.to(result.dtype)

    def update(self, name: str, x: Tensor) -> Tensor:
        """Delta of one module for inputs `[..., n]`."""
        down: Any = self.lora_A[name]
        up = self.lora_B[name]
        kept = self.lora_dropout[name](x.to(down.weight.dtype))
        delta: Tensor = up(down(kept)) * self.scaling[name]
        return delta

    def _routed(self, x: Tensor, result: Tensor, routing: TokenRouting) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        real = _real(x, routing.mask)
        u_Sn = flat if real is None else flat[real]
        plan = self.plan(u_Sn, routing)
        routing.plans[self.place] = plan.with_weight(plan.weight.detach())
        out = result.reshape(-1, result.shape[-1])
        order, offsets = plan.by_target()
        bounds = offsets.tolist()
        for t, name in enumerate(routing.modules):
            pairs = order[bounds[t] : bounds[t + 1]]
            if not len(pairs):
                continue
            tokens = plan.source[pairs]
            delta = self.update(name, u_Sn[tokens]) * plan.weight[pairs, None]
            rows = tokens if real is None else real[tokens]
            out = out.index_add(0, rows, delta.to(out.dtype))
        return out.reshape(result.shape)

    def plan(self, u_Sn: Tensor, routing: TokenRouting) -> Plan:
        """Which modules S tokens take here, and with what weight.

        Targets that take no part have score -inf: modules that this layer has not, and vectors
        that were never trained.
        """
        n_targets = len(routing.modules) + 1
        scores = u_Sn.new_full((len(u_Sn), n_targets), -torch.inf, dtype=torch.float32)
        there = [
            t
            for t, name in enumerate(routing.modules)
            if name in self.lora_A and is_trained(self.lora_gate[name])
        ]
        if there:
            vectors = torch.stack([self.lora_gate[routing.modules[t]] for t in there])
            scores[:, there] = affinities(u_Sn, vectors)
        n_open = len(there)
        if routing.null or not there:
            scores[:, -1] = 0.0
            n_open += 1
        weights = torch.softmax(scores, dim=1)
        allowed = scores > -torch.inf
        return top_k(
            weights,
            min(routing.k, n_open),
            allowed=allowed,
            weight="share" if routing.renormalise else "score",
        )


def _real(x: Tensor, mask: Tensor | None) -> Tensor | None:
    """Places of real tokens in the flattened `[B, L]` grid, where the mask is of that grid."""
    if mask is None or x.ndim != 3 or tuple(x.shape[:2]) != tuple(mask.shape):
        return None
    return mask.reshape(-1).nonzero()[:, 0]
