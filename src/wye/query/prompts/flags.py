"""Flags that a query carries, such as "[Flag: smallest model]", read and taken out.

They say which constraint on models counts for this query and how much. Source: Tryage, arXiv
2308.11601; the words and their weights are ours.

Shape letters: Q queries.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, overload

from wye.query.base import Decision

if TYPE_CHECKING:
    from wye.embed import Embedder

FLAG = re.compile(r"\[\s*flags?\s*:\s*([^\[\]\n]{1,200})\]", re.IGNORECASE)
_WITH_SPACE = re.compile(rf"(?:[ \t]*{FLAG.pattern})+[ \t]*", re.IGNORECASE)
# Word of a flag: constraint, and weight in units of quality.
FLAGS: Mapping[str, tuple[str, float]] = {
    "small": ("size", 0.2),
    "smaller": ("size", 0.5),
    "smallest": ("size", 2.0),
    "cheap": ("price", 0.2),
    "cheaper": ("price", 0.5),
    "cheapest": ("price", 2.0),
    "recent": ("age", 0.2),
    "newer": ("age", 0.5),
    "newest": ("age", 2.0),
    "secure": ("exposure", 0.5),
    "most secure": ("exposure", 2.0),
}


@dataclass(frozen=True)
class Flagged:
    """A query and what its flags ask for.

    Attributes:
        text: without flags; this alone is embedded.
        weights: lambda by constraint; of several flags on one constraint the largest counts.
        unknown: flags that mean nothing here.
    """

    text: str
    weights: Mapping[str, float]
    unknown: tuple[str, ...] = ()


def read_flags(text: str, flags: Mapping[str, tuple[str, float]] = FLAGS) -> Flagged:
    """Take the flags out of a query.

    Args:
        text: that may hold `[Flag: ...]`, several flags separated by commas.
        flags: constraint and weight by word; "model" and "models" behind a word mean nothing.

    Example:
        >>> read_flags("[Flag: smallest model] What is 2 + 2?")
        Flagged(text='What is 2 + 2?', weights={'size': 2.0}, unknown=())
    """
    weights: dict[str, float] = {}
    unknown: list[str] = []
    for found in FLAG.finditer(text):
        for said in found.group(1).split(","):
            word = re.sub(r"\s+models?$", "", " ".join(said.lower().split()))
            if word in flags:
                constraint, weight = flags[word]
                weights[constraint] = max(weight, weights.get(constraint, 0.0))
            elif word:
                unknown.append(word)
    if not FLAG.search(text):
        return Flagged(text, weights)
    # White space elsewhere, such as the indentation of code, is the query's own.
    bare = _WITH_SPACE.sub(" ", text).strip()
    return Flagged(bare, weights, tuple(unknown))


def without_flags(texts: Sequence[str]) -> Sequence[str]:
    """The texts without their flags; what is no text stays, for others to refuse."""
    if isinstance(texts, str):
        return texts
    return [read_flags(t).text if isinstance(t, str) else t for t in texts]


class NotedDecisions(Sequence[Decision]):
    """Decisions whose features say what the flags asked for and whether the query was cut."""

    def __init__(
        self, decisions: Sequence[Decision], texts: Sequence[str], embedder: Embedder
    ) -> None:
        self._decisions = decisions
        self._texts = texts
        self._embedder = embedder

    def __len__(self) -> int:
        return len(self._decisions)

    @overload
    def __getitem__(self, index: int) -> Decision: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Decision, ...]: ...
    def __getitem__(self, index: int | slice) -> Decision | tuple[Decision, ...]:
        if isinstance(index, slice):
            return tuple(self[i] for i in range(*index.indices(len(self))))
        decision = self._decisions[index]
        read = read_flags(self._texts[index])
        cut = not self._embedder.reads_whole([read.text])[0]
        noted: dict[str, float | str] = {"truncated": float(cut)}
        noted |= {f"flag:{name}": weight for name, weight in read.weights.items()}
        if read.unknown:
            noted["unknown flags"] = ", ".join(read.unknown)
        return replace(decision, features={**decision.features, **noted})
