"""How long a set of outcomes takes to read, to write and to turn into a matrix.

Usage: python bench/data/reading.py FOLDER [REPEATS]

FOLDER holds queries, outcomes and models (parquet, jsonl or csv). Figures are the median of the
repeats, in seconds.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from wye.data import RoutingData, summarise


def seconds(work: Callable[[], object], repeats: int) -> float:
    """Median time of `work`."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def main(folder: str, repeats: int = 5) -> None:
    data = RoutingData.read(folder)
    print(
        f"{data.name}: {len(data)} queries, {len(data.models)} models, "
        f"{len(data.outcomes)} outcomes"
    )
    figures = {
        "matrix, first": seconds(
            lambda: RoutingData(data.queries, data.outcomes, data.models).quality, repeats
        ),
        "matrix, again": seconds(lambda: data.quality, repeats),
        "split": seconds(data.split, repeats),
        "summarise": seconds(lambda: summarise(data), repeats),
    }
    with tempfile.TemporaryDirectory() as scratch:
        for table_format in ("parquet", "jsonl", "csv"):
            target = Path(scratch) / table_format
            figures[f"write {table_format}"] = seconds(
                lambda t=target, f=table_format: data.write(t, format=f, overwrite=True), repeats
            )
            figures[f"read {table_format}"] = seconds(lambda t=target: RoutingData.read(t), repeats)
    for name, value in figures.items():
        print(f"{name:<16} {value:8.3f}")


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    main(sys.argv[1], *(int(a) for a in sys.argv[2:]))
