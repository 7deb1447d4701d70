"""The dashboard by keyboard, in light and dark, on a narrow screen, without motion, for readers."""

from __future__ import annotations

from typing import Any

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


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_contrast(busy, look, scheme: str) -> None:
    page = look(busy, color_scheme=scheme)
    page.locator("#decisions tr").first.wait_for()
    texts = page.evaluate(CONTRAST)
    page.locator("#decisions .open").first.click()
    page.get_by_role("heading", name="Candidates").wait_for()
    texts += page.evaluate(CONTRAST)
    assert len(texts) > 80
    assert [(text, ratio) for text, ratio in texts if ratio < 4.5] == []


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


def test_nothing_is_cut_off_at_any_width(busy, look) -> None:
    page = look(busy)
    page.locator("#decisions tr").first.wait_for()
    for width in (320, 390, 768, 1024, 1400, 1920):
        page.set_viewport_size({"width": width, "height": 800})
        page.wait_for_timeout(150)
        assert page.evaluate(OUTSIDE) == [], f"at {width} pixels"
        assert page.evaluate("document.documentElement.scrollWidth") <= width


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


def test_every_control_has_a_name(busy, look) -> None:
    page = look(busy)
    page.locator("#decisions tr").first.wait_for()
    assert page.evaluate(NAMELESS) == []
    page.locator("#decisions .open").first.click()
    page.get_by_role("heading", name="Candidates").wait_for()
    assert page.evaluate(NAMELESS) == []


def focused(page: Any) -> str:
    return str(page.evaluate("document.activeElement.id || document.activeElement.innerText"))


def tab_to(page: Any, target: str) -> None:
    for _ in range(60):
        page.keyboard.press("Tab")
        if focused(page) == target:
            return
    pytest.fail(f"the Tab key never reaches {target!r}")


def test_the_keyboard_alone_asks_rates_and_opens(open_gateway, look) -> None:
    page = look(open_gateway)
    page.locator("#decisions tr").first.wait_for()
    page.keyboard.press("Tab")
    assert focused(page) == "Skip to the figures"
    tab_to(page, "prompt")
    page.keyboard.type("By keyboard alone")
    page.keyboard.press("Control+Enter")
    page.get_by_text("Was it right?").wait_for()
    good = page.get_by_role("button", name="Good answer")
    while not good.evaluate("n => n === document.activeElement"):
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Good answer", pressed=True).wait_for()
    tab_to(page, "By keyboard alone")
    page.keyboard.press("Enter")
    panel = page.get_by_role("dialog", name="Decision")
    panel.get_by_role("heading", name="Candidates").wait_for()
    assert panel.evaluate("d => d.contains(document.activeElement)")
    page.keyboard.press("Escape")
    panel.wait_for(state="hidden")
    assert focused(page) == "By keyboard alone", "focus returns to where it was"


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
    page = look(open_gateway, reduced_motion="reduce")
    page.get_by_label("Prompt", exact=True).fill("still " * 60)
    page.get_by_role("button", name="Ask").click()
    page.locator("#answer .text.streaming").wait_for()
    assert page.evaluate("document.getAnimations().length") == 0
