"""Whether a persona's answer beats the plain one, asked in both orders.

A judge sees a query and two answers and says which is better. A persona wins only if it wins in
both orders: a judge that likes the first place, or is undecided, lets nobody win.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from torch import nn

from wye.adapter.prompts import PromptFormat, log_probability

Rule = Callable[[str, str], bool]
"""(query, answer) -> whether the answer does what it should."""

_QUESTION = (
    "Which answer to the question is better? Do not prefer an answer because it is longer.\n\n"
    "Question: {query}\n\nAnswer A: {first}\n\nAnswer B: {second}\n\nReply with A or B only."
)


class Judge(Protocol):
    """Says how much better the first of two answers is: above 0 better, below 0 worse."""

    def __call__(self, query: str, first: str, second: str) -> float: ...


def wins_both_orders(judge: Judge, query: str, challenger: str, incumbent: str) -> bool:
    """Whether the challenger is better wherever it stands.

    Example:
        >>> first_place = lambda query, first, second: 1.0
        >>> wins_both_orders(first_place, "q", "new", "old")
        False
    """
    if not judge(query, challenger, incumbent) > 0.0:
        return False
    return judge(query, incumbent, challenger) < 0.0


class SelfJudge:
    """The model itself judges: log-probability of "A" less that of "B".

    Args:
        model: with its adapters switched off by whoever calls.
        form: how it wants to be asked.
    """

    def __init__(self, model: nn.Module, form: PromptFormat) -> None:
        self._model, self._form = model, form
        # The labels as they stand at the start of an answer.
        self._labels = [form.encode_answer("A"), form.encode_answer("B")]

    def __call__(self, query: str, first: str, second: str) -> float:
        prompt = self._form.encode(_QUESTION.format(query=query, first=first, second=second))
        a, b = (log_probability(self._model, prompt, label) for label in self._labels)
        return a - b


class RuleJudge:
    """A rule judges: an answer that keeps it beats one that does not.

    Args:
        rule: the rule.

    Example:
        >>> judge = RuleJudge(lambda query, answer: answer.isupper())
        >>> judge("q", "LOUD", "quiet"), judge("q", "LOUD", "LOUD")
        (1.0, 0.0)
    """

    def __init__(self, rule: Rule) -> None:
        self._rule = rule

    def __call__(self, query: str, first: str, second: str) -> float:
        return float(self._rule(query, first)) - float(self._rule(query, second))
