"""The dashboard by keyboard, in light and dark, on a narrow screen, without motion, for readers."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

pytestmark = pytest.mark.browser

# WCAG 2.2: relative luminance and contrast ratio (1.4.3), of each text against what lies behind it.
CONTRAST = """() => {
  const parse = (text) => {
    const [r, g, b, a = 1] = text.match(/[\\d.]+/g).map(Number);
    return { r, g, b, a };
  };
  const over = (top, under) => ({
    r: top.r * top.a + under.r * (1 - top.a),
    g: top.g * top.a + under.g * (1 - top.a),
    b: top.b * top.a + under.b * (1 - top.a),
    a: 1,
  });
  const luminance = ({ r, g, b }) => {
    const [x, y, z] = [r, g, b].map((v) => {
      const s = v / 255;
      return s <= 0.04045 ? s / 12.92 : ((s + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const behind = (node) => {
    const layers = [];
    for (let n = node; n; n = n.parentElement) {
      const c = parse(getComputedStyle(n).backgroundColor);
      layers.push(c);
      if (c.a === 1) break;
    }
    return layers.reverse().reduce((under, top) => over(top, under), { r: 255, g: 255, b: 255 });
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim()) continue;
    if (!node.checkVisibility({ visibilityProperty: true })) continue;
    if (node.closest('.unseen, .skip, noscript, option, [hidden]')) continue;
    const style = getComputedStyle(node);
    const under = behind(node);
    const ink = parse(node.closest('svg') ? style.fill : style.color);
    const [a, b] = [luminance(over(ink, under)), luminance(under)].sort((x, y) => y - x);
    found.push([walker.currentNode.data.trim().slice(0, 40), (a + 0.05) / (b + 0.05)]);
  }
  return found;
}"""

NAMELESS = """() => [...document.querySelectorAll(
    'button, a, input, select, textarea, [tabindex="0"]')]
  .filter((n) => n.checkVisibility())
  .filter((n) => !(n.ariaLabel || n.innerText?.trim() || n.labels?.length || n.title))
  .map((n) => n.outerHTML)"""


PAGES = (
    "overview", "decisions", "targets", "keys", "alarms", "frontier", "playground"
)  # fmt: skip


@pytest.fixture(scope="module")
def full(share_gateway, send, settled):
    """A gateway with something to see on every page."""
    with share_gateway() as server:
        for k in range(12):
            send(server.url, f"How much is {k} and {k}?", "wye/best" if k % 3 else "wye")
        settled(server.url, 12)
        key = {"name": "team", "budget_day": 5, "budget_total": 100, "targets": ["small"]}
        httpx.post(f"{server.url}/api/keys", json=key).raise_for_status()
        other = httpx.post(f"{server.url}/api/keys", json={"name": "left"}).json()["key"]["id"]
        httpx.post(f"{server.url}/api/keys/{other}/revoke", json={}).raise_for_status()
        yield server


def show(page: Any, name: str) -> None:
    page.goto(f"{page.url.split('#')[0]}#/{name}")
    page.locator("#page:not([hidden])").wait_for()
    page.get_by_text("Live", exact=True).wait_for()
    if name == "playground":
        page.get_by_label("Prompt", exact=True).fill("What is this?")
        page.get_by_text("Would go to").wait_for()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_contrast_on_every_page(full, look, scheme: str) -> None:
    page = look(full, color_scheme=scheme)
    for name in PAGES:
        show(page, name)
        texts = page.evaluate(CONTRAST)
        assert len(texts) > 15, name
        assert [(name, text, ratio) for text, ratio in texts if ratio < 4.5] == []
    show(page, "decisions")
    page.locator("#decisions .open").first.click()
    page.get_by_label("Policy to replay under").select_option("cheap")
    page.locator(".replayed .went").wait_for()
    assert [(text, ratio) for text, ratio in page.evaluate(CONTRAST) if ratio < 4.5] == []


def test_light_and_dark_follow_the_system(busy, look) -> None:
    def brightness(scheme: str) -> int:
        page = look(busy, color_scheme=scheme)
        color = page.evaluate("getComputedStyle(document.body).backgroundColor")
        return sum(int(part) for part in color[4:-1].split(","))

    assert brightness("dark") < 150 < 600 < brightness("light")


OUTSIDE = """() => [...document.querySelectorAll('body *')]
  .filter((n) => n.checkVisibility() && !n.closest('.scroll, pre, .unseen, .skip, .decisions thead')
    && !n.parentElement.closest('td'))
  .filter((n) => n.getBoundingClientRect().right > innerWidth + 0.5)
  .map((n) => n.outerHTML.slice(0, 100))"""


def test_the_reader_may_choose_light_or_dark_and_it_is_remembered(busy, look) -> None:
    page = look(busy, color_scheme="light")
    page.get_by_role("button", name="Theme: auto").click()
    page.get_by_role("button", name="Theme: light").click()
    button = page.get_by_role("button", name="Theme: dark")
    button.wait_for()
    color = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(color)
    assert sum(int(part) for part in dark[4:-1].split(",")) < 150
    page.reload()
    button.wait_for()
    assert page.evaluate(color) == dark
    button.click()
    assert page.evaluate(color) != dark


def test_nothing_is_cut_off_at_any_width_on_any_page(full, look) -> None:
    page = look(full)
    for name in PAGES:
        show(page, name)
        for width in (320, 360, 768, 1440):
            page.set_viewport_size({"width": width, "height": 800})
            page.wait_for_timeout(100)
            assert page.evaluate(OUTSIDE) == [], f"{name} at {width} pixels"
            assert page.evaluate("document.documentElement.scrollWidth") <= width, name


def test_a_phone_can_open_a_decision_and_close_it(busy, look) -> None:
    page = look(busy, viewport={"width": 390, "height": 844}, has_touch=True)
    page.locator("#decisions tr").first.tap()
    panel = page.get_by_role("dialog", name="Decision")
    panel.get_by_role("heading", name="Candidates").wait_for()
    box = panel.bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 390
    panel.get_by_role("button", name="Close").tap()
    panel.wait_for(state="hidden")


def test_every_control_has_a_name(full, look) -> None:
    page = look(full)
    for name in PAGES:
        show(page, name)
        assert page.evaluate(NAMELESS) == [], name
        assert page.locator("h1").count() == 1
        assert page.title().startswith(page.locator("h1").inner_text())
    show(page, "decisions")
    page.locator("#decisions .open").first.click()
    page.get_by_role("heading", name="Candidates").wait_for()
    assert page.evaluate(NAMELESS) == []
    page.keyboard.press("Escape")
    show(page, "keys")
    page.get_by_role("button", name="Make a key").click()
    assert page.evaluate(NAMELESS) == []


def focused(page: Any) -> str:
    return str(page.evaluate("document.activeElement.id || document.activeElement.innerText"))


def tab_to(page: Any, target: str, key: str = "Tab") -> None:
    for _ in range(60):
        page.keyboard.press(key)
        if focused(page) == target:
            return
    pytest.fail(f"the Tab key never reaches {target!r}")


def test_the_keyboard_alone_asks_rates_and_opens(open_gateway, look) -> None:
    page = look(open_gateway)
    page.keyboard.press("Tab")
    assert focused(page) == "skip"
    page.keyboard.press("Enter")
    assert focused(page) == "main"
    page.keyboard.press("Shift+Tab")
    tab_to(page, "Playground", "Shift+Tab")
    page.keyboard.press("Enter")
    page.locator("#page:not([hidden])").wait_for()
    tab_to(page, "prompt")
    page.keyboard.type("By keyboard alone")
    page.keyboard.press("Control+Enter")
    page.get_by_text("Was it right?").wait_for()
    good = page.get_by_role("button", name="Good answer")
    for _ in range(40):
        if good.evaluate("n => n === document.activeElement"):
            break
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Good answer", pressed=True).wait_for()
    tab_to(page, "Decisions", "Shift+Tab")
    page.keyboard.press("Enter")
    page.get_by_role("link", name="By keyboard alone").wait_for()
    tab_to(page, "By keyboard alone")
    page.keyboard.press("Enter")
    panel = page.get_by_role("dialog", name="Decision")
    panel.get_by_role("heading", name="Candidates").wait_for()
    assert panel.evaluate("d => d.contains(document.activeElement)")
    page.keyboard.press("Escape")
    panel.wait_for(state="hidden")
    assert focused(page) == "By keyboard alone", "focus returns to where it was"


def test_a_list_is_one_stop_and_arrows_move_in_it(busy, look) -> None:
    page = look(busy, "/#/decisions")
    links = page.locator("#decisions .open")
    links.first.wait_for()
    stops = "all => all.filter(n => n.tabIndex === 0).length"
    assert links.evaluate_all(stops) == 1
    links.first.focus()
    for key, index in (("ArrowDown", 1), ("End", 19), ("ArrowDown", 19), ("ArrowUp", 18)):
        page.keyboard.press(key)
        at = "all => all.indexOf(document.activeElement)"
        assert links.evaluate_all(at) == index, key
    assert links.evaluate_all(stops) == 1
    page.keyboard.press("Tab")
    assert links.evaluate_all("all => all.includes(document.activeElement)") is False


def test_what_has_the_focus_shows_it(busy, look) -> None:
    page = look(busy)
    page.locator("#decisions tr").first.wait_for()
    for _ in range(25):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement === document.body"):
            break
        outlined = page.evaluate(
            """() => {
              const n = document.activeElement;
              const around = [n, n.nextElementSibling, n.closest('td'), n.parentElement];
              return around.some((m) => m && getComputedStyle(m).outlineStyle === 'solid');
            }"""
        )
        assert outlined, f"no outline around {focused(page)!r}"


def test_nothing_moves_for_those_who_asked_so(open_gateway, look) -> None:
    page = look(open_gateway, "/#/playground", reduced_motion="reduce")
    page.get_by_label("Prompt", exact=True).fill("still " * 60)
    page.get_by_role("button", name="Ask").click()
    page.locator("#answer .text.streaming").wait_for()
    assert page.evaluate("document.getAnimations().length") == 0
