"""Shadows, canaries and A/B over HTTP: who decides, what is logged, when they end."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa

from wye.gateway.config import Config
from wye.gateway.learning.conduct import start_experiment, stop_experiment
from wye.gateway.learning.experiments import ExperimentBook, ExperimentError, Plan
from wye.gateway.learning.tables import policy_versions
from wye.gateway.learning.versions import VersionBook, VersionsError
from wye.gateway.policy_set import PolicySet
from wye.gateway.schema import connect


class Lab:
    """A gateway that prefers `dear`, and a version in its store that prefers `cheap`."""

    def __init__(self, serve, world, cheap: str, place, **values) -> None:
        where = "path" if isinstance(place, Path) else "url"
        self.values = {
            "targets": [
                world.target("dear", model="ok@dear", quality=0.9),
                world.target("cheap", model=cheap, quality=0.5)
                | {"price_in_per_mtok": 0.1, "price_out_per_mtok": 0.1},
            ],
            "policies": {"main": {"kind": "quality"}},
            "learning": {"poll_seconds": 0.05, "analysis_seconds": 0.1},
            "store": {where: str(place), "batch_seconds": 0.02},
            "breaker": {"failures": 1000},
            "retries": {"attempts": 0},
            **values,
        }
        self.engine = connect(place)
        self.versions, self.experiments = VersionBook(self.engine), ExperimentBook(self.engine)
        other = {"main": {"kind": "utility", "cost_weight": 100000.0}}
        config = Config.model_validate({**self.values, "policies": other})
        candidate = PolicySet(config, None, config.router.generator())
        self.versions.record(candidate, note="", origin="added")
        self.version = candidate.version
        self.served = serve(**self.values)
        self.told = lambda: self.served.http.get("/api/experiments").json()

    def start(self, name: str, kind: str, **values):
        return self.experiments.start(name, kind, self.version, **values)

    def runs(self) -> bool:
        return len(self.served.gateway.service.trials.running) == len(self.experiments.running())


@pytest.fixture
def lab(serve, world, place):
    labs = []

    def build(cheap: str = "ok@cheap", **values) -> Lab:
        labs.append(Lab(serve, world, cheap, place, **values))
        return labs[-1]

    yield build
    for one in labs:
        one.engine.dispose()


def test_a_shadow_decides_and_is_logged_and_nobody_acts_on_it_or_pays_for_it(lab, eventually):
    one = lab()
    experiment = one.start("look", "shadow")
    eventually(one.runs)
    answers = [one.served.ask() for _ in range(5)]
    assert {a.headers["x-wye-target"] for a in answers} == {"dear"}
    eventually(lambda: one.told()["experiments"][0]["shadow"]["decisions"] == 5)
    shadow = one.told()["experiments"][0]["shadow"]
    assert shadow["targets"] == {"cheap": 5}
    assert shadow["same"] == 0.0
    summary = one.served.http.get("/api/summary").json()
    assert summary["requests"] == 5
    assert summary["spend_usd"] == pytest.approx(5 * (11 + 2 * 6) / 1e6)
    assert len(one.served.http.get("/v1/decisions").json()["data"]) == 5
    assert one.experiments.end(experiment.id, "stopped", "seen enough", None)
    eventually(one.runs)


def test_a_session_stays_in_its_arm_and_the_arm_is_told(lab, eventually):
    one = lab()
    one.start("half", "ab", share=0.5)
    eventually(one.runs)
    went: dict[str, set[str]] = {}
    for turn in range(2):
        for number in range(16):
            body = {"model": "wye", "messages": [{"role": "user", "content": f"turn {turn}"}]}
            headers = {"x-wye-session": f"session {number}"}
            answer = one.served.http.post("/v1/chat/completions", json=body, headers=headers)
            went.setdefault(f"session {number}", set()).add(answer.headers["x-wye-target"])
    assert all(len(targets) == 1 for targets in went.values())
    assert {next(iter(targets)) for targets in went.values()} == {"dear", "cheap"}
    found = one.served.decision(answer)
    arm = "candidate" if found["target"] == "cheap" else "control"
    assert f"it is of the {arm} arm of the experiment 'half'" in found["reasons"]
    arms = lambda: one.told()["experiments"][0]["arms"].values()  # noqa: E731
    eventually(lambda: sum(arm["requests"] for arm in arms()) == 32)
    assert sum(arm["units"] for arm in arms()) == 16
    assert all(arm["requests"] == 2 * arm["units"] for arm in arms())


def test_a_canary_that_fails_is_stopped_by_itself_and_everything_goes_as_before(lab, eventually):
    one = lab("500")
    one.start("bird", "canary", share=0.4, plan=Plan(least=8))
    eventually(one.runs)
    # The fallback hides the failure from clients, so that the canary costs quality, not answers.
    asked = 0
    while one.experiments.running() and asked < 80:
        answer = one.served.ask()
        asked += 1
        assert answer.status_code == 200
        worse = one.served.decision(answer)["target"] == "cheap"
        told = {"decision": answer.headers["x-wye-decision"], "quality": 0.0 if worse else 1.0}
        one.served.http.post("/v1/feedback", json=told)
    eventually(lambda: not one.experiments.running())
    [found] = one.told()["experiments"]
    assert found["state"] == "harmful"
    assert "the candidate's reward is lower" in found["reason"]
    assert found["differences"][0]["high"] < 0
    assert found["arms"]["candidate"]["judged"] >= 8
    eventually(one.runs)
    targets = {one.served.decision(one.served.ask())["target"] for _ in range(10)}
    assert targets == {"dear"}
    assert one.served.http.get("/api/alarms").json()


def test_an_ab_ends_as_soon_as_one_arm_is_better_and_the_winner_can_be_put_to_use(lab, eventually):
    one = lab()
    one.start("duel", "ab", plan=Plan(least=8))
    eventually(one.runs)
    for _ in range(80):
        if not one.experiments.running():
            break
        answer = one.served.ask()
        better = answer.headers["x-wye-target"] == "cheap"
        told = {"decision": answer.headers["x-wye-decision"], "quality": 0.9 if better else 0.1}
        one.served.http.post("/v1/feedback", json=told)
    eventually(lambda: not one.experiments.running())
    [found] = one.told()["experiments"]
    assert found["state"] == "better"
    assert found["arms"]["candidate"]["reward"] == pytest.approx(0.9)
    one.versions.use(one.version, "it won")
    eventually(lambda: one.served.gateway.service.present.version == one.version)
    assert one.served.ask().headers["x-wye-target"] == "cheap"


def test_experiments_that_cannot_be_are_refused_with_a_reason(lab):
    one = lab()
    one.start("first", "canary")
    for arguments, message in (
        (("first", "shadow"), "runs already"),
        (("second", "ab"), "one at a time"),
        (("third", "guess"), "expected shadow, canary, ab"),
        (("\n", "shadow"), "cannot be an experiment's name"),
    ):
        with pytest.raises(ExperimentError, match=message):
            one.start(*arguments)
    with pytest.raises(ExperimentError, match="below 1"):
        one.start("all", "canary", share=1.0)
    with pytest.raises(ExperimentError, match="between 0 and 1"):
        Plan(alpha=1.0)
    with pytest.raises(ExperimentError, match="known are first"):
        one.experiments.get("last")


def test_of_experiments_that_begin_at_the_same_moment_one_acts(place):
    engine = connect(place)
    book = ExperimentBook(engine)
    ready = threading.Barrier(8)

    def begin(number: int) -> str:
        ready.wait()
        try:
            return f"begun: {book.start(f'canary {number}', 'canary', 'v').name}"
        except ExperimentError as error:
            return str(error)

    with ThreadPoolExecutor(8) as pool:
        said = list(pool.map(begin, range(8)))
    assert sum("one at a time" in words for words in said) == 7
    [running] = book.running()
    assert f"begun: {running.name}" in said
    engine.dispose()


def test_of_steps_at_the_same_moment_each_sees_the_ones_before(place):
    engine = connect(place)
    book = VersionBook(engine)

    def at_once(step) -> list[str | None]:
        ready = threading.Barrier(6)

        def one(_) -> str | None:
            ready.wait()
            try:
                return step()
            except VersionsError as error:
                return str(error)

        with ThreadPoolExecutor(6) as pool:
            return list(pool.map(one, range(6)))

    for version in ("a", "b"):
        said = at_once(lambda given=version: book.use(given, ""))
        assert said.count(f"{version} decides already") == 5
    back = at_once(lambda: book.rollback(""))
    assert back.count("a") == back.count(None) == 1
    assert back.count("nothing decided before the present version") == 4
    book.use("c", "")
    assert book.rollback("") is None
    engine.dispose()


def test_what_an_experiment_compares_with_decides_as_long_as_it_runs(place):
    engines = [connect(place) for _ in range(3)]
    names = [f"{number:012d}" for number in range(4)]
    row = {"created": 0.0, "note": "", "origin": "added", "policies": {}, "default_policy": ""}
    with engines[0].begin() as connection:
        connection.execute(sa.insert(policy_versions), [{**row, "id": name} for name in names])
    versions, experiments = VersionBook(engines[0]), ExperimentBook(engines[0])
    ready = threading.Barrier(3)

    def one(step) -> bool:
        ready.wait(60)
        try:
            step()
        except (ExperimentError, VersionsError):
            return False
        return True

    with ThreadPoolExecutor(3) as pool:
        for number in range(40):
            tried, used, promoted = [n for n in names if n != versions.wanted().version][:3]
            shadow = start_experiment(engines[0], f"look {number}", "shadow", promoted)
            steps = (
                lambda n=number, v=tried: start_experiment(engines[0], f"bird {n}", "canary", v),
                lambda v=used: VersionBook(engines[1]).use(v, ""),
                lambda s=shadow: stop_experiment(engines[2], s, promote=True),
            )
            begun, _, _ = pool.map(one, steps)
            assert begun, "whatever decides, it is another version than is tried"
            for running in experiments.running():
                if running.kind == "canary":
                    assert running.control == versions.wanted().version
                stop_experiment(engines[0], running)
    for engine in engines:
        engine.dispose()


def test_uses_and_returns_form_a_history_that_leads_all_the_way_back(place):
    engine = connect(place)
    book = VersionBook(engine)
    with pytest.raises(VersionsError, match="nothing decided before"):
        book.rollback("")
    for version in ("a", "b", "c"):
        book.use(version, "")
    with pytest.raises(VersionsError, match="decides already"):
        book.use("c", "")
    assert [book.rollback("") for _ in range(2)] == ["b", "a"]
    book.use("d", "")
    assert [book.rollback("") for _ in range(2)] == ["a", None]
    with pytest.raises(VersionsError, match="nothing decided before"):
        book.rollback("")
    assert book.wanted().version is None
    engine.dispose()
