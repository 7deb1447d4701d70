"""The box to try a prompt behaves as a client does, and says who answered and why."""

from __future__ import annotations

import re
from typing import Any

import httpx
import pytest

pytestmark = pytest.mark.browser


def ask(page: Any, prompt: str, model: str | None = None) -> Any:
    page.get_by_label("Prompt", exact=True).fill(prompt)
    if model:
        page.get_by_label("Route by").select_option(model)
    page.get_by_role("button", name="Ask").click()
    page.get_by_text("Was it right?").wait_for()
    return page.locator("#answer")


def latest(server: Any) -> dict[str, Any]:
    found: dict[str, Any] = httpx.get(f"{server.url}/api/decisions?limit=1").json()["data"][0]
    return found


def test_an_answer_comes_with_its_target_and_reasons(open_gateway, look) -> None:
    page = look(open_gateway, "/#/playground")
    answer = ask(page, "How far is the moon?").inner_text()
    stored = latest(open_gateway)
    assert stored["text"] == "How far is the moon?"
    assert "small heard: How far is the moon?" in answer
    assert f"Answered by\n{stored['target']}" in answer.replace("\n\n", "\n")
    for reason in stored["reasons"]:
        assert reason in answer


def test_the_answer_is_shown_while_it_still_comes(open_gateway, look) -> None:
    page = look(open_gateway, "/#/playground")
    page.evaluate(
        """() => {
          window.lengths = [];
          const watch = () => {
            const text = document.querySelector('#answer .text');
            if (text) window.lengths.push(text.textContent.length);
          };
          new MutationObserver(watch).observe(document.querySelector('#answer'),
            { subtree: true, childList: true, characterData: true });
        }"""
    )
    prompt = "say this again " * 20
    ask(page, prompt)
    lengths = page.evaluate("window.lengths")
    assert len({n for n in lengths if 0 < n < len(prompt)}) > 5


@pytest.mark.parametrize(("model", "target"), [("wye/best", "large"), ("large", "large")])
def test_the_policy_and_the_target_can_be_chosen(
    open_gateway, look, model: str, target: str
) -> None:
    page = look(open_gateway, "/#/playground")
    answer = ask(page, f"By {model}, please", model)
    assert f"{target} heard: By {model}, please" in answer.inner_text()
    assert latest(open_gateway)["target"] == target


def test_the_selector_offers_every_policy_and_target(open_gateway, look) -> None:
    page = look(open_gateway, "/#/playground")
    options = page.get_by_label("Route by").locator("option")
    options.first.wait_for(state="attached")
    values = options.evaluate_all("all => all.map(o => o.value)")
    assert sorted(values) == ["large", "small", "wye", "wye/best"]
    assert options.first.inner_text() == "cheap (default)"


def test_a_thumb_is_stored_as_quality(open_gateway, look) -> None:
    page = look(open_gateway, "/#/playground")
    answer = ask(page, "Was that good?")
    for name, quality in (("Bad answer", 0.0), ("Good answer", 1.0)):
        answer.get_by_role("button", name=name).click()
        answer.get_by_role("button", name=name, pressed=True).wait_for()
        assert latest(open_gateway)["quality"] == quality
    page.get_by_role("link", name="Decisions", exact=True).click()
    row = page.locator("#decisions tr", has_text="Was that good?").first
    row.get_by_text("1.00").wait_for()


def test_the_decision_of_an_answer_opens(open_gateway, look) -> None:
    page = look(open_gateway, "/#/playground")
    ask(page, "And why?").get_by_role("link", name="Open the decision").click()
    panel = page.get_by_role("dialog", name="Decision")
    panel.get_by_text("And why?").first.wait_for()
    assert latest(open_gateway)["id"] in panel.inner_text()


def test_a_prompt_that_no_target_answers_is_told(start_gateway, look, upstream_switch) -> None:
    look.tolerate("502")
    look.tolerate("503")
    server = start_gateway()
    page = look(server, "/#/playground")
    with upstream_switch.off():
        page.get_by_label("Prompt", exact=True).fill("Nobody home?")
        page.get_by_role("button", name="Ask").click()
        problem = page.get_by_role("alert").filter(has_text="No whole answer")
        problem.wait_for()
    assert page.get_by_role("button", name="Ask").is_enabled()
    page.get_by_role("link", name="Decisions", exact=True).click()
    row = page.locator("#decisions tr", has_text="Nobody home?")
    row.get_by_text("error").wait_for()
    row.get_by_role("link").click()
    page.get_by_role("heading", name="What went wrong").wait_for()


def test_suggested_prompts_fill_the_box_and_say_why(start_gateway, look) -> None:
    prompts = [{"text": f"Question {k}?", "kind": "sum", "why": f"Because {k}."} for k in range(7)]
    server = start_gateway(playground=tuple(prompts))
    page = look(server, "/#/playground")
    page.get_by_role("button", name="sum Question 2?").click()
    assert page.get_by_label("Prompt", exact=True).input_value() == "Question 2?"
    assert page.get_by_text("Because 2.").is_visible()
    assert page.get_by_role("button", name="Question 6?").count() == 0
    page.get_by_role("button", name="Others").click()
    page.get_by_role("button", name="Question 6?").wait_for()


def test_stop_ends_the_answer(open_gateway, look) -> None:
    page = look(open_gateway, "/#/playground")
    page.get_by_label("Prompt", exact=True).fill("a long answer " * 2000)
    page.get_by_role("button", name="Ask").click()
    page.get_by_role("button", name="Stop").click()
    page.get_by_text("Stopped.").wait_for()
    page.get_by_role("button", name="Ask").wait_for()
    assert page.get_by_role("button", name="Ask").is_enabled()


@pytest.mark.local
def test_the_embedded_model_writes_on_the_page_and_stops_when_told(look, serve, tmp_path) -> None:
    from wye.gateway.app import create_app
    from wye.gateway.config_file import parse_config
    from wye.gateway.pool import WeightsError, weights

    pytest.importorskip("xllamacpp", reason="the extra `local` is not installed")
    try:
        weights.locate()
    except WeightsError as error:
        pytest.skip(str(error))
    config = parse_config(
        '[[targets]]\nname = "direct"\nkind = "embedded"\n'
        "price_in_per_mtok = 0.01\nprice_out_per_mtok = 0.04\n"
        f'[store]\npath = "{tmp_path / "gateway.db"}"\n'
    )
    server = serve(create_app(config))
    page = look(server, "/#/playground")
    page.set_default_timeout(120_000)
    page.get_by_label("Prompt", exact=True).fill("Tell me a long story about a railway.")
    page.get_by_role("button", name="Ask").click()
    page.locator("#answer .text", has_text=re.compile(r".{40}", re.DOTALL)).wait_for()
    page.get_by_role("button", name="Stop").click()
    page.get_by_text("Stopped.").wait_for()
    page.get_by_role("link", name="Decisions", exact=True).click()
    page.locator("#decisions").get_by_text("cancelled").wait_for()
