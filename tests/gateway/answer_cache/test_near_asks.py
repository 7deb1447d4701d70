"""Asks that are nearly the same share an answer where that is configured, and nowhere else."""

from __future__ import annotations

import httpx

HIT, MISS = "exact", "miss"


def ask(served, text="What is 6 x 7?", *, headers=None, **fields) -> httpx.Response:
    body = {"model": "wye", "messages": [{"role": "user", "content": text}], **fields}
    return served.http.post("/v1/chat/completions", json=body, headers=headers)


def said(answer: httpx.Response) -> str:
    assert answer.status_code == 200, answer.text
    return answer.headers["x-wye-cache"]


def test_near_asks_share_an_answer_where_that_is_configured(cached):
    served, asked = cached(cache={"semantic": True})
    first = ask(served, "What is the capital of the country of France?")
    assert said(first) == MISS
    near = ask(served, "What is the capital of the country of France ?")
    assert said(near) == "semantic"
    decision = served.decision(near)
    assert decision["reasons"][0].startswith("answered from the semantic cache of")
    assert decision["features"]["cache"]["cosine"] >= 0.98
    assert said(ask(served, "What is the capital of the country of Spain?")) == MISS
    assert asked() == 2


def test_near_asks_are_compared_within_an_equal_conversation_alone(cached):
    served, _ = cached(cache={"semantic": True})

    def turn(system: str, text: str, **fields) -> str:
        messages = [{"role": "system", "content": system}, {"role": "user", "content": text}]
        body = {"model": "wye", "messages": messages, **fields}
        return said(served.http.post("/v1/chat/completions", json=body))

    asks = ("How do I cook a soft egg?", "How can I cook a soft egg?")
    assert turn("Be brief.", asks[0]) == MISS
    assert turn("Be verbose.", asks[1]) == MISS
    assert turn("Be brief.", asks[1], max_tokens=5) == MISS
    assert turn("Be brief.", asks[1], n=2) == MISS
    assert turn("Be brief.", asks[1]) == "semantic"


def test_tools_pictures_and_sound_are_compared_exactly_alone(cached, world, request):
    name = f"ok@{request.node.name}"
    served, _ = cached(
        cache={"semantic": True}, targets=[world.target(name, tags=["tools", "vision"])]
    )
    tools = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    asks = ("How do I cook a soft egg?", "How can I cook a soft egg?")
    assert [said(ask(served, text, tools=tools)) for text in asks] == [MISS, MISS]
    assert said(ask(served, asks[0], tools=tools)) == HIT
