"""A router that decides before the model runs: a small causal transformer on token ids alone.

    h = embedding(ids)
    per block: h += W_o softmax(q k^T / normaliser) v,  h += W_2 silu(W_1 norm(h))
    logits = head(norm(h))  [S, M];  argmax -> the expert of the token in EVERY layer
The first layer of a model that routes by it computes the logits; the layers above get them handed
up. `routes` computes them from ids alone, for a scheduler to look ahead.

Training of the router, the dense model frozen: per layer and token with activations v and N
private channels of the first domain,
    f = sum over q in {N-1, 4N/5, 3N/5, 2N/5, N/5} of 1[v > q-th largest of v] / (3 N)
    A_m = <f, 1[P_m]>;  A <- 10 (A - mean of A over the batch);  target = softmax(A)
    loss = sum over layers of 0.75 CE(logits, argmax A; smoothing 0.5) + 0.25 CE(logits, target)

Source: Read-ME (arXiv 2410.19123), router. normaliser = 1 in its scripts; width 128 with 2 heads is
our choice. The release ranks signed activations here and absolute ones in the extraction; absolute
in both is the default (`signed=True` for the release). The mean over the batch removes the signal
of a batch from one domain: mix domains.

Shape letters: S tokens, B batch, L length, M experts, F hidden channels, V vocabulary, I width of
the router.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wye.core import Plan, SelectionError, top_k
from wye.moe.base import Context, MoEError, Router, Routing
from wye.moe.models.rotary import rotary_turns, turned
from wye.moe.parts.unit_gate import UnitGate

_SHARES = (4 / 5, 3 / 5, 2 / 5, 1 / 5)
_SHARPNESS, _SMOOTHING, _HARD = 10.0, 0.5, 0.75


class Pregate(Router):
    """Token ids to one expert per token, the same in every layer.

    Args:
        width: D of the hidden states of the layers, which are not read.
        n_experts: M.
        vocabulary: V.
        inner: I, a multiple of twice the heads.
        n_layers, n_heads: of the router.
        normaliser: divides the attention scores.

    Raises:
        MoEError: sizes that do not fit together.
    """

    def __init__(
        self,
        width: int,
        n_experts: int,
        *,
        vocabulary: int,
        inner: int = 128,
        n_layers: int = 2,
        n_heads: int = 2,
        normaliser: float = 1.0,
    ) -> None:
        super().__init__(width, n_experts)
        if vocabulary < 1 or n_layers < 1 or n_heads < 1 or inner % (2 * n_heads):
            raise MoEError(
                f"vocabulary={vocabulary}, n_layers={n_layers}, inner={inner}, n_heads={n_heads}: "
                "expected at least 1 of each and an even width per head"
            )
        if not normaliser > 0:
            raise MoEError(f"normaliser={normaliser}, expected a number > 0")
        self.gate = UnitGate()
        self.embedding = nn.Embedding(vocabulary, inner)
        self.blocks = nn.ModuleList(_Block(inner, n_heads, normaliser) for _ in range(n_layers))
        self.norm = nn.RMSNorm(inner)
        self.head = nn.Linear(inner, n_experts)
        nn.init.normal_(self.embedding.weight, std=inner**-0.5)

    @torch.no_grad()
    def embed_like(self, embedding_VD: Tensor) -> None:
        """Start from the first I columns of a model's embedding.

        Raises:
            MoEError: another vocabulary, or fewer columns.
        """
        own = self.embedding.weight
        if embedding_VD.shape[0] != own.shape[0] or embedding_VD.shape[1] < own.shape[1]:
            raise MoEError(
                f"the embedding has shape {tuple(embedding_VD.shape)}, expected {own.shape[0]} rows"
                f" of at least {own.shape[1]}"
            )
        own.copy_(embedding_VD[:, : own.shape[1]])

    def routes(self, ids_BL: Tensor, mask: Tensor | None = None) -> Tensor:
        """Logits `[B, L, M]` float32, before any layer of the model has run.

        Args:
            ids_BL: `[B, L]` ids; the logits of a token depend on it and on those before it.
            mask: `[B, L]` booleans, False at padding, whose logits mean nothing.
        """
        length = ids_BL.shape[1]
        steps = torch.arange(length, device=ids_BL.device)
        seen = (steps[None, :] <= steps[:, None])[None, None]
        if mask is not None:
            own = torch.eye(length, dtype=torch.bool, device=ids_BL.device)
            seen = (seen & mask[:, None, None, :]) | own
        with torch.autocast(ids_BL.device.type, enabled=False):
            h = self.embedding(ids_BL)
            for block in self.blocks:
                h = block(h, seen)
            logits: Tensor = self.head(self.norm(h)).float()
        return logits

    def forward(self, x_SD: Tensor, context: Context) -> Routing:
        self.check_width(x_SD)
        if bool(x_SD.isnan().any()):
            raise SelectionError("the hidden states hold NaN: look at the layers below")
        logits = context.state
        if logits is None or logits.shape != (x_SD.shape[0], self.n_experts):
            logits = self._logits(context, x_SD)
        p = torch.softmax(logits, dim=-1)
        plan = self.gate.weigh(top_k(p, 1))
        return Routing(plan, logits, p, state=logits)

    def weigh(self, plan: Plan, routing: Routing) -> Plan:
        return self.gate.weigh(plan, routing.probabilities)

    def _logits(self, context: Context, x_SD: Tensor) -> Tensor:
        ids_S = context.need("token_ids", "a router on token ids")
        if x_SD.shape[0] == 0:
            return x_SD.new_zeros(0, self.n_experts, dtype=torch.float32)
        if context.place is None:
            grid = ids_S.view(context.batch, context.length)
            return self.routes(grid).view(-1, self.n_experts)
        size = context.batch * context.length
        grid = ids_S.new_zeros(size).index_copy(0, context.place, ids_S)
        mask = torch.zeros(size, dtype=torch.bool, device=ids_S.device)
        mask = mask.index_fill(0, context.place, True)
        shape = (context.batch, context.length)
        logits = self.routes(grid.view(shape), mask.view(shape)).view(size, self.n_experts)
        return logits[context.place]


class _Block(nn.Module):
    def __init__(self, inner: int, n_heads: int, normaliser: float) -> None:
        super().__init__()
        self.n_heads, self.normaliser = n_heads, normaliser
        self.attention_norm, self.norm = nn.RMSNorm(inner), nn.RMSNorm(inner)
        self.input, self.output = nn.Linear(inner, 3 * inner), nn.Linear(inner, inner)
        self.up, self.down = nn.Linear(inner, inner), nn.Linear(inner, inner)
        for linear in (self.input, self.output, self.up, self.down):
            nn.init.kaiming_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, h: Tensor, seen: Tensor) -> Tensor:
        B, L, I = h.shape
        mixed = self.input(self.attention_norm(h)).view(B, L, 3, self.n_heads, -1)
        q, k, v = mixed.permute(2, 0, 3, 1, 4)
        turns = rotary_turns(torch.arange(L, device=h.device), q.shape[-1])
        q, k = turned(q, turns), turned(k, turns)
        z = F.scaled_dot_product_attention(q, k, v, attn_mask=seen, scale=1.0 / self.normaliser)
        h = h + self.output(z.transpose(1, 2).reshape(B, L, I))
        return h + self.down(F.silu(self.up(self.norm(h))))  # type: ignore[no-any-return]


def domain_affinity(values_SF: Tensor, private_MF: Tensor, *, signed: bool = False) -> Tensor:
    """A `[S, M]`: how much of what a token activates most is private to each domain.

    Args:
        values_SF: activations of one layer.
        private_MF: booleans, P_m of that layer.
        signed: rank the activations as they are, as the release does, instead of absolute ones.

    Raises:
        MoEError: no private channels at all.
    """
    n = int(private_MF[0].sum())
    ranks = sorted({max(1, int(share * n)) for share in _SHARES} | {max(1, n - 1)})
    if not bool(private_MF.any()):
        raise MoEError("no domain has private channels: the router has nothing to tell them by")
    values_SF = values_SF.float() if signed else values_SF.float().abs()
    top = values_SF.topk(min(max(ranks), values_SF.shape[1]), dim=1).values
    hits = sum((values_SF > top[:, q - 1, None]).float() for q in ranks) / (3 * max(n, 1))
    return torch.as_tensor(hits) @ private_MF.float().T


def pregate_loss(logits_SM: Tensor, affinity_LSM: Tensor) -> Tensor:
    """The router's loss of a batch, summed over layers.

    Args:
        logits_SM: of the tokens of the batch.
        affinity_LSM: `[layers, S, M]` of `domain_affinity`.
    """
    total = logits_SM.new_zeros(())
    for affinity in affinity_LSM:
        sharp = _SHARPNESS * (affinity - affinity.mean(dim=0))
        hard = F.cross_entropy(logits_SM, sharp.argmax(dim=1), label_smoothing=_SMOOTHING)
        soft = F.cross_entropy(logits_SM, torch.softmax(sharp, dim=1))
        total = total + _HARD * hard + (1 - _HARD) * soft
    return total
