"""Make the embedded set: real outcomes of the embedded pool on questions graded by program.

    python scripts/make_embedded_set.py --record work/record.jsonl

Needs the extra `local`, the dependency group `dataset`, and the weights (`wye fetch`). Answers go
to the record as they come: a run that is stopped, or whose time is up, goes on where it was. Writes
the worked examples and facts of the pool, the three tables and their README.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

from embedded_set import world
from embedded_set.kinds import EXAMPLES_ONLY, KINDS, Drawn, draw
from embedded_set.report import report
from embedded_set.run import MAX_TOKENS, STOP, read_records, run
from embedded_set.tables import (
    example_rows,
    outcomes_of,
    write_lines,
    write_tables,
    write_text,
)
from embedded_set.timing import described, read_speeds, run_measure

SOURCE = Path(__file__).parents[1] / "src" / "wye"
SEED = 0
N_EXAMPLES = 4
PER_KIND = 69
PROCESSES = 2
TIMED_PER_KIND = 3


def main(arguments: list[str] | None = None) -> int:
    """Make what is missing and write everything. Returns 0 when the set is complete."""
    options = _options(arguments)
    drawn = [draw(kind, options.per_kind, N_EXAMPLES, SEED) for kind in KINDS]
    write_pool_tables(drawn, SOURCE / "gateway" / "pool" / "tables")
    in_turn = [d.questions[i] for i in range(options.per_kind) for d in drawn]
    if options.minutes > 0:
        asyncio.run(run(in_turn, options.record, processes=PROCESSES, seconds=60 * options.minutes))
    speeds_file = options.record.with_suffix(".speeds.json")
    if options.minutes > 0:
        run_measure(in_turn[: TIMED_PER_KIND * len(drawn)], speeds_file)
    speeds = read_speeds(speeds_file)
    data = outcomes_of({d.kind: d.questions for d in drawn}, read_records(options.record), speeds)
    complete = len(data.queries) == len(in_turn)
    settings = {
        "model": "SmolLM2-135M-Instruct, Q4_1, llama.cpp through xllamacpp",
        "sampling": "greedy; majority at temperature 0.7; seed of the sampler from the question",
        "tokens": f"up to {MAX_TOKENS} an answer, which ends with its line or first sentence "
        f"({' or '.join(map(repr, STOP))})",
        "seed of the questions": SEED,
    }
    text = report(data, settings, described(speeds))
    write_tables(data, options.out)
    write_text(text, options.out / "README.md")
    print(text)
    if not complete:
        print(
            f"Not complete: {len(data.queries)} of {len(in_turn)} questions have every answer. "
            "Run the same command again to go on.",
            file=sys.stderr,
        )
    return 0 if complete else 1


def write_pool_tables(drawn: list[Drawn], folder: Path) -> None:
    """Write the pool's worked examples and facts."""
    others = [draw(kind, 1, N_EXAMPLES, SEED) for kind in EXAMPLES_ONLY]
    write_lines(example_rows([*drawn, *others]), folder / "examples.jsonl")
    write_lines(list(world.facts()), folder / "facts.jsonl")
    write_text(NOTICE, folder / "NOTICE.txt")


NOTICE = """\
examples.jsonl and facts.jsonl are written by scripts/make_embedded_set.py of wye.

facts.jsonl states facts from these tables:
- countryinfo, MIT License: capitals, continents, two-letter codes.
- Babel, BSD-3-Clause, with data of the Unicode CLDR, Unicode License v3 (Copyright Unicode, Inc.):
  English names of countries, currencies and languages; which are official where.
- periodictable, public domain: names, symbols and atomic numbers of the elements.

examples.jsonl holds questions of the kinds of the embedded set with their answers; some state facts
from the same tables, and some are puzzles drawn from reasoning-gym, Apache License 2.0.
"""


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--record", type=Path, default=Path("embedded_record.jsonl"), help="file of answers"
    )
    parser.add_argument("--out", type=Path, default=SOURCE / "data" / "embedded")
    parser.add_argument("--per-kind", type=int, default=PER_KIND, help="questions of each kind")
    parser.add_argument(
        "--minutes",
        type=float,
        default=240,
        help="begin no answer after these; 0 only writes what is on record",
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
