"""The dashboard's figures against the requests that were really made, and who may ask for them."""

from __future__ import annotations

import base64

import httpx
import pytest


@pytest.fixture
def served(serve, world):
    return serve(
        targets=[
            world.target("cheap", model="ok@cheap", quality=0.6, description="small and quick"),
            world.target("good", model="ok@good", quality=0.9, price_out_per_mtok=20.0),
            world.target("bad", model="500", quality=0.1),
        ],
        policies={
            "thrifty": {"kind": "utility", "cost_weight": 1e6},
            "quality": {"kind": "quality"},
        },
        default_policy="quality",
    )


def test_an_empty_gateway_has_a_whole_summary(served):
    summary = served.http.get("/api/summary").json()
    assert summary["requests"] == 0
    assert summary["saved_share"] is None
    assert summary["latency_ms"] == {"p50": None, "p95": None}
    assert [t["state"] for t in summary["targets"]] == ["closed"] * 3
    assert served.http.get("/api/decisions").json() == {"data": [], "next": None, "reached": None}
    assert served.http.get("/api/series").json() == []
    assert served.http.get("/api/frontier").json()["points"] == []
    assert served.http.get("/api/playground").json() == {"prompts": []}


def test_the_summary_adds_up_what_was_served(served):
    for _ in range(3):
        served.ask("wye/thrifty")
    good = served.ask("wye")
    served.ask("bad")
    decision = good.headers["x-wye-decision"]
    served.http.post("/v1/feedback", json={"decision": decision, "quality": 0.5})
    summary = served.http.get("/api/summary").json()
    cheap_usd, good_usd = (11 + 6 * 2) / 1e6, (11 + 6 * 20) / 1e6
    assert summary["requests"] == 5
    assert summary["errors"] == 1
    assert summary["spend_usd"] == pytest.approx(3 * cheap_usd + good_usd)
    assert summary["baseline"] == "good"
    assert summary["baseline_usd"] == pytest.approx(4 * good_usd)
    assert summary["saved_usd"] == pytest.approx(3 * (good_usd - cheap_usd))
    assert summary["saved_share"] == pytest.approx(1 - (3 * cheap_usd + good_usd) / (4 * good_usd))
    assert summary["quality"] == {"mean": 0.5, "n": 1}
    assert summary["policies"] == ["thrifty", "quality"]
    assert summary["default_policy"] == "quality"
    assert summary["store"] == {"ok": True, "lost": 0}
    assert 0 < summary["latency_ms"]["p50"] <= summary["latency_ms"]["p95"]
    cheap, best, bad = summary["targets"]
    assert (cheap["requests"], cheap["share"]) == (3, 0.75)
    assert cheap["spend_usd"] == pytest.approx(3 * cheap_usd)
    assert cheap["description"] == "small and quick"
    assert best["quality"] == 0.5
    assert (bad["requests"], bad["share"]) == (0, 0.0)


def test_a_promise_that_feedback_does_not_keep_raises_an_alarm(served):
    assert served.http.get("/api/calibration").json()["seen"] == 0
    for _ in range(30):
        decision = served.ask("wye").headers["x-wye-decision"]
        served.http.post("/v1/feedback", json={"decision": decision, "quality": 0.0})
    found = served.http.get("/api/calibration").json()
    assert found["seen"] == 30
    assert found["alarms"][0]["gap"] == pytest.approx(-0.9)
    assert "too much" in found["words"]


def test_series_sum_to_the_summary(served):
    for _ in range(4):
        served.ask("wye/thrifty")
    buckets = served.http.get("/api/series?bucket=1").json()
    assert sum(b["requests"] for b in buckets) == 4
    assert sum(b["spend_usd"] for b in buckets) == pytest.approx(4 * 23e-6)
    assert [b["time"] for b in buckets] == sorted(b["time"] for b in buckets)


@pytest.mark.parametrize("bucket", ["0", "-5", "nan", "inf", "x", "1e9"])
def test_an_impossible_bucket_is_a_400(served, bucket):
    assert served.http.get("/api/series", params={"bucket": bucket}).status_code == 400


def test_the_frontier_comes_from_judged_answers_where_no_report_is_known(served):
    for model, quality in [("wye/thrifty", 0.5), ("wye/quality", 1.0), ("cheap", 0.0)]:
        decision = served.ask(model).headers["x-wye-decision"]
        served.http.post("/v1/feedback", json={"decision": decision, "quality": quality})
    frontier = served.http.get("/api/frontier").json()
    points = {p["label"]: p for p in frontier["points"]}
    assert points["cheap"]["quality"] == 0.25
    assert points["good"]["cost_usd"] == pytest.approx(131e-6)
    assert points["routed"] == {
        "label": "routed",
        "kind": "router",
        "cost_usd": pytest.approx((23 + 131) / 2 * 1e-6),
        "quality": 0.75,
    }
    assert "latest 3 judged answers" in frontier["note"]


def test_files_come_with_their_type_a_strict_policy_and_a_tag(served):
    for path, kind in [
        ("/", "text/html"),
        ("/app.js", "text/javascript"),
        ("/base.css", "text/css"),
    ]:
        answer = served.http.get(path)
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith(kind)
        assert "default-src 'self'" in answer.headers["content-security-policy"]
        assert "unsafe" not in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"
        again = served.http.get(path, headers={"if-none-match": answer.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize("path", ["/..%2fapp.py", "/%2e%2e%2fapp.py", "/.hidden", "/nothing.js"])
def test_nothing_outside_the_dashboard_is_served(served, path):
    assert served.http.get(path).status_code == 404


def test_a_name_that_is_not_this_machine_is_refused(served):
    port = served.url.rsplit(":", 1)[1]
    for host in (f"evil.example:{port}", "127.0.0.1.evil.example", "[", ""):
        assert served.http.get("/api/decisions", headers={"host": host}).status_code == 421
    for host in (f"localhost:{port}", "127.0.0.1", f"[::1]:{port}"):
        assert served.http.get("/api/decisions", headers={"host": host}).status_code == 200


def test_pages_from_elsewhere_are_refused_and_the_dashboards_own_are_not(served):
    body = {"model": "wye", "messages": [{"role": "user", "content": "spend"}]}
    for origin in ("https://evil.example", "null", "http://127.0.0.1:1", "http://[::1", ""):
        answer = served.http.post("/v1/chat/completions", json=body, headers={"origin": origin})
        assert answer.status_code == 403
        assert answer.json()["error"]["code"] == "foreign_origin"
    own = served.http.post("/v1/chat/completions", json=body, headers={"origin": served.url})
    assert own.status_code == 200


def test_with_an_access_key_nothing_but_health_answers_without_it(serve, world, monkeypatch):
    monkeypatch.setenv("ACCESS", "kéy:with-colon")
    served = serve(targets=[world.target("ok")], server={"access_key_env": "ACCESS"})
    basic = base64.b64encode("anyone:kéy:with-colon".encode()).decode()
    for given, status in [
        ({}, 401),
        ({"authorization": "Bearer wrong"}, 401),
        ({"authorization": "Basic !!!"}, 401),
        ({"authorization": b"Bearer k\xc3\xa9y:with-colon"}, 200),
        ({"authorization": f"Basic {basic}"}, 200),
    ]:
        for path in ("/", "/v1/models", "/metrics"):
            answer = httpx.get(served.url + path, headers=given)
            assert answer.status_code == status, (given, path)
    assert httpx.get(f"{served.url}/healthz").status_code == 200
    assert "Basic" in httpx.get(served.url).headers["www-authenticate"]
