"""The lost prompt cache is part of the expected cost, to the last token."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wye.gateway.config import Config
from wye.gateway.conversation.switching import Conversations
from wye.gateway.estimates import Expectations, Expected
from wye.gateway.money.usage import Usage
from wye.gateway.openai_api import ChatRequest, parse_chat
from wye.gateway.surfaces import MESSAGES
from wye.query.policies import get_policy

# Characters of one token by the rule of thumb, so that estimates of these texts are exact.
TOKEN = "abc "


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def target(name: str, price: float = 2.0, cached: float | None = None, **values: Any) -> dict:
    prices = {"price_in_per_mtok": price, "price_out_per_mtok": values.pop("output", 0.0)}
    if cached is not None:
        prices["price_cached_per_mtok"] = cached
    return {"name": name, "base_url": "http://127.0.0.1:1/v1", "quality": 0.8, **prices, **values}


class Talk:
    """A conversation that grows by whole tokens; what it costs is known beforehand."""

    def __init__(self, *targets: dict, owner: str | None = None, **table: Any) -> None:
        self.config = Config.model_validate({"targets": targets, "conversation": table})
        self.clock = Clock()
        self.follows = Conversations(self.config.targets, self.config.conversation, self.clock)
        self.messages: list[dict[str, Any]] = []
        self.owner = owner

    def ask(self, tokens: int) -> Expected:
        """Expected costs of the conversation with one more message of so many tokens."""
        # Four characters of the role belong to the text that is counted.
        self.messages.append({"role": "user", "content": TOKEN * (tokens - 1)})
        return self.expect()

    def expect(self, owner: str | None = None, session: str | None = None) -> Expected:
        chat = parse_chat({"model": "wye", "messages": self.messages})
        chat = _counted(chat, sum(4 + len(m["content"]) for m in self.messages))
        expected = Expectations(None, self.config.targets).now([chat])[0]
        self.last = self.follows.expect(chat, expected, owner or self.owner, session)
        if self.last.conversation is not None:
            shifted = expected.estimate.cost[0] + self.last.conversation.shift
            np.testing.assert_allclose(self.last.estimate.cost[0], shifted.clip(0.0), atol=1e-12)
        self.tokens = chat.input_tokens_estimate
        return self.last

    def answer(self, name: str, **usage: int) -> None:
        followed = self.last.conversation
        assert followed is not None
        self.follows.observe(followed, name, Usage(**{"input": self.tokens, **usage}))

    def cost(self, name: str) -> float:
        names = self.last.estimate.models
        return float(self.last.estimate.cost[0, names.index(name)])


def _counted(chat: ChatRequest, characters: int) -> ChatRequest:
    return ChatRequest(**{**vars(chat), "characters": characters})


def test_a_first_turn_costs_its_full_price():
    talk = Talk(target("a", cached=0.5), target("b"))
    talk.ask(2048)
    assert talk.cost("a") == pytest.approx(2048 * 2 / 1e6)
    assert talk.last.conversation is not None
    assert talk.last.conversation.reasons("a", ["a", "b"]) == ()


def test_the_next_turn_reads_whole_steps_from_the_cache():
    talk = Talk(target("a", cached=0.5), target("b"))
    talk.ask(2100)
    talk.answer("a")
    talk.ask(100)
    assert talk.cost("a") == pytest.approx((2048 * 0.5 + 152 * 2) / 1e6)
    assert talk.cost("b") == pytest.approx(2200 * 2 / 1e6)
    shown = talk.last.conversation.figures("b")
    assert shown == {
        "cached_tokens": 0,
        "switch_cost_usd": pytest.approx(2048 * 1.5 / 1e6),
    }
    assert talk.last.conversation.figures("a") == {"cached_tokens": 2048, "switch_cost_usd": 0.0}
    reason = talk.last.conversation.reasons("a", ["a", "b"])[0]
    assert reason.startswith("stays: switching to b would cost $0.003072 in lost cache")


def test_a_cache_is_gone_when_its_time_is_over_and_every_use_renews_it():
    talk = Talk(target("a", cached=0.5, prompt_cache={"seconds": 60}), target("b"))
    talk.ask(2048)
    talk.answer("a")
    talk.clock.now = 59
    talk.ask(128)
    talk.answer("a")
    talk.clock.now = 118
    assert talk.expect().conversation.cached == {"a": 2176}
    talk.clock.now = 119
    assert talk.expect().conversation.cached == {}


def test_no_key_sees_what_is_cached_for_another():
    talk = Talk(target("a", cached=0.5), target("b"), owner="one")
    talk.ask(2048)
    talk.answer("a")
    assert talk.expect().conversation.cached == {"a": 2048}
    assert talk.expect(owner="two").conversation.cached == {}


def test_another_beginning_is_another_conversation():
    talk = Talk(target("a", cached=0.5), target("b"))
    talk.ask(2048)
    talk.answer("a")
    talk.messages[0] = {"role": "user", "content": "x" + talk.messages[0]["content"]}
    assert talk.expect().conversation.cached == {}


def test_two_conversations_share_what_is_cached_of_the_same_system_prompt():
    talk = Talk(target("a", cached=0.5), target("b"))
    talk.messages = [{"role": "system", "content": TOKEN * 2048}]
    talk.ask(200)
    talk.answer("a")
    talk.messages[1:] = []
    talk.ask(300)
    assert 1920 <= talk.last.conversation.cached["a"] <= 2048


def test_the_measured_length_of_a_prompt_prices_it_at_every_target():
    talk = Talk(target("a", cached=0.5), target("b", price=3.0))
    talk.ask(2048)
    talk.answer("a", input=3072)
    talk.ask(128)
    assert talk.cost("a") == pytest.approx((3072 * 0.5 + 128 * 2) / 1e6)
    assert talk.cost("b") == pytest.approx(3200 * 3 / 1e6)


def test_a_provider_that_does_not_read_what_it_should_have_cached_is_trusted_less():
    talk = Talk(target("a", cached=0.5), target("b"))
    talk.ask(8192)
    talk.answer("a")
    talk.expect()
    talk.answer("a", cached_input=8192)
    assert talk.expect().conversation.cached == {"a": 8192}
    for _ in range(20):
        talk.expect()
        talk.answer("a", cached_input=0)
    assert talk.expect().conversation.cached["a"] < 8192 / 4
    for _ in range(100):
        talk.expect()
        talk.answer("a", cached_input=8192)
    assert talk.expect().conversation.cached["a"] > 8192 * 0.8


def test_a_provider_that_never_tells_of_its_cache_is_taken_by_its_rule():
    talk = Talk(target("a", cached=0.5), target("b"))
    for _ in range(5):
        talk.ask(2048)
        talk.answer("a")
    assert talk.expect().conversation.cached == {"a": 5 * 2048}


def test_further_turns_spread_the_lost_cache_over_them():
    for ahead in (0.0, 1.0, 3.0):
        talk = Talk(target("a", cached=0.5), target("b", cached=0.5), further_turns=ahead)
        talk.ask(2048)
        talk.answer("a")
        talk.expect()
        lost = talk.last.conversation.switch_cost("b")
        assert lost == pytest.approx(2048 * 1.5 / 1e6 / (1 + ahead))


def test_a_named_session_may_be_trusted_instead_of_its_messages():
    talk = Talk(target("a", cached=0.5), target("b"), follow="session")
    talk.messages = [{"role": "user", "content": TOKEN * 2047}]
    talk.expect(session="s")
    talk.answer("a")
    talk.messages = [{"role": "user", "content": "other " + TOKEN * 3000}]
    assert talk.expect(session="s").conversation.cached == {"a": 2048}
    assert talk.expect(session="t").conversation.cached == {}
    assert talk.expect().conversation.cached == {}
    talk.messages = [{"role": "user", "content": TOKEN * 1100}]
    assert talk.expect(session="s").conversation.cached == {}


def test_memory_is_bounded():
    talk = Talk(target("a", cached=0.5), target("b"), max_prefixes=10)
    for number in range(50):
        talk.messages = [{"role": "user", "content": f"{number} " + TOKEN * 2048}]
        talk.expect()
        talk.answer("a")
    assert len(talk.follows._memory) == 10
    assert talk.expect().conversation.cached == {"a": 2048}


def test_what_is_over_does_not_stay_in_memory():
    talk = Talk(target("a", cached=0.5), target("b"))
    for number in range(50):
        talk.messages = [{"role": "user", "content": f"{number} " + TOKEN * 2048}]
        talk.clock.now += 200
        talk.expect()
        talk.answer("a")
    assert len(talk.follows._memory) <= 3


def test_a_short_request_is_not_looked_at():
    talk = Talk(target("a", cached=0.5), target("b"))
    assert talk.ask(1000).conversation is None


@pytest.mark.parametrize(
    "values",
    [
        {"targets": [target("a"), target("b")]},
        {"targets": [target("a", cached=2.0)]},
        {"targets": [target("a", cached=0.5, prompt_cache={"rule": "none"})]},
        {"targets": [target("a", cached=0.5)], "conversation": {"switching_cost": False}},
    ],
)
def test_nothing_is_followed_where_nothing_can_be_lost(values):
    from wye.gateway.conversation.switching import conversations_of

    assert conversations_of(Config.model_validate(values)) is None


def anthropic(messages: list[dict[str, Any]], **fields: Any) -> ChatRequest:
    body = {"model": "wye", "max_tokens": 100, "messages": messages, **fields}
    return MESSAGES.read(body, {})


def test_anthropic_caches_what_the_request_marks_and_writing_it_costs_more():
    config = Config.model_validate(
        {
            "targets": [
                target("a", 3.0, 0.3, kind="anthropic", price_cache_write_per_mtok=3.75),
                target("b", 3.0, 0.3, kind="anthropic", price_cache_write_per_mtok=3.75),
            ]
        }
    )
    follows = Conversations(config.targets, config.conversation, Clock())
    text = TOKEN * 3000

    def asked(chat: ChatRequest) -> Expected:
        return follows.expect(chat, Expectations(None, config.targets).now([chat])[0], None, None)

    plain = asked(anthropic([{"role": "user", "content": text}]))
    mark = {"cache_control": {"type": "ephemeral"}}
    marked = [{"role": "user", "content": [{"type": "text", "text": text, **mark}]}]
    first = asked(anthropic(marked))
    written = first.estimate.cost[0] - plain.estimate.cost[0]
    assert written == pytest.approx(3000 * 0.75 / 1e6, rel=0.01)
    follows.observe(first.conversation, "a", Usage(input=3004, output=9, cache_write=3000))
    # The mark moves on; what stood before it is found again, as a plain text.
    turns = [
        {"role": "user", "content": text},
        {"role": "assistant", "content": "Yes."},
        {"role": "user", "content": [{"type": "text", "text": TOKEN * 500, **mark}]},
    ]
    second = asked(anthropic(turns))
    assert second.conversation.cached == {"a": 3000}
    assert second.conversation.holder == "a"
    lost = second.conversation.switch_cost("b")
    assert lost == pytest.approx(3000 * (3.75 - 0.3) / 1e6, rel=0.01)
    # Without any mark Anthropic reads no cache.
    turns[-1] = {"role": "user", "content": TOKEN * 500}
    assert asked(anthropic(turns)).conversation.switch_cost("b") == 0.0


def test_tools_nested_too_deeply_are_not_followed():
    deep: Any = "x"
    for _ in range(3000):
        deep = {"a": deep}
    chat = parse_chat(
        {
            "model": "wye",
            "messages": [{"role": "user", "content": TOKEN * 2048}],
            "tools": [deep],
        }
    )
    config = Config.model_validate({"targets": [target("a", cached=0.5)]})
    follows = Conversations(config.targets, config.conversation)
    expected = Expectations(None, config.targets).now([chat])[0]
    assert follows.expect(chat, expected, None, None) is expected


prices = st.floats(0.1, 20.0)
shares = st.floats(0.05, 0.95)


@settings(max_examples=100, deadline=None)
@given(
    price_a=prices, price_b=prices, share_a=shares, share_b=shares,
    turns=st.lists(st.integers(1, 3000), min_size=1, max_size=5),
)  # fmt: skip
def test_at_equal_quality_it_switches_exactly_where_the_saving_exceeds_the_lost_cache(
    price_a, price_b, share_a, share_b, turns
):
    talk = Talk(target("a", price_a, price_a * share_a), target("b", price_b, price_b * share_b))
    talk.ask(1100)
    talk.answer("a")
    for tokens in turns:
        talk.ask(tokens)
        saving = talk.tokens * (price_a - price_b) / 1e6
        lost = talk.last.conversation.switch_cost("b")
        if abs(saving - lost) > 1e-9:
            assert chosen(talk) == ("b" if saving > lost else "a")
        # What is expected of staying is the price of this turn, by the provider's own rule.
        used = Usage(talk.tokens, cached_input=talk.last.conversation.cached["a"])
        assert talk.cost("a") == pytest.approx(talk.config.targets[0].price(used))
        talk.answer("a")


@settings(max_examples=50, deadline=None)
@given(
    price_a=prices, price_b=prices, share_a=shares, share_b=shares, ahead=st.integers(0, 6),
)  # fmt: skip
def test_with_further_turns_it_takes_what_is_cheapest_over_all_of_them(
    price_a, price_b, share_a, share_b, ahead
):
    talk = Talk(
        target("a", price_a, price_a * share_a),
        target("b", price_b, price_b * share_b),
        further_turns=ahead,
    )
    talk.ask(2048)
    talk.answer("a")
    talk.expect()
    whole = {"a": Usage(2048, cached_input=2048), "b": Usage(2048)}
    sums = {
        t.name: t.price(whole[t.name]) + ahead * t.price(Usage(2048, cached_input=2048))
        for t in talk.config.targets
    }
    if abs(sums["a"] - sums["b"]) > 1e-9:
        assert chosen(talk) == min(sums, key=lambda name: sums[name])


def chosen(talk: Talk) -> str:
    policy = get_policy("utility", cost_weight=1000.0)
    choice = policy.choose(talk.last.estimate, generator=np.random.default_rng(0))
    return talk.last.estimate.models[int(choice.plan.target[0])]


def spend(*, counted: bool) -> tuple[float, list[str]]:
    """USD of a replayed conversation under one policy, at providers that cache by their rule.

    `b` is a little cheaper a token; on odd turns a router finds `a` a little better, on even turns
    `b`, so a policy that does not see the cache goes to and fro.
    """
    talk = Talk(target("a", 2.0, 0.2), target("b", 1.99, 0.199))
    policy = get_policy("utility", cost_weight=10.0)
    total, taken = 0.0, []
    really: dict[str, int] = {}
    for turn in range(10):
        plain_or_counted = talk.ask(1280)
        quality = np.array([[0.81, 0.80] if turn % 2 else [0.80, 0.81]])
        if counted:
            estimate = plain_or_counted.estimate
        else:
            chat = parse_chat({"model": "wye", "messages": talk.messages})
            chat = _counted(chat, 4 * talk.tokens)
            estimate = Expectations(None, talk.config.targets).now([chat])[0].estimate
        estimate = type(estimate)(**{**vars(estimate), "quality": quality})
        choice = policy.choose(estimate, generator=np.random.default_rng(0))
        name = estimate.models[int(choice.plan.target[0])]
        found = next(t for t in talk.config.targets if t.name == name)
        used = Usage(talk.tokens, cached_input=really.get(name, 0))
        cost = found.price(used)
        assert cost is not None
        total += cost
        really[name] = talk.tokens - talk.tokens % 128
        talk.answer(name, cached_input=used.cached_input)
        taken.append(name)
    return total, taken


def test_replayed_traffic_costs_less_where_the_lost_cache_is_counted():
    blind, to_and_fro = spend(counted=False)
    seeing, stayed = spend(counted=True)
    assert len(set(to_and_fro)) == 2
    assert len(set(stayed)) == 1
    sizes = [1280 * turn for turn in range(1, 11)]
    exact = sum(1280 * 1.99 + (size - 1280) * 0.199 for size in sizes) / 1e6
    assert seeing == pytest.approx(exact)
    assert seeing < blind


def test_a_text_alone_is_the_same_prompt_however_it_is_written():
    talk = Talk(target("a", cached=0.5), target("b"))
    talk.ask(2048)
    talk.answer("a")
    text = talk.messages[0]["content"]
    talk.messages = [{"role": "user", "content": [{"type": "text", "text": text}]}]
    chat = parse_chat({"model": "wye", "messages": talk.messages})
    expected = Expectations(None, talk.config.targets).now([chat])[0]
    found = talk.follows.expect(chat, expected, None, None).conversation
    assert found.cached == {"a": 2048}


def test_the_cost_of_a_target_without_prices_stays_unknown():
    talk = Talk(
        target("a", cached=0.5),
        {"name": "b", "base_url": "http://127.0.0.1:1/v1", "quality": 0.8},
    )
    talk.ask(2048)
    talk.answer("a")
    talk.ask(100)
    assert np.isnan(talk.cost("b"))
    assert talk.cost("a") == pytest.approx((2048 * 0.5 + 100 * 2) / 1e6)
