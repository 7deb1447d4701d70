"""What would be chosen, and what another policy would have chosen: told, and nothing else done."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from wye.gateway.schema import decisions, reservations

MESSAGES = [{"role": "user", "content": "What is 6 x 7?"}]


@pytest.fixture
def served(serve, world):
    return serve(
        targets=[
            world.target("cheap", model="ok@cheap", quality=0.6),
            world.target("good", model="ok@good", quality=0.9, price_out_per_mtok=200.0),
        ],
        policies={
            "quality": {"kind": "quality"},
            "thrifty": {"kind": "utility", "cost_weight": 1e6},
            "tight": {"kind": "budget", "total": 1.0, "horizon": 1000},
        },
        default_policy="quality",
    )


def choose(served, model="wye", **fields):
    answer = served.http.post("/api/choose", json={"model": model, "messages": MESSAGES, **fields})
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.mark.parametrize(
    ("model", "target"), [("wye", "good"), ("wye/thrifty", "cheap"), ("cheap", "cheap")]
)
def test_the_rehearsal_is_the_decision_that_follows(served, model, target):
    told = choose(served, model)
    decided = served.decision(served.ask(model))
    assert told["target"] == decided["target"] == target
    for name in ("candidates", "reasons", "excluded", "propensity", "policy", "policy_version"):
        assert told[name] == decided[name], name


def test_a_rehearsal_leaves_no_trace(served, world):
    secret = served.http.post("/api/keys", json={"name": "k", "budget_day": 1.0}).json()["secret"]
    mine = {"authorization": f"Bearer {secret}"}
    before = len(world.seen("ok@good")) + len(world.seen("ok@cheap"))
    tight = served.gateway.service.policies["tight"]
    state = repr(vars(tight))
    for model in ("wye", "wye/tight", "wye/thrifty", "cheap"):
        body = {"model": model, "messages": MESSAGES}
        assert served.http.post("/api/choose", json=body, headers=mine).status_code == 200
    assert len(world.seen("ok@good")) + len(world.seen("ok@cheap")) == before
    assert repr(vars(tight)) == state
    served.gateway.store.flush()
    with served.gateway.store.engine.connect() as connection:
        assert connection.execute(sa.select(decisions.c.id)).all() == []
        assert connection.execute(sa.select(reservations.c.id)).all() == []
    assert served.http.get("/api/keys").json()["keys"][0]["spent"]["total"]["reserved_usd"] == 0


def test_a_rehearsal_knows_what_the_key_may_use_and_can_pay(served):
    def secret(name, **limits):
        return served.http.post("/api/keys", json={"name": name, **limits}).json()["secret"]

    for told, word in (
        (secret("one", targets=["cheap"]), "may not use"),
        (secret("poor", budget_day=0.1), "the key has"),
    ):
        body = {"model": "wye", "messages": MESSAGES}
        headers = {"authorization": f"Bearer {told}"}
        found = served.http.post("/api/choose", json=body, headers=headers).json()
        assert found["target"] == "cheap"
        assert word in found["excluded"]["good"]


def test_a_rehearsal_without_a_known_key_or_model_is_an_error(served):
    body = {"model": "wye", "messages": MESSAGES}
    wrong = {"authorization": "Bearer wye_wrong"}
    assert served.http.post("/api/choose", json=body, headers=wrong).status_code == 400
    assert served.http.post("/api/choose", json={**body, "model": "x"}).status_code == 404
    assert served.http.post("/api/choose", json={"model": "wye"}).status_code == 400


def test_a_decision_replays_under_every_policy_as_it_would_have_been(served):
    decision = served.ask("wye").headers["x-wye-decision"]
    for policy, target in (("quality", "good"), ("thrifty", "cheap")):
        told = served.http.get(f"/api/decisions/{decision}/replay", params={"policy": policy})
        found = told.json()
        real = served.decision(served.ask(f"wye/{policy}"))
        assert found["target"] == real["target"] == target
        assert found["same"] == (target == "good")
        assert found["policy"] == real["policy"]
        logged = {c["target"]: c for c in real["candidates"]}
        for candidate in found["candidates"]:
            for figure in ("quality", "cost_usd", "score", "probability"):
                assert candidate[figure] == pytest.approx(logged[candidate["target"]][figure])


def test_a_replay_does_not_spend_the_budget_of_its_policy(served):
    decision = served.ask("wye").headers["x-wye-decision"]
    tight = served.gateway.service.policies["tight"]
    before = repr(vars(tight))
    found = served.http.get(f"/api/decisions/{decision}/replay?policy=tight").json()
    assert found["stateful"]
    assert repr(vars(tight)) == before


def test_a_replay_says_what_it_cannot(served):
    decision = served.ask("wye").headers["x-wye-decision"]
    path = f"/api/decisions/{decision}/replay"
    assert served.http.get(path).status_code == 400
    assert served.http.get(f"{path}?policy=nobody").json()["error"]["code"] == "policy_not_found"
    assert served.http.get("/api/decisions/none/replay?policy=quality").status_code == 404


def test_targets_say_how_they_stand_and_where_their_price_is_from(served):
    served.ask("wye")
    cheap, good = served.http.get("/api/targets").json()["targets"]
    assert good["requests"] == 1
    assert cheap["requests"] == 0
    assert good["state"] == "closed"
    assert good["deployments"][0]["in_flight"] == 0
    assert good["prices"]["output"] == 200.0
    assert good["prices"]["origin"] == "wye.toml"
    assert good["latency_ms_p95"] >= good["latency_ms_p50"] > 0


def test_names_are_what_can_be_asked_and_filtered_by(served):
    served.http.post("/api/keys", json={"name": "team"})
    names = served.http.get("/api/names").json()
    assert names["targets"] == ["cheap", "good"]
    assert names["policies"] == ["quality", "thrifty", "tight"]
    assert [key["name"] for key in names["keys"]] == ["team"]
    assert "chat" in names["surfaces"]
