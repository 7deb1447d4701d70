"""Write the tables of README.md and docs/systems.md that come from the code, between markers.

Usage: python scripts/generate_tables.py [--check]

With --check nothing is written, and the exit code is 1 where a table is stale.
"""

import argparse
import re
import sys
from pathlib import Path

from wye.catalog import System, load_catalog

ROOT = Path(__file__).resolve().parents[1]
MARKERS = re.compile(r"(<!-- systems: begin -->\n).*?(<!-- systems: end -->)", re.DOTALL)


def row(system: System, *, figures: bool) -> str:
    """One system as a row of Markdown, with its verdict alone or with what was measured."""
    paper = f"arXiv {system.arxiv}" if system.arxiv else "classic"
    status = system.status if figures else system.verdict
    return f"| `{system.slug}` | {system.scale} | {system.title} | {paper} | {status} |"


def table(*, figures: bool) -> str:
    """The catalogue as a Markdown table."""
    head = ["| system | scale | what | paper | outcome |", "| --- | --- | --- | --- | --- |"]
    rows = [row(s, figures=figures) for s in load_catalog(plugins=False).systems]
    return "\n".join([*head, *rows]) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    stale = False
    for name, figures in (("README.md", False), ("docs/systems.md", True)):
        page = ROOT / name
        text = page.read_text(encoding="utf-8")
        if not MARKERS.search(text):
            sys.exit(f"{name} has no markers <!-- systems: begin --> and <!-- systems: end -->")
        written = table(figures=figures)
        fresh = MARKERS.sub(lambda m, t=written: m.group(1) + t + m.group(2), text)
        stale |= fresh != text
        if not check:
            page.write_text(fresh, encoding="utf-8")
    return int(check and stale)


if __name__ == "__main__":
    sys.exit(main())
