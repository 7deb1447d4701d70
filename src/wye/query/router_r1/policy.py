"""A Hugging Face language model as a policy of Router-R1 that can be trained, and its critic.

The paper trains Qwen2.5-3B-Instruct and Llama-3.2-3B-Instruct; any causal language model and its
tokenizer serve here. Source: Zhang, Feng and You, arXiv 2506.09033.

Needs PyTorch and transformers (extra `transformers`). Shape letters: B texts, L tokens, V
vocabulary.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from wye.query.base import RouterError
from wye.query.learning.heads import require_torch
from wye.query.router_r1.training import SYSTEM

if TYPE_CHECKING:
    from torch import Tensor


class TransformersPolicy:
    """A causal language model that writes turns; see `wye.query.router_r1.training`.

    Args:
        model: a causal language model of the library transformers.
        tokenizer: its tokenizer.
        max_tokens: of one turn.
        temperature: 0 is greedy.
        seed: of its sampling; the global generator of PyTorch is left alone.

    Raises:
        RouterError: a number is out of range.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        max_tokens: int = 1024,
        temperature: float = 1.0,
        seed: int = 0,
    ) -> None:
        if max_tokens < 1 or not temperature >= 0:
            raise RouterError(
                f"max_tokens={max_tokens}, temperature={temperature}; expected >= 1 and >= 0"
            )
        self.model = model
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens
        self.temperature = temperature
        self.seed = seed
        self._made = 0

    def __call__(self, contexts: Sequence[str]) -> list[str]:
        """What the model writes after each context, a text alone in its batch."""
        return [self._one(context) for context in contexts]

    def encode(self, text: str) -> list[int]:
        """Token ids of a piece of text."""
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def logits(self, model: Any, ids: Tensor) -> Tensor:
        """`[B, L, V]`; padding stands behind every text, where a causal model does not look."""
        found: Tensor = model(input_ids=ids.to(model.device)).logits
        return found

    def _one(self, context: str) -> str:
        torch = require_torch(SYSTEM)
        from transformers import StoppingCriteria, StoppingCriteriaList

        tokenizer = self.tokenizer

        class EndOfTurn(StoppingCriteria):
            def __call__(self, ids: Any, scores: Any, **given: Any) -> Any:
                # The longest closing tag has 9 bytes, and a token writes a byte at least.
                end = tokenizer.decode(ids[0, max(start, ids.shape[1] - 12) :])
                done = "</search>" in end or "</answer>" in end
                return torch.tensor([done], device=ids.device)

        ids = torch.tensor([self.encode(context)], device=self.model.device)
        start = ids.shape[1]
        sampling: dict[str, Any] = {"do_sample": False}
        if self.temperature > 0:
            sampling = {
                "do_sample": True,
                "temperature": self.temperature,
                "top_k": 0,
                "top_p": 1.0,
            }
        pad = tokenizer.pad_token_id
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed + self._made)
            made = self.model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=self.max_tokens,
                stopping_criteria=StoppingCriteriaList([EndOfTurn()]),
                pad_token_id=0 if pad is None else pad,
                **sampling,
            )
        self._made += 1
        return str(tokenizer.decode(made[0, start:], skip_special_tokens=True))


def critic_of(model: Any) -> Any:
    """A copy of a causal language model with a scalar head that starts at zero.

    Args:
        model: whose configuration names its width `hidden_size`.

    Returns:
        A module from ids `[B, L]` to expected returns `[B, L]`.
    """
    torch = require_torch(SYSTEM)

    class Critic(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.backbone = copy.deepcopy(model).requires_grad_(True)
            self.head = torch.nn.Linear(model.config.hidden_size, 1)
            torch.nn.init.zeros_(self.head.weight)
            torch.nn.init.zeros_(self.head.bias)

        def forward(self, ids: Any) -> Any:
            states = self.backbone(input_ids=ids, output_hidden_states=True).hidden_states[-1]
            return self.head(states.float())[..., 0]

    return Critic()
