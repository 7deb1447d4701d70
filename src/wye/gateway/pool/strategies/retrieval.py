"""`retrieval`: facts that the embedder finds are put before the question.

Source: Lewis et al. 2020, Retrieval-Augmented Generation for Knowledge-Intensive NLP Tasks
(arXiv 2005.11401), with the static embedder as retriever and no training.
"""

from __future__ import annotations

from wye.gateway.pool.answer import Message, Step
from wye.gateway.pool.nearest import facts
from wye.gateway.pool.strategies.direct import OneCall

N_FACTS = 2


class Retrieval(OneCall):
    """Nearest facts before the question, one call."""

    name = "retrieval"
    description = (
        "Looks up the facts nearest to the question in a small table of countries and elements and "
        "puts them before it. Good at such facts; no help with anything else."
    )
    token_cost = f"the conversation and the answer, and {N_FACTS} facts, once"

    def prompt(self, messages: list[Message]) -> tuple[list[Message], list[Step]]:
        """The conversation with facts put before the last question."""
        question = messages[-1]["content"]
        found = facts().nearest(question, N_FACTS)
        lines = "\n".join(fact for fact, _ in found)
        asked = f"{lines}\n{question}"
        steps = [Step(action="fact", text=fact) for fact, _ in found]
        return [*messages[:-1], {"role": "user", "content": asked}], steps
