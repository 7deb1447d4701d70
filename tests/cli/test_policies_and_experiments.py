"""`wye policy`, `wye experiment`, `wye rollback` on a store, without a gateway."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from wye.cli import app
from wye.data import load_embedded
from wye.errors import WyeError
from wye.query import get_router


@pytest.fixture
def wye(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def write(weight: float) -> None:
        (tmp_path / "wye.toml").write_text(
            f"""
[store]
path = "gateway.db"
[policies.main]
kind = "utility"
cost_weight = {weight}
[[targets]]
name = "direct"
base_url = "http://127.0.0.1:1/v1"
price_in_per_mtok = 1.0
price_out_per_mtok = 1.0
"""
        )

    def run(*arguments: str) -> str:
        ran = CliRunner().invoke(app, arguments)
        if isinstance(ran.exception, WyeError):
            raise ran.exception
        assert ran.exit_code == 0, ran.output
        return ran.stdout.strip()

    run.write = write  # type: ignore[attr-defined]
    write(1.0)
    return run


def listed(wye) -> dict[str, str]:
    return {v["id"]: v["state"] for v in json.loads(wye("policy", "list", "--json"))["versions"]}


def experiments(wye) -> dict[str, str]:
    return {e["name"]: e["state"] for e in json.loads(wye("experiment", "status", "--json"))}


def test_a_version_is_named_by_what_it_holds(wye, tmp_path):
    first = wye("policy", "add")
    assert wye("policy", "add") == first
    wye.write(2.0)
    assert wye("policy", "add") != first
    wye.write(1.0)
    get_router("constant").fit(load_embedded().part("train")).save(tmp_path / "router")
    with_router = wye("policy", "add", "router")
    assert with_router not in (first, "")
    assert wye("policy", "add", "--no-router") == first
    shown = json.loads(wye("policy", "show", with_router[:7]))
    assert shown["router"] == "constant"
    assert shown["size"] > 0
    assert shown["policies"]["main"]["cost_weight"] == 1.0
    assert set(listed(wye).values()) == {"kept"}
    assert "constant" in wye("policy", "list")


def test_use_and_rollback_lead_there_and_back(wye):
    version = wye("policy", "add")
    wye("policy", "use", version)
    assert listed(wye)[version] == "present"
    with pytest.raises(WyeError, match="decides already"):
        wye("policy", "use", version)
    wye("rollback")
    assert listed(wye)[version] == "kept"
    with pytest.raises(WyeError, match="nothing decided before"):
        wye("policy", "rollback")
    for unknown in ("zzz", ""):
        with pytest.raises(WyeError, match=f"there is no version '{unknown}'"):
            wye("policy", "use", unknown)


def test_an_experiment_is_begun_told_and_ended(wye):
    version = wye("policy", "add")
    wye("experiment", "start", "look", "shadow", version)
    wye("experiment", "start", "bird", "canary", version, "--share", "0.1", "--by", "key")
    assert experiments(wye) == {"look": "running", "bird": "running"}
    assert "too few for a verdict" in wye("experiment", "status")
    for refused in (["policy", "use", version], ["policy", "rollback"]):
        with pytest.raises(WyeError, match="wye experiment stop 'bird'"):
            wye(*refused)
    with pytest.raises(WyeError, match="wye experiment stop 'bird'"):
        wye("experiment", "stop", "look", "--promote")
    assert experiments(wye) == {"look": "running", "bird": "running"}
    wye("rollback")
    assert experiments(wye) == {"look": "running", "bird": "stopped"}
    wye("experiment", "stop", "look", "--promote", "--note", "it looked good")
    assert experiments(wye)["look"] == "promoted"
    assert listed(wye)[version] == "present"
    with pytest.raises(WyeError, match="has ended already"):
        wye("experiment", "stop", "look")
    with pytest.raises(WyeError, match="expected session or key"):
        wye("experiment", "start", "x", "ab", version, "--by", "weather")
