"""Shadows decide behind a request's back: in batches, by what is known already, and to the end."""

from __future__ import annotations

import asyncio
import logging
import threading
from dataclasses import replace

import numpy as np
import pytest
import sqlalchemy as sa

from wye.gateway.config import Config
from wye.gateway.conversation.settings import ConversationTable
from wye.gateway.conversation.switching import Conversations
from wye.gateway.learning.experiments import ExperimentBook
from wye.gateway.learning.shadowing import Shadows
from wye.gateway.learning.tables import shadow_decisions
from wye.gateway.learning.trials import Trial
from wye.gateway.learning.versions import VersionBook
from wye.gateway.money.usage import Usage
from wye.gateway.openai_api import parse_chat
from wye.gateway.policy_set import PolicySet
from wye.gateway.router_service import RouterService
from wye.gateway.schema import connect
from wye.gateway.store import Store
from wye.query.base import Estimate, QueryRouter

PRICES = {"price_in_per_mtok": 1.0, "price_out_per_mtok": 1.0}
CACHED = {**PRICES, "price_cached_per_mtok": 0.1}


class Ruler(QueryRouter):
    """Knows two models by the length of a text, and notes how many texts came at once."""

    name = "ruler"
    models_ = ("a", "b")

    def __init__(self, length: float = 100.0) -> None:
        self.length = length
        self.calls: list[int] = []
        self.gate: threading.Event | None = None

    def fit(self, data):
        return self

    def estimate(self, texts):
        if self.gate is not None:
            self.gate.wait()
        self.calls.append(len(texts))
        if "poison" in texts:
            raise ZeroDivisionError("a defect")
        share = np.array([[len(text) / self.length] for text in texts])
        figures = np.hstack([share, 1 - share])
        return Estimate(
            models=self.models_,
            quality=figures,
            quality_std=figures / 10,
            cost=figures / 1000,
            latency=figures * 10,
            novelty=share[:, 0],
        )

    def get_state(self):
        return {}, {}

    def set_state(self, arrays, values):
        pass


class Lab:
    """A service with a shadow of a router of its own, and a store."""

    def __init__(self, path, acting: Ruler, watching: Ruler, **policy) -> None:
        self.store = Store(path, batch_seconds=0.01)
        targets = [{"name": n, "base_url": "http://127.0.0.1:1/v1", **CACHED} for n in ("a", "b")]
        main = {"main": policy or {"kind": "quality"}}
        config = Config.model_validate({"targets": targets, "policies": main})
        self.service = RouterService(config, acting)
        self.candidate = PolicySet(config, watching, np.random.default_rng(1))
        self.service.trials.running = (Trial("s", "s", "shadow", 1.0, "session", self.candidate),)
        for router in (acting, watching):
            router.calls.clear()

    @property
    def shadows(self) -> Shadows:
        return self.service.trials.shadows

    def ask(self, *texts: str):
        routed = []
        for text in texts:
            chat = parse_chat({"model": "wye", "messages": [{"role": "user", "content": text}]})
            expected = asyncio.run(self.service.expect(chat, policy="main"))
            routed.append(self.service.decide(chat, expected, "main", {}))
            self.service.remember(chat, routed[-1], self.store)
        return routed

    def decided(self) -> dict[str, str | None]:
        """The shadow's target of each decision, once it has decided all that waits."""
        self.shadows.close()
        assert self.store.flush()
        with self.store.engine.connect() as connection:
            rows = connection.execute(sa.select(shadow_decisions)).mappings().all()
        return {row["decision_id"]: row["target"] for row in rows}


@pytest.fixture
def lab(tmp_path):
    made = []

    def build(*routers: Ruler, **policy) -> Lab:
        made.append(Lab(tmp_path / "gateway.db", *routers, **policy))
        return made[-1]

    yield build
    for one in made:
        one.shadows.close()
        one.store.close()


def texts(number: int) -> list[str]:
    return ["x" * (1 + k) for k in range(number)]


def test_a_shadow_of_another_router_estimates_many_requests_in_one_call(lab):
    acting, watching = Ruler(100.0), Ruler(50.0)
    one = lab(acting, watching)
    watching.gate = threading.Event()
    routed = one.ask(*texts(60))
    watching.gate.set()
    found = one.decided()
    assert sum(watching.calls) == 60
    assert len(watching.calls) <= 3, "they were estimated together"
    assert acting.calls == [1] * 60
    for each, text in zip(routed, texts(60), strict=True):
        assert each.target == ("a" if len(text) >= 50 else "b")
        assert found[each.record.id] == ("a" if len(text) >= 25 else "b")
    assert one.shadows.counts == {"made": 60, "dropped": 0, "failed": 0}


def test_a_shadow_of_the_same_router_estimates_nothing_anew(lab):
    acting, watching = Ruler(100.0), Ruler(100.0)
    one = lab(acting, watching)
    assert one.candidate.foresight == one.service.present.foresight
    routed = one.ask(*texts(60))
    assert one.decided() == {each.record.id: each.target for each in routed}
    assert watching.calls == []


def test_nothing_is_estimated_before_the_request_has_its_decision(lab):
    watching = Ruler(50.0)
    one = lab(Ruler(100.0), watching)
    watching.gate = threading.Event()
    routed = one.ask(*texts(5))
    assert all(each.target for each in routed)
    assert watching.calls == []
    watching.gate.set()
    assert len(one.decided()) == 5


def test_what_does_not_fit_is_left_out_counted_and_told(lab, caplog):
    watching = Ruler(50.0)
    one = lab(Ruler(100.0), watching)
    one.service.trials.shadows = Shadows(waiting=8)
    watching.gate = threading.Event()
    with caplog.at_level(logging.WARNING, "wye.gateway"):
        one.ask(*texts(60))
    dropped = one.shadows.counts["dropped"]
    # Those that were taken before the gate shut are no more than a batch.
    assert 60 - 8 - 32 <= dropped <= 60 - 8
    watching.gate.set()
    assert len(one.decided()) == 60 - dropped
    assert one.shadows.counts["made"] == 60 - dropped
    told = [r.getMessage() for r in caplog.records if "left out" in r.getMessage()]
    assert 1 <= len(told) <= 2, "told at one and at ten, not at each"


def test_a_request_that_defeats_a_shadow_fails_alone(lab, caplog):
    watching = Ruler(50.0)
    one = lab(Ruler(100.0), watching)
    acting = one.service.present.router
    acting.estimate = lambda t, real=acting.estimate: real(["fine" for _ in t])
    routed = one.ask("good", "poison", "better")
    found = one.decided()
    assert set(found) == {routed[0].record.id, routed[2].record.id}
    assert one.shadows.counts == {"made": 2, "dropped": 0, "failed": 1}
    assert "a shadow failed to estimate" in caplog.text


def test_a_shadow_counts_what_is_cached_of_a_conversation_as_who_acts_does(lab):
    one = lab(Ruler(40_000.0), Ruler(20_000.0), kind="utility", cost_weight=1e5)
    question = "x" * 5_000
    chat = parse_chat({"model": "wye", "messages": [{"role": "user", "content": question}]})
    [routed] = one.ask(question)
    assert one.decided() == {routed.record.id: "a"}, "the cheaper one"
    conversations = Conversations(one.service.targets, ConversationTable())

    def decided(name: str) -> str | None:
        expected = conversations.expect(chat, routed.expected, None, None)
        assert expected.conversation is not None
        record = replace(routed.record, id=name)
        one.shadows.add(expected.course, chat, record, expected, one.store)
        conversations.observe(expected.conversation, "b", Usage(1250, 10))
        return one.decided()[name]

    assert decided("before") == "a"
    assert decided("once b has it cached") == "b"


def test_a_shadow_books_nothing_on_the_account_of_what_acts(serve, world, place, eventually):
    where = "url" if isinstance(place, str) else "path"
    budget = {"kind": "budget", "total": 1000.0, "horizon": 1000}
    values = {
        "targets": [world.target("ok", model="ok", quality=0.9)],
        "policies": {"main": budget},
        "learning": {"poll_seconds": 0.05},
        "store": {where: str(place), "batch_seconds": 0.02},
    }
    engine = connect(place)
    # The same policy beside another one: a version of its own, in which `main` stands unchanged.
    config = Config.model_validate(
        {**values, "policies": {"main": budget, "b": {"kind": "quality"}}}
    )
    candidate = PolicySet(config, None, config.router.generator())
    VersionBook(engine).record(candidate, note="", origin="added")
    served = serve(**values)
    ExperimentBook(engine).start("look", "shadow", candidate.version)
    trials = served.gateway.service.trials
    eventually(lambda: len(trials.running) == 1)
    answers = [served.ask() for _ in range(5)]
    eventually(lambda: trials.shadows.counts["made"] == 5)
    acting = served.gateway.service.policies["main"]
    real = (11 + 2 * 6) / 1e6
    assert [a.status_code for a in answers] == [200] * 5
    assert acting.spent_ == pytest.approx(5 * real)
    assert trials.running[0].candidate.policies["main"].spent_ > 0
    told = served.http.get("/metrics").text
    assert 'wye_shadow_decisions{result="made"} 5.0' in told
    assert 'wye_shadow_decisions{result="dropped"} 0.0' in told
    assert "wye_shadows_waiting 0.0" in told
    engine.dispose()


def test_a_gateway_that_stops_lets_its_shadows_decide_what_waits(serving, world, tmp_path):
    config = Config.model_validate(
        {
            "targets": [world.target(name, model=f"ok@{name}") for name in ("a", "b")],
            "policies": {"main": {"kind": "quality"}},
            "store": {"path": str(tmp_path / "gateway.db")},
        }
    )
    served, watching = serving(config, Ruler(100.0)), Ruler(50.0)
    candidate = PolicySet(config, watching, np.random.default_rng(1))
    trials = served.gateway.service.trials
    trials.running = (Trial("s", "s", "shadow", 1.0, "session", candidate),)
    watching.gate = threading.Event()
    answers = [served.ask(text="x" * (1 + k)) for k in range(40)]
    assert trials.shadows.counts["made"] == 0
    # The gateway is asked to stop while all that shadows have to decide still waits.
    release = threading.Timer(0.5, watching.gate.set)
    release.start()
    served.stop()
    release.join()
    assert [answer.status_code for answer in answers] == [200] * 40
    engine = connect(tmp_path / "gateway.db")
    with engine.connect() as connection:
        count = connection.scalar(sa.select(sa.func.count()).select_from(shadow_decisions))
    engine.dispose()
    assert count == 40
