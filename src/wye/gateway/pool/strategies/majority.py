"""`majority`: several samples, and the answer that most of them agree on.

Source: Wang et al. 2023, Self-Consistency Improves Chain of Thought Reasoning in Language Models
(arXiv 2203.11171), on the short answers that worked examples lead to.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from wye.gateway.pool.answer import (
    AnswerParams,
    Step,
    Strategy,
    StrategyAnswer,
    conversation,
    total,
    with_examples,
)
from wye.gateway.pool.client import Completion, ModelClient
from wye.gateway.pool.nearest import examples
from wye.gateway.pool.strategies.few_shot import N_EXAMPLES
from wye.gateway.pool.vote import final_answer

N_SAMPLES = 5
TEMPERATURE = 0.7
ANSWER_TOKENS = 64


class Majority(Strategy):
    """A vote among samples of short answers: one call for each."""

    name = "majority"
    description = (
        f"Asks as few_shot does {N_SAMPLES} times with some randomness and takes the answer that "
        "most agree on. Steadier than one try where the model is right more often than not."
    )
    token_cost = f"the conversation, worked examples and a short answer, {N_SAMPLES} times"

    async def answer(
        self, messages: Sequence[Mapping[str, Any]], *, client: ModelClient, params: AnswerParams
    ) -> StrategyAnswer:
        """Answer the last user message; see `Strategy.answer`. A tie goes to the earliest."""
        began = time.perf_counter()
        talk = conversation(messages)
        nearest = examples().nearest(talk[-1]["content"], N_EXAMPLES)
        prompt = with_examples(talk, nearest[::-1])

        async def sample(number: int) -> Completion:
            return await client.complete(
                prompt,
                max_tokens=params.max_tokens or ANSWER_TOKENS,
                temperature=params.temperature or TEMPERATURE,
                seed=None if params.seed is None else params.seed + number,
                stop=params.stop,
                confidence=params.confidence,
            )

        # The first call leaves the prompt in the server's cache for the others.
        samples = [await sample(0)]
        samples += await asyncio.gather(*(sample(i) for i in range(1, N_SAMPLES)))
        votes = Counter(final_answer(s.text) for s in samples)
        winner = max(samples, key=lambda s: votes[final_answer(s.text)])
        return total(
            winner.text.strip(),
            samples,
            [Step(action="sample", text=s.text.strip()) for s in samples],
            time.perf_counter() - began,
            finish_reason=winner.finish_reason,
            confidence=winner.confidence,
        )
