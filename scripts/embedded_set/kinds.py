"""The kinds of the embedded set, and the questions and worked examples drawn from them."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from embedded_set import code, logic, numbers, texts, world
from embedded_set.question import Question, Rng
from wye.data.questions import normalise

Maker = Callable[[Rng], Question]

KINDS: dict[str, Maker] = {
    "capital": world.capital,
    "country of capital": world.country_of_capital,
    "continent": world.continent,
    "language": world.language,
    "currency": world.currency,
    "extract number": texts.extract_number,
    "end letter": texts.end_letter,
    "opposite": texts.opposite,
    "pick kind": texts.pick_kind,
    "isomorphic": logic.isomorphic,
    "ransom note": logic.ransom_note,
    "inflection": texts.inflection,
    "element symbol": world.element_symbol,
    "country code": world.country_code,
    "small sum": numbers.small_sum,
    "product": numbers.product,
    "word problem": numbers.word_problem,
    "unit": numbers.unit,
    "compare": numbers.compare,
    "reverse word": texts.reverse_word,
    "code output": code.code_output,
    "day after": numbers.day_after,
}
# Tried and left out, since nearly every strategy failed on them or they behaved as another kind
# does. They give worked examples alone, so that the pool knows how such questions are answered.
EXAMPLES_ONLY: dict[str, Maker] = {
    "element name": world.element_name,
    "atomic number": world.atomic_number,
    "larger sum": numbers.larger_sum,
    "percentage": numbers.percentage,
    "days between": numbers.days_between,
    "weekday": numbers.weekday,
    "parity": numbers.parity,
    "upper case": texts.upper_case,
    "count letter": texts.count_letter,
    "word length": texts.word_length,
    "extract email": texts.extract_email,
    "sort words": texts.sort_words,
    "courses": logic.courses,
    "syllogism": logic.syllogism,
}
_TRIES = 200


@dataclass(frozen=True)
class Drawn:
    """What was drawn of one kind: the questions of the set, and worked examples beside it."""

    kind: str
    questions: tuple[Question, ...]
    examples: tuple[Question, ...]


def draw(kind: str, n_questions: int, n_examples: int, seed: int) -> Drawn:
    """Distinct questions and examples of a kind; no question occurs on both sides.

    Raises:
        RuntimeError: the kind has fewer distinct questions than asked for.
    """
    maker = {**KINDS, **EXAMPLES_ONLY}[kind]
    rng = random.Random(f"{seed}:{kind}")
    seen: dict[str, Question] = {}
    spare = 3 * n_examples
    wanted, tries = n_questions + spare, 0
    while len(seen) < wanted:
        question = maker(rng)
        known = len(seen)
        seen.setdefault(normalise(question.text), question)
        tries = 0 if len(seen) > known else tries + 1
        if tries > _TRIES:
            raise RuntimeError(
                f"kind {kind!r} has about {len(seen)} distinct questions, {wanted} were asked for"
            )
    found = list(seen.values())
    return Drawn(kind, tuple(found[spare:]), tuple(_varied(found[:spare], n_examples)))


def _varied(found: list[Question], count: int) -> list[Question]:
    """`count` questions in which no answer comes twice before each has come once."""
    chosen: list[Question] = []
    while len(chosen) < count:
        used = Counter(q.answer for q in chosen)
        chosen.append(min((q for q in found if q not in chosen), key=lambda q: used[q.answer]))
    return chosen
