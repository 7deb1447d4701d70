"""Canaries: asked at their interval, booked, and alarmed by a model that answers otherwise."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from wye.gateway.watch.canaries import CanaryMonitor, likeness
from wye.query.guards import RejectionWatch


@given(st.text(max_size=40), st.text(max_size=40))
def test_likeness_is_symmetric_and_one_only_of_the_same_trigrams(one, other):
    assert 0 <= likeness(one, other) == likeness(other, one) <= 1
    assert likeness(one, one) == 1


PROMPTS = [f"prompt {n}" for n in range(5)]
WORDS = np.array(
    [
        "the",
        "sea",
        "is",
        "grey",
        "and",
        "cold",
        "but",
        "near",
        "land",
        "it",
        "turns",
        "green",
        "in",
        "may",
    ]
)


def answer(generator, prompt: str, model: str) -> str:
    """One that varies a little from time to time, and a lot from model to model."""
    seed = sum(map(ord, prompt + model))
    words = np.random.default_rng(seed).choice(WORDS, 30)
    words[generator.integers(0, 30, 3)] = generator.choice(WORDS, 3)
    return " ".join(words)


def test_false_alarms_of_canaries_are_as_rare_as_stated():
    generator = np.random.default_rng(1)
    level, asked, alarms = 250.0, 0, 0
    for _ in range(4):
        monitor = CanaryMonitor(level, generator)
        for _ in range(200):
            for prompt in PROMPTS:
                alarms += monitor.take(prompt, answer(generator, prompt, "a"))
                asked += 1
    assert alarms <= stats.poisson.ppf(0.999, asked / level)


def test_another_model_is_found_within_a_few_rounds():
    generator = np.random.default_rng(2)
    for _ in range(5):
        monitor = CanaryMonitor(100_000.0, generator)
        for _ in range(30):
            for prompt in PROMPTS:
                assert not monitor.take(prompt, answer(generator, prompt, "a"))
        asked = 0
        while not monitor.take(PROMPTS[asked % 5], answer(generator, PROMPTS[asked % 5], "b")):
            asked += 1
            assert asked < 50
        # What it answers from here on is usual.
        for _ in range(20):
            for prompt in PROMPTS:
                assert not monitor.take(prompt, answer(generator, prompt, "b"))


def test_canaries_of_a_real_gateway_are_asked_booked_and_kept_apart(serve, world, eventually):
    before = len(world.seen("ok"))
    served = serve(
        targets=[world.target("best", model="ok"), world.target("500")],
        watch={
            "seconds": 0.05,
            "canaries": {"prompts": ["Name ten primes.", "Say hello."], "every_seconds": 3600},
        },
    )

    def state() -> dict:
        found = served.http.get("/api/alarms").json()["monitors"]
        return {(m["kind"], m["subject"]): m for m in found}

    eventually(lambda: state()["canary", "best"]["seen"] == 2)
    asked = [note["body"] for note in world.seen("ok")[before:]]
    assert [body["messages"][0]["content"] for body in asked] == ["Name ten primes.", "Say hello."]
    assert {(body["temperature"], body["max_tokens"]) for body in asked} == {(0, 32)}
    eventually(lambda: len(served.http.get("/v1/decisions").json()["data"]) == 4)
    rows = served.http.get("/v1/decisions").json()["data"]
    made = [served.http.get(f"/v1/decisions/{row['id']}").json() for row in rows]
    assert {one["session"] for one in made} == {"wye-canary"}
    booked = [one["outcome"]["cost_usd"] for one in made if one["target"] == "best"]
    assert booked == [pytest.approx(23e-6)] * 2
    served.ask(text="a question of somebody")
    eventually(lambda: state()["traffic", None]["seen"] == 1)
    assert state()["canary", "500"]["seen"] == 0


def test_a_rising_rate_of_rejections_is_found_and_a_steady_one_is_not():
    generator = np.random.default_rng(3)
    watch = RejectionWatch(0.05, rise=0.1, false_alarm_every=100_000.0)
    assert not watch.update(generator.random(3000) < 0.05)
    assert watch.update(generator.random(400) < 0.25)
