"""Training the policy of Router-R1: PPO on whole episodes, after an imitation of well-formed ones.

Source: Zhang, Feng and You, arXiv 2506.09033. PPO with GAE at gamma = lambda = 1, clip 0.2, one
pass over the episodes, value clip 0.5, entropy bonus 0.001; of the reward of each token, 0.001
times log p / p_reference is taken away; R lands on the last token that the policy wrote. What the
environment wrote stays visible and counts nowhere: no policy loss, no value loss, no KL.

The paper starts from an instructed model. A small policy that starts from nothing first imitates
well-formed texts (`imitate`); that, and whitening the advantages over a batch, are ours.

Needs PyTorch (extra `torch`). Shape letters: B episodes, L tokens, V vocabulary.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from wye.core.proximal_policy import (
    clipped_policy_loss,
    clipped_value_loss,
    generalised_advantage,
    masked_mean,
    whitened,
)
from wye.query.base import RouterError
from wye.query.learning.heads import require_torch
from wye.query.router_r1.router import Episode, Piece

if TYPE_CHECKING:
    from torch import Tensor

    from wye.query.router_r1.reward import Reward

SYSTEM = "router-r1"


class TrainablePolicy(Protocol):
    """A policy whose weights are here. Called, it samples: B contexts -> B texts."""

    model: Any
    """A module; its parameters are trained."""

    def __call__(self, contexts: Sequence[str]) -> Sequence[str]:
        """Texts that continue the contexts, sampled."""
        ...

    def encode(self, text: str) -> list[int]:
        """Token ids of a text; pieces of a text are encoded one by one."""
        ...

    def logits(self, model: Any, ids: Tensor) -> Tensor:
        """`[B, L, V]` of `model`, which is `self.model` or a copy of it, on ids `[B, L]`."""
        ...


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Numbers of the training; the defaults are the paper's.

    Attributes:
        actor_rate, critic_rate: learning rates of Adam.
        minibatch: episodes of one optimiser step.
        clip, value_clip: see `wye.core.proximal_policy`.
        entropy: weight of the bonus.
        kl: weight of log p / p_reference, per token.
        gradient_norm: gradients are clipped to it.
        discount, trace: gamma and lambda.
    """

    actor_rate: float = 1e-6
    critic_rate: float = 1e-5
    minibatch: int = 32
    clip: float = 0.2
    value_clip: float = 0.5
    entropy: float = 0.001
    kl: float = 0.001
    gradient_norm: float = 1.0
    discount: float = 1.0
    trace: float = 1.0


@dataclass(frozen=True)
class Tokens:
    """Episodes as ids.

    Attributes:
        ids: `[B, L]`, padded with 0 at the end.
        own: `[B, L]` booleans: the tokens that the policy wrote.
    """

    ids: Tensor
    own: Tensor


def tokens_of(
    rows: Sequence[tuple[str, Sequence[Piece]]], encode: Callable[[str], list[int]]
) -> Tokens:
    """Prompts and pieces as ids with a mask of the policy's own tokens.

    Raises:
        RouterError: no rows, or nothing in them is the policy's own.
    """
    torch = require_torch(SYSTEM)
    whole, owned = [], []
    for prompt, pieces in rows:
        ids = encode(prompt)
        own = [False] * len(ids)
        for piece in pieces:
            more = encode(piece.text)
            ids = ids + more
            own += [piece.own] * len(more)
        whole.append(ids)
        owned.append(own)
    if not any(any(own) for own in owned):
        raise RouterError(f"{len(rows)} episodes hold no token of the policy; nothing to learn")
    length = max(len(ids) for ids in whole)
    ids_BL = torch.zeros((len(whole), length), dtype=torch.int64)
    own_BL = torch.zeros((len(whole), length), dtype=torch.bool)
    for row, (ids, own) in enumerate(zip(whole, owned, strict=True)):
        ids_BL[row, : len(ids)] = torch.tensor(ids)
        own_BL[row, : len(own)] = torch.tensor(own)
    return Tokens(ids_BL, own_BL)


def imitate(
    policy: TrainablePolicy,
    batches: Callable[[int], Sequence[tuple[str, Sequence[Piece]]]],
    *,
    steps: int,
    rate: float = 3e-3,
) -> list[float]:
    """Learn to continue texts as they are given: next-token loss on the policy's own pieces.

    Args:
        policy: to train.
        batches: step -> prompts and pieces of that step.
        steps: of AdamW, with a cosine schedule.
        rate: learning rate.

    Returns:
        The loss of each step, nats per token.
    """
    torch = require_torch(SYSTEM)
    optimiser = torch.optim.AdamW(policy.model.parameters(), lr=rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    losses = []
    for step in range(steps):
        tokens = tokens_of(batches(step), policy.encode)
        said, _ = _said(policy, policy.model, tokens)
        loss = -masked_mean(said, tokens.own[:, 1:])
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        losses.append(float(loss.detach()))
    return losses


class PolicyTrainer:
    """PPO steps on episodes that the policy has just written.

    Args:
        policy: to train; a frozen copy of its model is the reference of the KL.
        critic: a module from ids `[B, L]` to expected returns `[B, L]`; the paper's is the same
            backbone with a scalar head.
        settings: numbers.
        seed: of the order of minibatches.
    """

    def __init__(
        self,
        policy: TrainablePolicy,
        critic: Any,
        *,
        settings: Settings | None = None,
        seed: int = 0,
    ) -> None:
        torch = require_torch(SYSTEM)
        self.policy = policy
        self.critic = critic
        self.settings = settings or Settings()
        self.reference = copy.deepcopy(policy.model).eval().requires_grad_(False)
        self._actor = torch.optim.Adam(policy.model.parameters(), lr=self.settings.actor_rate)
        self._critic = torch.optim.Adam(critic.parameters(), lr=self.settings.critic_rate)
        self._generator = torch.Generator().manual_seed(seed)

    def step(self, episodes: Sequence[Episode], rewards: Sequence[Reward]) -> dict[str, float]:
        """One pass over the episodes; mean reward, KL to the reference, and both losses.

        Raises:
            RouterError: another number of rewards than episodes, or no token of the policy.
        """
        torch = require_torch(SYSTEM)
        if len(episodes) != len(rewards):
            raise RouterError(
                f"{len(episodes)} episodes and {len(rewards)} rewards, expected as many"
            )
        tokens = tokens_of([(e.prompt, e.pieces) for e in episodes], self.policy.encode)
        total = torch.tensor([r.total for r in rewards])
        chosen = tokens.own[:, 1:]
        with torch.no_grad():
            old, _ = _said(self.policy, self.policy.model, tokens)
            reference, _ = _said(self.policy, self.reference, tokens)
            old_value = self.critic(tokens.ids)[:, :-1]
            gap = torch.where(chosen, old - reference, 0.0)
            reward = landed(total, chosen) - self.settings.kl * gap
            advantage = generalised_advantage(
                reward,
                old_value,
                chosen,
                discount=self.settings.discount,
                trace=self.settings.trace,
            )
            target = advantage + old_value
            advantage = whitened(advantage, chosen)
        losses = []
        order = torch.randperm(len(episodes), generator=self._generator)
        for rows in order.split(self.settings.minibatch):
            if not bool(chosen[rows].any()):
                continue
            part = Tokens(tokens.ids[rows], tokens.own[rows])
            losses.append(
                self._update(part, old[rows], advantage[rows], old_value[rows], target[rows])
            )
        actor, critic = (sum(column) / len(losses) for column in zip(*losses, strict=True))
        return {
            "reward": float(total.mean()),
            "kl": float(masked_mean(gap, chosen)),
            "policy loss": actor,
            "value loss": critic,
        }

    def _update(
        self, tokens: Tokens, old: Tensor, advantage: Tensor, old_value: Tensor, target: Tensor
    ) -> tuple[float, float]:
        torch = require_torch(SYSTEM)
        chosen, settings = tokens.own[:, 1:], self.settings
        said, entropy = _said(self.policy, self.policy.model, tokens)
        actor_loss = clipped_policy_loss(said, old, advantage, chosen, clip=settings.clip)
        loss = actor_loss - settings.entropy * masked_mean(entropy, chosen)
        value = self.critic(tokens.ids)[:, :-1]
        value_loss = clipped_value_loss(value, old_value, target, chosen, clip=settings.value_clip)
        for optimiser, one, module in (
            (self._actor, loss, self.policy.model),
            (self._critic, value_loss, self.critic),
        ):
            optimiser.zero_grad()
            one.backward()
            torch.nn.utils.clip_grad_norm_(module.parameters(), settings.gradient_norm)
            optimiser.step()
        return float(actor_loss.detach()), float(value_loss.detach())


def landed(total: Tensor, chosen: Tensor) -> Tensor:
    """`[B, L]` rewards, all of each episode's on its last chosen token.

    Args:
        total: `[B]`.
        chosen: `[B, L]` booleans; an episode without a chosen token gets nothing.
    """
    torch = require_torch(SYSTEM)
    place = torch.arange(chosen.shape[1])
    last = torch.where(chosen, place, -1).amax(dim=1, keepdim=True)
    reward: Tensor = torch.where(place == last, total[:, None], 0.0)
    return reward


def _said(policy: TrainablePolicy, model: Any, tokens: Tokens) -> tuple[Tensor, Tensor]:
    """`[B, L - 1]` log-probability of each token after the first, and entropy at its place."""
    law = policy.logits(model, tokens.ids)[:, :-1].float().log_softmax(-1)
    said = law.gather(2, tokens.ids[:, 1:, None])[..., 0]
    return said, -(law.exp() * law).sum(-1)
