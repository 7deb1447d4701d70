"""Rule-based rewrites that leave what is asked as it is: what a router should not mind.

Each rewrite takes a text and a generator and returns a text; where its rule finds nothing to do,
the text comes back unchanged. The rules are English, but for the wrappers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import numpy as np

Rewrite = Callable[[str, np.random.Generator], str]

_SHORT = {
    "what is": "what's", "who is": "who's", "where is": "where's", "how is": "how's",
    "that is": "that's", "it is": "it's", "i am": "I'm", "i have": "I've", "do not": "don't",
    "does not": "doesn't", "did not": "didn't", "is not": "isn't", "are not": "aren't",
    "was not": "wasn't", "cannot": "can't", "can not": "can't", "could not": "couldn't",
    "would not": "wouldn't", "should not": "shouldn't", "will not": "won't", "let us": "let's",
}  # fmt: skip
_LONG = {short.lower(): long for long, short in _SHORT.items() if long != "can not"}

_SYNONYMS = (
    ("calculate", "compute"), ("find", "determine"), ("big", "large"), ("small", "little"),
    ("begin", "start"), ("end", "finish"), ("show", "display"), ("give", "provide"),
    ("explain", "describe"), ("answer", "reply"), ("correct", "right"), ("choose", "select"),
    ("buy", "purchase"), ("help", "assist"), ("quick", "fast"), ("many", "numerous"),
    ("country", "nation"), ("city", "town"), ("letters", "characters"), ("word", "term"),
    ("total", "overall"), ("about", "regarding"), ("name", "title"), ("made", "produced"),
    ("use", "employ"), ("get", "obtain"), ("need", "require"), ("whole", "entire"),
)  # fmt: skip
_OTHER = dict(_SYNONYMS) | {b: a for a, b in _SYNONYMS}

_POLITE = (
    "Please help me with this: {}", "Hi! {} Thank you!", "Could you answer the following? {}",
    "I would be grateful for an answer to this. {}", "Hello, I have a question. {}",
    "{} Thanks in advance.",
)  # fmt: skip
_LANGUAGES = {
    "de": "Bitte beantworte die folgende Frage: {}",
    "fr": "Veuillez répondre à la question suivante : {}",
    "es": "Por favor, responde a la siguiente pregunta: {}",
    "pt": "Por favor, responda à seguinte pergunta: {}",
    "it": "Per favore, rispondi alla seguente domanda: {}",
    "ru": "Пожалуйста, ответьте на следующий вопрос: {}",
    "zh": "请回答以下问题：{}",
    "ja": "次の質問に答えてください：{}",
}
_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z\"'])")
_IF = re.compile(r"^(If|When|Because|Although|Given that)\b ([^,.?!\n]+), ([^\n]+?)([.?!])$")
_WORD = re.compile(r"[A-Za-z]{4,}")
TYPO_SHARE = 0.1


def contractions(text: str, generator: np.random.Generator) -> str:
    """Contract what is written out; where nothing is, write out what is contracted."""
    del generator
    shortened = _replaced(text, _SHORT)
    return shortened if shortened != text else _replaced(text, _LONG)


def synonyms(text: str, generator: np.random.Generator) -> str:
    """Other words of the same meaning, from a small table."""
    del generator
    return _replaced(text, _OTHER)


def politeness(text: str, generator: np.random.Generator) -> str:
    """A courteous phrase around the text."""
    return str(generator.choice(_POLITE)).format(text)


def clause_order(text: str, generator: np.random.Generator) -> str:
    """`If A, B?` becomes `B, if A?`; else the last of several sentences comes first."""
    del generator
    found = _IF.match(text.strip())
    if found:
        opening, condition, rest, mark = found.groups()
        return f"{rest[0].upper()}{rest[1:]} {opening.lower()} {condition}{mark}"
    sentences = _SENTENCE.split(text.strip())
    if len(sentences) < 2 or "\n" in text:
        return text
    return " ".join([sentences[-1], *sentences[:-1]])


def typos(text: str, generator: np.random.Generator) -> str:
    """In a tenth of the longer words, at least one: two letters swapped, one lost or doubled."""
    words = list(_WORD.finditer(text))
    if not words:
        return text
    count = max(1, round(TYPO_SHARE * len(words)))
    for index in sorted(generator.permutation(len(words))[:count].tolist(), reverse=True):
        word = words[index]
        # The first letter stays, as it does in most slips of a hand.
        at = word.start() + int(generator.integers(1, len(word.group()) - 1))
        kind = int(generator.integers(3))
        middle = (text[at + 1] + text[at], text[at + 1], text[at] * 2 + text[at + 1])[kind]
        text = text[:at] + middle + text[at + 2 :]
    return text


def case(text: str, generator: np.random.Generator) -> str:
    """All letters small, or all capital."""
    return text.lower() if generator.random() < 0.5 else text.upper()


def wrapper_language(text: str, generator: np.random.Generator) -> str:
    """A request to answer in another language around the text, which stays as it is."""
    return str(generator.choice(list(_LANGUAGES.values()))).format(text)


PARAPHRASES: Mapping[str, Rewrite] = {
    "contractions": contractions,
    "synonyms": synonyms,
    "clause order": clause_order,
    "politeness": politeness,
}
REWRITES: Mapping[str, Rewrite] = {
    **PARAPHRASES,
    "typos": typos,
    "case": case,
    "wrapper language": wrapper_language,
}


def _replaced(text: str, table: Mapping[str, str]) -> str:
    """Every key of the table, as a whole word, by its value; a leading capital stays one."""
    keys = "|".join(sorted((re.escape(k) for k in table), key=len, reverse=True))

    def other(found: re.Match[str]) -> str:
        word = table[found.group().lower()]
        return word[0].upper() + word[1:] if found.group()[0].isupper() else word

    return re.sub(rf"\b(?:{keys})\b", other, text, flags=re.IGNORECASE)
