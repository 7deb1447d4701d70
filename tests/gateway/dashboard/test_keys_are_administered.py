"""Keys on the page: made, shown once, changed, revoked after a question, used to ask."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

pytestmark = pytest.mark.browser

HOSTILE = '<img src=x onerror="document.title=1">'


@pytest.fixture
def server(start_gateway):
    return start_gateway()


def make(page: Any, name: str, **limits: str) -> str:
    page.get_by_role("button", name="Make a key").click()
    dialog = page.get_by_role("dialog", name="Make a key")
    dialog.get_by_label("Name").fill(name)
    for label, value in limits.items():
        dialog.get_by_label(label.replace("_", " ")).fill(value)
    page.keyboard.press("Enter")
    secret = page.locator("#secret code")
    secret.wait_for()
    return str(secret.inner_text())


def test_a_key_is_made_by_keyboard_shown_once_and_gone(server, look) -> None:
    page = look(server, "/#/keys")
    assert page.get_by_text("No key yet.").is_visible()
    secret = make(page, HOSTILE, USD_a_day="2.5", Requests_a_minute="30")
    assert secret.startswith("wye_")
    page.keyboard.press("Escape")
    card = page.get_by_role("region", name=f"Key {HOSTILE}")
    card.get_by_text("$0 of $2.50").wait_for()
    assert card.get_by_text("30 requests a minute").is_visible()
    assert secret not in page.content()
    assert page.locator("main img").count() == 0
    answer = httpx.get(f"{server.url}/v1/models", headers={"authorization": f"Bearer {secret}"})
    assert answer.status_code == 200


def test_a_limit_is_changed_and_the_others_stay(server, look) -> None:
    page = look(server, "/#/keys")
    make(page, "team", USD_a_day="2", USD_in_total="10")
    page.get_by_role("button", name="I have kept it").click()
    page.get_by_role("button", name="Change").click()
    dialog = page.get_by_role("dialog", name="Change team")
    assert dialog.get_by_label("USD in total").input_value() == "10"
    dialog.get_by_label("USD a day").fill("")
    dialog.get_by_label("small").check()
    dialog.get_by_role("button", name="Change").click()
    page.get_by_text("only small").wait_for()
    limits = httpx.get(f"{server.url}/api/keys").json()["keys"][0]["limits"]
    assert limits["budget_day"] is None
    assert limits["budget_total"] == 10
    assert limits["targets"] == ["small"]


def test_a_refused_order_says_why_and_keeps_the_form(server, look) -> None:
    look.tolerate("400")
    page = look(server, "/#/keys")
    make(page, "team")
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Make a key").click()
    page.get_by_label("Name").fill("team")
    page.keyboard.press("Enter")
    page.get_by_role("alert").filter(has_text="there is a key named 'team' already").wait_for()
    assert page.get_by_label("Name").input_value() == "team"


def test_revoking_asks_first_and_escape_leaves_the_key(server, look) -> None:
    page = look(server, "/#/keys")
    make(page, "team")
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Revoke").click()
    question = page.get_by_role("dialog", name="Revoke team?")
    question.wait_for()
    page.keyboard.press("Escape")
    question.wait_for(state="hidden")
    assert httpx.get(f"{server.url}/api/keys").json()["keys"][0]["state"] == "good"
    page.get_by_role("button", name="Revoke").click()
    question.get_by_role("button", name="Revoke").click()
    page.get_by_role("region", name="Key team").get_by_text("revoked", exact=True).wait_for()
    assert page.get_by_role("button", name="Revoke").count() == 0


def test_the_playground_asks_with_a_key_that_only_the_tab_keeps(server, look) -> None:
    look.tolerate("401")
    body = {"name": "team", "targets": ["large"]}
    secret = httpx.post(f"{server.url}/api/keys", json=body).json()["secret"]
    page = look(server, "/#/playground")
    page.get_by_label("Virtual key").fill(secret)
    page.get_by_role("button", name="Use").click()
    page.get_by_label("Prompt", exact=True).fill("With a key?")
    page.get_by_text("Would go to").wait_for()
    page.locator("#choice", has_text="may not use it").wait_for()
    page.get_by_role("button", name="Ask").click()
    page.get_by_text("large heard: With a key?").wait_for()
    page.get_by_role("button", name="Good answer").click()
    page.get_by_text("Stored with the decision").wait_for()
    assert page.evaluate("Object.values(localStorage).join()").find(secret) == -1
    assert page.evaluate("sessionStorage.getItem('wye:key')") == secret
    page.reload()
    assert page.get_by_label("Virtual key").input_value() == secret


def test_without_a_key_the_playground_says_what_is_missing(server, look) -> None:
    look.tolerate("401")
    httpx.post(f"{server.url}/api/keys", json={"name": "team"}).raise_for_status()
    page = look(server, "/#/playground")
    page.get_by_text("answers only with a key").wait_for()
    page.get_by_label("Prompt", exact=True).fill("Nobody in particular?")
    page.get_by_role("button", name="Ask").click()
    page.get_by_role("alert").filter(has_text="this gateway needs a key").wait_for()
