"""`step_by_step`: the model reasons first, shown how by fixed worked reasonings.

Source: Wei et al. 2022, Chain-of-Thought Prompting Elicits Reasoning in Large Language Models
(arXiv 2201.11903).
"""

from __future__ import annotations

import re
import time
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
from wye.gateway.pool.client import ModelClient

REASONING_TOKENS = 56
_CUE = "The answer is"
# Fixed, so that the server keeps them in its cache.
_SHOWN = (
    (
        "There are 4 bags with 6 nuts each. How many nuts are there in all?",
        "Each of the 4 bags has 6 nuts. 4 * 6 = 24. The answer is 24.",
    ),
    ("Is 57 greater than 91?", "57 is smaller than 91, so it is not. The answer is no."),
    ("What is the last letter of tulip?", "tulip is spelled t-u-l-i-p. The answer is p."),
    ("How many cm are 8 m?", "1 m is 100 cm. 8 * 100 = 800. The answer is 800."),
    (
        "Which country has Rome as its capital?",
        "Rome is a city in Italy, and it is its capital. The answer is Italy.",
    ),
)


class StepByStep(Strategy):
    """A short reasoning, then the answer from it, in one call."""

    name = "step_by_step"
    description = (
        "Shows the model worked reasonings and lets it reason before it answers. Good at some word "
        "problems and comparisons; for plain facts it only costs more."
    )
    token_cost = (
        f"fixed examples of some 220 tokens, the conversation, up to {REASONING_TOKENS} tokens of "
        "reasoning and the answer"
    )

    async def answer(
        self, messages: Sequence[Mapping[str, Any]], *, client: ModelClient, params: AnswerParams
    ) -> StrategyAnswer:
        """Answer the last user message; see `Strategy.answer`. The text is the answer alone."""
        began = time.perf_counter()
        done = await client.complete(
            with_examples(conversation(messages), _SHOWN),
            max_tokens=REASONING_TOKENS + (params.max_tokens or 0),
            temperature=params.temperature or 0.0,
            seed=params.seed,
            stop=["\n"],
            confidence=params.confidence,
        )
        text = conclusion(done.text)
        for stop in params.stop:
            text = text.split(stop, 1)[0]
        return total(
            text,
            [done],
            [Step(action="reason", text=done.text.strip()), Step(action="answer", text=text)],
            time.perf_counter() - began,
            finish_reason=done.finish_reason,
            confidence=done.confidence,
        )


def conclusion(reasoning: str) -> str:
    """What the reasoning says the answer is, or all of it where it never says so.

    Example:
        >>> conclusion("4 * 6 = 24. The answer is 24.")
        '24'
    """
    found = re.findall(rf"{_CUE}:?\s+(.+?)(?:\.\s|\.?$)", reasoning.strip())
    return found[-1].strip() if found else reasoning.strip()
