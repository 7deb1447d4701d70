"""Versions and experiments on the page, and the way back."""

from __future__ import annotations

import httpx
import pytest

from wye.gateway.learning.versions import VersionBook
from wye.gateway.schema import connect

pytestmark = pytest.mark.browser


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
