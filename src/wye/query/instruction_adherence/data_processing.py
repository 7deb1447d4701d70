"""Probes of data processing: fields of a record, rows of a table, groups, an unusual order."""

from __future__ import annotations

from collections import Counter

import numpy as np

from wye.query.instruction_adherence.probe import Probe, equals
from wye.query.instruction_adherence.words import CITIES, NAMES, NOUNS, TEAMS, integers, some

CATEGORY = "data_processing"


def extract_fields(draw: np.random.Generator) -> Probe:
    """Three fields of a record, in another order."""
    name, city, age = some(draw, NAMES, 1)[0], some(draw, CITIES, 1)[0], integers(draw, 20, 70, 1)
    number = integers(draw, 1000, 9999, 1)[0]
    prompt = (
        "From the record below take the city, the age and the name, in this order. Reply with the "
        "three values only, separated by a comma and a space.\n\n"
        f"name: {name}; customer: {number}; age: {age[0]}; city: {city}"
    )
    return _probe("extract_fields", prompt, f"{city}, {age[0]}, {name}")


def filter_rows(draw: np.random.Generator) -> Probe:
    """The rows of a table that meet a condition."""
    names, scores = some(draw, NAMES, 5), integers(draw, 10, 99, 5)
    bound = sorted(scores)[2]
    rows = "\n".join(f"{n},{s}" for n, s in zip(names, scores, strict=True))
    prompt = (
        f"Which people in this table have a score of at least {bound}? Reply with their names "
        "only, in the order of the table, separated by a comma and a space.\n\n"
        f"name,score\n{rows}"
    )
    kept = [n for n, s in zip(names, scores, strict=True) if s >= bound]
    return _probe("filter_rows", prompt, ", ".join(kept))


def group_count(draw: np.random.Generator) -> Probe:
    """How many rows each group has."""
    teams = [*TEAMS, *draw.choice(TEAMS, 4).tolist()]
    teams = [str(teams[i]) for i in draw.permutation(len(teams))]
    rows = "\n".join(f"{n}: {t}" for n, t in zip(some(draw, NAMES, 7), teams, strict=True))
    counts = Counter(teams)
    prompt = (
        "Count how many people are in each team. Reply with one line only, in this form: "
        f"blue=0, green=0, red=0\n\n{rows}"
    )
    return _probe("group_count", prompt, ", ".join(f"{t}={counts[t]}" for t in sorted(TEAMS)))


def sort_by_last_letter(draw: np.random.Generator) -> Probe:
    """Words in the order of their last letters, which all differ."""
    words: list[str] = []
    for word in some(draw, NOUNS, len(NOUNS)):
        if word[-1] not in {w[-1] for w in words}:
            words.append(word)
    words = words[:5]
    prompt = (
        "Sort these words alphabetically by their last letter. Reply with the words only, "
        f"separated by a comma and a space: {', '.join(words)}"
    )
    return _probe("sort_by_last_letter", prompt, ", ".join(sorted(words, key=lambda w: w[-1])))


def _probe(name: str, prompt: str, answer: str) -> Probe:
    return Probe(name, CATEGORY, prompt, answer, equals(answer))
