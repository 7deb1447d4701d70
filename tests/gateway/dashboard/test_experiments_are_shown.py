"""Versions and experiments on the page, and the way back."""

from __future__ import annotations

import httpx
import pytest

from wye.gateway.config import Config
from wye.gateway.learning.experiments import ExperimentBook
from wye.gateway.learning.versions import VersionBook
from wye.gateway.policy_set import PolicySet
from wye.gateway.schema import connect

pytestmark = pytest.mark.browser


class Lab:
    """A gateway, and a version in its store that may be tried."""

    def __init__(self, start_gateway, path) -> None:
        self.server = start_gateway(path)
        self.engine = connect(path)
        self.book = ExperimentBook(self.engine)
        targets = [{"name": name, "base_url": "http://x"} for name in ("small", "large")]
        config = Config.model_validate({"targets": targets, "policies": {"a": {"kind": "quality"}}})
        other = PolicySet(config, None, config.router.generator())
        self.versions = VersionBook(self.engine)
        self.versions.record(other, note="a better one", origin="added")
        self.version = other.version


@pytest.fixture
def lab(start_gateway, tmp_path):
    made = Lab(start_gateway, tmp_path / "gateway.db")
    yield made
    made.engine.dispose()


def focus(page) -> str:
    """What the keyboard acts on: the name of a field, or the text of a button."""
    return str(page.evaluate("document.activeElement.name || document.activeElement.innerText"))


def test_rolling_back_asks_first_and_shows_what_decides_then(start_gateway, look, tmp_path) -> None:
    server = start_gateway(tmp_path / "gateway.db")
    page = look(server, "/#/experiments")
    page.get_by_text("what wye.toml says").wait_for()
    page.get_by_text("No experiment yet.").wait_for()
    assert page.get_by_role("button", name="Roll back").is_hidden()
    engine = connect(tmp_path / "gateway.db")
    book = VersionBook(engine)
    book.use(book.all()[0].id, "tried by the test")
    page.get_by_role("button", name="Roll back").click()
    question = page.get_by_role("dialog", name="Roll back?")
    page.keyboard.press("Escape")
    question.wait_for(state="hidden")
    assert book.wanted().version is not None, "Escape changes nothing"
    page.get_by_role("button", name="Roll back").click()
    question.get_by_role("button", name="Roll back").click()
    question.wait_for(state="hidden")
    assert book.wanted().version is None
    engine.dispose()


def test_an_experiment_is_shown_with_its_arms_and_stays_text(open_gateway, look) -> None:
    hostile = "<img src=x onerror=alert(1)>"
    arm = {"requests": 120, "units": 40, "judged": 30, "reward": 0.81, "cost_usd": 0.002}
    found = httpx.get(f"{open_gateway.url}/api/experiments").json()
    found["experiments"] = [
        {
            "id": "e1", "name": hostile, "kind": "canary", "version": "v2", "control": None,
            "share": 0.1, "by": "session", "state": "running", "started": 1.79e9, "ended": None,
            "reason": None, "alpha": 0.05, "cost_weight": 50.0,
            "arms": {"control": {**arm, "errors": 0.01}, "candidate": {**arm, "errors": 0.02}},
            "differences": [
                {"metric": "reward", "estimate": 0.02, "low": -0.03, "high": 0.07, "p": 0.41},
                {"metric": "cost", "estimate": None, "low": None, "high": None, "p": 1.0},
            ],
            "shadow": None, "words": "no difference can be told yet",
        }
    ]  # fmt: skip
    page = look(open_gateway)
    page.route("**/api/experiments", lambda route: route.fulfill(json=found))
    page.goto(f"{open_gateway.url}/#/experiments")
    card = page.get_by_role("region", name=f"Experiment {hostile}", exact=True)
    card.get_by_text("no difference can be told yet").wait_for()
    assert "0.81" in card.get_by_role("row", name="Candidate").inner_text()
    assert "−0.03 to 0.07" in card.inner_text()
    assert page.locator("main img").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_an_experiment_is_started_and_stopped_by_keyboard_alone(lab, look, scheme) -> None:
    page = look(lab.server, "/#/experiments", color_scheme=scheme)
    start = page.get_by_role("button", name="Start an experiment")
    start.focus()
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog", name="Start an experiment")
    dialog.wait_for()
    assert focus(page) == "name"
    page.keyboard.type("try it")
    page.keyboard.press("Tab")
    assert focus(page) == "kind"
    page.keyboard.type("Canary")
    page.keyboard.press("Tab")
    assert focus(page) == "version"
    assert "a better one" in dialog.get_by_label("Version").inner_text()
    page.keyboard.press("Tab")
    assert focus(page) == "share"
    assert dialog.get_by_label("Share of the units").get_attribute("placeholder") == "0.05"
    page.keyboard.type("0.2")
    page.keyboard.press("Enter")
    dialog.wait_for(state="hidden")
    card = page.get_by_role("region", name="Experiment try it", exact=True)
    card.get_by_text("canary by share").wait_for()
    [running] = lab.book.running()
    assert (running.name, running.kind, running.version) == ("try it", "canary", lab.version)
    assert running.share == 0.2

    stop = card.get_by_role("button", name="Stop")
    stop.focus()
    page.keyboard.press("Enter")
    question = page.get_by_role("dialog", name="Stop try it?")
    question.wait_for()
    assert focus(page) == "Cancel"
    page.keyboard.press("Escape")
    question.wait_for(state="hidden")
    assert lab.book.running() != [], "Escape changes nothing"
    stop.focus()
    page.keyboard.press("Enter")
    question.wait_for()
    page.keyboard.press("Tab")
    assert focus(page) == "Stop"
    page.keyboard.press("Enter")
    question.wait_for(state="hidden")
    card.get_by_text("stopped", exact=True).wait_for()
    assert lab.book.running() == []
    assert card.get_by_role("button", name="Stop").count() == 0


def promote(page, name: str) -> None:
    """Press Promote of an experiment, and say yes, by keyboard."""
    card = page.get_by_role("region", name=f"Experiment {name}", exact=True)
    card.get_by_role("button", name="Promote").focus()
    page.keyboard.press("Enter")
    question = page.get_by_role("dialog", name=f"Promote {name}?")
    question.wait_for()
    assert focus(page) == "Cancel"
    page.keyboard.press("Tab")
    assert focus(page) == "Promote"
    page.keyboard.press("Enter")


def test_an_experiment_is_promoted_by_keyboard_alone_and_rolled_back(lab, look) -> None:
    lab.book.start("try it", "canary", lab.version)
    page = look(lab.server, "/#/experiments")
    card = page.get_by_role("region", name="Experiment try it", exact=True)
    card.get_by_role("button", name="Stop").focus()
    page.keyboard.press("Tab")
    assert focus(page) == "Promote"
    page.keyboard.press("Enter")
    question = page.get_by_role("dialog", name="Promote try it?")
    question.get_by_text(f"candidate {lab.version} decides every request").wait_for()
    page.keyboard.press("Escape")
    question.wait_for(state="hidden")
    assert lab.book.running() != [], "Escape changes nothing"
    assert lab.versions.wanted().version is None
    promote(page, "try it")
    question.wait_for(state="hidden")
    card.get_by_text("promoted", exact=True).wait_for()
    page.get_by_text(f"Version {lab.version} decides").wait_for()
    assert lab.versions.uses()[0].reason == "from the dashboard"
    assert lab.versions.wanted().version == lab.version
    assert card.get_by_role("button").count() == 0
    page.get_by_role("button", name="Roll back").click()
    back = page.get_by_role("dialog", name="Roll back?")
    back.get_by_role("button", name="Roll back").click()
    back.wait_for(state="hidden")
    assert lab.versions.wanted().version is None


def test_what_ended_can_be_promoted_unless_it_was_worse_or_decides(lab, look) -> None:
    for state in ("stopped", "better", "worse", "harmful"):
        begun = lab.book.start(f"it is {state}", "ab", lab.version)
        lab.book.end(begun.id, state, "so it is", None)
    page = look(lab.server, "/#/experiments")
    page.get_by_role("region", name="Experiment it is harmful", exact=True).wait_for()
    offered = page.get_by_role("region").filter(has=page.get_by_role("button", name="Promote"))
    names = offered.get_by_role("heading").all_inner_texts()
    assert sorted(names) == ["it is better", "it is stopped"]
    promote(page, "it is better")
    page.get_by_text(f"Version {lab.version} decides").wait_for()
    page.get_by_role("button", name="Promote").first.wait_for(state="detached")
    assert page.get_by_role("button", name="Promote").count() == 0
    assert lab.versions.wanted().version == lab.version


def test_a_promotion_that_is_refused_says_why(lab, look) -> None:
    look.tolerate("400")
    lab.book.start("look", "shadow", lab.version)
    found = httpx.get(f"{lab.server.url}/api/experiments").json()
    lab.versions.use(lab.version, "by somebody else")
    page = look(lab.server)
    page.route("**/api/experiments", lambda route: route.fulfill(json=found))
    page.goto(f"{lab.server.url}/#/experiments")
    page.get_by_role("region", name="Experiment look", exact=True).wait_for()
    promote(page, "look")
    page.get_by_role("alert").filter(has_text=f"{lab.version} decides already").wait_for()
    page.keyboard.press("Escape")
    page.get_by_role("dialog", name="Promote look?").wait_for(state="hidden")


def test_a_refused_experiment_says_why_and_keeps_the_form(lab, look) -> None:
    look.tolerate("400")
    lab.book.start("taken", "shadow", lab.version)
    page = look(lab.server, "/#/experiments")
    page.get_by_role("button", name="Start an experiment").click()
    dialog = page.get_by_role("dialog", name="Start an experiment")
    dialog.get_by_label("Name").fill("taken")
    dialog.get_by_role("button", name="Start").click()
    dialog.get_by_role("alert").filter(has_text="'taken' runs already").wait_for()
    assert dialog.get_by_label("Name").input_value() == "taken"
    dialog.get_by_role("button", name="Close").click()
    dialog.wait_for(state="hidden")
    assert len(lab.book.latest()) == 1


def test_without_another_version_it_says_how_to_make_one(start_gateway, look) -> None:
    page = look(start_gateway(), "/#/experiments")
    page.get_by_text("wye policy add makes a version to try").wait_for()
    assert page.get_by_role("button", name="Start an experiment").is_hidden()


def test_where_the_gateway_is_open_to_everybody_nothing_can_be_pressed(lab, look) -> None:
    lab.book.start("look", "shadow", lab.version)
    found = httpx.get(f"{lab.server.url}/api/experiments").json()
    assert found["closed"] is None
    found["closed"] = "this gateway is open to its network"
    page = look(lab.server)
    page.route("**/api/experiments", lambda route: route.fulfill(json=found))
    page.goto(f"{lab.server.url}/#/experiments")
    page.get_by_text("this gateway is open to its network").wait_for()
    page.get_by_role("region", name="Experiment look", exact=True).wait_for()
    for name in ("Start an experiment", "Stop", "Promote", "Roll back"):
        assert page.get_by_role("button", name=name, exact=True).count() == 0
