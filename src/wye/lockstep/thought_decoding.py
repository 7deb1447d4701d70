"""Writing with a mixture of thoughts: one text, read on by all active models, written by one.

Every model keeps its cache; what the primary writes is handed to each peer, tokenised anew where
tokenizers differ, and no peer ever writes text of its own.

Shape letters: T tokens written, V vocabulary, M models, D width of the embedding.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor

from wye.lockstep.base import LockstepError
from wye.lockstep.combine import choose_token
from wye.lockstep.mixture_of_thoughts import MixtureOfThoughts
from wye.lockstep.offsets import SharedText, Tokens
from wye.lockstep.thought_router import Roles


@dataclass(frozen=True)
class ThoughtText:
    """What a mixture wrote.

    Attributes:
        ids: `[T]` in the vocabulary of the primary, a stop token included.
        roles: of the models, for the one query.
        attention: `[T, Q - 1, M]` share of attention that each model got at the step that wrote
            the token.
        tokens: that the active models read together, the prompt included: the cost.
    """

    ids: Tensor
    roles: Roles
    attention: Tensor
    tokens: int


@torch.no_grad()
def generate_thoughts(
    mixture: MixtureOfThoughts,
    prompt: Tensor | SharedText,
    z_D: Tensor,
    *,
    most: int,
    temperature: float = 0.0,
    generator: torch.Generator | None = None,
    stop: Collection[int] = (),
    dropped: Collection[int] = (),
) -> ThoughtText:
    """Write up to `most` tokens behind one prompt.

    Args:
        mixture: the models.
        prompt: ids `[L]` for models of one tokenizer, else a text with every model's tokenizer.
        z_D: embedding of the prompt.
        most: tokens, at least 1.
        temperature: 0 is greedy.
        generator: of the draws at a temperature.
        stop: ids behind which it ends.
        dropped: models that are no peers, whatever the router says.

    Raises:
        LockstepError: no tokens to write, an empty prompt, or one tensor of ids for models that do
            not share a tokenizer.
    """
    if most < 1:
        raise LockstepError(f"most={most}, expected at least 1 token")
    was_training = mixture.training
    mixture.eval()
    try:
        roles = mixture.choose(z_D[None], dropped=dropped)
        ((_, primary, active),) = roles.groups()
        running = mixture.begin(primary, active, roles.weight)
        new = _opening(mixture, prompt)
        written: list[Tensor] = []
        attention: list[Tensor] = []
        read = 0
        while True:
            read += sum(new[m].ids.shape[1] for m in active)
            law = running.advance({m: new[m] for m in active})[0, -1]
            written.append(choose_token(law, temperature=temperature, generator=generator))
            attention.append(running.attention[0].clone())
            if len(written) == most or int(written[-1]) in stop:
                break
            new = _next(mixture, prompt, written, primary)
    finally:
        mixture.train(was_training)
    return ThoughtText(torch.stack(written), roles, torch.stack(attention), read)


def _opening(mixture: MixtureOfThoughts, prompt: Tensor | SharedText) -> dict[int, Tokens]:
    if isinstance(prompt, SharedText):
        new = prompt.prompt()
        if set(new) != set(range(len(mixture.members))):
            raise LockstepError(
                f"the text has tokenizers for models {sorted(new)}, expected one for each of "
                f"{len(mixture.members)}"
            )
        return new
    if prompt.ndim != 1 or not prompt.numel():
        raise LockstepError(
            f"the prompt has shape {tuple(prompt.shape)}, expected ids [L] with L >= 1"
        )
    return dict(enumerate(mixture.shared_tokens(prompt[None])))


def _next(
    mixture: MixtureOfThoughts, prompt: Tensor | SharedText, written: list[Tensor], primary: int
) -> dict[int, Tokens]:
    if isinstance(prompt, SharedText):
        return prompt.append(int(written[-1]), primary)
    at = prompt.numel() + len(written) - 1
    new = Tokens.counted(written[-1].reshape(1, 1), start=at)
    return dict.fromkeys(range(len(mixture.members)), new)
