"""Each page says when the gateway is gone or fails, keeps what it showed, and comes back."""

from __future__ import annotations

import time
from typing import Any

import httpx
import pytest

from wye.gateway.records import AlarmRecord, new_id

pytestmark = pytest.mark.browser

PAGES = {
    "overview": "api/summary",
    "decisions": "api/decisions",
    "targets": "api/targets",
    "keys": "api/keys",
    "experiments": "api/experiments",
    "alarms": "api/alarms",
    "frontier": "api/frontier",
    "playground": "api/playground",
}


class Trouble:
    """Stands between the page and one endpoint: holds its answers, spoils them, or is away."""

    def __init__(self, page: Any) -> None:
        self.path, self.mode = "", "away"
        self.held: list[Any] = []
        page.route("**/api/**", self._meet)

    def _meet(self, route: Any) -> None:
        if self.mode == "away" or self.path not in route.request.url:
            route.continue_()
        elif self.mode == "hold":
            self.held.append(route)
        else:
            self._spoil(route)

    def spoil(self) -> None:
        """From here on, and for what was held."""
        self.mode = "spoil"
        while self.held:
            self._spoil(self.held.pop())

    def _spoil(self, route: Any) -> None:
        route.fulfill(status=503, json={"error": {"message": "the store is on fire"}})


def test_each_page_tells_that_it_loads_why_it_cannot_and_comes_back(open_gateway, look) -> None:
    look.tolerate("503")
    page = look(open_gateway, "/#/targets")
    trouble = Trouble(page)
    for name in (*[name for name in PAGES if name != "targets"], "targets"):
        trouble.path, trouble.mode = PAGES[name], "hold"
        page.get_by_role("navigation").get_by_role("link", name=name.capitalize()).click()
        page.get_by_role("status").get_by_text("Loading…").wait_for()
        deadline = time.monotonic() + 5
        while not trouble.held and time.monotonic() < deadline:
            page.wait_for_timeout(20)
        assert page.locator("#page").is_hidden(), "nothing half read is shown"
        trouble.spoil()
        alert = page.locator("#gone")
        alert.get_by_text("the store is on fire").wait_for()
        assert page.locator("#page").is_hidden()
        assert page.locator("#loading").is_hidden()
        trouble.mode = "away"
        page.get_by_role("button", name="Try now").click()
        page.locator("#page h1").wait_for()
        alert.wait_for(state="hidden")


def test_a_hidden_page_asks_nothing_and_asks_again_when_seen(open_gateway, look) -> None:
    page = look(open_gateway, "/#/targets")
    page.evaluate(
        """() => {
          Object.defineProperty(document, 'hidden', { value: true, configurable: true });
          document.dispatchEvent(new Event('visibilitychange'));
        }"""
    )
    page.wait_for_timeout(300)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.wait_for_timeout(3500)
    assert asked == []
    page.evaluate("delete document.hidden; document.dispatchEvent(new Event('visibilitychange'))")
    page.wait_for_timeout(500)
    assert any("api/targets" in url for url in asked)


def test_an_unknown_page_says_so(open_gateway, look) -> None:
    page = look(open_gateway)
    page.goto(f"{open_gateway.url}/#/<b>nowhere")
    page.get_by_text("There is no page <b>nowhere").wait_for()
    page.get_by_role("link", name="Targets", exact=True).click()
    page.get_by_role("heading", name="Targets").wait_for()


def test_alarms_are_told_on_every_page_and_taken_note_of(start_gateway, look, tmp_path) -> None:
    from wye.gateway.store import Store

    store = Store(tmp_path / "gateway.db", batch_seconds=0.01)
    text = "<i>answers</i> of small became 40% shorter"
    store.add(AlarmRecord(new_id(), time.time(), "answers", "small", text, None, {"evidence": 1.2}))
    store.close()
    server = start_gateway(tmp_path / "gateway.db")
    page = look(server, "/#/targets")
    page.locator("#nav-alarms", has_text="1").wait_for()
    page.get_by_role("link", name="Alarms").click()
    alarm = page.get_by_role("listitem").filter(has_text=text)
    alarm.get_by_role("button", name="Take note").click()
    alarm.get_by_text("Noted").wait_for()
    assert httpx.get(f"{server.url}/api/alarms").json()["open"] == 0
