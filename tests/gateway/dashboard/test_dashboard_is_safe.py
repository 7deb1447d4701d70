"""Hostile text stays text; the page talks to nobody but its gateway."""

from __future__ import annotations

import json
import re

import httpx
import pytest

pytestmark = pytest.mark.browser

HOSTILE = "<img src=x onerror=\"document.title='owned'\"><script>alert(1)</script>"


def test_the_policy_admits_only_the_page_itself(busy) -> None:
    policy = httpx.get(f"{busy.url}/").headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "unsafe" not in policy


def test_the_page_has_no_inline_code_or_style(busy) -> None:
    text = httpx.get(f"{busy.url}/").text
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son\w+=|javascript:", text)
    assert not re.search(r"https?://", text)


def test_no_module_makes_markup_of_data(busy) -> None:
    names, seen = ["app.js", "theme.js"], set()
    while names:
        name = names.pop()
        code = httpx.get(f"{busy.url}/{name}").raise_for_status().text
        seen.add(name)
        names += set(re.findall(r'from "\./([\w-]+\.js)"', code)) - seen
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b", code
        )
    assert len(seen) > 20


def test_hostile_prompts_and_answers_stay_text(open_gateway, send, look) -> None:
    send(open_gateway.url, HOSTILE)
    page = look(open_gateway, "/#/decisions")
    title = page.title()
    dialogs: list[str] = []
    page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
    row = page.get_by_role("link", name=HOSTILE, exact=True).first
    row.wait_for()
    row.click()
    panel = page.get_by_role("dialog", name="Decision")
    panel.get_by_role("heading", name="Candidates").wait_for()
    assert panel.locator("blockquote").inner_text() == HOSTILE
    page.keyboard.press("Escape")
    page.get_by_role("link", name="Playground", exact=True).click()
    page.get_by_label("Prompt", exact=True).fill(HOSTILE)
    page.get_by_text("Would go to").wait_for()
    page.get_by_role("button", name="Ask").click()
    page.get_by_text("Was it right?").wait_for()
    assert page.locator("#answer .text").inner_text() == f"small heard: {HOSTILE}"
    assert page.locator("main img, main script, dialog img, dialog script").count() == 0
    assert page.title() == title.replace("Decisions", "Playground")
    assert dialogs == []


def test_a_hostile_address_stays_text(busy, look) -> None:
    look.tolerate("404")
    page = look(busy, "/#/decisions/%3Cimg%20src%3Dx%20onerror%3Dalert(1)%3E")
    page.get_by_role("alert").get_by_text("no decision of this id").wait_for()
    assert page.locator("dialog img").count() == 0
    assert "<img src=x" in page.locator("#detail-id").inner_text()


def test_hostile_names_stay_text_on_every_page(upstream, serve, send, look, settled, tmp_path):
    from wye.gateway.app import create_app
    from wye.gateway.config_file import parse_config

    # What a target may be called has no blanks.
    quoted, name = json.dumps(HOSTILE), json.dumps("<img/src=x/onerror=alert(1)>")
    config = parse_config(
        f'[[targets]]\nname = {name}\nbase_url = "{upstream}"\ndescription = {quoted}\n'
        f'quality = 0.9\n[[targets]]\nname = "plain"\nbase_url = "{upstream}"\nquality = 0.5\n'
        f'[policies.best]\nkind = "quality"\n'
        f'[store]\npath = "{tmp_path / "gateway.db"}"\nbatch_seconds = 0.05\n'
    )
    server = serve(create_app(config, playground=({"text": HOSTILE, "kind": HOSTILE, "why": ""},)))
    body = {"model": "wye", "messages": [{"role": "user", "content": HOSTILE}]}
    session = {"x-wye-session": HOSTILE}
    url = f"{server.url}/v1/chat/completions"
    answer = httpx.post(url, json=body, headers=session).raise_for_status()
    feedback = {"decision": answer.headers["x-wye-decision"], "quality": 1, "comment": HOSTILE}
    httpx.post(f"{server.url}/v1/feedback", json=feedback).raise_for_status()
    settled(server.url, 1)
    page = look(server)
    title = page.title()
    dialogs: list[str] = []
    page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
    places = ("overview", "decisions", "targets", "keys", "experiments", "frontier", "playground")
    for name in (*places, f"decisions/{answer.headers['x-wye-decision']}"):
        page.goto(f"{server.url}/#/{name}")
        page.locator("#page:not([hidden]) h1").wait_for()
        page.wait_for_timeout(150)
        assert page.locator("main img, main script, dialog img, dialog script").count() == 0
    page.get_by_label("Policy to replay under").select_option("best")
    page.get_by_text("The same:").wait_for()
    assert page.locator("main img, main script, dialog img, dialog script").count() == 0
    assert "owned" not in (title, page.title())
    assert dialogs == []
