"""FusionRoute: at every token a router picks one frozen expert and adds its own logits to it.

Routes every token of the text that is being written to one of n language models of one tokenizer,
during the answer, on the router's last hidden state of the prompt and the text so far.
arXiv 2601.05106. With the router pi_theta (a language model), its routing head W `[n, d]` and its
final hidden state h_t:

    w_t = W h_t,   I_t = argmax_i w_t,i
    log pi_final(. | s_t) = log pi_theta(. | s_t) + log pi_{I_t}(. | s_t) + constant

A step costs one step of the router and one of one expert. Choosing alone can follow n laws and no
other; the added logits reach any law inside the expert's support, so a token on which every expert
is wrong can still be mended.

Ours, where the paper's text could not be read: W starts at 0; `k` > 1 adds the chosen experts'
logits with softmax weights; "uniform" is the normalised geometric mean of the experts.

Shape letters: B batch, L length, T tokens written, V vocabulary, N experts, K choices.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from wye.core import Plan, top_k
from wye.lockstep.base import Follower, LockstepError, Member, check_ids, common_vocabulary, freeze
from wye.lockstep.combine import choose_token, log_linear

Mode = Literal["fuse", "select", "router_only", "uniform"]
MODES: tuple[Mode, ...] = ("fuse", "select", "router_only", "uniform")


@dataclass(frozen=True)
class Fused:
    """A group's view of given text.

    Attributes:
        logits: `[B, L, V]` of the mode; not normalised.
        router_logits: `[B, L, V]` of the router alone.
        scores: w `[B, L, N]`.
        plan: the S = B L places and the experts that they were sent to.
    """

    logits: Tensor
    router_logits: Tensor
    scores: Tensor
    plan: Plan


@dataclass(frozen=True)
class FusionTrace:
    """What happened at each of T tokens.

    Attributes:
        experts: `[T, K]` who was asked; K is 0 under "router_only" and N under "uniform".
        scores: w `[T, N]`.
        override: `[T]` KL(final || experts alone) in nats: how much the router changed; 0 where
            nobody was asked.
        read: `[T, N]` tokens that each expert read at the step, those that it was behind included.
    """

    experts: Tensor
    scores: Tensor
    override: Tensor
    read: Tensor


@dataclass(frozen=True)
class Written:
    """What a group wrote.

    Attributes:
        ids: `[T]`, a stop token included.
        trace: of each token.
    """

    ids: Tensor
    trace: FusionTrace


class TokenFusion(nn.Module):
    """A router language model over frozen experts of the same vocabulary.

    The experts are frozen here and are no part of `parameters()` or `state_dict()`.

    Args:
        router: whose model is trained.
        experts: at least one.
        k: experts asked at each token.

    Raises:
        LockstepError: different vocabularies, no experts, k out of range, or a router that is one
            of the experts.
    """

    def __init__(self, router: Member, experts: Sequence[Member], *, k: int = 1) -> None:
        super().__init__()
        if not experts or not 1 <= k <= len(experts):
            raise LockstepError(
                f"{len(experts)} experts and k={k}, expected at least one expert and k from 1 to "
                "their number"
            )
        if any(expert.module is router.module for expert in experts):
            raise LockstepError(
                "the router is one of the experts, which stay frozen: give it a copy of the model"
            )
        self.vocabulary = common_vocabulary([router, *experts])
        self.k = k
        self.router = router.module
        self.head = nn.Linear(router.width, len(experts), bias=False)
        nn.init.zeros_(self.head.weight)
        self._reader = router
        self.experts = tuple(experts)
        freeze(self.experts)

    def forward(self, ids_BL: Tensor, *, mode: Mode = "fuse") -> Fused:
        """The laws of the token behind each of `ids_BL`.

        Args:
            ids_BL: integers `[B, L]`; rows of different lengths are padded at their ends.
            mode: "fuse" adds router and expert; "select" is the chosen expert alone; "router_only"
                asks no expert; "uniform" multiplies all experts.

        Raises:
            LockstepError: ids of another shape, or an unknown mode.
        """
        check_ids(ids_BL)
        router_logits, scores = self.route(ids_BL)
        plan = self._choose(scores)
        return Fused(self._combined(ids_BL, router_logits, plan, mode), router_logits, scores, plan)

    def route(self, ids_BL: Tensor) -> tuple[Tensor, Tensor]:
        """The router alone: its logits `[B, L, V]` and the scores w `[B, L, N]`."""
        reading = self._reader.read(ids_BL)
        return reading.logits[..., : self.vocabulary], self._scores(reading.hidden)

    @torch.no_grad()
    def generate(
        self,
        prompt: Tensor,
        *,
        most: int,
        mode: Mode = "fuse",
        temperature: float = 0.0,
        generator: torch.Generator | None = None,
        stop: Collection[int] = (),
        expert_prompts: Sequence[Tensor] | None = None,
    ) -> Written:
        """Write up to `most` tokens behind a prompt.

        Every model keeps its own cache. One that was not asked for a while reads what it missed as
        one chunk when it is asked again, so that a step costs about one expert.

        Args:
            prompt: ids `[L]`, as the router reads it.
            most: tokens, at least 1.
            mode: as in `forward`.
            temperature: 0 is greedy.
            generator: of the draws at a temperature.
            stop: ids behind which it ends.
            expert_prompts: the prompt as each expert reads it, where chat templates differ; what is
                written goes to all alike.

        Raises:
            LockstepError: no tokens to write, an unknown mode, or prompts of other shapes.
        """
        if most < 1:
            raise LockstepError(f"most={most}, expected at least 1 token")
        prompts = [prompt] * len(self.experts) if expert_prompts is None else list(expert_prompts)
        if len(prompts) != len(self.experts):
            raise LockstepError(
                f"{len(prompts)} prompts for experts, expected one for each of {len(self.experts)}"
            )
        was_training = self.training
        self.eval()
        try:
            session = _Session(self, prompt, prompts, mode)
            written = []
            for _ in range(most):
                token = choose_token(session.law(), temperature=temperature, generator=generator)
                session.append(token)
                written.append(token)
                if int(token) in stop:
                    break
        finally:
            self.train(was_training)
        return Written(torch.stack(written), session.trace())

    def _scores(self, hidden: Tensor) -> Tensor:
        scores: Tensor = self.head(hidden.to(self.head.weight.dtype))
        return scores

    def _choose(self, scores: Tensor) -> Plan:
        return top_k(scores.reshape(-1, scores.shape[-1]), self.k, weight="softmax")

    def _combined(self, ids_BL: Tensor, router_logits: Tensor, plan: Plan, mode: Mode) -> Tensor:
        if mode == "router_only":
            return router_logits
        if mode == "uniform":
            with torch.no_grad():
                said = [e.read(ids_BL).logits[..., : self.vocabulary] for e in self.experts]
            return mean_law(said)
        if mode == "select":
            return self._chosen_logits(ids_BL, plan, router_logits)
        if mode == "fuse":
            return log_linear([router_logits, self._chosen_logits(ids_BL, plan, router_logits)])
        raise LockstepError(f"mode={mode!r}, expected one of {MODES}")

    def _chosen_logits(self, ids_BL: Tensor, plan: Plan, like: Tensor) -> Tensor:
        """Weighted logits of the chosen experts; each runs the rows alone that ask for it."""
        length = ids_BL.shape[1]
        total = like.new_zeros(ids_BL.numel(), self.vocabulary)
        order, offsets = plan.by_target()
        for number, expert in enumerate(self.experts):
            pairs = order[offsets[number] : offsets[number + 1]]
            if not pairs.numel():
                continue
            places = plan.source[pairs]
            rows, row_of = torch.unique(places // length, return_inverse=True)
            with torch.no_grad():
                said = expert.read(ids_BL[rows]).logits
            floored = log_linear([said[row_of, places % length, : self.vocabulary]])
            total = total.index_add(0, places, plan.weight[pairs, None] * floored.to(total.dtype))
        return total.view(*ids_BL.shape, self.vocabulary)


def mean_law(logits: Sequence[Tensor]) -> Tensor:
    """Logits of the normalised geometric mean of several laws, `[..., V]`."""
    return log_linear(
        [torch.log_softmax(log_linear([x]).float(), dim=-1) for x in logits],
        [1.0 / len(logits)] * len(logits),
    )


class _Session:
    """Router and experts on one text, token by token."""

    def __init__(
        self, fusion: TokenFusion, prompt: Tensor, prompts: Sequence[Tensor], mode: Mode
    ) -> None:
        if mode not in MODES:
            raise LockstepError(f"mode={mode!r}, expected one of {MODES}")
        self.fusion, self.mode = fusion, mode
        self.router = Follower(fusion._reader, prompt)
        self.followers = [
            Follower(expert, own) for expert, own in zip(fusion.experts, prompts, strict=True)
        ]
        self.steps: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []

    def law(self) -> Tensor:
        """Logits `[V]` of the next token."""
        size = self.fusion.vocabulary
        reading = self.router.catch_up()
        own = reading.logits[:size]
        scores = self.fusion._scores(reading.hidden)
        asked, weights = self._asked(scores)
        read = torch.tensor([f.behind if i in asked else 0 for i, f in enumerate(self.followers)])
        said = [self.followers[i].catch_up().logits[:size] for i in asked]
        experts: Tensor | None = None
        if said and self.mode == "uniform":
            experts = mean_law(said)
        elif said:
            experts = log_linear(said, weights)
        if experts is None:
            final = own
        else:
            final = log_linear([own, experts]) if self.mode == "fuse" else experts
        override = final.new_zeros(()) if experts is None else _divergence(final, experts)
        self.steps.append((torch.tensor(asked, dtype=torch.int64), scores, override, read))
        return final

    def append(self, token: Tensor) -> None:
        """Lengthen the text of all by what was chosen."""
        for follower in (self.router, *self.followers):
            follower.append(token)

    def trace(self) -> FusionTrace:
        """Of all steps so far."""
        experts, scores, override, read = zip(*self.steps, strict=True)
        return FusionTrace(
            torch.stack(experts), torch.stack(scores), torch.stack(override), torch.stack(read)
        )

    def _asked(self, scores: Tensor) -> tuple[list[int], list[float]]:
        if self.mode == "router_only":
            return [], []
        if self.mode == "uniform":
            return list(range(len(self.followers))), []
        plan = self.fusion._choose(scores[None])
        return plan.target.tolist(), plan.weight.tolist()


def _divergence(final: Tensor, other: Tensor) -> Tensor:
    """KL(final || other) in nats, of laws given by logits `[V]`."""
    p, q = torch.log_softmax(final.float(), dim=-1), torch.log_softmax(other.float(), dim=-1)
    return (p.exp() * (p - q)).sum()
