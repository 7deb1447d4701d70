"""Texts of three domains, and texts from outside them, for checks of refusal.

A log whose datasets hold questions of law, health and economics (MMLU or MMLU-Pro) gives the
domains; from outside are then its other subjects and its sums. Else the domains are docstrings of
Python's library, English manual pages, and word problems of reasoning-gym, and from outside are
grade-school sums and the queries of the log. Beside these always: manual pages in German, French
and Polish, as far as they are installed, random bytes, words of random letters, and words of all
domains shuffled together.
"""

from __future__ import annotations

import sysconfig
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from wye.checks.base import CheckError
from wye.checks.moe.corpus import Corpus, corpus
from wye.checks.moe.prose import docstrings
from wye.data.questions import normalise

if TYPE_CHECKING:
    from wye.data import RoutingData

SUBJECTS = {
    "law": ("law", "jurisprudence"),
    "health": ("medicine", "clinical", "anatomy", "nutrition", "virology", "medical", "health",
               "aging"),
    "economics": ("economics", "econometrics", "accounting"),
}  # fmt: skip
SUMS = ("gsm",)
LANGUAGES = ("german", "french", "polish")
PROBLEMS = ("leg_counting", "family_relationships", "calendar_arithmetic", "time_intervals")
PER_DOMAIN = 2000
PER_SET = 500
LEAST = 300
SHORTEST, LONGEST = 80, 400
_TRANSLATED = 210_000
SMALL_WORDS = {
    "english": frozenset(
        {"the", "of", "and", "to", "is", "in", "for", "that", "with", "be", "are"}
    ),
    "german": frozenset({"der", "die", "das", "und", "ist", "wird", "nicht", "von", "mit", "den"}),
    "french": frozenset({"le", "la", "les", "des", "est", "et", "du", "une", "pour", "dans", "de"}),
    "polish": frozenset({"jest", "nie", "się", "na", "do", "oraz", "przez", "dla", "z", "w", "i"}),
}


@dataclass(frozen=True)
class GuardedTexts:
    """What a guarded router is judged on.

    Attributes:
        domains: texts of each domain, none twice.
        languages, garbage: sets from outside that share no subject with the domains.
        others: further sets from outside: other subjects, sums, code.
    """

    domains: dict[str, list[str]]
    languages: dict[str, list[str]]
    garbage: dict[str, list[str]]
    others: dict[str, list[str]]

    @property
    def outside(self) -> dict[str, list[str]]:
        """All sets from outside."""
        return self.languages | self.garbage | self.others


def guarded_texts(
    data: RoutingData, seed: int, progress: Callable[[str], None] = lambda message: None
) -> GuardedTexts:
    """Draw them anew for a seed; `progress` is told of languages that are not installed.

    Raises:
        CheckError: no domain texts, no foreign language, or reasoning-gym is missing.
    """
    draw = np.random.default_rng(seed)
    found = _of_log(data)
    domains, others = found if found is not None else _local(data, seed)
    domains = {name: _some(texts, PER_DOMAIN, draw) for name, texts in domains.items()}
    languages = {}
    for name in LANGUAGES:
        try:
            passages = _passages(_translated(name))
        except CheckError as missing:
            progress(str(missing))
            continue
        spoken = [p for p in passages if _is_spoken(p, name)]
        languages[name] = _some(spoken, PER_SET, draw)
    if not languages:
        raise CheckError(
            f"no manual pages of {list(LANGUAGES)} are installed, and this check refuses foreign "
            "languages; on Debian and Ubuntu: apt install manpages-de"
        )
    others = {name: _some(texts, PER_SET, draw) for name, texts in others.items()}
    return GuardedTexts(domains, languages, _garbage(domains, draw), others)


def _of_log(data: RoutingData) -> tuple[dict[str, list[str]], dict[str, list[str]]] | None:
    """Domains and the rest of a log of MMLU; None where it has none of the subjects."""
    subjects = np.array([d.rsplit(":", 1)[-1].lower() for d in data.datasets])
    texts = np.array(data.texts, dtype=object)

    def of(words: Sequence[str]) -> list[str]:
        hit = np.array([any(w in s for w in words) for s in subjects], np.bool_)
        return _different(texts[hit].tolist())

    domains = {name: of(words) for name, words in SUBJECTS.items()}
    if min(len(t) for t in domains.values()) < LEAST:
        return None
    known = [w for words in (*SUBJECTS.values(), SUMS) for w in words]
    near = [not any(w in s for w in known) for s in subjects]
    sets = {
        "sums": of(SUMS),
        "other subjects": _different(texts[np.array(near, np.bool_)].tolist()),
        "Python": _documentation(),
    }
    return domains, {name: texts for name, texts in sets.items() if texts}


def _local(data: RoutingData, seed: int) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    domains = {
        "Python": _documentation(),
        "manuals": _passages(_text(corpus("manual", 1_500_000, held_out=100_000))),
        "problems": _gym(PROBLEMS, PER_DOMAIN, seed),
    }
    others = {
        "sums": _gym(("gsm_symbolic",), PER_SET, seed),
        "queries of the log": _different(data.texts),
    }
    return domains, others


def _documentation() -> list[str]:
    """Docstrings of Python's standard library."""
    root = Path(sysconfig.get_path("stdlib"))
    return _passages("\n\n".join(docstrings(path) for path in sorted(root.glob("*.py"))))


def _gym(names: Iterable[str], n: int, seed: int) -> list[str]:
    if find_spec("reasoning_gym") is None:
        raise CheckError(
            "this check asks word problems of reasoning-gym, which is not installed; install it "
            'with: pip install "wye[tasks]"'
        )
    gym: Any = import_module("reasoning_gym")
    names = list(names)
    size = -(-n * 3 // (2 * len(names)))
    texts = [
        str(item["question"])[:LONGEST]
        for name in names
        for item in gym.create_dataset(name, size=size, seed=seed)
    ]
    return _different(texts)


def _translated(name: str) -> str:
    return _text(corpus(name, _TRANSLATED, held_out=10_000))


def _text(read: Corpus) -> str:
    return (read.train + b"\n" + read.held_out).decode("utf-8", "ignore")


def _passages(text: str) -> list[str]:
    """Paragraphs, and lines put together, of `SHORTEST` to `LONGEST` characters."""
    found, open_lines, length = [], [], 0
    for line in text.splitlines():
        words = " ".join(line.split())
        if words:
            open_lines.append(words)
            length += len(words) + 1
        if length >= SHORTEST and (not words or length >= LONGEST // 2):
            found.append(" ".join(open_lines)[:LONGEST])
            open_lines, length = [], 0
    return _different(found)


def _is_spoken(passage: str, language: str) -> bool:
    """Whether small words of the language stand there, and more than English ones.

    Translated manual pages hold code and paragraphs that nobody translated.
    """
    words = passage.lower().split()
    own = sum(w in SMALL_WORDS[language] for w in words)
    return own >= 2 and own > sum(w in SMALL_WORDS["english"] for w in words)


def _garbage(domains: dict[str, list[str]], draw: np.random.Generator) -> dict[str, list[str]]:
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    words = np.array([w for texts in domains.values() for t in texts for w in t.split()])
    random_bytes = [
        draw.integers(0, 256, int(draw.integers(40, 200)), dtype=np.uint8)
        .tobytes()
        .decode("latin1")
        for _ in range(PER_SET)
    ]
    random_letters = [
        " ".join("".join(draw.choice(letters, int(draw.integers(2, 10)))) for _ in range(25))
        for _ in range(PER_SET)
    ]
    shuffled = [" ".join(draw.choice(words, 40)) for _ in range(PER_SET)]
    return {
        "random bytes": random_bytes,
        "random letters": random_letters,
        "shuffled words": shuffled,
    }


def _different(texts: Iterable[str]) -> list[str]:
    return list({normalise(t): t for t in texts}.values())


def _some(texts: Sequence[str], n: int, draw: np.random.Generator) -> list[str]:
    return [texts[i] for i in np.sort(draw.permutation(len(texts))[:n]).tolist()]
