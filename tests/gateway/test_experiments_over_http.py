"""Experiments over HTTP: begun, ended and refused as on the command line, and logged."""

from __future__ import annotations

import logging

import pytest
from typer.testing import CliRunner

from wye.cli import app
from wye.gateway.config import Config
from wye.gateway.learning.experiments import ExperimentBook
from wye.gateway.learning.versions import VersionBook
from wye.gateway.policy_set import PolicySet
from wye.gateway.schema import connect


class Lab:
    """A gateway, and a version in its store that decides otherwise."""

    def __init__(self, serve, world, place, **server) -> None:
        where = "url" if isinstance(place, str) else "path"
        values = {
            "targets": [
                world.target("dear", model="ok@dear", quality=0.9),
                world.target("cheap", model="ok@cheap", quality=0.5, price_out_per_mtok=0.0),
            ],
            "policies": {"main": {"kind": "quality"}},
            # Looking at the store every minute, it follows an order since the order says so.
            "learning": {"poll_seconds": 60.0},
            "store": {where: str(place), "batch_seconds": 0.02},
            "server": server,
        }
        self.place = place
        self.engine = connect(place)
        self.book, self.versions = ExperimentBook(self.engine), VersionBook(self.engine)
        other = {"main": {"kind": "utility", "cost_weight": 100000.0}}
        config = Config.model_validate({**values, "policies": other})
        candidate = PolicySet(config, None, config.router.generator())
        self.versions.record(candidate, note="thrifty", origin="added")
        self.version = candidate.version
        self.served = serve(**values)
        self.http = self.served.http

    def start(self, **values):
        body = {"name": "look", "kind": "shadow", "version": self.version, **values}
        return self.http.post("/api/experiments", json=body)

    def stop(self, experiment: str, **values):
        return self.http.post(f"/api/experiments/{experiment}/stop", json=values)

    def running(self) -> list[str]:
        return [trial.name for trial in self.served.gateway.service.trials.running]


@pytest.fixture
def lab(serve, world, place):
    labs = []

    def build(**server) -> Lab:
        labs.append(Lab(serve, world, place, **server))
        return labs[-1]

    yield build
    for one in labs:
        one.engine.dispose()


def test_an_experiment_is_begun_followed_at_once_and_ended(lab, eventually, caplog):
    one = lab()
    with caplog.at_level(logging.WARNING, "wye.gateway.audit"):
        begun = one.start(version=one.version[:6], share=None)
        assert begun.status_code == 201, begun.text
        told = begun.json()
        assert (told["kind"], told["version"], told["share"]) == ("shadow", one.version, 1.0)
        eventually(lambda: one.running() == ["look"])
        answers = [one.served.ask() for _ in range(3)]
        shadows = one.served.gateway.service.trials.shadows
        eventually(lambda: shadows.counts["made"] == len(answers))
        ended = one.stop(told["id"], note="seen enough").json()
    assert (ended["state"], ended["reason"]) == ("stopped", "seen enough")
    assert ended["shadow"] == {**ended["shadow"], "decisions": 3, "targets": {"cheap": 3}}
    eventually(lambda: one.running() == [])
    said = [record.getMessage() for record in caplog.records]
    assert any("'look' (shadow" in words and "begun" in words for words in said)
    assert any("'look' ended" in words for words in said)


def test_a_plan_is_taken_and_a_candidate_promoted(lab, eventually):
    one = lab()
    plan = {"by": "key", "alpha": 0.1, "cost_weight": 5.0, "least": 40, "cost_limit": 0.5}
    begun = one.start(name="duel", kind="ab", share=0.25, **plan).json()
    assert (begun["by"], begun["alpha"], begun["cost_weight"]) == ("key", 0.1, 5.0)
    found = one.book.by_id(begun["id"])
    assert vars(found.plan) == plan
    assert found.share == 0.25
    ended = one.stop(begun["id"], promote=True).json()
    assert ended["state"] == "promoted"
    eventually(lambda: one.served.gateway.service.present.version == one.version)
    assert one.stop(begun["id"]).json()["error"]["code"] == "experiment_refused"


IMPOSSIBLE = (
    ({"name": 5}, "name is 5"),
    ({"name": " \n"}, "name"),
    ({"kind": "guess"}, "expected shadow, canary, ab"),
    ({"kind": None}, "kind is None"),
    ({"version": ""}, "version"),
    ({"version": "zzz"}, "no version"),
    ({"share": 0}, "share"),
    ({"share": "0.5"}, "share is '0.5'; expected a number"),
    ({"share": True}, "share is True; expected a number"),
    ({"share": 1, "kind": "canary"}, "below 1"),
    ({"by": "person"}, "session or key"),
    ({"by": ["key"]}, "session or key"),
    ({"alpha": 1}, "alpha"),
    ({"alpha": 10**400}, "too many digits"),
    ({"cost_weight": -1}, "cost_weight"),
    ({"least": 1}, "least"),
    ({"least": 2.5}, "whole number"),
    ({"cost_limit": -0.1}, "cost_limit"),
    ({"canary": True}, "unknown field 'canary'"),
)


def test_what_cannot_be_is_refused_in_the_shape_of_the_api(lab):
    one = lab()
    for values, words in IMPOSSIBLE:
        answer = one.start(**values)
        assert answer.status_code == 400, answer.text
        assert words in answer.json()["error"]["message"]
    assert one.book.latest() == []


def test_the_command_line_and_the_api_refuse_in_the_same_words(lab, tmp_path):
    one = lab()
    assert one.start(name="first", kind="canary").status_code == 201
    config = tmp_path / "wye.toml"
    where = "url" if isinstance(one.place, str) else "path"
    config.write_text(
        f'[store]\n{where} = "{one.place}"\n'
        '[[targets]]\nname = "dear"\nbase_url = "http://127.0.0.1:1/v1"\n'
    )
    for name, kind, version, share in (
        ("second", "ab", one.version, 0.5),
        ("first", "shadow", one.version, 1.0),
        ("third", "canary", one.version, 1.0),
        ("third", "guess", one.version, 0.5),
        ("third", "shadow", "zzz", 0.5),
    ):
        given = ["experiment", "start", name, kind, version, "--share", str(share)]
        ran = CliRunner().invoke(app, [*given, "--config", str(config)])
        refused = one.start(name=name, kind=kind, version=version, share=share)
        assert ran.exit_code != 0
        assert refused.json()["error"]["message"] in (ran.output + str(ran.exception))


def test_an_experiment_that_is_not_there_is_not_found(lab):
    answer = lab().stop("none-such")
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "experiment_not_found"


def test_a_wrong_order_to_stop_is_refused_and_changes_nothing(lab):
    one = lab()
    begun = one.start().json()
    for body in ({"promote": 1}, {"note": 5}, {"note": "x" * 501}, {"why": "x"}):
        assert one.stop(begun["id"], **body).status_code == 400
    assert [found.state for found in one.book.latest()] == ["running"]


def test_rolling_back_ends_what_compares_before_it_takes_the_version_before(lab, eventually):
    one = lab()
    one.versions.use(one.version, "tried")
    own = next(v.id for v in one.versions.all() if v.id != one.version)
    one.start(name="bird", kind="canary", version=own).raise_for_status()
    assert one.http.post("/api/rollback", json={}).json() == {
        "version": one.version, "ended": ["bird"],
    }  # fmt: skip
    assert one.versions.wanted().version == one.version
    assert one.http.post("/api/rollback", json={}).json() == {"version": None, "ended": []}


def test_no_page_from_elsewhere_begins_or_ends_anything(lab):
    one = lab()
    body = {"name": "look", "kind": "shadow", "version": one.version}
    for headers in ({"sec-fetch-site": "cross-site"}, {"origin": "https://evil.example"}):
        for path in ("/api/experiments", "/api/experiments/x/stop"):
            assert one.http.post(path, json=body, headers=headers).status_code == 403
    assert one.http.post("/api/experiments", content=b"{}").status_code == 415
    assert one.book.latest() == []
    assert one.http.get("/api/experiments").json()["closed"] is None


def test_a_gateway_open_to_its_network_changes_nothing_and_says_so(lab):
    one = lab(host="0.0.0.0", open_to_network=True)
    answer = one.start()
    assert answer.status_code == 403
    assert answer.json()["error"]["code"] == "admin_closed"
    assert "access_key_env" in one.http.get("/api/experiments").json()["closed"]
    assert one.book.latest() == []


def test_an_access_key_is_asked_for_and_a_virtual_key_is_not_enough(lab, monkeypatch):
    monkeypatch.setenv("WYE_TEST_ACCESS", "a-long-random-string")
    one = lab(access_key_env="WYE_TEST_ACCESS")
    admin = {"authorization": "Bearer a-long-random-string"}
    made = one.http.post("/api/keys", json={"name": "team"}, headers=admin).json()
    body = {"name": "look", "kind": "shadow", "version": one.version}
    for headers in ({}, {"authorization": f"Bearer {made['secret']}"}):
        answer = one.http.post("/api/experiments", json=body, headers=headers)
        assert answer.status_code in (401, 403)
    assert one.http.post("/api/experiments", json=body, headers=admin).status_code == 201
