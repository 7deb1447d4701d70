"""A conversation stays where its prompt is cached, and the decision says what that was worth."""

from __future__ import annotations

import pytest

TEXT = "Some words of a long document. "


@pytest.fixture
def talk(serve, world):
    """Of a configuration: asks turn by turn, the first turn of the target that holds the cache."""

    def begin(name: str, **values):
        priced = {"price_cached_per_mtok": 0.1, "price_in_per_mtok": 1.0}
        targets = [
            world.target(f"caches@{name}-better", quality=0.81, **priced),
            world.target(f"caches@{name}-first", quality=0.80, **priced),
        ]
        values.setdefault("policies", {"worth": {"kind": "utility", "cost_weight": 10.0}})
        served = serve(targets=targets, **values)
        messages = [{"role": "user", "content": TEXT * 800}]

        def turn(model: str = "wye", **fields):
            answer = served.ask(model, messages=messages, **fields)
            assert answer.status_code == 200, answer.text
            messages.append({"role": "assistant", "content": "Noted."})
            messages.append({"role": "user", "content": TEXT * 40})
            return answer.headers["x-wye-target"].removeprefix(f"caches@{name}-"), answer

        turn(targets[1]["name"])
        return served, turn

    return begin


@pytest.mark.parametrize("stream", [False, True])
def test_a_conversation_stays_where_leaving_costs_more_than_it_gains(talk, stream):
    served, turn = talk(f"stays{stream}")
    taken, answer = turn(stream=stream)
    assert taken == "first"
    decision = served.decision(answer)
    shown = {c["target"].split("-")[-1]: c for c in decision["candidates"]}
    # 800 repetitions of 31 characters are 6,200 tokens, of which whole steps of 128 are cached.
    assert shown["first"]["cached_tokens"] == 6144
    assert shown["better"]["cached_tokens"] == 0
    assert shown["better"]["switch_cost_usd"] == pytest.approx(6144 * 0.9 / 1e6)
    assert shown["first"]["switch_cost_usd"] == 0.0
    assert any("in lost cache" in reason for reason in decision["reasons"])
    outcome = decision["outcome"]
    assert outcome["cached_input_tokens"] == 6144
    expected_input = (6144 * 0.1 + (outcome["input_tokens"] - 6144) * 1.0) / 1e6
    assert outcome["cost_usd"] == pytest.approx(expected_input + 6 * 2.0 / 1e6)
    # The rest of the estimate is an answer of 300 tokens, where nothing is known of its length.
    foreseen = shown["first"]["cost_usd"] - 300 * 2.0 / 1e6
    assert foreseen == pytest.approx(expected_input, rel=0.01)


def test_the_same_conversation_goes_to_and_fro_where_its_cache_is_not_counted(talk):
    served, turn = talk("blind", conversation={"switching_cost": False})
    taken, answer = turn()
    assert taken == "better"
    assert "cached_tokens" not in served.decision(answer)["candidates"][0]


def test_a_conversation_leaves_where_it_gains_more_than_it_loses(talk):
    served, turn = talk("leaves", policies={"worth": {"kind": "utility", "cost_weight": 1.0}})
    taken, answer = turn()
    assert taken == "better"
    reasons = served.decision(answer)["reasons"]
    assert any(reason.startswith("leaves caches@leaves-first: $0.005530") for reason in reasons)


def test_what_is_saved_is_counted_against_a_baseline_with_the_same_cache(talk):
    served, turn = talk("base", baseline="caches@base-better")
    taken, answer = turn()
    assert taken == "first"
    outcome = served.decision(answer)["outcome"]
    assert outcome["baseline_usd"] == pytest.approx(outcome["cost_usd"])
