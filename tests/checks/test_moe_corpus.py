"""The text of the expert scale's checks: real, the same every time, split by file."""

import gzip
import hashlib

import pytest

from wye.checks import CheckError
from wye.checks.moe import corpus as texts
from wye.checks.moe.prose import docstrings, english_prose, without_roff

KINDS = {
    "python": (texts.python_source, b"import"),
    "c": (texts.c_headers, b"#include"),
    "english": (texts.english, b" the "),
    "german": (texts.german, b" und "),
    "french": (texts.french, b" les "),
}


def available(name):
    if name == "german" and not texts.has_german():
        pytest.skip("manpages-de is not installed")
    if name == "french" and not any(texts._french_files()):
        pytest.skip("manpages-fr is not installed")
    return KINDS[name]


@pytest.mark.parametrize("name", KINDS)
def test_a_text_has_the_size_asked_for_and_is_what_it_says(name):
    read, sign = available(name)
    text = read(60_000)
    assert len(text) == 60_000
    assert text.count(sign) > 20


@pytest.mark.parametrize("name", KINDS)
def test_a_longer_text_begins_with_a_shorter_one_and_never_changes(name):
    read, _ = available(name)
    short = read(30_000)
    texts._read.cache_clear()
    assert read(50_000).startswith(short)


@pytest.mark.parametrize("name", KINDS)
def test_no_file_is_in_both_parts_nor_a_copy_of_one(name, monkeypatch):
    available(name)
    files, read, missing = texts._KINDS[name]
    contents = []
    monkeypatch.setitem(
        texts._KINDS,
        name,
        (files, lambda path: contents.append(read(path)) or contents[-1], missing),
    )
    texts._read.cache_clear()
    both = texts.corpus(name, 60_000, held_out=20_000)
    texts._read.cache_clear()
    digests = {hashlib.sha256(c).digest(): c for c in contents if len(c) > 200}
    held_out = [c for c in digests.values() if c[:200] in both.held_out]
    trained = [c for c in digests.values() if c[:200] in both.train]
    assert held_out
    assert trained
    starts = {c for c in held_out if c in both.held_out}
    assert not any(c in both.train for c in starts)


def test_a_copy_of_a_file_counts_once(tmp_path, monkeypatch):
    for number in range(40):
        (tmp_path / f"{number}.txt").write_text(f"text {number // 2}\n" * 3)
    kind = (lambda: texts._sorted([(tmp_path, tmp_path.iterdir())]), texts._raw, "")
    monkeypatch.setitem(texts._KINDS, "copies", kind)
    texts._read.cache_clear()
    parts = texts.corpus("copies", 100, held_out=20)
    with pytest.raises(CheckError) as error:
        texts._read("copies", 10_000, "train")
    texts._read.cache_clear()
    assert set(parts.train.split(b"\n")).isdisjoint(set(parts.held_out.split(b"\n")) - {b""})
    whole = sum(
        len(f"text {n}\n" * 3)
        for n in range(20)
        if hashlib.sha256((f"text {n}\n" * 3).strip().encode()).digest()[0] % 10
    )
    assert f"this machine has {whole - 1} bytes" in str(error.value)


def test_too_much_and_unknown_text_is_refused_with_what_to_do(monkeypatch):
    monkeypatch.setitem(texts._KINDS, "german", (lambda: iter(()), *texts._KINDS["german"][1:]))
    with pytest.raises(CheckError, match=r"0 bytes of german text .* manpages-de"):
        texts._read.__wrapped__("german", 10, "train")
    with pytest.raises(CheckError, match="no text is called 'latin'; there are"):
        texts.corpus("latin", 10)
    with pytest.raises(CheckError, match="size=0"):
        texts.english(0)
    with pytest.raises(CheckError, match="expected 'train' or 'held_out'"):
        texts.english(10, part="test")


def test_shifted_text_is_german_where_installed_and_c_elsewhere(monkeypatch):
    monkeypatch.setattr(texts, "has_german", lambda: False)
    text, name = texts.shifted(2_000)
    assert (text, name) == (texts.c_headers(2_000), "c")
    monkeypatch.undo()
    if texts.has_german():
        assert texts.shifted(2_000) == (texts.german(2_000), "german")


PAGE = r""".\" a comment
.TH LS 1 "2022" "GNU"
.SH BEZEICHNUNG
ls \- Verzeichnisinhalte auflisten
.TP
\fB\-a\fP, \fB\-\-all\fP
\(bqImplizite\(cq Einträge, die auf »~« enden, \fInicht\fR auflisten
.IP \(bu 2.3
ein Punkt
.BR gcc (1),
.B fett "und mehr"
.\}
\h'-04'\c
.SH AUTOR
Geschrieben von Erika Muster.
.SH COPYRIGHT
Siehe <https://example.org> oder <erika@example.org>.
.SH ÜBERSETZUNG
Die Übersetzung wurde von Max Muster <max@example.org> erstellt.
"""


def test_manual_pages_lose_their_markup_and_the_names_of_people(tmp_path):
    path = tmp_path / "ls.1.gz"
    path.write_bytes(gzip.compress(PAGE.encode()))
    text = without_roff(path)
    for kept in (
        "BEZEICHNUNG\nls - Verzeichnisinhalte auflisten",
        "-a, --all",
        "»~« enden, nicht auflisten",
        "gcc(1),",
        "fett und mehr",
        "COPYRIGHT",
    ):
        assert kept in text
    for gone in ("\\", "Erika", "Max", "example.org", "2.3", "2022", "comment"):
        assert gone not in text
    plain = tmp_path / "ls.1"
    plain.write_text(PAGE, encoding="utf-8")
    assert without_roff(plain) == text


def test_descriptions_keep_prose_and_lose_headers_code_and_addresses(tmp_path):
    path = tmp_path / "METADATA"
    path.write_text(
        "Metadata-Version: 2.1\nName: thing\nAuthor-email: someone@example.org\n\n"
        "# Thing\n\nThis package does what its name says, and it does it well.\n\n"
        "```python\nimport thing\n```\n\n| a | b |\n|---|---|\n"
        "Write to someone@example.org or see https://example.org for all the rest of it.\n"
    )
    text = english_prose(path)
    assert "This package does what its name says, and it does it well." in text
    for gone in ("import thing", "example.org", "Metadata-Version", "|"):
        assert gone not in text


def test_docstrings_are_read_and_broken_files_have_none(tmp_path):
    path = tmp_path / "module.py"
    path.write_text(
        '"""Opening words."""\n\ndef f():\n    """What it does.\n\n    >>> f()\n    """\n'
    )
    assert docstrings(path) == "Opening words.\n\nWhat it does."
    path.write_text("def broken(:\n")
    assert docstrings(path) == ""
