"""Chat models as seen by systems that ask one: to route, to judge, to generate, to be probed.

One contract for a served endpoint, a model in this process and a program. What a model generated
comes with its token log-probabilities where the backend gives them.

Shape letters: T generated tokens, L labels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from wye.errors import WyeError
from wye.query.base import FloatArray

Message = Mapping[str, str]
TOKENS_PER_CHAR = 0.25


class ChatModelError(WyeError):
    """A chat model cannot answer, or not in the way it was asked to; the message says why."""


@dataclass(frozen=True)
class Generation:
    """One answer of a chat model.

    Attributes:
        text: what it wrote.
        input_tokens, output_tokens: as the model counts them.
        finish_reason: `stop` where it ended by itself, `length` where it was cut.
        model: who answered, as the backend names it.
        log_probabilities: `[T]` natural logarithm of the probability of each generated token, None
            where the backend does not say.
        runner_up: `[T]` the same of the best other token at that place, -inf where there is none;
            None where the backend does not say.
        seconds: to the full answer.
        cost_usd: of the call; NaN where no price is known.
    """

    text: str
    input_tokens: int
    output_tokens: int
    finish_reason: str
    model: str
    log_probabilities: FloatArray | None = None
    runner_up: FloatArray | None = None
    seconds: float = float("nan")
    cost_usd: float = float("nan")


class ChatModel(ABC):
    """Base of everything that answers a chat: `EndpointChatModel`, `TransformersChatModel`, ours
    and third parties'.

    Attributes:
        name: identity, part of every cache key.
    """

    name: str

    @abstractmethod
    def generate(
        self,
        messages: Sequence[Message],
        *,
        max_tokens: int = 512,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int | None = None,
        stop: Sequence[str] = (),
    ) -> Generation:
        """Answer a chat.

        Args:
            messages: `{"role": "system" | "user" | "assistant", "content": str}`, oldest first.
            max_tokens: after which the answer is cut.
            temperature: 0 is greedy.
            top_p: share of probability that is sampled from.
            seed: of the sampling, where the backend takes one.
            stop: strings that end the answer; they are not part of it.

        Raises:
            ChatModelError: the backend refuses, breaks off or cannot be reached.
        """

    def prompt_tokens(self, messages: Sequence[Message]) -> int:
        """Tokens of a prompt, for accounting calls that report none: here a quarter of its
        characters, exact in models that can count.
        """
        return round(TOKENS_PER_CHAR * sum(len(m["content"]) for m in messages))

    def label_log_probabilities(
        self, messages: Sequence[Message], labels: Sequence[str]
    ) -> FloatArray:
        """`[L]` log-probability that the answer begins with each label, normalised over them.

        Raises:
            ChatModelError: this backend cannot score a given continuation.
        """
        raise ChatModelError(
            f"{self.name} does not score given labels; use a model in this process "
            "(TransformersChatModel) or an endpoint that returns log-probabilities"
        )


def normalised(log_probabilities: FloatArray) -> FloatArray:
    """Log-probabilities `[L]` shifted so that they sum to one."""
    top = float(log_probabilities.max())
    total = top + float(np.log(np.exp(log_probabilities - top).sum()))
    return np.asarray(log_probabilities - total, np.float64)
