"""The final answer inside a sentence, in a form in which equal answers are equal strings."""

from __future__ import annotations

import re
import unicodedata

_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")
_VERDICT = re.compile(r"\W*(yes|no|true|false)\b", re.IGNORECASE)
_SAYS = re.compile(
    r"\b(?:is|are|was|were|equals|be|:)\s+(?:the\s+|an?\s+|called\s+)?", re.IGNORECASE
)


def final_answer(text: str) -> str:
    """What the text answers: its verdict, else its last number, else what its first sentence says.

    Example:
        >>> final_answer("The capital of Peru is Lima.")
        'lima'
        >>> final_answer("12 + 30 = 42.0")
        '42'
    """
    if verdict := _VERDICT.match(text):
        return verdict[1].lower()
    if numbers := _NUMBER.findall(text):
        return f"{float(numbers[-1].replace(',', '')):g}"
    sentence = re.split(r"[.!?\n]", text.strip(), maxsplit=1)[0]
    said = _SAYS.split(sentence)[-1] or sentence
    folded = unicodedata.normalize("NFKD", said).casefold()
    return " ".join(re.sub(r"[^\w\s@-]", "", folded).split())
