"""Facts and worked examples are found by nearness, and belong to their topics."""

import json
from pathlib import Path

import numpy as np
import pytest

from wye.embed import StaticEmbedder
from wye.errors import WyeError
from wye.gateway.pool import nearest
from wye.gateway.pool.nearest import Table, facts, worked_examples

FOLDER = Path(nearest.__file__).with_name("tables")


def rows(name):
    return [json.loads(line) for line in (FOLDER / name).read_text("utf-8").splitlines()]


def test_the_nearest_rows_are_those_of_a_plain_loop():
    texts = ["red apple", "green apple", "blue car", "capital of Peru", "red car"]
    embedder = StaticEmbedder()
    table = Table([(t, str(i)) for i, t in enumerate(texts)], embedder)
    query = embedder.embed(["red cars"])[0]
    order = sorted(range(5), key=lambda i: -float(np.dot(embedder.embed([texts[i]])[0], query)))
    assert [int(value) for _, value in table.nearest("red cars", 3)] == order[:3]


def test_a_table_without_rows_is_refused():
    with pytest.raises(WyeError, match="at least one row"):
        Table([], StaticEmbedder())


def test_most_facts_are_found_from_a_question_about_them():
    capitals = [r["fact"] for r in rows("facts.jsonl") if r["topic"] == "capital"]
    asked = [f.replace("The", "What is the").split(" is ", 2) for f in capitals]
    found = [
        fact in [f for f, _ in facts().nearest(f"{a} is {b}?", 2)]
        for fact, (a, b, _) in zip(capitals, asked, strict=True)
    ]
    assert np.mean(found) > 0.9


def test_an_example_leads_to_the_examples_of_its_own_topic():
    every = rows("examples.jsonl")
    for row in every:
        shown = worked_examples(row["question"])
        assert (row["question"], row["answer"]) in shown
        assert len(shown) == sum(r["topic"] == row["topic"] for r in every)


def test_the_sources_of_the_tables_are_named():
    notice = (FOLDER / "NOTICE.txt").read_text("utf-8")
    for source in ("countryinfo", "Babel", "Unicode", "periodictable", "reasoning-gym"):
        assert source in notice
