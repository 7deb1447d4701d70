"""Keys, budgets and rate limits over HTTP, with a real upstream in another process."""

from __future__ import annotations

import asyncio
import re
from concurrent.futures import ThreadPoolExecutor

import httpx
import openai
import pytest
import sqlalchemy as sa

from wye.gateway.money.books import Books
from wye.gateway.money.keys import KeyBook, Limits
from wye.gateway.money.nano import dollars
from wye.gateway.schema import decisions, outcomes

# What `outside_world` reports, at the prices of `World.target`.
COST = (11 * 1.0 + 6 * 2.0) / 1e6
QUESTION = {"model": "wye", "max_tokens": 6, "messages": [{"role": "user", "content": "6 x 7?"}]}


class Purse:
    """One key of a served gateway, and a client that uses it."""

    def __init__(self, served, name="one", **limits) -> None:
        self.served = served
        self.book = KeyBook(served.gateway.store.engine)
        self.key, self.secret = self.book.add(name, Limits(**limits))
        self.headers = {"authorization": f"Bearer {self.secret}"}

    def ask(self, **fields) -> httpx.Response:
        headers = {**self.headers, **fields.pop("headers", {})}
        return self.served.http.post(
            "/v1/chat/completions", json={**QUESTION, **fields}, headers=headers
        )

    def balance(self):
        with self.served.gateway.store.engine.connect() as connection:
            return Books("test").balance(connection, self.key.id)

    def decision(self, answer: httpx.Response):
        found = self.served.http.get(
            f"/v1/decisions/{answer.headers['x-wye-decision']}", headers=self.headers
        )
        assert found.status_code == 200, found.text
        return found.json()


@pytest.fixture
def purse(serve, world):
    def make(name="one", targets=None, config=None, **limits) -> Purse:
        served = serve(targets=targets or [world.target("ok")], **(config or {}))
        return Purse(served, name, **limits)

    return make


def error_of(answer: httpx.Response) -> dict:
    return answer.json()["error"]


def test_without_a_key_in_the_store_nothing_changes_and_with_one_a_key_is_needed(purse, eventually):
    mine = purse(config={"money": {"key_seconds": 0.05}})
    eventually(lambda: mine.served.ask().status_code == 401)
    refused = mine.served.ask()
    assert error_of(refused)["code"] == "invalid_api_key"
    assert "Bearer" in error_of(refused)["message"]
    assert mine.ask().status_code == 200
    assert mine.served.http.get("/healthz").status_code == 200
    assert mine.served.http.get("/api/summary").status_code == 200


def test_a_stores_first_key_is_held_to_its_limits_from_its_first_request_on(purse):
    one = purse(config={"money": {"key_seconds": 1000}}, budget_day=1e-9)
    assert one.served.ask().status_code == 200
    assert one.ask().status_code == 429
    assert one.served.ask().status_code == 401


def test_keys_can_be_required_before_there_is_one(serve, world):
    served = serve(targets=[world.target("ok")], server={"keys": True})
    assert served.ask().status_code == 401
    assert Purse(served).ask().status_code == 200


@pytest.mark.parametrize(
    "header",
    [
        {"authorization": "Bearer wye_wrong"},
        {"authorization": "Bearer"},
        {"authorization": "Basic !!!"},
        {"authorization": "Bearer \u00ff\u00fe"},
        {"x-api-key": "wye_wrong"},
        {},
    ],
)
def test_a_wrong_key_is_refused(purse, header):
    mine = purse(config={"server": {"keys": True}})
    raw = {name: value.encode("latin-1") for name, value in header.items()}
    answer = mine.served.http.post("/v1/chat/completions", json=QUESTION, headers=raw)
    assert answer.status_code == 401
    assert error_of(answer)["type"] == "authentication_error"


def test_a_key_is_taken_from_either_header(purse):
    mine = purse(config={"server": {"keys": True}})
    other = {"x-api-key": mine.secret}
    answer = mine.served.http.post("/v1/chat/completions", json=QUESTION, headers=other)
    assert answer.status_code == 200


def test_a_revoked_and_an_expired_key_are_refused_and_told_why(purse, eventually):
    mine = purse(config={"server": {"keys": True}, "money": {"key_seconds": 0.05}})
    assert mine.ask().status_code == 200
    mine.book.change("one", {"expires": 1.0})
    eventually(lambda: mine.ask().status_code == 401)
    assert "expired" in error_of(mine.ask())["message"]
    mine.book.change("one", {"expires": None})
    eventually(lambda: mine.ask().status_code == 200)
    mine.book.revoke("one")
    eventually(lambda: mine.ask().status_code == 401)
    assert "revoked" in error_of(mine.ask())["message"]


def test_the_access_key_is_the_administrators_and_has_no_limits(serve, world, monkeypatch):
    monkeypatch.setenv("WYE_ADMIN", "the-admin-key")
    served = serve(targets=[world.target("ok")], server={"access_key_env": "WYE_ADMIN"})
    mine = Purse(served, budget_total=0.0)
    admin = {"authorization": "Bearer the-admin-key"}
    post = served.http.post
    assert post("/v1/chat/completions", json=QUESTION, headers=admin).status_code == 200
    assert mine.ask().status_code == 429
    assert served.http.get("/api/summary", headers=mine.headers).status_code == 401
    assert served.http.get("/metrics", headers=mine.headers).status_code == 401
    assert served.http.get("/api/summary", headers=admin).status_code == 200


def test_a_key_sees_its_own_decisions_alone_and_judges_no_others(purse):
    mine = purse("mine", config={"server": {"keys": True}})
    other = Purse(mine.served, "other")
    answer = mine.ask()
    decision = mine.decision(answer)
    assert decision["key_id"] == mine.key.id
    path = f"/v1/decisions/{decision['id']}"
    assert mine.served.http.get(path, headers=other.headers).status_code == 404
    judged = {"decision": decision["id"], "quality": 1.0}
    post = mine.served.http.post
    assert post("/v1/feedback", json=judged, headers=other.headers).status_code == 404
    assert post("/v1/feedback", json=judged, headers=mine.headers).status_code == 200
    listed = mine.served.http.get("/v1/decisions", headers=other.headers).json()["data"]
    assert listed == []
    listed = mine.served.http.get("/v1/decisions", headers=mine.headers).json()["data"]
    assert [row["id"] for row in listed] == [decision["id"]]


def test_what_an_answer_cost_is_what_is_booked(purse, eventually):
    mine = purse("Zoë 🦊", budget_day=1.0, config={"server": {"keys": True}})
    for stream in (False, True):
        answer = mine.ask(stream=stream)
        assert answer.status_code == 200
    eventually(lambda: mine.balance().day_spent == 2 * round(COST * 1e9))
    balance = mine.balance()
    assert balance.day_reserved == balance.total_reserved == 0
    assert balance.total_spent == balance.month_spent == balance.day_spent
    outcome = mine.decision(answer)["outcome"]
    assert outcome["cost_usd"] == pytest.approx(COST)
    assert (outcome["cached_input_tokens"], outcome["reasoning_tokens"]) == (0, 0)


def test_a_key_without_budgets_is_booked_too(purse, eventually):
    mine = purse(config={"server": {"keys": True}})
    mine.ask()
    eventually(lambda: mine.balance().total_spent == round(COST * 1e9))


def test_a_dearer_target_that_no_longer_fits_is_left_out_and_the_request_is_served(purse, world):
    targets = [
        world.target("ok@dear", quality=0.9, price_in_per_mtok=1000.0, price_out_per_mtok=1000.0),
        world.target("ok", quality=0.5),
    ]
    mine = purse(targets=targets, budget_total=0.1, config={"server": {"keys": True}})
    answer = mine.ask()
    assert answer.status_code == 200
    assert answer.headers["x-wye-target"] == "ok"
    decision = mine.decision(answer)
    assert "left in total" in decision["excluded"]["ok@dear"]
    assert any("ok@dear was left out" in reason for reason in decision["reasons"])
    rich = Purse(mine.served, "rich", budget_total=10.0)
    assert rich.ask().headers["x-wye-target"] == "ok@dear"


def test_a_request_that_may_cost_more_than_the_key_allows_one_goes_elsewhere(purse, world):
    targets = [
        world.target("ok@dear", quality=0.9, price_in_per_mtok=1000.0, price_out_per_mtok=1.0),
        world.target("ok", quality=0.5),
    ]
    mine = purse(targets=targets, per_request=0.01, config={"server": {"keys": True}})
    answer = mine.ask()
    assert answer.headers["x-wye-target"] == "ok"
    assert "a request" in mine.decision(answer)["excluded"]["ok@dear"]
    direct = mine.ask(model="ok@dear")
    assert (direct.status_code, error_of(direct)["code"]) == (429, "insufficient_quota")


def test_a_spent_budget_is_refused_in_openais_words(purse):
    mine = purse(budget_day=1e-6, config={"server": {"keys": True}})
    answer = mine.ask()
    assert answer.status_code == 429
    assert error_of(answer)["code"] == error_of(answer)["type"] == "insufficient_quota"
    assert "for today (UTC)" in error_of(answer)["message"]
    assert answer.headers["x-should-retry"] == "false"
    assert 1 <= int(answer.headers["retry-after"]) <= 86400
    assert mine.decision(answer)["outcome"]["http_status"] == 429
    client = openai.OpenAI(base_url=f"{mine.served.url}/v1", api_key=mine.secret)
    with client, pytest.raises(openai.RateLimitError) as caught:
        client.chat.completions.create(**QUESTION)
    assert caught.value.code == "insufficient_quota"


def test_a_target_without_a_price_is_not_for_a_key_with_a_budget(purse, world):
    targets = [{"name": "ok", "base_url": world.base_url}]
    mine = purse(targets=targets, budget_day=1.0, config={"server": {"keys": True}})
    assert "its price is not known" in error_of(mine.ask())["message"]
    assert Purse(mine.served, "free").ask().status_code == 200


@pytest.mark.parametrize("tier", ["priority", "of tomorrow", 5, ["flex"]])
def test_no_budget_holds_for_a_tier_that_may_be_dearer(purse, tier):
    one = purse(budget_day=1.0)
    refused = one.ask(service_tier=tier)
    assert refused.status_code == 429
    assert "whose price is not known" in error_of(refused)["message"]
    assert one.ask(service_tier="flex").status_code == 200
    assert one.ask(service_tier=None).status_code == 200


def test_pictures_need_a_context_for_a_key_with_a_budget(purse, world):
    targets = [world.target("ok", tags=["vision"])]
    mine = purse(targets=targets, budget_day=1.0, config={"server": {"keys": True}})
    picture = {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}
    answer = mine.ask(messages=[{"role": "user", "content": [picture]}])
    assert answer.status_code == 429
    assert "set the target's context" in error_of(answer)["message"]


def test_a_session_has_its_own_budget(purse, eventually):
    mine = purse(per_session=0.0004, config={"server": {"keys": True}})
    first = {"x-wye-session": "größer 1".encode()}
    while (answer := mine.ask(headers=first)).status_code == 200:
        pass
    assert "for this session" in error_of(answer)["message"]
    assert mine.ask(headers={"x-wye-session": "2"}).status_code == 200
    assert mine.decision(answer)["session"] == "größer 1"
    too_long = mine.ask(headers={"x-wye-session": "x" * 201})
    assert too_long.status_code == 400


def test_allowed_targets_and_the_default_policy_of_a_key(purse, world):
    targets = [world.target("ok@a", quality=0.9), world.target("ok@b", quality=0.5)]
    config = {
        "server": {"keys": True},
        "policies": {
            "quality": {"kind": "quality"},
            "thrifty": {"kind": "utility", "cost_weight": 1e9},
        },
    }
    mine = purse(targets=targets, config=config, policy="thrifty")
    narrow = Purse(mine.served, "narrow", targets=("ok@b",))
    answer = narrow.ask()
    assert answer.headers["x-wye-target"] == "ok@b"
    assert narrow.decision(answer)["excluded"] == {"ok@a": "the key 'narrow' may not use it"}
    direct = narrow.ask(model="ok@a")
    assert (direct.status_code, error_of(direct)["code"]) == (403, "target_not_allowed")
    listed = mine.served.http.get("/v1/models", headers=narrow.headers).json()["data"]
    assert "ok@a" not in {row["id"] for row in listed}
    assert "ok@a" not in narrow.ask(model="nobody").text
    assert mine.decision(mine.ask())["policy_name"] == "thrifty"
    nowhere = Purse(mine.served, "nowhere", targets=("gone",))
    assert error_of(nowhere.ask())["code"] == "no_target_fits"
    stale = Purse(mine.served, "stale", policy="gone")
    assert error_of(stale.ask())["code"] == "policy_not_found"


def test_after_a_failure_the_money_moves_to_the_next_target(purse, world, eventually):
    targets = [
        world.target("500", quality=0.9, price_in_per_mtok=100.0),
        world.target("ok", quality=0.5),
    ]
    mine = purse(targets=targets, budget_total=1.0, config={"server": {"keys": True}})
    assert mine.ask().headers["x-wye-target"] == "ok"
    eventually(lambda: mine.balance().total_spent == round(COST * 1e9))
    assert mine.balance().total_reserved == 0


def test_a_fallback_that_cannot_be_paid_is_refused_and_nothing_stays_reserved(
    purse, world, eventually
):
    targets = [
        world.target("500", quality=0.9),
        world.target("ok", quality=0.5, price_in_per_mtok=1e6, price_out_per_mtok=1e6),
    ]
    mine = purse(targets=targets, budget_total=1.0, config={"server": {"keys": True}})
    answer = mine.ask()
    assert answer.status_code == 503
    assert "ok: the request can cost up to" in error_of(answer)["message"]
    eventually(lambda: mine.balance().total_reserved == 0)
    assert mine.balance().total_spent == 0


@pytest.mark.parametrize("model", ["no-usage", "reset-midway", "cut-midway"])
def test_an_answer_of_unknown_usage_is_booked_at_what_was_set_aside(
    purse, world, model, eventually
):
    mine = purse(targets=[world.target(model)], budget_day=1.0, config={"server": {"keys": True}})
    mine.ask(stream=True)
    eventually(lambda: mine.balance().total_reserved == 0 and mine.balance().total_spent > 0)
    assert mine.balance().total_spent > round(COST * 1e9)


def test_the_larger_of_two_limits_is_set_aside(purse):
    mine = purse(per_request=1000 / 1e6, config={"server": {"keys": True}})
    assert mine.ask(max_tokens=6, max_completion_tokens=6).status_code == 200
    assert mine.ask(max_tokens=1000, max_completion_tokens=1).status_code == 429


@pytest.mark.parametrize("stream", [False, True])
def test_absurd_usage_is_no_usage_and_stops_no_other_key(purse, world, eventually, stream):
    said = {"prompt_tokens": 2**53 - 1, "completion_tokens": 2**53 - 1}
    chunk = {"choices": [{"index": 0, "delta": {"content": "42"}, "finish_reason": "stop"}]}
    choice = {"index": 0, "message": {"content": "42"}, "finish_reason": "stop"}
    world.script("absurd-stream", events=[chunk, {"choices": [], "usage": said}, "[DONE]"])
    world.script("absurd", body={"choices": [choice], "usage": said})
    absurd = world.target("absurd-stream" if stream else "absurd")
    targets, needed = [absurd, world.target("ok")], {"server": {"keys": True}}
    one = purse(targets=targets, budget_total=1.0, tokens_per_minute=1000, config=needed)
    other = Purse(one.served, "other", budget_total=1.0)
    assert one.ask(model=absurd["name"], stream=stream).status_code == 200
    for _ in range(3):
        assert other.ask(model="ok").status_code == 200
    eventually(lambda: one.balance().total_reserved == 0)
    assert 0 < one.balance().total_spent < 1e9
    drained = {"error": None, "waiting": 0}
    eventually(lambda: one.served.http.get("/healthz").json()["ledger"] == drained)


def test_a_client_that_leaves_before_an_answer_pays_nothing(purse, world, eventually):
    mine = purse(targets=[world.target("hang")], budget_day=1.0, config={"server": {"keys": True}})
    with (
        httpx.Client(base_url=mine.served.url, verify=False, headers=mine.headers) as client,
        pytest.raises(httpx.ReadTimeout),
    ):
        client.post("/v1/chat/completions", json=QUESTION, timeout=0.5)
    eventually(lambda: mine.balance().total_reserved == 0)
    assert mine.balance().total_spent == 0


def test_rate_limits_hold_under_concurrency_and_say_when_to_come_back(purse):
    mine = purse(requests_per_minute=8, config={"server": {"keys": True}})
    with ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(lambda _: mine.ask(), range(32)))
    assert sorted(a.status_code for a in answers) == [200] * 8 + [429] * 24
    refused = next(a for a in answers if a.status_code == 429)
    assert error_of(refused)["code"] == "rate_limit_exceeded"
    assert 1 <= int(refused.headers["retry-after"]) <= 60


def test_tokens_per_minute_count_what_an_answer_took(purse, eventually):
    mine = purse(
        tokens_per_minute=40, config={"server": {"keys": True}, "money": {"rate_limits": "memory"}}
    )
    answered = [mine.ask() for _ in range(4)]
    assert [a.status_code for a in answered] == [200, 200, 429, 429]
    huge = mine.ask(max_tokens=1000)
    assert "send less" in error_of(huge)["message"]


async def hammer(url: str, secret: str, clients: int, rounds: int) -> list[int]:
    """Statuses of so many clients that ask one request after the other."""
    headers = {"authorization": f"Bearer {secret}"}
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(
        base_url=url, headers=headers, timeout=60, verify=False, limits=limits
    ) as client:

        async def one(number: int) -> list[int]:
            body = {**QUESTION, "stream": number % 4 == 0}
            return [
                (await client.post("/v1/chat/completions", json=body)).status_code
                for _ in range(rounds)
            ]

        return [
            status for found in await asyncio.gather(*map(one, range(clients))) for status in found
        ]


def test_64_clients_never_exceed_the_budget_they_share(purse, world, eventually):
    budget = 0.0025
    targets = [world.target("ok@shared")]
    mine = purse(targets=targets, budget_day=budget, config={"server": {"keys": True}})
    statuses = asyncio.run(hammer(mine.served.url, mine.secret, clients=64, rounds=3))
    served = statuses.count(200)
    assert set(statuses) == {200, 429}
    assert served == len(world.seen("ok@shared"))
    assert served * COST <= budget
    eventually(lambda: mine.balance().total_reserved == 0)
    assert dollars(mine.balance().day_spent) == pytest.approx(served * COST)
    # As long as one more request fits at its most, the next one is served.
    while mine.ask().status_code == 200:
        served += 1
    assert served * COST <= budget
    assert mine.served.gateway.store.flush()
    with mine.served.gateway.store.engine.connect() as connection:
        query = sa.select(sa.func.sum(outcomes.c.cost_usd)).join(
            decisions, decisions.c.id == outcomes.c.decision_id
        )
        total = connection.execute(query.where(decisions.c.key_id == mine.key.id)).scalar()
    assert total == pytest.approx(served * COST)


def test_what_the_ledger_kept_from_being_asked_counts_no_tokens(purse):
    mine = purse(budget_total=1.0, tokens_per_minute=60, config={"server": {"keys": True}})
    with mine.served.gateway.store.engine.begin() as connection:
        connection.execute(sa.text("ALTER TABLE reservations RENAME TO elsewhere"))
    told = [error_of(mine.ask())["code"] for _ in range(20)]
    assert told == ["ledger_unavailable"] * 20
    with mine.served.gateway.store.engine.begin() as connection:
        connection.execute(sa.text("ALTER TABLE elsewhere RENAME TO reservations"))
    assert mine.ask().status_code == 200


def test_every_key_has_a_budget_of_its_own(purse):
    mine = purse("poor", budget_total=0.0, config={"server": {"keys": True}})
    rich = Purse(mine.served, "rich", budget_total=1.0)
    assert (mine.ask().status_code, rich.ask().status_code) == (429, 200)


def test_health_tells_of_the_ledger(purse):
    mine = purse(config={"server": {"keys": True}})
    assert mine.served.http.get("/healthz").json()["ledger"] == {"error": None, "waiting": 0}
    assert re.search(r"wye_store_ok 1", mine.served.http.get("/metrics").text)
