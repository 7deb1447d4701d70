"""`wye keys` as a person uses it."""

import json
import sqlite3
from contextlib import closing

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from wye.cli_keys import register
from wye.errors import WyeError

CONFIG = """
[store]
path = "mine.db"

[policies.quality]
kind = "quality"

[[targets]]
name = "small"
base_url = "http://127.0.0.1:1/v1"
"""


def test_a_key_lives_from_add_to_revoke(wye, tmp_path):
    (tmp_path / "wye.toml").write_text(CONFIG)
    made = wye(
        "keys", "add", "Zoë 🦊", "--budget-day", "2.5", "--requests-per-minute", "60",
        "--targets", "small", "--policy", "quality", "--expires", "30d",
    )  # fmt: skip
    assert made.code == 0, made.err
    secret = made.out.strip()
    assert secret.startswith("wye_")
    assert "shown this once" in made.err
    assert secret.encode() not in b"".join(p.read_bytes() for p in tmp_path.glob("mine.db*"))

    changed = wye("keys", "set", "Zoë 🦊", "--budget-day", "none", "--budget-total", "10")
    assert changed.code == 0, changed.err

    shown = wye("keys", "show", "Zoë 🦊", "--json").json
    assert shown["limits"]["budget_day"] is None
    assert shown["limits"]["budget_total"] == 10.0
    assert shown["limits"]["targets"] == ["small"]
    assert shown["spent"]["total"] == {"spent_usd": 0.0, "reserved_usd": 0.0}
    assert shown["prefix"] == secret[:12]

    listed = wye("keys", "list")
    assert "Zoë 🦊" in listed.out
    assert "60 requests a minute" in " ".join(listed.out.split())
    assert secret not in listed.out

    assert wye("keys", "revoke", "Zoë 🦊").code == 0
    assert [row["state"] for row in wye("keys", "list", "--json").json] == ["revoked"]
    assert wye("keys", "revoke", "Zoë 🦊").code == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("add", "a", "--targets", "large"), "there is no target 'large'; configured are small"),
        (("add", "a", "--policy", "p"), "there is no policy 'p'"),
        (("add", "a", "--budget-day", "much"), "--budget-day is 'much'; expected USD"),
        (("add", "a", "--budget-day", "-1"), "budget_day is -1"),
        (("add", "a", "--tokens-per-minute", "1.5"), "expected a whole number"),
        (("add", "a", "--expires", "soon"), "expected 2027-01-31"),
        (("add", "a", "--expires", "2001-01-01"), "which is past"),
        (("add", " "), "1 to 100 characters"),
        (("set", "a"), "nothing to set"),
        (("show", "nobody"), "there is no key named 'nobody'; known are: none"),
        (("list", "--store", "x.db", "--config", "wye.toml"), "not both"),
        (("list", "--store", "mistyped.db"), "mistyped.db does not exist"),
        (("revoke", "a", "--store", "mistyped.db"), "mistyped.db does not exist"),
    ],
)
def test_what_cannot_be_is_said_with_what_to_do(words, said, tmp_path, monkeypatch):
    (tmp_path / "wye.toml").write_text(CONFIG)
    monkeypatch.chdir(tmp_path)
    app = typer.Typer(pretty_exceptions_enable=False)
    register(app, Console(), Console(stderr=True))
    with pytest.raises(WyeError) as caught:
        CliRunner().invoke(app, ["keys", *words], catch_exceptions=False)
    assert said in str(caught.value)
    assert not (tmp_path / "mistyped.db").exists()


def test_a_store_alone_will_do(wye, tmp_path):
    assert wye("keys", "add", "one", "--store", "other.db", "--targets", "any").code == 0
    listed = wye("keys", "list", "--store", "other.db", "--json")
    assert [row["name"] for row in json.loads(listed.out)] == ["one"]
    assert (tmp_path / "other.db").is_file()


def test_a_store_that_cannot_be_used_is_said_in_words(wye, tmp_path):
    assert wye("keys", "add", "one", "--store", "damaged.db").code == 0
    with closing(sqlite3.connect(tmp_path / "damaged.db")) as damaged:
        damaged.execute("ALTER TABLE keys RENAME COLUMN digest TO lost")
    for words in (("list",), ("add", "two"), ("revoke", "one")):
        ended = wye("keys", *words, "--store", "damaged.db")
        assert ended.code == 2
        assert "damaged.db cannot be used" in ended.err
        assert "Traceback" not in ended.err
