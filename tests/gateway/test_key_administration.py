"""Keys over HTTP: what `wye keys` does, for the administrator alone and for no foreign page."""

from __future__ import annotations

import logging

import httpx
import pytest

JSON = {"content-type": "application/json"}


@pytest.fixture
def served(serve, world):
    return serve(
        targets=[world.target("cheap", model="ok@cheap"), world.target("good", model="ok@good")],
        policies={"quality": {"kind": "quality"}},
        money={"key_seconds": 0.01},
    )


def made(served, **limits):
    answer = served.http.post("/api/keys", json={"name": "team", **limits})
    assert answer.status_code == 201, answer.text
    return answer.json()


def test_a_key_is_made_shown_once_and_works(served, eventually):
    assert served.http.get("/api/keys").json() == {"keys": [], "required": False, "closed": None}
    told = made(served, budget_day=2.5, requests_per_minute=9, targets=["cheap"])
    secret = told["secret"]
    answer = served.http.post("/api/keys", json={"name": "other"})
    assert answer.headers["cache-control"] == "no-store"
    listed = served.http.get("/api/keys").text
    assert secret not in listed
    assert secret[:12] in listed
    key = served.http.get("/api/keys").json()["keys"][0]
    assert key["limits"]["budget_day"] == 2.5
    assert key["limits"]["targets"] == ["cheap"]
    assert key["state"] == "good"
    ask = {"model": "wye", "messages": [{"role": "user", "content": "hello"}]}
    eventually(lambda: served.http.post("/v1/chat/completions", json=ask).status_code == 401)
    mine = {"authorization": f"Bearer {secret}"}
    answer = served.http.post("/v1/chat/completions", json=ask, headers=mine)
    assert answer.headers["x-wye-target"] == "cheap"

    def spent() -> float:
        spent = served.http.get("/api/keys").json()["keys"][0]["spent"]
        return spent["total"]["spent_usd"]

    eventually(lambda: spent() == pytest.approx(23e-6))


def test_a_key_is_changed_and_revoked(served, eventually):
    told = made(served, budget_total=1.0, tokens_per_minute=1000)
    path = f"/api/keys/{told['key']['id']}"
    changed = served.http.patch(path, json={"budget_total": None, "policy": "quality"})
    assert changed.json()["key"]["limits"]["budget_total"] is None
    assert changed.json()["key"]["limits"]["tokens_per_minute"] == 1000
    assert changed.json()["key"]["limits"]["policy"] == "quality"
    assert served.http.post(f"{path}/revoke", json={}).json()["key"]["state"] == "revoked"
    again = served.http.post(f"{path}/revoke", json={})
    assert again.status_code == 400
    assert "revoked already" in again.json()["error"]["message"]
    mine = {"authorization": f"Bearer {told['secret']}"}
    eventually(lambda: served.http.get("/v1/models", headers=mine).status_code == 401)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "name is missing"),
        ({"name": ""}, "cannot be the name"),
        ({"name": "a", "budget_day": "5"}, "expected USD"),
        ({"name": "a", "budget_day": True}, "expected USD"),
        ({"name": "a", "budget_day": -1}, "expected USD from 0"),
        ({"name": "a", "budget_day": 10**400}, "expected USD as a number"),
        ({"name": "a", "tokens_per_minute": 10**400}, "expected a whole number"),
        ({"name": "a", "expires": 10**400}, "expected seconds since 1970"),
        ({"name": "a", "requests_per_minute": 1.5}, "whole number"),
        ({"name": "a", "targets": ["nobody"]}, "there is no target 'nobody'"),
        ({"name": "a", "targets": []}, "targets is empty"),
        ({"name": "a", "policy": "none"}, "there is no policy"),
        ({"name": "a", "expires": 5}, "past"),
        ({"name": "a", "budget": 5}, "unknown limit 'budget'"),
    ],
)
def test_a_wrong_order_is_refused_in_words_and_makes_nothing(served, body, words):
    answer = served.http.post("/api/keys", json=body)
    assert answer.status_code == 400
    assert words in answer.json()["error"]["message"]
    assert served.http.get("/api/keys").json()["keys"] == []


def test_an_unknown_key_is_a_400(served):
    for answer in (
        served.http.patch("/api/keys/nobody", json={"budget_day": 1}),
        served.http.post("/api/keys/nobody/revoke", json={}),
    ):
        assert answer.status_code == 400
        assert "no key with the id" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"content-type": "text/plain"}, 415),
        ({"content-type": "application/x-www-form-urlencoded"}, 415),
        ({"content-type": "multipart/form-data; boundary=x"}, 415),
        ({}, 415),
        ({**JSON, "sec-fetch-site": "cross-site"}, 403),
        ({**JSON, "sec-fetch-site": "same-site"}, 403),
        ({**JSON, "origin": "https://evil.example"}, 403),
        ({**JSON, "origin": "null"}, 403),
    ],
)
def test_no_page_from_elsewhere_can_make_a_key(served, headers, status):
    answer = httpx.post(f"{served.url}/api/keys", content=b'{"name": "stolen"}', headers=headers)
    assert answer.status_code == status
    assert served.http.get("/api/keys").json()["keys"] == []


def test_the_dashboards_own_page_can(served):
    headers = {**JSON, "origin": served.url, "sec-fetch-site": "same-origin"}
    answer = httpx.post(f"{served.url}/api/keys", content=b'{"name": "mine"}', headers=headers)
    assert answer.status_code == 201


def test_a_page_from_elsewhere_cannot_take_note_of_alarms_either(served):
    headers = {"sec-fetch-site": "cross-site"}
    assert served.http.post("/api/alarms/any/ack", headers=headers).status_code == 403


def test_a_virtual_key_does_not_administer_where_an_access_key_is_set(serve, world, monkeypatch):
    monkeypatch.setenv("ACCESS", "the-administrators")
    served = serve(targets=[world.target("ok")], server={"access_key_env": "ACCESS"})
    admin = {"authorization": "Bearer the-administrators"}
    answer = served.http.post("/api/keys", json={"name": "team"}, headers=admin)
    mine = {"authorization": f"Bearer {answer.json()['secret']}"}
    for headers in ({}, mine):
        assert served.http.get("/api/keys", headers=headers).status_code == 401
        answer = served.http.post("/api/keys", json={"name": "x"}, headers=headers)
        assert answer.status_code == 401


def test_a_gateway_open_to_its_network_without_a_key_is_changed_by_nobody(serve, world):
    served = serve(
        targets=[world.target("ok")], server={"host": "0.0.0.0", "open_to_network": True}
    )
    answer = served.http.post("/api/keys", json={"name": "anybodys"})
    assert answer.status_code == 403
    assert "access_key_env" in answer.json()["error"]["message"]
    assert "access_key_env" in served.http.get("/api/keys").json()["closed"]


def test_every_change_is_logged_without_the_secret(served, caplog):
    with caplog.at_level(logging.WARNING, "wye.gateway.audit"):
        told = made(served, budget_day=1.0)
        served.http.patch(f"/api/keys/{told['key']['id']}", json={"budget_day": 2.0})
        served.http.post(f"/api/keys/{told['key']['id']}/revoke", json={})
    lines = [r.getMessage() for r in caplog.records if r.name == "wye.gateway.audit"]
    done = ("made", "changed", "revoked")
    assert all(word in line for word, line in zip(done, lines, strict=True))
    assert all("'team'" in line and "127.0.0.1" in line for line in lines)
    assert told["secret"] not in " ".join(lines)
