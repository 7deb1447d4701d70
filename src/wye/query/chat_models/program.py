"""A deterministic program that answers like a chat model: a calculator, a table, a rule."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence

import numpy as np

from wye.query.base import FloatArray
from wye.query.chat_models.asking import call_cost, check_call, check_labels, cut_at_stop
from wye.query.chat_models.base import ChatModel, ChatModelError, Generation, Message, normalised

_TOKEN = re.compile(r"\s*\S+")


class ProgramChatModel(ChatModel):
    """A program as a target. Tokens are words; temperature and seed change nothing.

    Args:
        name: identity.
        function: from the messages to the answer.
        scores: from the messages and L labels to L unnormalised log-probabilities, for programs
            that judge; without it `label_log_probabilities` refuses.
        price_in_per_mtok, price_out_per_mtok: USD per million words in and out.

    Example:
        >>> shout = ProgramChatModel("shout", lambda messages: messages[-1]["content"].upper())
        >>> shout.generate([{"role": "user", "content": "good day"}]).text
        'GOOD DAY'
    """

    def __init__(
        self,
        name: str,
        function: Callable[[Sequence[Message]], str],
        *,
        scores: Callable[[Sequence[Message], Sequence[str]], Sequence[float]] | None = None,
        price_in_per_mtok: float = 0.0,
        price_out_per_mtok: float = 0.0,
    ) -> None:
        self.name = name
        self.function = function
        self.scores = scores
        self.price_in_per_mtok = price_in_per_mtok
        self.price_out_per_mtok = price_out_per_mtok

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
        """What the program says, cut after `max_tokens` words; see `ChatModel.generate`.

        Raises:
            ChatModelError: the call is out of range, or the program failed or gave no string.
        """
        check_call(self.name, messages, max_tokens=max_tokens, temperature=temperature, top_p=top_p)
        began = time.perf_counter()
        try:
            text = self.function(messages)
        except Exception as error:
            raise ChatModelError(
                f"the program {self.name} failed: {type(error).__name__}: {error}"
            ) from error
        if not isinstance(text, str):
            raise ChatModelError(f"the program {self.name} gave {text!r}, expected a string")
        text, _ = cut_at_stop(text, stop)
        words = _TOKEN.findall(text)
        n_in, n_out = self.prompt_tokens(messages), len(words)
        if n_out > max_tokens:
            text, n_out = "".join(words[:max_tokens]), max_tokens
        return Generation(
            text=text,
            input_tokens=n_in,
            output_tokens=n_out,
            finish_reason="length" if len(words) > max_tokens else "stop",
            model=self.name,
            seconds=time.perf_counter() - began,
            cost_usd=call_cost(n_in, n_out, self.price_in_per_mtok, self.price_out_per_mtok),
        )

    def prompt_tokens(self, messages: Sequence[Message]) -> int:
        """Words of the messages."""
        return sum(len(_TOKEN.findall(m["content"])) for m in messages)

    def label_log_probabilities(
        self, messages: Sequence[Message], labels: Sequence[str]
    ) -> FloatArray:
        """`[L]` what `scores` gives, normalised over the labels.

        Raises:
            ChatModelError: there is no `scores`, or it gave another number of finite figures.
        """
        check_call(self.name, messages)
        check_labels(self.name, labels)
        if self.scores is None:
            return super().label_log_probabilities(messages, labels)
        found = np.asarray(self.scores(messages, labels), np.float64)
        if found.shape != (len(labels),) or not np.isfinite(found).all():
            raise ChatModelError(
                f"the scores of {self.name} are {found.tolist()}, expected {len(labels)} finite "
                "numbers"
            )
        return normalised(found)
