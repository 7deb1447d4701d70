"""Cheaper prompts: fewer examples in front of a question, and several questions in one call.

Source: FrugalGPT (arXiv 2305.05176), prompt adaptation: prompt selection and query concatenation.
The paper leaves open how examples are selected; here those most similar to the question stay, as
far as a budget of characters reaches. Several questions share one prompt as a numbered list, and
the answers are read back by their numbers.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from wye.embed import Embedder, get_embedder
from wye.query.base import RouterError

_NUMBERED = re.compile(r"^\s*(\d+)\s*[.):](?!\d)\s*", re.MULTILINE)


@dataclass(frozen=True)
class SolvedExample:
    """A question with its answer, to show in front of another."""

    question: str
    answer: str

    def shown(self) -> str:
        """As it stands in a prompt."""
        return f"Question: {self.question}\nAnswer: {self.answer}\n\n"


def selected_examples(
    question: str,
    examples: Sequence[SolvedExample],
    *,
    keep: int,
    most_characters: int | None = None,
    embedder: str | Embedder = "static",
) -> list[SolvedExample]:
    """The examples most similar to `question`, the most similar last, next to it.

    Args:
        question: to be asked.
        examples: to choose from.
        keep: the most that stay.
        most_characters: that they may take together; an example that does not fit is passed over.
        embedder: for similarity.

    Raises:
        RouterError: `keep` below 0.

    Example:
        >>> pool = [SolvedExample("What is 3 * 4?", "12"), SolvedExample("Capital of Peru", "Lima")]
        >>> [e.answer for e in selected_examples("What is 5 * 6?", pool, keep=1)]
        ['12']
    """
    if keep < 0:
        raise RouterError(f"keep={keep}, expected at least 0")
    if not examples or keep == 0:
        return []
    space = get_embedder(embedder)
    similarity = space.embed([e.question for e in examples]) @ space.embed([question])[0]
    chosen: list[SolvedExample] = []
    used = 0
    for i in np.argsort(-similarity, kind="stable").tolist():
        size = len(examples[i].shown())
        if most_characters is not None and used + size > most_characters:
            continue
        chosen.append(examples[i])
        used += size
        if len(chosen) == keep:
            break
    return chosen[::-1]


def prompt_with(question: str, examples: Sequence[SolvedExample]) -> str:
    """The question behind its examples."""
    return "".join(e.shown() for e in examples) + f"Question: {question}\nAnswer:"


def concatenated(questions: Sequence[str]) -> str:
    """One prompt that asks for an answer to each question, numbered from 1.

    Raises:
        RouterError: no questions.

    Example:
        >>> print(concatenated(["2 + 2?", "3 + 3?"]))
        Answer each question on a line of its own that begins with its number.
        1. 2 + 2?
        2. 3 + 3?
    """
    if not questions:
        raise RouterError("no questions; give one at least")
    listed = (f"{n}. {' '.join(q.split())}" for n, q in enumerate(questions, start=1))
    return "\n".join(
        ["Answer each question on a line of its own that begins with its number.", *listed]
    )


def separated(text: str, n_questions: int) -> list[str | None]:
    """The answers that `text` holds, by number; None where one is missing or given twice.

    Example:
        >>> separated("1. 4\\n3) nine", 3)
        ['4', None, 'nine']
    """
    places = list(_NUMBERED.finditer(text))
    ends = [*(p.start() for p in places), len(text)][1:]
    found: dict[int, list[str]] = {}
    for place, end in zip(places, ends, strict=True):
        found.setdefault(int(place[1]), []).append(text[place.end() : end].strip())
    answers = [found.get(n, []) for n in range(1, n_questions + 1)]
    return [a[0] if len(a) == 1 else None for a in answers]
