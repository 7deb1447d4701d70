"""Service tiers with prices of their own: what is set aside, and what is booked."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wye.gateway.config import Target
from wye.gateway.config_file import ConfigError, parse_config
from wye.gateway.money.bounds import bounds_of, most_cost
from wye.gateway.money.keys import KeyBook, Limits
from wye.gateway.money.usage import Usage

TIERS = {
    "priority": {"price_in_per_mtok": 10.0, "price_out_per_mtok": 20.0},
    "flex": {"price_in_per_mtok": 0.5, "price_out_per_mtok": 1.0},
}
# USD of the 11 and 6 tokens that every answer below reports.
USUAL, PRIORITY, FLEX = 23e-6, 230e-6, 11.5e-6
ASKED = {"model": "wye", "max_tokens": 6, "messages": [{"role": "user", "content": "6 x 7?"}]}
SAID = {"prompt_tokens": 11, "completion_tokens": 6}


def tiered(world, told: str | None, **values) -> dict:
    """A target whose answers tell this tier, whole and in pieces."""
    model = f"told-{told}-whole-and-in-pieces"
    tier = {} if told is None else {"service_tier": told}
    message = {"role": "assistant", "content": "42"}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    world.script(model, body={"choices": [choice], "usage": SAID, **tier})
    return world.target(model, tiers=TIERS, **values)


def streaming(world, told: str) -> dict:
    """A target whose stream tells the tier at its beginning, and nothing beside the usage."""
    model = f"streams-{told}"
    first = {"index": 0, "delta": {"content": "42"}, "finish_reason": None}
    last = {"index": 0, "delta": {}, "finish_reason": "stop"}
    events = [
        {"choices": [first], "service_tier": told},
        {"choices": [last]},
        {"choices": [], "usage": SAID},
        "[DONE]",
    ]
    world.script(model, events=events)
    return world.target(model, tiers=TIERS)


def cost(served, answer) -> float:
    assert answer.status_code == 200, answer.text
    return float(served.decision(answer)["outcome"]["cost_usd"])


@pytest.mark.parametrize(
    ("asked", "told", "expected"),
    [
        (None, None, USUAL),
        (None, "default", USUAL),
        (None, "priority", PRIORITY),
        ("auto", "flex", FLEX),
        ("auto", "auto", USUAL),
        ("priority", "priority", PRIORITY),
        ("priority", "default", USUAL),
        ("priority", None, PRIORITY),
        ("flex", "flex", FLEX),
        # It may not have been heard at all, and is billed as usual then.
        ("flex", None, USUAL),
        ("scale", "scale", USUAL),
    ],
)
def test_what_is_booked_is_by_the_tier_that_the_answer_tells(
    serve, world, eventually, asked, told, expected
):
    served = serve(targets=[tiered(world, told)])
    fields = {} if asked is None else {"service_tier": asked}
    answer = served.ask(**fields)
    eventually(lambda: served.decision(answer)["outcome"])
    assert cost(served, answer) == pytest.approx(expected)


def test_a_stream_is_booked_by_the_tier_of_any_of_its_pieces(serve, world, eventually):
    served = serve(targets=[streaming(world, "priority")])
    answer = served.ask(stream=True)
    assert answer.text.rstrip().endswith("[DONE]")
    eventually(lambda: served.decision(answer)["outcome"])
    assert cost(served, answer) == pytest.approx(PRIORITY)


@pytest.mark.parametrize("surface", ["messages", "responses"])
def test_other_surfaces_tell_their_tier_too(serve, world, eventually, surface):
    used = {"input_tokens": 11, "output_tokens": 6}
    whole = {
        "messages": {
            "type": "message", "role": "assistant", "content": [{"type": "text", "text": "42"}],
            "stop_reason": "end_turn", "usage": {**used, "service_tier": "priority"},
        },
        "responses": {
            "object": "response", "status": "completed", "output": [], "service_tier": "priority",
            "usage": {**used, "input_tokens_details": {"cached_tokens": 0}},
        },
    }  # fmt: skip
    world.script(f"{surface}-first", body=whole[surface])
    target = world.target(f"{surface}-first", speaks=[surface], tiers=TIERS)
    served = serve(targets=[target])
    asked = {
        "messages": {"max_tokens": 6, "messages": ASKED["messages"]},
        "responses": {"max_output_tokens": 6, "input": "6 x 7?"},
    }
    answer = served.http.post(f"/v1/{surface}", json={"model": "wye", **asked[surface]})
    eventually(lambda: served.decision(answer)["outcome"])
    assert cost(served, answer) == pytest.approx(PRIORITY)


def test_a_budget_holds_for_the_dearest_tier_that_may_be_billed(serve, world, eventually):
    target = tiered(world, "priority")
    served = serve(targets=[target], server={"keys": True})
    book = KeyBook(served.gateway.store.engine)

    def ask(secret: str, tier: str | None):
        fields = {} if tier is None else {"service_tier": tier}
        headers = {"authorization": f"Bearer {secret}"}
        return served.http.post("/v1/chat/completions", json={**ASKED, **fields}, headers=headers)

    found = Target.model_validate(target)
    usual = most_cost(found, bounds_of({**ASKED, "service_tier": "default"}, 6), 6)
    dear = most_cost(found, bounds_of({**ASKED, "service_tier": "priority"}, 6), 6)
    assert isinstance(usual, float)
    assert isinstance(dear, float)
    assert dear == pytest.approx(10 * usual, rel=0.1)
    _, thrifty = book.add("thrifty", Limits(per_request=2 * usual))
    for tier in (None, "auto", "priority"):
        refused = ask(thrifty, tier)
        assert refused.status_code == 429
        assert "can cost up to" in refused.json()["error"]["message"]
    for tier in ("default", "flex"):
        assert ask(thrifty, tier).status_code == 200
    rich, secret = book.add("rich", Limits(budget_total=2 * dear))
    assert ask(secret, "priority").status_code == 200
    eventually(lambda: book.balances()[rich.id].total_reserved == 0)
    assert book.balances()[rich.id].total_spent == round(PRIORITY * 1e9)
    refused = ask(secret, "of tomorrow")
    assert refused.status_code == 429
    assert "[targets.tiers.NAME]" in refused.json()["error"]["message"]


@given(
    st.sampled_from([None, "auto", "default", "priority", "flex"]),
    st.sampled_from(["default", "priority", "flex", None]),
    st.integers(0, 100),
    st.integers(0, 6),
    st.integers(0, 100),
)
def test_no_answer_costs_more_than_was_set_aside(asked, told, taken, given, cached):
    tiers = {**TIERS, "priority": {**TIERS["priority"], "price_cached_per_mtok": 1.0}}
    target = Target(
        name="a", base_url="http://127.0.0.1:1/v1", tiers=tiers,
        price_in_per_mtok=1.0, price_out_per_mtok=2.0,
    )  # fmt: skip
    most = most_cost(target, bounds_of({**ASKED, "service_tier": asked}, 6), 6)
    usage = Usage(taken, given, cached_input=min(cached, taken))
    paid = target.price(usage, asked, told)
    assert isinstance(most, float)
    assert paid is not None
    # Providers serve below what was asked for, and above it only who left it open.
    if told != "priority" or asked in (None, "auto", "priority"):
        assert paid <= most


@pytest.mark.parametrize("name", ["auto", "default", "standard", "standard_only", '"a b"'])
def test_a_tier_at_the_list_price_is_no_tier_of_its_own(name):
    prices = "price_in_per_mtok = 1\nprice_out_per_mtok = 2\n"
    target = f'[[targets]]\nname = "a"\nbase_url = "http://127.0.0.1:1/v1"\n{prices}'
    with pytest.raises(ConfigError, match=r"targets\.0\.tiers"):
        parse_config(f"{target}[targets.tiers.{name}]\n{prices}")
