"""The twenty probes, four in each category, built anew for every seed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from zlib import crc32

import numpy as np

from wye.query.chat_models.base import ChatModelError
from wye.query.instruction_adherence import (
    constraint_compliance,
    data_processing,
    format_conversion,
    mathematical_operations,
    string_manipulation,
)
from wye.query.instruction_adherence.probe import CATEGORIES, Probe

Builder = Callable[[np.random.Generator], Probe]

BUILDERS: dict[str, tuple[Builder, ...]] = {
    "string_manipulation": (
        string_manipulation.reverse,
        string_manipulation.every_kth,
        string_manipulation.replace_letters,
        string_manipulation.three_operations,
    ),
    "mathematical_operations": (
        mathematical_operations.add,
        mathematical_operations.two_steps,
        mathematical_operations.median,
        mathematical_operations.count_larger,
    ),
    "data_processing": (
        data_processing.extract_fields,
        data_processing.filter_rows,
        data_processing.group_count,
        data_processing.sort_by_last_letter,
    ),
    "format_conversion": (
        format_conversion.to_json,
        format_conversion.to_pipe_table,
        format_conversion.to_iso_date,
        format_conversion.to_numbered_list,
    ),
    "constraint_compliance": (
        constraint_compliance.exact_sentence,
        constraint_compliance.exact_words,
        constraint_compliance.avoid_letter,
        constraint_compliance.begin_and_end,
    ),
}


def probes(seed: int, *, repeats: int = 1, categories: Iterable[str] = CATEGORIES) -> list[Probe]:
    """All probes of the categories, each built `repeats` times with numbers and words of its own.

    A probe depends on its name, the seed and which repeat it is, on nothing else.

    Raises:
        ChatModelError: no such category, fewer than one repeat, or a negative seed.

    Example:
        >>> len(probes(0)), probes(3)[0].prompt == probes(3)[0].prompt
        (20, True)
    """
    chosen = tuple(categories)
    if unknown := [c for c in chosen if c not in BUILDERS]:
        raise ChatModelError(f"no categories {unknown}; there are {list(CATEGORIES)}")
    if repeats < 1 or seed < 0:
        raise ChatModelError(f"repeats is {repeats} and seed {seed}, expected at least 1 and 0")
    return [
        build(np.random.default_rng([seed, repeat, crc32(build.__name__.encode())]))
        for repeat in range(repeats)
        for category in chosen
        for build in BUILDERS[category]
    ]
