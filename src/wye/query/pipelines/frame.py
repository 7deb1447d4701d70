"""The frame of a routing system: when it decides, on what information, and how.

Source: Moslem and Kelleher, Dynamic Model Routing and Cascading for Efficient LLM Inference: A
Survey, arXiv 2603.04445. Every stage declares the three, so that a chain that cannot work (a stage
that reads answers before any answer exists) is refused when it is built, and a chain can be
explained as a table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from wye.errors import WyeError

When = Literal["before the answer", "during the answer", "after the answer", "across turns"]
Information = Literal[
    "text",
    "metadata",
    "preferences",
    "descriptors",
    "hidden states",
    "answers",
    "feedback",
    "cost",
]
How = Literal[
    "rule",
    "similarity",
    "supervised",
    "uncertainty",
    "bandit",
    "language model",
    "optimisation",
]


class PipelineError(WyeError):
    """A pipeline cannot work as it is built or asked; the message says where and what to do."""


@dataclass(frozen=True)
class Facets:
    """When a stage decides, on what information, and how.

    Raises:
        PipelineError: a value is none of the frame's.

    Example:
        >>> Facets("after the answer", ("answers",), "uncertainty").reads_answers
        True
    """

    when: When | str
    needs: tuple[Information | str, ...]
    how: How | str

    def __post_init__(self) -> None:
        for value, known in ((self.when, get_args(When)), (self.how, get_args(How))):
            if value not in known:
                raise PipelineError(f"{value!r} is not in the frame, expected one of {known}")
        unknown = [n for n in self.needs if n not in get_args(Information)]
        if unknown:
            raise PipelineError(f"needs {unknown}, expected some of {get_args(Information)}")

    @property
    def reads_answers(self) -> bool:
        """Whether an answer must exist before this stage can decide."""
        return self.when == "after the answer" or "answers" in self.needs


def frame_table(rows: Sequence[tuple[str, Facets, str]]) -> str:
    """The frame of a chain as text: number, stage, when, on what, how, what follows."""
    head = ("", "stage", "when", "on what", "how", "then")
    cells = [head] + [
        (str(n), name, f.when, ", ".join(f.needs), f.how, then)
        for n, (name, f, then) in enumerate(rows, start=1)
    ]
    widths = [max(len(row[c]) for row in cells) for c in range(len(head))]
    lines = ("  ".join(v.ljust(w) for v, w in zip(r, widths, strict=True)).rstrip() for r in cells)
    return "\n".join(lines)


def is_number(value: object) -> bool:
    """Whether `value`, perhaps read from a file, is a number; a boolean is none."""
    return isinstance(value, int | float) and not isinstance(value, bool)
