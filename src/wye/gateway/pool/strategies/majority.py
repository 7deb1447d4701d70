"""`majority`: several samples, and the answer that most of them agree on.

Source: Wang et al. 2023, Self-Consistency Improves Chain of Thought Reasoning in Language Models
(arXiv 2203.11171), on the short answers that worked examples lead to.
"""

from __future__ import annotations

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
from wye.gateway.pool.nearest import worked_examples
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
    token_cost = (
        "the conversation, worked examples and a short answer, "
        f"{N_SAMPLES // 2 + 1} to {N_SAMPLES} times"
    )

    async def answer(
        self, messages: Sequence[Mapping[str, Any]], *, client: ModelClient, params: AnswerParams
    ) -> StrategyAnswer:
        """Answer the last user message; see `Strategy.answer`. A tie goes to the earliest."""
        began = time.perf_counter()
        talk = conversation(messages)
        prompt = with_examples(talk, worked_examples(talk[-1]["content"]))

        async def sample(number: int) -> Completion:
            return await client.complete(
                prompt,
                max_tokens=params.max_tokens or ANSWER_TOKENS,
                temperature=params.temperature or TEMPERATURE,
                seed=None if params.seed is None else params.seed + number,
                stop=params.stop,
                confidence=params.confidence,
            )

        # One after the other: each finds the prompt in the server's cache, and the vote ends as
        # soon as it is decided.
        samples: list[Completion] = []
        votes: Counter[str] = Counter()
        while len(samples) < N_SAMPLES and max(votes.values(), default=0) <= N_SAMPLES // 2:
            samples.append(await sample(len(samples)))
            votes[final_answer(samples[-1].text)] += 1
        winner = max(samples, key=lambda s: votes[final_answer(s.text)])
        return total(
            winner.text.strip(),
            samples,
            [Step(action="sample", text=s.text.strip()) for s in samples],
            time.perf_counter() - began,
            finish_reason=winner.finish_reason,
            confidence=winner.confidence,
        )
