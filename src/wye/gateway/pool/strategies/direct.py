"""`direct`: the conversation goes to the model as it is."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from wye.gateway.pool.answer import (
    AnswerParams,
    Message,
    Step,
    Strategy,
    StrategyAnswer,
    conversation,
    total,
)
from wye.gateway.pool.client import Completion, ModelClient

DEFAULT_MAX_TOKENS = 512


class OneCall(Strategy):
    """Base of the strategies that make one call, whose text is the answer as it comes."""

    def prompt(self, messages: list[Message]) -> tuple[list[Message], list[Step]]:
        """What the model is asked, and what was done to ask it so."""
        return messages, []

    async def answer(
        self, messages: Sequence[Mapping[str, Any]], *, client: ModelClient, params: AnswerParams
    ) -> StrategyAnswer:
        """Answer the last user message; see `Strategy.answer`."""
        began = time.perf_counter()
        prompt, steps = self.prompt(conversation(messages))
        done = await client.complete(
            prompt,
            max_tokens=params.max_tokens or DEFAULT_MAX_TOKENS,
            temperature=params.temperature or 0.0,
            seed=params.seed,
            stop=params.stop,
            confidence=params.confidence,
        )
        return _answered(done, steps, began)

    async def stream(
        self, messages: Sequence[Mapping[str, Any]], *, client: ModelClient, params: AnswerParams
    ) -> AsyncIterator[str | StrategyAnswer]:
        """Tokens as the model makes them, then the whole answer; see `Strategy.stream`."""
        began = time.perf_counter()
        prompt, steps = self.prompt(conversation(messages))
        pieces = client.stream(
            prompt,
            max_tokens=params.max_tokens or DEFAULT_MAX_TOKENS,
            temperature=params.temperature or 0.0,
            seed=params.seed,
            stop=params.stop,
            confidence=params.confidence,
        )
        async for piece in pieces:
            yield piece if isinstance(piece, str) else _answered(piece, steps, began)


class Direct(OneCall):
    """The conversation as it is, one call."""

    name = "direct"
    description = (
        "Passes the conversation to the model as it is. Good at what the model knows by heart and "
        "at free text; weak at sums and at answers in a set form."
    )
    token_cost = "the conversation and the answer, once: the least of all strategies"


def _answered(done: Completion, steps: Sequence[Step], began: float) -> StrategyAnswer:
    return total(
        done.text.strip(),
        [done],
        [*steps, Step(action="answer", text=done.text.strip())],
        time.perf_counter() - began,
        finish_reason=done.finish_reason,
        confidence=done.confidence,
    )
