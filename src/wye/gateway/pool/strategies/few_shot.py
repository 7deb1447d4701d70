"""`few_shot`: worked examples of the nearest topic first, as turns of the conversation.

Source: Brown et al. 2020, Language Models are Few-Shot Learners (arXiv 2005.14165); examples chosen
by nearness to the question: Liu et al. 2022, What Makes Good In-Context Examples for GPT-3?
(arXiv 2101.06804).
"""

from __future__ import annotations

from wye.gateway.pool.answer import Message, Step, with_examples
from wye.gateway.pool.nearest import worked_examples
from wye.gateway.pool.strategies.direct import OneCall


class FewShot(OneCall):
    """Worked examples of the nearest topic before the conversation, one call."""

    name = "few_shot"
    description = (
        "Shows the model worked examples of the nearest topic before the question, so that it "
        "answers in their form. Good at short answers, yes/no questions and text editing."
    )
    token_cost = "the conversation and the answer, and four worked examples, once"

    def prompt(self, messages: list[Message]) -> tuple[list[Message], list[Step]]:
        """System messages, then the examples as turns, then the conversation."""
        shown = worked_examples(messages[-1]["content"])
        steps = [Step(action="example", text=f"{q} -> {a}") for q, a in shown]
        return with_examples(messages, shown), steps
