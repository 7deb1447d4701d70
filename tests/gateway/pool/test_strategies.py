"""The strategies on the real model: what they ask it, what they count, what they answer."""

from __future__ import annotations

from collections import Counter

import pytest

from wye.gateway.pool import STRATEGIES, AnswerParams, ModelClient, StrategyError
from wye.gateway.pool.nearest import worked_examples
from wye.gateway.pool.vote import final_answer

pytestmark = pytest.mark.local
GREEDY = AnswerParams(max_tokens=12, temperature=0.0, seed=3, confidence=True)


class Listening(ModelClient):
    """The real client, which also keeps what was asked and what came."""

    def __init__(self, base_url):
        super().__init__(base_url)
        self.asked, self.done = [], []

    async def complete(self, messages, **options):
        done = await super().complete(messages, **options)
        self.asked.append((list(messages), options))
        self.done.append(done)
        return done


@pytest.fixture
async def client(model):
    async with Listening(model.base_url) as listening:
        yield listening


def user(text):
    return [{"role": "user", "content": text}]


@pytest.mark.parametrize("name", list(STRATEGIES))
async def test_tokens_are_the_sum_over_all_calls(name, client):
    answer = await STRATEGIES[name].answer(
        user("What is the capital of France?"), client=client, params=GREEDY
    )
    assert answer.text
    assert answer.input_tokens == sum(d.input_tokens for d in client.done)
    assert answer.output_tokens == sum(d.output_tokens for d in client.done)
    assert answer.latency_s > 0
    assert answer.finish_reason in ("stop", "length")
    assert answer.confidence in [d.confidence for d in client.done]
    assert answer.steps


@pytest.mark.parametrize("name", list(STRATEGIES))
async def test_a_stream_ends_with_the_answer_and_is_its_text(name, client):
    messages = user("Name a fruit.")
    pieces = [p async for p in STRATEGIES[name].stream(messages, client=client, params=GREEDY)]
    *text, answer = pieces
    assert all(isinstance(piece, str) for piece in text)
    assert "".join(text).strip() == answer.text
    if name in ("direct", "few_shot", "retrieval") and answer.output_tokens > 2:
        assert len(text) > 1


@pytest.mark.parametrize("name", list(STRATEGIES))
async def test_earlier_turns_reach_the_model(name, client):
    talk = [
        {"role": "system", "content": "You are terse."},
        {"role": "user", "content": "My dog is called Rex."},
        {"role": "assistant", "content": "Noted."},
        *user("What is my dog called?"),
    ]
    await STRATEGIES[name].answer(talk, client=client, params=GREEDY)
    for messages, _ in client.asked:
        contents = [m["content"] for m in messages]
        place = contents.index("My dog is called Rex.")
        assert contents[place + 1] == "Noted."
        assert contents[place + 2].endswith("What is my dog called?")


@pytest.mark.parametrize("name", list(STRATEGIES))
async def test_a_conversation_that_ends_otherwise_is_refused(name, client):
    with pytest.raises(StrategyError):
        await STRATEGIES[name].answer(
            [{"role": "assistant", "content": "hi"}], client=client, params=GREEDY
        )
    assert client.asked == []


async def test_direct_asks_the_conversation_as_it_is(client):
    await STRATEGIES["direct"].answer(user("Name a fruit."), client=client, params=GREEDY)
    [(messages, options)] = client.asked
    assert messages == user("Name a fruit.")
    assert (options["max_tokens"], options["temperature"], options["seed"]) == (12, 0.0, 3)


async def test_the_tool_computes_what_the_model_wrote(client):
    answer = await STRATEGIES["tool"].answer(
        user("What is 417 plus 268?"), client=client, params=GREEDY
    )
    assert answer.text == "685"
    assert [step.action for step in answer.steps] == ["expression", "value"]


async def test_the_tool_answers_directly_where_nothing_can_be_computed(client):
    question = user("Who painted the Mona Lisa?")
    answer = await STRATEGIES["tool"].answer(question, client=client, params=GREEDY)
    assert [step.action for step in answer.steps] == ["expression", "no value", "answer"]
    assert client.asked[-1][0] == question


async def test_retrieval_puts_the_fact_before_the_question(client):
    answer = await STRATEGIES["retrieval"].answer(
        user("What is the capital of Kenya?"), client=client, params=GREEDY
    )
    assert answer.steps[0].text == "The capital of Kenya is Nairobi."
    assert "The capital of Kenya is Nairobi." in client.asked[0][0][-1]["content"]
    assert "Nairobi" in answer.text


async def test_few_shot_and_majority_show_the_worked_examples_of_the_topic(client):
    question = user("What is the plural of candle?")
    shown = [
        {"role": role, "content": text}
        for example in worked_examples(question[0]["content"])
        for role, text in zip(("user", "assistant"), example, strict=True)
    ]
    assert len(shown) == 8
    for name in ("few_shot", "majority"):
        await STRATEGIES[name].answer(question, client=client, params=GREEDY)
    assert all(messages == [*shown, *question] for messages, _ in client.asked)


async def test_majority_stops_once_the_vote_is_decided_and_gives_the_winner(client):
    answer = await STRATEGIES["majority"].answer(
        user("What is the capital of Italy?"), client=client, params=GREEDY
    )
    votes = Counter(final_answer(d.text) for d in client.done)
    assert 3 <= len(client.done) <= 5
    assert len(client.done) == 5 or max(votes.values()) == 3
    assert votes[final_answer(answer.text)] == max(votes.values())
    assert len({options["seed"] for _, options in client.asked}) == len(client.asked)
