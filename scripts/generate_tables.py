"""Write the tables of README.md that come from the code, between their markers.

Usage: python scripts/generate_tables.py [--check]

With --check nothing is written, and the exit code is 1 where a table is stale.
"""

import argparse
import re
import sys
from pathlib import Path

from wye.catalog import load_catalog

README = Path(__file__).resolve().parents[1] / "README.md"
MARKERS = re.compile(r"(<!-- systems: begin -->\n).*?(<!-- systems: end -->)", re.DOTALL)


def systems_table() -> str:
    """The catalogue as a Markdown table."""
    rows = ["| system | scale | what | paper | status |", "| --- | --- | --- | --- | --- |"]
    for system in load_catalog(plugins=False).systems:
        paper = f"arXiv {system.arxiv}" if system.arxiv else "classic"
        rows.append(
            f"| `{system.slug}` | {system.scale} | {system.title} | {paper} | {system.status} |"
        )
    return "\n".join(rows) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    text = README.read_text(encoding="utf-8")
    if not MARKERS.search(text):
        sys.exit(f"{README} has no markers <!-- systems: begin --> and <!-- systems: end -->")
    table = systems_table()
    fresh = MARKERS.sub(lambda m: m.group(1) + table + m.group(2), text)
    if check:
        return int(fresh != text)
    README.write_text(fresh, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
