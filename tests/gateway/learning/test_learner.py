"""Policies that learn: the propensity that is logged, what feedback teaches, restarts, company."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa

from wye.gateway.config import Config, ConfigError, Router
from wye.gateway.learning.learner import LEARNERS, Learner
from wye.gateway.learning.learner_feed import LearnerFeed
from wye.gateway.logged_traffic import read_traffic
from wye.gateway.openai_api import parse_chat
from wye.gateway.records import FeedbackRecord, OutcomeRecord
from wye.gateway.router_service import RouterService
from wye.gateway.store import Store

CODE, TALK = "def f(x):\n    return x + 1\n\nWhy does f({}) fail?", "Who was king in the year {}?"
# The truth: `coder` is good at code alone, `talker` at the rest; `dear` at both, for a price.
TRUTH = {("coder", True): 0.9, ("coder", False): 0.3, ("talker", True): 0.2, ("talker", False): 0.9}
TRUTH |= {("dear", True): 0.9, ("dear", False): 0.9}


def config(kind: str, **params) -> Config:
    def target(name: str, price: float):
        prices = {"price_in_per_mtok": price, "price_out_per_mtok": price}
        return {"name": name, "base_url": "http://127.0.0.1:1/v1", "quality": 0.5, **prices}

    targets = [target("coder", 1.0), target("talker", 1.0), target("dear", 1000.0)]
    policies = {"learner": {"kind": kind, "cost_weight": 1.0, **params}}
    return Config.model_validate(
        {"targets": targets, "policies": policies, "router": {"seed": 3, "repeat_draws": True}}
    )


def learner_of(service: RouterService) -> Learner:
    return service.present.learners["learner"]


def ask(service: RouterService, text: str, excluded=None):
    chat = parse_chat({"model": "wye", "messages": [{"role": "user", "content": text}]})
    expected = asyncio.run(service.expect(chat, policy="learner"))
    return chat, service.decide(chat, expected, "learner", excluded or {})


@pytest.fixture
def store(tmp_path):
    made = Store(tmp_path / "gateway.db", batch_seconds=0.01)
    yield made
    made.close()


def answered(store: Store, service: RouterService, chat, routed, target: str | None = None) -> None:
    """Store a decision and its outcome at the price that was expected."""
    service.remember(chat, routed, store)
    cost = {c["target"]: c["cost_usd"] for c in routed.record.candidates}
    served = target or routed.target
    outcome = OutcomeRecord(routed.record.id, 1.0, served, "ok", 200, cost_usd=cost[served])
    store.add(outcome)


def judged(store: Store, routed, quality: float) -> None:
    store.add(FeedbackRecord(routed.record.id, 2.0, quality))


def taught(store: Store, learner: Learner, feed: LearnerFeed | None = None) -> LearnerFeed:
    assert store.flush()
    feed = feed or LearnerFeed(store.engine)
    feed.teach([learner])
    return feed


def state(learner: Learner) -> dict[str, np.ndarray]:
    return learner._bandit.ridge.get_state()


@pytest.mark.parametrize("kind", LEARNERS)
def test_the_propensity_that_is_logged_is_that_of_the_draws(kind, store):
    service = RouterService(config(kind, epsilon=0.2), None)
    generator = np.random.default_rng(0)
    for i in range(30):
        chat, routed = ask(service, CODE.format(i))
        answered(store, service, chat, routed)
        judged(store, routed, float(generator.random() < TRUTH[routed.target, True]))
    taught(store, learner_of(service))

    draws, counts, laws = 800, {}, []
    chat, first = ask(service, CODE.format(99))
    for _ in range(draws):
        routed = service.decide(chat, first.expected, "learner", {"talker": "closed"})
        law = {c["target"]: c["probability"] for c in routed.record.candidates}
        assert routed.record.propensity == law[routed.target]
        assert sum(law.values()) == pytest.approx(1.0)
        counts[routed.target] = counts.get(routed.target, 0) + 1
        laws.append(tuple(sorted(law.items())))
    [law] = set(laws)
    for name, share in law:
        spread = np.sqrt(share * (1 - share) / draws)
        assert abs(counts.get(name, 0) / draws - share) <= 4.5 * spread + 1e-9
    assert dict(law)["talker"] == 0.0
    assert min(share for name, share in law if name != "talker") >= 0.1 - 1e-12


@pytest.mark.parametrize("kind", LEARNERS)
def test_with_delayed_feedback_it_comes_to_beat_every_policy_that_does_not_learn(kind, store):
    rewards = []
    for seed in range(2):
        service = RouterService(config(kind, epsilon=0.05), None)
        learner, feed = learner_of(service), LearnerFeed(store.engine)
        generator, late, earned = np.random.default_rng(seed), [], []
        for step in range(300):
            code = bool(generator.random() < 0.5)
            text = (CODE if code else TALK).format(f"{seed}-{step}")
            chat, routed = ask(service, text)
            answered(store, service, chat, routed)
            truth = TRUTH[routed.target, code]
            cost = next(c for c in routed.record.candidates if c["target"] == routed.target)
            earned.append(truth - cost["cost_usd"])
            late.append((routed, float(generator.random() < truth)))
            # Judgements come forty requests late, in groups.
            if step % 20 == 19:
                for one, quality in late[:-40]:
                    judged(store, one, quality)
                late = late[-40:]
                taught(store, learner, feed)
        rewards.append(np.mean(earned[-120:]))
    # What a policy reaches that takes the same target always; a dear answer costs about $0.3.
    fixed = max(
        np.mean([TRUTH[name, True], TRUTH[name, False]]) - (0.3 if name == "dear" else 0.0)
        for name in ("coder", "talker", "dear")
    )
    assert fixed == pytest.approx(0.6)
    assert np.mean(rewards) > fixed + 0.1


@pytest.mark.parametrize("kind", LEARNERS)
def test_a_learner_that_starts_anew_is_what_the_old_one_was(kind, store):
    service = RouterService(config(kind), None)
    old, feed, decided = learner_of(service), LearnerFeed(store.engine), []
    generator = np.random.default_rng(1)
    for i in range(60):
        chat, routed = ask(service, (CODE if i % 2 else TALK).format(i))
        answered(store, service, chat, routed)
        decided.append(routed)
    for place in generator.permutation(60)[:45]:
        judged(store, decided[place], float(generator.random()))
        if generator.random() < 0.3:
            taught(store, old, feed)
    # Some think better of it: the latest judgement counts.
    for routed in decided[:20]:
        judged(store, routed, float(generator.random()))
    taught(store, old, feed)
    new = learner_of(RouterService(config(kind), None))
    taught(store, new)
    assert sum(new.judged.values()) == sum(old.judged.values()) >= 45
    for name in ("precision", "moment", "count"):
        np.testing.assert_allclose(state(old)[name], state(new)[name], atol=1e-9)


def test_a_judgement_that_comes_while_others_are_read_is_read_next(store):
    service = RouterService(config("linucb"), None)
    learner, decided = learner_of(service), []
    for i in range(2):
        chat, routed = ask(service, CODE.format(i))
        answered(store, service, chat, routed)
        decided.append(routed)
    judged(store, decided[0], 1.0)

    class SlowFeed(LearnerFeed):
        def _new(self, *given):
            yield from super()._new(*given)
            if len(decided) > 1:
                judged(store, decided.pop(), 0.0)
                assert store.flush()

    feed = taught(store, learner, SlowFeed(store.engine))
    assert sum(learner.judged.values()) == 1
    feed.teach([learner])
    assert sum(learner.judged.values()) == 2


def test_a_store_that_fails_while_judgements_are_read_loses_none(store):
    service = RouterService(config("linucb"), None)
    learner = learner_of(service)
    for i in range(6):
        chat, routed = ask(service, CODE.format(i))
        answered(store, service, chat, routed)
        judged(store, routed, 1.0)
    assert store.flush()

    class FailingFeed(LearnerFeed):
        left = 3

        def _new(self, *given):
            for found in super()._new(*given):
                if not self.left:
                    self.left = 100
                    raise sa.exc.OperationalError("SELECT", {}, Exception("disk I/O error"))
                self.left -= 1
                yield found

    feed = FailingFeed(store.engine)
    with pytest.raises(sa.exc.OperationalError):
        feed.teach([learner])
    assert sum(learner.judged.values()) == 0
    feed.teach([learner])
    assert sum(learner.judged.values()) == 6


def test_an_answer_teaches_about_the_target_that_gave_it_also_after_a_fallback(store):
    service = RouterService(config("linucb"), None)
    chat, routed = ask(service, TALK.format(1))
    other = next(t for t in ("coder", "talker", "dear") if t != routed.target)
    answered(store, service, chat, routed, target=other)
    judged(store, routed, 1.0)
    learner = learner_of(service)
    taught(store, learner)
    assert {name for name, count in learner.judged.items() if count} == {other}


def test_a_judgement_that_comes_before_the_outcome_is_written_waits_for_it(store):
    service = RouterService(config("thompson"), None)
    chat, routed = ask(service, TALK.format(1))
    service.remember(chat, routed, store)
    store.add(FeedbackRecord(routed.record.id, time.time(), 1.0))
    learner = learner_of(service)
    feed = taught(store, learner)
    assert sum(learner.judged.values()) == 0
    store.add(OutcomeRecord(routed.record.id, 1.0, routed.target, "ok", 200, cost_usd=0.0))
    taught(store, learner, feed)
    assert learner.judged[routed.target] == 1
    taught(store, learner, feed)
    assert learner.judged[routed.target] == 1


def test_it_may_be_taught_while_it_chooses(store):
    service = RouterService(config("thompson"), None)
    learner = learner_of(service)
    x = learner.reader.read(TALK.format(1))
    done = threading.Event()

    def teach() -> None:
        for _ in range(300):
            learner.teach("coder", x[None], np.array([0.1]))
        done.set()

    thread = threading.Thread(target=teach)
    thread.start()
    while not done.is_set():
        _, routed = ask(service, TALK.format(2))
        assert 0 < routed.record.propensity <= 1
    thread.join()
    assert learner.judged["coder"] == 300


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"epsilon": 0}, "expected a number above 0"),
        ({"epsilon": 2}, "from 0 to 1"),
        ({"cost_wait": 1}, "it takes cost_weight"),
        ({"context": "magic"}, 'expected "text" or "embedding"'),
        ({"context": "embedding", "embedder": "endpoint:http://a#b"}, "of this machine"),
    ],
)
def test_wrong_parameters_are_named(params, message):
    with pytest.raises(ConfigError, match=message):
        RouterService(config("thompson", **params), None)


def test_gateways_of_one_store_learn_from_each_others_feedback(serve, world, place, eventually):
    where = "path" if isinstance(place, Path) else "url"
    values = {
        "targets": [world.target("ok"), world.target("also", model="ok@also")],
        "policies": {"learner": {"kind": "thompson"}},
        "learning": {"poll_seconds": 0.05},
        "store": {where: str(place), "batch_seconds": 0.02},
    }
    first, second = serve(**values), serve(**values)

    def judged_by(served) -> int:
        [found] = served.http.get("/api/experiments").json()["learners"]
        return found["judged"]

    for _ in range(5):
        answer = first.ask()
        assert answer.status_code == 200
        # Reading a decision has it written, so that the other gateway knows of it.
        first.decision(answer)
        told = {"decision": answer.headers["x-wye-decision"], "quality": 1.0}
        assert second.http.post("/v1/feedback", json=told).status_code == 200
    eventually(lambda: judged_by(first) == judged_by(second) == 5)
    third = serve(**values)
    assert judged_by(third) == 5
    found = first.decision(answer)
    assert found["propensity"] < 1
    # What is logged is what replay needs: the probability of every target.
    logged = read_traffic(first.gateway.config.store.place()).logged
    assert logged.law is not None
    np.testing.assert_allclose(logged.law.sum(axis=1), 1.0)
    assert "judged answers" in found["reasons"][0]


def test_a_seed_does_not_repeat_its_draws_after_a_restart_unless_told_to():
    def drawn(**router) -> list[str | None]:
        made = config("thompson", epsilon=1.0).model_copy(update={"router": Router(**router)})
        service = RouterService(made, None)
        chat, first = ask(service, TALK.format(1))
        return [service.decide(chat, first.expected, "learner", {}).target for _ in range(40)]

    assert drawn(seed=1) != drawn(seed=1)
    assert drawn(seed=1, repeat_draws=True) == drawn(seed=1, repeat_draws=True)
    assert drawn(seed=1, repeat_draws=True) != drawn(seed=2, repeat_draws=True)
