"""`tool`: the model writes an expression, a safe evaluator computes it.

Source: Gao et al. 2023, PAL: Program-aided Language Models (arXiv 2211.10435), with one expression
instead of a program, held to its grammar while it is generated.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from wye.gateway.pool.answer import (
    AnswerParams,
    Message,
    Step,
    Strategy,
    StrategyAnswer,
    conversation,
    total,
    with_examples,
)
from wye.gateway.pool.client import ModelClient
from wye.gateway.pool.evaluator import FUNCTIONS, EvaluationError, evaluate

EXPRESSION_TOKENS = 48
FALLBACK_TOKENS = 512
_SYSTEM = "Write one expression that computes the answer."
# Fixed, so that the server keeps them in its cache.
_SHOWN = (
    ("What is 17 plus 26?", "17 + 26"),
    ("A box holds 12 pens. How many pens are in 9 boxes?", "12 * 9"),
    ("Sam had 40 euros and spent 13. How much is left?", "40 - 13"),
    ("Who painted the Mona Lisa?", "none"),
    ("How many cm are 3 m?", "convert(3, 'm', 'cm')"),
    ("Convert 14 hours to minutes.", "convert(14, 'hours', 'minutes')"),
    ("What is 15% of 80?", "percent(15, 80)"),
    ("Is 31 greater than 45?", "31 > 45"),
    ("Reverse the word garden.", "reverse('garden')"),
    ("Write hello world in uppercase.", "upper('hello world')"),
    ("What is the currency of Andorra?", "none"),
    ("How many letters e are in cheese?", "count('cheese', 'e')"),
    ("How many letters has the word plum?", "length('plum')"),
    ("What is the last letter of lemon?", "last('lemon')"),
    ("Sort alphabetically: pear, fig, kiwi", "sort('pear, fig, kiwi')"),
    ("What weekday was 2021-03-04?", "weekday('2021-03-04')"),
    ("How many days from 2024-01-05 to 2024-02-01?", "days_between('2024-01-05', '2024-02-01')"),
)
_NAMES = " | ".join(f'"{name}"' for name in FUNCTIONS)
# Flat on purpose: a small model that may nest calls nests them without end.
_GRAMMAR = (
    r"""
root ::= "none" | call | sum (relation sum)?
sum ::= number (" "? [-+*/] " "? number){0,4}
relation ::= " > " | " < " | " == "
call ::= name "(" value (", " value){0,2} ")"
value ::= number | text
number ::= "-"? [0-9]{1,9} ("." [0-9]{1,6})?
text ::= "'" [^'\n\\]* "'"
name ::= """
    + _NAMES
)


class Tool(Strategy):
    """An expression by the model, its value by an evaluator; a plain answer where there is none."""

    name = "tool"
    description = (
        "Has the model write an expression and computes it exactly: sums, dates, units, text "
        "editing. Where the expression has no value it answers directly, at the cost of both."
    )
    token_cost = "fixed examples of some 420 tokens, the conversation and an expression"

    async def answer(
        self, messages: Sequence[Mapping[str, Any]], *, client: ModelClient, params: AnswerParams
    ) -> StrategyAnswer:
        """Answer the last user message; see `Strategy.answer`."""
        began = time.perf_counter()
        talk = conversation(messages)
        call = await client.complete(
            with_examples(_instructed(talk), _SHOWN),
            max_tokens=EXPRESSION_TOKENS,
            temperature=params.temperature or 0.0,
            seed=params.seed,
            # Where the model goes on to state the result itself, the evaluator knows better.
            stop=["=="],
            grammar=_GRAMMAR,
            confidence=params.confidence,
        )
        steps = [Step(action="expression", text=call.text)]
        try:
            value = evaluate(call.text)
        except EvaluationError as error:
            steps.append(Step(action="no value", text=str(error)))
        else:
            steps.append(Step(action="value", text=value))
            return total(
                value, [call], steps, time.perf_counter() - began, confidence=call.confidence
            )
        plain = await client.complete(
            talk,
            max_tokens=params.max_tokens or FALLBACK_TOKENS,
            temperature=params.temperature or 0.0,
            seed=None if params.seed is None else params.seed + 1,
            stop=params.stop,
            confidence=params.confidence,
        )
        text = plain.text.strip()
        return total(
            text,
            [call, plain],
            [*steps, Step(action="answer", text=text)],
            time.perf_counter() - began,
            finish_reason=plain.finish_reason,
            confidence=plain.confidence,
        )


def _instructed(talk: list[Message]) -> list[Message]:
    """The conversation under this strategy's own system message instead of the caller's."""
    return [{"role": "system", "content": _SYSTEM}, *(m for m in talk if m["role"] != "system")]
