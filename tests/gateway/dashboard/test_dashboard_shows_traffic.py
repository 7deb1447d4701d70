"""What a person reads on the dashboard is what the gateway did."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from typing import Any

import httpx
import pytest

pytestmark = pytest.mark.browser

SMALL_USD = (20 * 0.1 + 10 * 0.4) / 1e6
LARGE_USD = (20 * 2.0 + 10 * 8.0) / 1e6


def figure(page: Any, name: str) -> str:
    tile = page.get_by_label("Key figures").locator("dl > div", has_text=name)
    return str(tile.locator("dd").first.inner_text())


def note(page: Any, name: str) -> str:
    tile = page.get_by_label("Key figures").locator("dl > div", has_text=name)
    return str(tile.locator("dd").nth(1).inner_text())


def dollars(text: str) -> float:
    found = re.search(r"\$([\d.,]+)", text)
    assert found, f"no amount in {text!r}"
    return float(found[1].replace(",", ""))


def test_a_newcomer_is_told_what_to_do_and_it_works(start_gateway, look, settled) -> None:
    server = start_gateway()
    page = look(server)
    assert page.get_by_role("heading", name="Ready: no request yet").is_visible()
    code = page.locator("figure", has_text="openai client").locator("code").first.inner_text()
    assert f"{server.url}/v1" in code
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    assert "capital of Mongolia" in run.stdout
    settled(server.url, 1)
    page.get_by_label("Key figures").wait_for()
    assert figure(page, "Requests") == "1"
    assert page.get_by_role("heading", name="Ready: no request yet").is_hidden()


def test_the_curl_snippet_is_the_request_the_gateway_takes(start_gateway, look, settled) -> None:
    server = start_gateway()
    page = look(server)
    code = page.locator("figure", has_text="curl").locator("code").first.inner_text()
    url = code.split()[1]
    body = json.loads(re.search(r"-d '(.*)'", code, re.DOTALL)[1])
    assert httpx.post(url, json=body).status_code == 200
    settled(server.url, 1)


def test_copy_puts_the_snippet_on_the_clipboard(start_gateway, look) -> None:
    server = start_gateway()
    page = look(server, permissions=["clipboard-read", "clipboard-write"])
    snippet = page.locator("#start figure", has_text="curl")
    snippet.get_by_role("button", name="Copy").click()
    snippet.get_by_role("button", name="Copied").wait_for()
    assert page.evaluate("navigator.clipboard.readText()") == snippet.locator("code").inner_text()


def test_key_figures_are_those_of_the_requests(busy, look) -> None:
    page = look(busy)
    page.get_by_label("Key figures").wait_for()
    # 18 routed prompts, a third of them by "best" (large), and two hostile ones, one of them large
    large, small = 7, 13
    spent = large * LARGE_USD + small * SMALL_USD
    baseline = 20 * LARGE_USD
    assert figure(page, "Requests") == "20"
    assert dollars(figure(page, "Spend")) == pytest.approx(spent, rel=0.01)
    assert dollars(note(page, "Spend")) == pytest.approx(baseline, rel=0.01)
    assert dollars(note(page, "Saved")) == pytest.approx(baseline - spent, rel=0.01)
    shown = float(figure(page, "Saved").rstrip("%"))
    assert shown == pytest.approx(100 * (1 - spent / baseline), abs=0.06)
    judged = [k % 4 // 2 for k in range(18) if k % 2]
    assert figure(page, "Quality") == f"{sum(judged) / len(judged):.2f}"
    assert note(page, "Quality") == f"mean of {len(judged)} rated answers"
    assert re.fullmatch(r"[\d.]+ (ms|s)", figure(page, "Latency"))
    assert re.fullmatch(r"p95 [\d.]+ (ms|s), choice [\d.]+ ms", note(page, "Latency"))
    assert figure(page, "Errors") == "0"


def test_each_target_has_its_share(busy, look) -> None:
    page = look(busy)
    table = page.get_by_role("region", name="Targets")
    table.get_by_role("row", name="small").get_by_text("65% · 13").wait_for()
    large = table.get_by_role("row", name="large")
    assert large.get_by_text("35% · 7").is_visible()
    widths = page.locator("#shares .fill").evaluate_all(
        "bars => bars.map(b => b.getBoundingClientRect().width"
        " / b.ownerSVGElement.getBoundingClientRect().width)"
    )
    assert widths == pytest.approx([0.65, 0.35], abs=0.01)


@pytest.fixture(scope="module")
def long(share_gateway, send, settled):
    """A gateway with more decisions than one page of the list holds."""
    with share_gateway() as server:
        for k in range(30):
            send(server.url, f"Question number {k}?")
        settled(server.url, 30)
        yield server


def test_decisions_come_newest_first_and_older_ones_on_request(long, look) -> None:
    page = look(long, "/#/decisions")
    rows = page.locator("#decisions tr")
    rows.first.wait_for()
    assert rows.count() == 25
    assert "number 29?" in rows.first.inner_text()
    page.get_by_role("button", name="Show older").click()
    page.get_by_text("Question number 0?", exact=True).wait_for()
    assert rows.count() == 30
    assert page.get_by_role("button", name="Show older").is_hidden()
    time.sleep(3.5)
    assert rows.count() == 30, "a refresh must not drop the older rows"


def test_filters_narrow_the_list_and_stay_in_the_address(busy, look) -> None:
    page = look(busy, "/#/decisions")
    rows = page.locator("#decisions tr")
    page.get_by_label("Target").select_option("large")
    page.get_by_label("Prompt contains").fill("how MUCH")
    page.get_by_role("button", name="Filter", exact=True).click()
    page.locator("#found", has_text="6 decisions").wait_for()
    assert rows.count() == 6
    assert "target=large" in page.url
    page.reload()
    page.locator("#found", has_text="6 decisions").wait_for()
    assert page.get_by_label("Target").input_value() == "large"
    rows.first.get_by_role("link").click()
    page.get_by_role("heading", name="Candidates").wait_for()
    page.keyboard.press("Escape")
    page.get_by_role("dialog", name="Decision").wait_for(state="hidden")
    assert "target=large" in page.url, "closing a decision keeps the filters"
    page.get_by_label("Prompt contains").fill("nobody asked this")
    page.keyboard.press("Enter")
    page.get_by_text("No decision passes these filters.").wait_for()
    page.get_by_role("button", name="Clear").click()
    page.get_by_text("No decision passes these filters.").wait_for(state="hidden")
    assert rows.count() == 20


def test_another_policy_is_replayed_in_the_panel(busy, look) -> None:
    page = look(busy, "/#/decisions")
    page.get_by_role("link", name="How much is 16 and 16?").click()
    panel = page.get_by_role("dialog", name="Decision")
    panel.get_by_label("Policy to replay under").select_option("best")
    panel.get_by_text("It would have gone to").wait_for()
    replayed = panel.locator(".replayed")
    assert "large" in replayed.locator(".went").inner_text()
    assert "0.20 more quality" in replayed.inner_text()
    panel.get_by_label("Policy to replay under").select_option("cheap")
    panel.get_by_text("The same:").wait_for()


def test_a_decision_opens_with_all_candidates_and_reasons(busy, look) -> None:
    page = look(busy, "/#/decisions")
    page.get_by_role("link", name="How much is 16 and 16?").click()
    panel = page.get_by_role("dialog", name="Decision")
    panel.get_by_role("heading", name="Candidates").wait_for()
    decision_id = page.url.rsplit("/", 1)[-1]
    truth = httpx.get(f"{busy.url}/api/decisions/{decision_id}").json()
    rows = panel.locator("table.candidates tbody tr")
    assert rows.count() == len(truth["candidates"]) == 2
    for row, candidate in zip(rows.all(), truth["candidates"], strict=True):
        text = row.inner_text()
        assert candidate["target"] in text
        assert f"{candidate['quality']:.2f} ± {1.645 * candidate['quality_std']:.2f}" in text
        assert dollars(text) == pytest.approx(candidate["cost_usd"], rel=0.01)
    assert "chosen" in panel.get_by_role("row", name=truth["target"]).inner_text()
    for reason in truth["reasons"]:
        assert panel.get_by_role("listitem").filter(has_text=reason).is_visible()
    shown = panel.inner_text()
    for word in (
        "Propensity",
        "Policy",
        "Router",
        *(k.replace("_", " ") for k in truth["features"]),
    ):
        assert word in shown
    page.keyboard.press("Escape")
    panel.wait_for(state="hidden")
    assert page.url.endswith("#/decisions")


def test_a_prompt_that_is_not_stored_is_not_shown(start_gateway, look, send, settled) -> None:
    server = start_gateway(store_table="store_prompts = false\n")
    send(server.url, "My secret is safe?")
    settled(server.url, 1)
    page = look(server)
    page.get_by_role("link", name="Text not stored").click()
    page.get_by_role("dialog").get_by_role("heading", name="Candidates").wait_for()
    assert "secret" not in page.content()


def test_a_target_that_keeps_failing_is_shown_resting(start_gateway, look, upstream_switch) -> None:
    server = start_gateway()
    page = look(server)
    body = {"model": "small", "messages": [{"role": "user", "content": "hello?"}]}
    with upstream_switch.off():
        for _ in range(3):
            httpx.post(f"{server.url}/v1/chat/completions", json=body)
    row = page.get_by_role("region", name="Targets").get_by_role("row", name="small")
    row.get_by_text("resting").wait_for()
    assert figure(page, "Errors") == "3"
    page.get_by_role("link", name="Targets", exact=True).click()
    card = page.get_by_role("region", name="small")
    card.get_by_text("resting").wait_for()
    assert "left alone for another" in card.inner_text()


def test_the_address_of_a_decision_opens_it(busy, look) -> None:
    latest = httpx.get(f"{busy.url}/api/decisions?limit=1").json()["data"][0]
    page = look(busy, f"/#/decisions/{latest['id']}")
    page.get_by_role("dialog").get_by_role("heading", name="Why").wait_for()


def test_who_closes_a_decision_and_goes_elsewhere_at_once_gets_there(busy, look) -> None:
    latest = httpx.get(f"{busy.url}/api/decisions?limit=1").json()["data"][0]
    page = look(busy, f"/#/decisions/{latest['id']}")
    page.get_by_role("dialog").get_by_role("heading", name="Why").wait_for()
    # The browser may tell of the closing before it tells of the new address.
    page.evaluate(
        "const panel = document.getElementById('detail'); location.hash = '#/keys';"
        " panel.close(); panel.dispatchEvent(new Event('close'))"
    )
    page.get_by_role("button", name="Make a key").wait_for()
    page.wait_for_timeout(100)
    assert page.url.endswith("#/keys")


def test_an_unknown_decision_says_so(busy, look) -> None:
    look.tolerate("404")
    page = look(busy, "/#/decisions/no-such-id")
    page.get_by_role("alert").get_by_text("no decision of this id").wait_for()


def test_a_gateway_that_is_gone_is_noticed_and_found_again(
    start_gateway, look, send, settled, tmp_path
) -> None:
    look.tolerate("ERR_CONNECTION_REFUSED")
    look.tolerate("ERR_CONNECTION_RESET")
    server = start_gateway(tmp_path / "gateway.db")
    send(server.url, "Are you there?")
    settled(server.url, 1)
    page = look(server)
    server.stop()
    alert = page.get_by_role("alert").filter(has_text="The gateway does not answer")
    alert.wait_for()
    assert "wye up" in alert.inner_text()
    assert figure(page, "Requests") == "1", "the last figures stay on the page"
    start_gateway(tmp_path / "gateway.db", server.port)
    page.get_by_role("button", name="Try now").click()
    page.get_by_text("Live", exact=True).wait_for()
    alert.wait_for(state="hidden")
