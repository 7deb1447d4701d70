"""An answer that was given before is given again: on every surface, whole and streamed."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

import anthropic
import httpx
import pytest

from wye.gateway.money.books import Books
from wye.gateway.money.keys import KeyBook, Limits

HIT, MISS, OFF = "exact", "miss", "off"
BODY = {"model": "wye", "messages": [{"role": "user", "content": "Hello"}]}
COST = (11 * 1.0 + 6 * 2.0) / 1e6


def ask(served, text="What is 6 x 7?", *, headers=None, **fields) -> httpx.Response:
    body = {"model": "wye", "messages": [{"role": "user", "content": text}], **fields}
    return served.http.post("/v1/chat/completions", json=body, headers=headers)


def said(answer: httpx.Response) -> str:
    assert answer.status_code == 200, answer.text
    return answer.headers["x-wye-cache"]


def test_the_same_question_is_asked_upstream_once(cached):
    served, asked = cached()
    first, second = ask(served), ask(served)
    assert (said(first), said(second)) == (MISS, HIT)
    assert second.json() == first.json()
    assert second.headers["age"] == "0"
    assert asked() == 1


def test_a_hit_is_on_record_at_no_cost_with_what_it_saved(cached):
    served, _ = cached()
    first, second = ask(served), ask(served)
    source, decision = served.decision(first), served.decision(second)
    assert decision["id"] != source["id"]
    assert decision["target"] == source["target"] == second.headers["x-wye-target"]
    assert decision["reasons"][0] == f"answered from the exact cache of {source['id']}"
    outcome = decision["outcome"]
    assert outcome["status"] == "ok"
    assert outcome["cost_usd"] == 0.0
    assert outcome["baseline_usd"] == pytest.approx(COST)
    assert outcome["input_tokens"] is None
    metrics = served.http.get("/metrics").text
    assert 'wye_answer_cache_total{cache="exact",result="hit"} 1.0' in metrics
    assert 'wye_answer_cache_total{cache="exact",result="miss"} 1.0' in metrics


@pytest.mark.parametrize("usage", [False, True])
def test_a_stream_is_replayed_as_it_came(cached, usage):
    served, asked = cached()
    fields = {"stream": True, "stream_options": {"include_usage": usage}}
    first, second = ask(served, **fields), ask(served, **fields)
    assert (said(first), said(second)) == (MISS, HIT)
    assert second.text == first.text
    assert second.text.endswith("data: [DONE]\n\n")
    assert ("prompt_tokens" in second.text) == usage
    assert asked() == 1
    # Whether usage is wanted is no other question; whether it is streamed is.
    other = ask(served, stream=True, stream_options={"include_usage": not usage})
    assert said(other) == HIT
    assert ("prompt_tokens" in other.text) != usage
    assert said(ask(served)) == MISS


def test_the_official_clients_read_what_is_replayed(cached, world):
    served, asked = cached()
    for _ in range(2):
        stream = served.openai.chat.completions.create(
            model="wye",
            messages=[{"role": "user", "content": "Hello"}],
            stream=True,
            stream_options={"include_usage": True},
        )
        pieces = list(stream)
        text = "".join(p.choices[0].delta.content or "" for p in pieces if p.choices)
        assert text == "The answer is forty-two."
        assert pieces[-1].usage.total_tokens == 17
    assert asked() == 1


def test_every_surface_is_cached_by_itself(serve, world, request):
    name = f"ok@{request.node.name}"
    root = world.base_url.removesuffix("/v1")
    claude = {"kind": "anthropic", "base_url": root}
    targets = [
        world.target("gpt", model=name, speaks=["chat", "responses", "embeddings"]),
        world.target("claude", model=name, **claude),
    ]
    served = serve(targets=targets, answer_cache={})

    def twice(path: str, **body):
        both = [served.http.post(path, json=body) for _ in range(2)]
        assert [said(a) for a in both] == [MISS, HIT]
        assert both[0].content == both[1].content
        return len(world.seen(name))

    messages = [{"role": "user", "content": "What is 6 x 7?"}]
    assert twice("/v1/responses", model="gpt", input="What is 6 x 7?") == 1
    assert twice("/v1/responses", model="gpt", input="What is 6 x 7?", stream=True) == 2
    assert twice("/v1/embeddings", model="gpt", input="What is 6 x 7?") == 3
    assert twice("/v1/messages", model="claude", max_tokens=9, messages=messages) == 4
    with anthropic.Anthropic(base_url=served.url, api_key="any", max_retries=0) as client:
        texts = []
        for _ in range(2):
            with client.messages.stream(model="claude", max_tokens=9, messages=messages) as stream:
                texts.append("".join(stream.text_stream))
    assert texts == ["Forty-two it is."] * 2
    assert len(world.seen(name)) == 5


@pytest.mark.parametrize(
    "change",
    [
        {"max_tokens": 9},
        {"top_p": 0.5},
        {"n": 2},
        {"text": "What is 6 x 8?"},
        {"stop": ["x"]},
        {"response_format": {"type": "json_object"}},
        {"temperature": 0},
        {"seed": 1},
        {"logit_bias": {"1": 2}},
        {"some_future_field": True},
    ],
)
def test_whatever_changes_the_answer_is_another_question(cached, change):
    served, _ = cached()
    assert said(ask(served)) == MISS
    assert said(ask(served, **change)) == MISS
    assert said(ask(served, **change)) == HIT


@pytest.mark.parametrize(
    "change", [{"user": "u1"}, {"metadata": {"a": "b"}}, {"prompt_cache_key": "k"}]
)
def test_what_only_names_the_client_is_not(cached, change):
    served, _ = cached()
    assert said(ask(served)) == MISS
    assert said(ask(served, **change)) == HIT


def test_a_request_that_wants_variety_gets_it_unless_configured(cached, request):
    served, asked = cached()
    assert [said(ask(served, temperature=0.7)) for _ in range(2)] == [OFF, OFF]
    assert asked() == 2
    assert [said(ask(served, temperature=0.7, seed=3)) for _ in range(2)] == [MISS, HIT]


def test_configured_so_a_warm_request_is_answered_again(cached):
    served, _ = cached(cache={"sampled": True})
    assert [said(ask(served, temperature=0.7)) for _ in range(2)] == [MISS, HIT]


def test_a_client_may_leave_the_cache_out(cached):
    served, asked = cached()

    def wish(control: str) -> str:
        return said(ask(served, headers={"cache-control": control}))

    assert wish("no-store") == OFF
    assert said(ask(served)) == MISS
    assert wish("no-cache") == OFF
    assert wish("No-Store, max-age=0") == OFF
    assert asked() == 4
    assert said(ask(served)) == HIT


def keys(served, **limits):
    """Two keys and the headers by which they ask."""
    book = KeyBook(served.gateway.store.engine)
    made = [book.add(name, Limits(**limits)) for name in ("one", "two")]
    return [(key, {"authorization": f"Bearer {secret}"}) for key, secret in made]


@pytest.mark.parametrize("shared", [False, True])
def test_a_key_gets_another_keys_answer_only_where_that_is_configured(cached, shared):
    served, asked = cached(cache={"shared": shared}, server={"keys": True})
    (_, one), (_, two) = keys(served)
    assert said(ask(served, headers=one)) == MISS
    assert said(ask(served, headers=two)) == (HIT if shared else MISS)
    assert said(ask(served, headers=two)) == HIT
    assert asked() == (1 if shared else 2)


def test_a_hit_costs_a_key_nothing(cached, eventually):
    served, _ = cached(server={"keys": True})
    (key, one), _ = keys(served, budget_total=0.5)
    for word in (MISS, HIT, HIT):
        assert said(ask(served, headers=one)) == word
    with served.gateway.store.engine.connect() as connection:

        def spent() -> tuple[int, int]:
            balance = Books("test").balance(connection, key.id)
            connection.rollback()
            return balance.total_spent, balance.total_reserved

        eventually(lambda: spent() == (round(COST * 1e9), 0))


def test_a_spent_budget_still_gets_what_costs_nothing(cached):
    served, _ = cached(server={"keys": True}, cache={"shared": True})
    (_, one), _ = keys(served)
    _, secret = KeyBook(served.gateway.store.engine).add("poor", Limits(budget_total=0.0))
    poor = {"authorization": f"Bearer {secret}"}
    assert ask(served, headers=poor).status_code == 429
    assert said(ask(served, headers=one)) == MISS
    assert said(ask(served, headers=poor)) == HIT


def test_an_answer_of_a_target_that_the_key_may_not_use_is_not_for_it(cached, world, request):
    targets = [world.target("ok@t1", quality=0.9), world.target("ok@t2", quality=0.1)]
    served, _ = cached(targets=targets, cache={"shared": True}, server={"keys": True})
    (_, one), _ = keys(served)
    book = KeyBook(served.gateway.store.engine)
    _, secret = book.add("narrow", Limits(targets=("ok@t2",)))
    assert said(ask(served, headers=one)) == MISS
    narrow = ask(served, headers={"authorization": f"Bearer {secret}"})
    assert said(narrow) == MISS
    assert narrow.headers["x-wye-target"] == "ok@t2"


def test_requests_per_minute_count_what_comes_from_the_cache_too(cached):
    served, asked = cached(server={"keys": True})
    (_, one), _ = keys(served, requests_per_minute=3, tokens_per_minute=1000)
    statuses = [ask(served, headers=one).status_code for _ in range(4)]
    assert statuses == [200, 200, 200, 429]
    assert asked() == 1


@pytest.mark.parametrize("kind", ["500", "garbage", "reset", "400"])
def test_errors_are_never_kept(cached, kind):
    served, asked = cached(kind, retries={"attempts": 0}, breaker={"failures": 100})
    first = ask(served)
    assert first.status_code >= 400
    assert first.headers["x-wye-cache"] == MISS
    assert ask(served).headers["x-wye-cache"] == MISS
    assert asked() == 2


@pytest.mark.parametrize("kind", ["cut-midway", "reset-midway", "garbage-stream"])
def test_a_cut_stream_is_never_kept(cached, kind):
    served, asked = cached(kind, breaker={"failures": 100})
    answers = [ask(served, stream=True) for _ in range(2)]
    assert all("error" in answer.text for answer in answers)
    assert [a.headers["x-wye-cache"] for a in answers] == [MISS, MISS]
    assert asked() == 2


def _whole(message):
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": "stop"}
    return {"id": "x", "object": "chat.completion", "created": 1, "choices": [choice]}


@pytest.mark.parametrize("refuses", [True, False])
@pytest.mark.parametrize("stream", [False, True])
def test_a_refusal_is_never_kept_though_it_ends_as_other_answers_do(
    cached, world, request, stream, refuses
):
    served, asked = cached()
    model = f"ok@{request.node.name}"
    said_of_it = {"refusal": "I cannot."} if refuses else {"content": "Yes.", "refusal": None}
    if stream:
        choices = [
            {"index": 0, "delta": said_of_it, "finish_reason": None},
            {"index": 0, "delta": {}, "finish_reason": "stop"},
        ]
        pieces = [
            {"id": "x", "object": "chat.completion.chunk", "created": 1, "choices": [choice]}
            for choice in choices
        ]
        world.script(model, events=[*pieces, "[DONE]"])
    else:
        world.script(model, body=_whole(said_of_it))
    assert said(ask(served, stream=stream)) == MISS
    assert said(ask(served, stream=stream)) == (MISS if refuses else HIT)
    assert asked() == 1 + refuses


def test_an_answer_is_good_for_its_time(cached):
    served, _ = cached(cache={"ttl_seconds": 60})
    now = [1000.0]
    served.gateway.answers.clock = lambda: now[0]
    assert said(ask(served)) == MISS
    now[0] += 59
    again = ask(served)
    assert (said(again), again.headers["age"]) == (HIT, "59")
    now[0] += 1
    assert said(ask(served)) == MISS
    # A clock that goes back makes no answer older than time itself.
    now[0] -= 500
    assert said(ask(served)) == MISS


def test_an_answer_that_is_too_long_is_not_kept(cached):
    served, asked = cached(cache={"max_answer_kb": 0.1})
    for stream in (False, True):
        assert [said(ask(served, stream=stream)) for _ in range(2)] == [MISS, MISS]
    assert asked() == 4


@pytest.mark.parametrize("stream", [False, True])
def test_equal_questions_at_once_are_asked_upstream_once(cached, stream):
    served, asked = cached("slow-stream")
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: ask(served, stream=stream), range(16)))
    words = sorted(said(answer) for answer in answers)
    assert words == [HIT] * 15 + [MISS]
    assert len({answer.text for answer in answers}) == 1
    assert asked() == 1


@pytest.mark.parametrize("stream", [False, True])
def test_when_the_one_who_asks_leaves_another_asks(cached, eventually, stream):
    served, asked = cached("stumble-hang")
    body = {**BODY, "stream": stream}

    async def race() -> list[str]:
        async with httpx.AsyncClient(base_url=served.url, timeout=30, verify=False) as client:

            async def post() -> httpx.Response:
                return await client.post("/v1/chat/completions", json=body)

            leader = asyncio.create_task(post())
            while not asked():
                await asyncio.sleep(0.01)
            others = [asyncio.create_task(post()) for _ in range(4)]
            while len(requests(served)) < 5:
                await asyncio.sleep(0.01)
            leader.cancel()
            return [said(answer) for answer in await asyncio.gather(*others)]

    assert sorted(asyncio.run(race())) == [HIT] * 3 + [MISS]
    assert asked() == 2
    assert served.gateway.answers.flights == {}
    eventually(lambda: not requests(served))


def requests(served) -> list[str]:
    """What the gateway is answering."""
    return [task for task in served.tasks() if "run_asgi" in task]


def test_where_the_one_who_asks_fails_the_others_ask_for_themselves(cached):
    served, asked = cached("500", retries={"attempts": 0}, breaker={"failures": 100})
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: ask(served), range(8)))
    assert {answer.status_code for answer in answers} == {503}
    assert 1 <= asked() <= 8
    assert served.gateway.answers.flights == {}


def test_who_waits_for_another_and_leaves_is_let_go(cached, eventually):
    served, asked = cached("hang", server={"keys": True})
    (_, one), _ = keys(served, tokens_per_minute=10_000)
    with ThreadPoolExecutor(2) as pool:
        for _ in range(2):

            def impatient() -> None:
                with (
                    httpx.Client(base_url=served.url, verify=False, headers=one) as client,
                    pytest.raises(httpx.ReadTimeout),
                ):
                    client.post("/v1/chat/completions", json=BODY, timeout=0.5)

            pool.submit(impatient)
    eventually(lambda: served.gateway.answers.flights == {})
    assert asked() <= 2


def test_no_answer_is_kept_without_the_table(serve, world):
    served = serve(targets=[world.target("ok")])
    answer = ask(served)
    assert "x-wye-cache" not in answer.headers
    assert served.gateway.answers is None


def test_a_guarded_request_is_not_answered_from_the_cache(cached):
    served, _ = cached()
    assert said(ask(served)) == MISS
    served.gateway.dispatcher.guards = lambda chat: True
    assert said(ask(served)) == MISS
