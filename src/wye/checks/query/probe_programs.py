"""Two programs that follow one kind of instruction each, for a table whose truth is known.

Each reads the prompt as a model does, solves the probes of its category, and says that it cannot do
the rest.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence

from wye.query.chat_models import ProgramChatModel
from wye.query.chat_models.base import Message
from wye.query.instruction_adherence.format_conversion import MONTHS

REFUSAL = "I cannot do that."
Solver = Callable[[str], str | None]


def format_program() -> ProgramChatModel:
    """Solves format conversion alone."""
    return ProgramChatModel("format program", _answering(_formatted))


def string_program() -> ProgramChatModel:
    """Solves string manipulation alone."""
    return ProgramChatModel("string program", _answering(_manipulated))


def _answering(solve: Solver) -> Callable[[Sequence[Message]], str]:
    def answer(messages: Sequence[Message]) -> str:
        solved = solve(messages[-1]["content"])
        return REFUSAL if solved is None else solved

    return answer


def _formatted(prompt: str) -> str | None:
    asked, _, data = prompt.partition("\n\n")
    given = asked.rpartition(": ")[2]
    if "JSON object" in asked:
        record = dict(line.split(": ", 1) for line in data.split("\n"))
        typed: Mapping[str, str | int] = {
            k: int(v) if v.isdigit() else v for k, v in record.items()
        }
        return json.dumps(typed)
    if "Markdown table" in asked:
        header, *rows = (line.split(",") for line in data.split("\n"))
        lines = [header, ["---"] * len(header), *rows]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)
    if "ISO format" in asked:
        day, month, year = given.split()
        return f"{year}-{MONTHS.index(month) + 1:02d}-{int(day):02d}"
    if "numbered list" in asked:
        return "\n".join(f"{i}. {w}" for i, w in enumerate(given.split(", "), start=1))
    return None


def _manipulated(prompt: str) -> str | None:
    given = prompt.rpartition(": ")[2]
    if prompt.startswith("Reverse this string"):
        return given[::-1]
    if every := re.search(r"take every (\d)", prompt):
        k = int(every[1])
        return given.replace(" ", "")[k - 1 :: k]
    if prompt.startswith("Replace letters"):
        rules = dict(re.findall(r"(\w) by (\S)(?=[,.] )", prompt))
        return "".join(rules.get(c, c) for c in given)
    if "remove the vowels" in prompt:
        return re.sub("[aeiou]", "", given).upper()[::-1]
    return None
