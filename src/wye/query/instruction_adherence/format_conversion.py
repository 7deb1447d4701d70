"""Probes of format conversion: JSON, a pipe table, an ISO date, a numbered list."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np

from wye.query.instruction_adherence.probe import Complaint, Probe, equals
from wye.query.instruction_adherence.words import CITIES, NAMES, NOUNS, integers, some

CATEGORY = "format_conversion"
MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September",
    "October", "November", "December",
)  # fmt: skip


def to_json(draw: np.random.Generator) -> Probe:
    """Lines of keys and values as a JSON object."""
    record: dict[str, str | int] = {
        "name": some(draw, NAMES, 1)[0],
        "city": some(draw, CITIES, 1)[0],
        "age": integers(draw, 20, 70, 1)[0],
    }
    lines = "\n".join(f"{k}: {v}" for k, v in record.items())
    prompt = (
        "Convert these lines to one JSON object with exactly the keys name, city and age. The age "
        f"is a number, the others are strings. Reply with the JSON only.\n\n{lines}"
    )
    return Probe("to_json", CATEGORY, prompt, json.dumps(record), _is_object(record))


def to_pipe_table(draw: np.random.Generator) -> Probe:
    """CSV as a Markdown table."""
    header = ["item", "price"]
    prices = [str(n) for n in integers(draw, 1, 99, 3)]
    rows = [list(r) for r in zip(some(draw, NOUNS, 3), prices, strict=True)]
    prompt = (
        "Convert this CSV to a Markdown table with pipes, with a line of dashes under the header. "
        "Reply with the table only.\n\n" + "\n".join(",".join(r) for r in [header, *rows])
    )
    lines = [header, ["---", "---"], *rows]
    reference = "\n".join(f"| {' | '.join(r)} |" for r in lines)
    return Probe("to_pipe_table", CATEGORY, prompt, reference, _is_table([header, *rows]))


def to_iso_date(draw: np.random.Generator) -> Probe:
    """A date in words in the form of ISO 8601."""
    day, month, year = (int(draw.integers(a, b)) for a, b in ((1, 29), (1, 13), (1950, 2050)))
    prompt = (
        "Write this date in the ISO format YYYY-MM-DD. Reply with the date only: "
        f"{day} {MONTHS[month - 1]} {year}"
    )
    answer = f"{year}-{month:02d}-{day:02d}"
    return Probe("to_iso_date", CATEGORY, prompt, answer, equals(answer))


def to_numbered_list(draw: np.random.Generator) -> Probe:
    """Words as exactly n numbered lines."""
    words = some(draw, NOUNS, int(draw.integers(3, 7)))
    prompt = (
        f"Write these {len(words)} words as a numbered list of exactly {len(words)} lines, each "
        f"in the form '1. word'. Reply with the list only: {', '.join(words)}"
    )
    answer = "\n".join(f"{i}. {w}" for i, w in enumerate(words, start=1))
    return Probe("to_numbered_list", CATEGORY, prompt, answer, equals(answer))


def _is_object(record: dict[str, str | int]) -> Complaint:
    def complaint(answer: str) -> str | None:
        try:
            found = json.loads(answer)
        except (ValueError, RecursionError) as error:
            return f"no JSON: {error}"[:120]
        if not isinstance(found, dict) or set(found) != set(record):
            return f"expected an object with exactly the keys {list(record)}"
        wrong = [k for k, v in record.items() if type(found[k]) is not type(v) or found[k] != v]
        return f"wrong values of {wrong}" if wrong else None

    return complaint


def _is_table(rows: Sequence[Sequence[str]]) -> Complaint:
    def complaint(answer: str) -> str | None:
        lines = [line.strip() for line in answer.split("\n")]
        if len(lines) != len(rows) + 1:
            return f"{len(lines)} lines, expected {len(rows) + 1}"
        if not all(line.startswith("|") and line.endswith("|") for line in lines):
            return "expected every line to begin and end with a pipe"
        cells = [[c.strip() for c in line[1:-1].split("|")] for line in lines]
        if not all(c.strip(":") and set(c.strip(":")) == {"-"} for c in cells[1]):
            return "expected a line of dashes under the header"
        if len(cells[1]) != len(rows[0]) or [cells[0], *cells[2:]] != [list(r) for r in rows]:
            return "the cells are not those of the CSV"
        return None

    return complaint
