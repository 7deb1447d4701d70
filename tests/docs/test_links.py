"""Every link of a page to a file, an image or a heading of the project leads there."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CODE = re.compile(r"^```.*?^```\s*$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"!?\[(?:[^\[\]]|\[[^\]]*\])*\]\(([^)\s]+)(?:\s+\"[^\"]*\")?\)")
HEADING = re.compile(r"^#{1,6} +(.+?) *#*$", re.MULTILINE)
PAGE_NAMED = re.compile(r"\bdocs/[\w/-]+\.md(?:#[\w-]+)?")


def tracked(*patterns: str) -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", *patterns],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if listed.returncode:
        pytest.skip("this is no checkout")
    return [ROOT / name for name in listed.stdout.splitlines() if (ROOT / name).exists()]


def anchors_of(page: Path) -> set[str]:
    """Names of the headings, as the hosts of repositories make them."""
    found: set[str] = set()
    for heading in HEADING.findall(CODE.sub("", page.read_text(encoding="utf-8"))):
        words = re.sub(r"\]\([^)]*\)|[`*\[\]]", "", heading).lower()
        name = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        number = 0
        while name + (f"-{number}" if number else "") in found:
            number += 1
        found.add(name + (f"-{number}" if number else ""))
    return found


def broken(page: Path, target: str) -> str | None:
    """What is wrong with a link; None where it leads somewhere."""
    if re.match(r"[a-z]+:", target):
        return None
    name, _, anchor = target.partition("#")
    file = (page.parent / name).resolve() if name else page
    if not file.exists():
        return f"{target}: there is no such file"
    if not file.is_relative_to(ROOT):
        return f"{target} leads out of the project"
    if anchor and anchor not in anchors_of(file):
        return f"{target}: {file.name} has no such heading; it has {sorted(anchors_of(file))}"
    return None


def test_every_link_of_every_page_leads_somewhere() -> None:
    found, problems = 0, []
    for page in tracked("*.md"):
        for target in LINK.findall(CODE.sub("", page.read_text(encoding="utf-8"))):
            found += 1
            if (problem := broken(page, target)) is not None:
                problems.append(f"{page.relative_to(ROOT)}: {problem}")
    assert found > 50, "the pattern of links finds hardly any"
    assert problems == []


def test_every_page_that_code_names_is_there() -> None:
    patterns = ("*.py", "*.toml", "*.js", "*.html", "*.yaml", ".ci/*", "Makefile")
    problems = [
        f"{file.relative_to(ROOT)}: {problem}"
        for file in tracked(*patterns)
        for named in PAGE_NAMED.findall(file.read_text(encoding="utf-8"))
        if (problem := broken(ROOT / "README.md", named)) is not None
    ]
    assert problems == []


def test_every_page_of_the_docs_is_linked_from_another() -> None:
    linked = set()
    for page in tracked("*.md"):
        for target in LINK.findall(CODE.sub("", page.read_text(encoding="utf-8"))):
            name = target.partition("#")[0]
            if name and not re.match(r"[a-z]+:", name) and page.parent / name != page:
                linked.add((page.parent / name).resolve())
    pages = set(tracked("docs/*.md"))
    assert pages <= linked, sorted(str(page.relative_to(ROOT)) for page in pages - linked)


@pytest.mark.parametrize(
    ("text", "target", "wrong"),
    [
        ("# One `two`, three\n", "#one-two-three", None),
        ("# A\n## A\n", "#a-1", None),
        ("```\n# Not a heading\n```\n", "#not-a-heading", "no such heading"),
        ("# A\n", "nowhere.md", "no such file"),
        ("# A\n", "https://example.org/#x", None),
    ],
)
def test_anchors_are_told_as_hosts_make_them(
    text: str, target: str, wrong: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    page = tmp_path / "page.md"
    page.write_text(text)
    problem = broken(page, target)
    assert (problem is None) == (wrong is None)
    assert wrong is None or wrong in str(problem)
