"""`few_shot`: the nearest worked examples first, as turns of the conversation.

Source: Brown et al. 2020, Language Models are Few-Shot Learners (arXiv 2005.14165); examples chosen
by nearness to the question: Liu et al. 2022, What Makes Good In-Context Examples for GPT-3?
(arXiv 2101.06804), the nearest last.
"""

from __future__ import annotations

from wye.gateway.pool.answer import Message, Step, with_examples
from wye.gateway.pool.nearest import examples
from wye.gateway.pool.strategies.direct import OneCall

N_EXAMPLES = 3


class FewShot(OneCall):
    """Nearest worked examples before the conversation, one call."""

    name = "few_shot"
    description = (
        "Shows the model the nearest of a bank of worked examples before the question, so that it "
        "answers in their form. Good at short answers, yes/no questions and text editing."
    )
    token_cost = f"the conversation and the answer, and {N_EXAMPLES} worked examples, once"

    def prompt(self, messages: list[Message]) -> tuple[list[Message], list[Step]]:
        """System messages, then the examples as turns, then the conversation."""
        nearest = examples().nearest(messages[-1]["content"], N_EXAMPLES)
        steps = [Step(action="example", text=f"{q} -> {a}") for q, a in nearest]
        return with_examples(messages, nearest[::-1]), steps
