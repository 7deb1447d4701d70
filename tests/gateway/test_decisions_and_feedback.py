"""Why a request went where it went, how good it was, and what can be learned from it."""

from __future__ import annotations

import math

import numpy as np
import pytest

from wye.data import DataError
from wye.gateway.log_data import read_log
from wye.gateway.logged_traffic import read_traffic
from wye.gateway.store import Store


@pytest.fixture
def served(serve, world):
    return serve(
        targets=[
            world.target("cheap", model="ok@cheap", quality=0.6),
            world.target("good", model="ok@good", quality=0.9, price_out_per_mtok=20.0),
        ],
        policies={
            "curious": {"kind": "explore", "epsilon": 1.0, "inner": {"kind": "quality"}},
            "quality": {"kind": "quality"},
        },
    )


def judge(served, answer, quality, **extra):
    decision = answer.headers["x-wye-decision"]
    body = {"decision": decision, "quality": quality, **extra}
    return served.http.post("/v1/feedback", json=body)


def learned(served):
    """The log as outcome data, once everything is on disk."""
    assert served.gateway.store.flush()
    return read_log(served.gateway.store.place)


def test_a_decision_tells_candidates_features_version_propensity_cost_and_latency(served):
    found = served.decision(served.ask("wye/quality", text="Why is the sky blue?"))
    assert [c["target"] for c in found["candidates"]] == ["good", "cheap"]
    good = found["candidates"][0]
    assert good["quality"] == 0.9
    assert good["cost_usd"] == pytest.approx((5 * 1.0 + 300 * 20.0) / 1e6)
    assert found["features"]["words"] == 5
    assert found["features"]["opening"] == "asks_why"
    assert len(found["policy_version"]) == 12
    assert found["propensity"] == 1.0
    assert found["outcome"]["cost_usd"] == pytest.approx((11 * 1.0 + 6 * 20.0) / 1e6)
    assert found["outcome"]["latency_s"] > 0
    assert 0 < found["router_seconds"] < 1
    words = " ".join(found["explanation"])
    for part in ("good was chosen by quality()", "cheap: expected quality 0.60", "answered in"):
        assert part in words
    assert "quality 0.90 is from wye.toml" in words


def test_a_random_choice_is_recorded_with_its_probability(served):
    for _ in range(3):
        assert served.decision(served.ask("wye/curious"))["propensity"] == 0.5


def test_the_version_changes_with_what_the_choice_depends_on_and_with_nothing_else(serve, world):
    def version(**target):
        served = serve(targets=[world.target("ok", **target)])
        return served.decision(served.ask())["policy_version"]

    first = version(quality=0.5)
    assert version(quality=0.5) == first
    assert version(quality=0.5, timeouts={"total": 9}) == first
    assert version(quality=0.6) != first


def test_the_latest_decisions_come_newest_first(served):
    asked = [served.ask(text=f"question {i}").headers["x-wye-decision"] for i in range(5)]
    listed = served.http.get("/v1/decisions?limit=3").json()["data"]
    assert [row["id"] for row in listed] == asked[:1:-1]
    older = served.http.get(f"/v1/decisions?before={asked[2]}").json()["data"]
    assert [row["id"] for row in older] == asked[1::-1]


@pytest.mark.parametrize("limit", ["0", "-1", "x", "1001", "9" * 30, "²"])
def test_an_impossible_limit_is_a_400(served, limit):
    assert served.http.get("/v1/decisions", params={"limit": limit}).status_code == 400


def test_an_unknown_decision_is_a_404(served):
    assert served.http.get("/v1/decisions/nothing").status_code == 404
    answer = served.http.post("/v1/feedback", json={"decision": "nothing", "quality": 1})
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "decision_not_found"


def test_feedback_is_shown_with_the_decision(served):
    answer = served.ask()
    assert judge(served, answer, 0.25, comment="half of it").status_code == 200
    found = served.decision(answer)
    assert [(f["quality"], f["comment"]) for f in found["feedback"]] == [(0.25, "half of it")]
    assert "Judged 0.25." in found["explanation"]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"quality": 1},
        {"decision": 5, "quality": 1},
        {"decision": "ID"},
        {"decision": "ID", "quality": 1.01},
        {"decision": "ID", "quality": -0.01},
        {"decision": "ID", "quality": True},
        {"decision": "ID", "quality": "1"},
        {"decision": "ID", "quality": None},
        {"decision": "ID", "quality": 1, "comment": 5},
        {"decision": "ID", "quality": 1, "colour": "red"},
    ],
)
def test_feedback_that_cannot_be_used_is_a_400(served, body):
    decision = served.ask().headers["x-wye-decision"]
    sent = {k: decision if v == "ID" else v for k, v in body.items()}
    answer = served.http.post("/v1/feedback", json=sent)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"]


def test_prompts_are_not_kept_where_they_are_not_to_be(serve, world, tmp_path):
    served = serve(targets=[world.target("ok")], store={"store_prompts": False})
    answer = served.ask(text="my secret question")
    assert served.decision(answer)["text"] is None
    served.gateway.store.flush()
    written = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert answer.headers["x-wye-decision"].encode() in written
    assert b"secret question" not in written


def test_the_log_becomes_outcome_data(served):
    answers = [served.ask("wye/curious", text=f"What is {i} + {i}?") for i in range(6)]
    for i, answer in enumerate(answers[:4]):
        judge(served, answer, 0.0)
        judge(served, answer, i / 4)
    data = learned(served)
    assert len(data) == 6
    assert data.texts == [f"What is {i} + {i}?" for i in range(6)]
    served_by = [a.headers["x-wye-target"] for a in answers]
    assert set(data.model_names) == set(served_by[:4])
    for i in range(6):
        for m, model in enumerate(data.model_names):
            if i < 4 and served_by[i] == model:
                assert data.quality[i, m] == i / 4
                price = 20.0 if model == "good" else 2.0
                assert data.cost[i, m] == pytest.approx((11 + 6 * price) / 1e6)
                assert data.latency[i, m] > 0
            else:
                assert math.isnan(data.quality[i, m])
    assert (data.outcomes["propensity"] == 0.5).all()
    assert data.models.set_index("model")["price_in_per_mtok"].eq(1.0).all()
    assert set(data.queries["split"]) <= {"train", "test"}


def test_an_answer_after_a_fallback_counts_for_who_answered_with_no_propensity(serve, world):
    served = serve(
        targets=[world.target("bad", model="500", quality=0.9), world.target("ok", quality=0.1)]
    )
    judge(served, served.ask(), 1.0)
    data = learned(served)
    assert data.model_names == ("ok",)
    assert np.isnan(data.outcomes["propensity"].iloc[0])
    assert data.outcomes["chosen"].iloc[0] != data.outcomes["model"].iloc[0]
    traffic = read_traffic(served.gateway.config.store.place())
    assert traffic.fell_back.all()


def test_a_router_can_be_fitted_on_the_log(served):
    from wye.query import get_router

    for i in range(30):
        answer = served.ask("wye/curious", text=f"What is {i} + {i}?")
        judge(served, answer, 1.0 if answer.headers["x-wye-target"] == "good" else 0.25)
    router = get_router("constant").fit(learned(served))
    estimate = router.estimate(["What is 3 + 3?"])
    quality = dict(zip(estimate.models, estimate.quality[0], strict=True))
    assert quality["good"] > quality["cheap"]


def test_a_log_without_texts_or_judgements_says_what_to_do(serve, world, tmp_path):
    served = serve(targets=[world.target("ok")])
    served.ask()
    with pytest.raises(DataError, match="/v1/feedback"):
        learned(served)
    Store(tmp_path / "empty.db").close()
    with pytest.raises(DataError, match="store_prompts"):
        read_log(tmp_path / "empty.db")
    with pytest.raises(DataError, match="does not exist"):
        read_log(tmp_path / "none.db")
    assert not (tmp_path / "none.db").exists()
