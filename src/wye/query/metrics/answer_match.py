"""Whether a short answer is the gold one: exact match and token F1 as in SQuAD.

Source: Rajpurkar et al. 2016, arXiv 1606.05250, section 6.1: lower case, without punctuation,
articles and extra spaces; the best over all gold answers counts.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalised_answer(text: str) -> str:
    """Lower case, without punctuation, articles and extra spaces.

    Example:
        >>> normalised_answer(" The  Eiffel-Tower. ")
        'eiffeltower'
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(answer: str, golds: Sequence[str]) -> float:
    """1 where the normalised answer is one of the normalised golds, else 0.

    Example:
        >>> exact_match("The Nile.", ["Nile", "river Nile"])
        1.0
    """
    return float(normalised_answer(answer) in {normalised_answer(g) for g in golds})


def token_f1(answer: str, golds: Sequence[str]) -> float:
    """The best F1 of answer and gold as bags of normalised words; 0 without golds.

    Example:
        >>> round(token_f1("the river Nile", ["Nile"]), 3)
        0.667
    """
    return max((_f1(answer, gold) for gold in golds), default=0.0)


def _f1(answer: str, gold: str) -> float:
    said, right = normalised_answer(answer).split(), normalised_answer(gold).split()
    if not said or not right:
        return float(said == right)
    both = sum((Counter(said) & Counter(right)).values())
    return 2.0 * both / (len(said) + len(right))
