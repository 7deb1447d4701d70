"""The charts: places by value, labels that can be read, ticks that are round, a calm refresh."""

from __future__ import annotations

import itertools
import math
import random
from typing import Any

import pytest

pytestmark = pytest.mark.browser

SINGLES = [
    ("direct", 2.0e-5, 0.42),
    ("few-shot", 6.0e-5, 0.51),
    ("step by step", 6.2e-5, 0.515),
    ("majority of samples", 6.3e-5, 0.505),
    ("retrieval", 9.0e-5, 0.47),
    ("calculator", 3.2e-4, 0.56),
]
POINTS = [
    *({"label": n, "kind": "single", "cost_usd": c, "quality": q} for n, c, q in SINGLES),
    {"label": "mix", "kind": "mix", "cost_usd": 2.0e-5, "quality": 0.42},
    {"label": "mix", "kind": "mix", "cost_usd": 6.2e-5, "quality": 0.515},
    {"label": "mix", "kind": "mix", "cost_usd": 3.2e-4, "quality": 0.56},
    {"label": "router", "kind": "router", "cost_usd": 2.4e-5, "quality": 0.55},
    {"label": "router", "kind": "router", "cost_usd": 7.0e-5, "quality": 0.66},
    {"label": "oracle", "kind": "oracle", "cost_usd": 4.0e-5, "quality": 0.79},
    {"label": "unpriced", "kind": "single", "cost_usd": None, "quality": 0.3},
]


@pytest.fixture(scope="module")
def measured(share_gateway) -> Any:
    with share_gateway(frontier={"points": POINTS, "note": "Measured on 400 questions."}) as server:
        yield server


def overlaps(a: dict[str, float], b: dict[str, float]) -> bool:
    return (
        a["x"] < b["x"] + b["width"]
        and b["x"] < a["x"] + a["width"]
        and a["y"] < b["y"] + b["height"]
        and b["y"] < a["y"] + a["height"]
    )


def test_points_lie_by_quality_and_by_the_logarithm_of_cost(measured, look) -> None:
    page = look(measured, "/#/frontier")
    page.locator("svg.frontier").wait_for()
    places = page.locator("svg.frontier circle.mark.single").evaluate_all(
        "all => all.map(n => [n.dataset.label, n.cx.baseVal.value, n.cy.baseVal.value])"
    )
    found = {label: (x, y) for label, x, y in places}
    assert set(found) == {name for name, _, _ in SINGLES}
    (n0, c0, q0), (n1, c1, q1) = SINGLES[0], SINGLES[-1]
    for name, cost, quality in SINGLES[1:-1]:
        across = (math.log(cost) - math.log(c0)) / (math.log(c1) - math.log(c0))
        up = (quality - q0) / (q1 - q0)
        x = found[n0][0] + across * (found[n1][0] - found[n0][0])
        y = found[n0][1] + up * (found[n1][1] - found[n0][1])
        assert found[name] == pytest.approx((x, y), abs=0.01)


def test_a_mix_by_chance_is_linear_in_cost(measured, look) -> None:
    page = look(measured, "/#/frontier")
    page.locator("svg.frontier").wait_for()
    found = page.evaluate(
        """() => {
          const at = (label) => {
            const n = document.querySelector(`circle.mark.single[data-label="${label}"]`);
            return [n.cx.baseVal.value, n.cy.baseVal.value];
          };
          const curve = document.querySelector('path.curve.mix');
          const points = Array.from({ length: 201 }, (_, k) => {
            const p = curve.getPointAtLength(curve.getTotalLength() * k / 200);
            return [p.x, p.y];
          });
          return { low: at('direct'), high: at('step by step'), points };
        }"""
    )
    (x0, y0), (x1, y1) = found["low"], found["high"]
    c0, c1 = SINGLES[0][1], SINGLES[2][1]
    between = [(x, y) for x, y in found["points"] if x0 <= x <= x1]
    assert len(between) > 50
    for x, y in between:
        cost = c0 * (c1 / c0) ** ((x - x0) / (x1 - x0))
        share = (cost - c0) / (c1 - c0)
        assert y == pytest.approx(y0 + share * (y1 - y0), abs=0.5)


@pytest.mark.parametrize("width", [1400, 390])
def test_labels_of_crowded_points_can_be_read(measured, look, width: int) -> None:
    page = look(measured, "/#/frontier", viewport={"width": width, "height": 900})
    labels = page.locator("svg.frontier text.label")
    labels.first.wait_for()
    boxes = labels.evaluate_all(
        "all => all.map(n => { const { x, y, width, height } = n.getBBox();"
        " return { x, y, width, height: height * 0.8 }; })"
    )
    texts = labels.evaluate_all("all => all.map(n => n.textContent)")
    assert {"oracle", "direct", "few-shot", "calculator"} <= set(texts)
    assert not any(overlaps(a, b) for a, b in itertools.combinations(boxes, 2))


def test_no_label_is_ever_placed_over_another(measured, look) -> None:
    page = look(measured, "/#/frontier")
    rng = random.Random(7)
    frame = {"x": 0, "y": 0, "width": 400, "height": 250}
    layouts = [
        [
            {
                "x": rng.uniform(20, 380),
                "y": rng.uniform(20, 230),
                "width": rng.uniform(20, 120),
                "height": 16,
            }
            for _ in range(rng.randint(1, 25))
        ]
        for _ in range(100)
    ]
    results = page.evaluate(
        """async ([layouts, frame]) => {
          const { placeLabels } = await import('./labels.js');
          return layouts.map((labels) => placeLabels(labels, [], frame));
        }""",
        [layouts, frame],
    )
    dropped = 0
    for labels, boxes in zip(layouts, results, strict=True):
        placed = [box for box in boxes if box]
        dropped += len(labels) - len(placed)
        assert not any(overlaps(a, b) for a, b in itertools.combinations(placed, 2))
        for box in placed:
            assert box["x"] >= 0
            assert box["y"] >= 0
            assert box["x"] + box["width"] <= frame["width"]
            assert box["y"] + box["height"] <= frame["height"]
        if len(labels) <= 4:
            assert len(placed) == len(labels), "few labels always find a place"
    assert dropped < 0.2 * sum(map(len, layouts))


def test_ticks_are_round_few_and_cover_the_axis(measured, look) -> None:
    page = look(measured, "/#/frontier")
    rng = random.Random(11)
    spans = [(low := 10 ** rng.uniform(-7, 2), low * 10 ** rng.uniform(0.3, 5)) for _ in range(200)]
    found = page.evaluate(
        """async (spans) => {
          const { linearTicks, logTicks } = await import('./axes.js');
          const both = (a, b) => [linearTicks(a, b, 6), logTicks(a, b, 8)];
          return spans.map(([low, high]) => both(low, high));
        }""",
        spans,
    )
    for (low, high), (line, log) in zip(spans, found, strict=True):
        for ticks in (line, log):
            assert 1 <= len(ticks) <= 8
            assert all(low * 0.999 <= t <= high * 1.001 for t in ticks)
            assert ticks == sorted(set(ticks))
        assert all(f"{t:.0e}"[0] in "12357" for t in log)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        ("money(null)", "–"),
        ("money(0)", "$0"),
        ("money(0.000012345)", "$0.0000123"),
        ("money(0.5)", "$0.50"),
        ("money(3.14159)", "$3.14"),
        ("money(1234567)", "$1,234,567"),
        ("money(-0.02)", "−$0.02"),
        ("percent(0.1234)", "12.3%"),
        ("percent(null)", "–"),
        ("milliseconds(0.4213)", "0.42 ms"),
        ("milliseconds(1234)", "1.23 s"),
        ("milliseconds(125000)", "2.1 min"),
        ("milliseconds(null)", "–"),
        ("quality(1)", "1.00"),
        ("quality(undefined)", "–"),
        ("count(1284)", "1,284"),
    ],
)
def test_figures_read_well(formats, call: str, text: str) -> None:
    assert formats.evaluate(f"import('./format.js').then(f => f.{call})") == text


@pytest.fixture(scope="module")
def formats(measured, chromium) -> Any:
    page = chromium.new_page()
    page.goto(measured.url)
    yield page
    page.close()


def test_arrow_keys_read_the_points(measured, look) -> None:
    page = look(measured, "/#/frontier")
    chart = page.locator("svg.frontier")
    chart.focus()
    page.keyboard.press("ArrowRight")
    readout = page.locator("#frontier-readout")
    assert readout.inner_text() == "direct: quality 0.42 at $0.02 per 1,000 requests"
    page.keyboard.press("ArrowLeft")
    assert "direct" in readout.inner_text()


def test_the_figures_of_the_chart_are_a_table_too(measured, look) -> None:
    page = look(measured, "/#/frontier")
    page.get_by_text("The figures", exact=True).click()
    rows = page.locator("#frontier-rows tr")
    assert rows.count() == len(POINTS)
    unpriced = rows.filter(has_text="unpriced").inner_text()
    assert unpriced.split("\t")[-1] == "–"


def test_the_running_total_ends_at_the_spend(busy, look) -> None:
    page = look(busy)
    chart = page.locator("svg.series")
    chart.focus()
    page.keyboard.press("ArrowLeft")
    spend = page.locator("#figure-spend").inner_text()
    assert f"{spend} spent so far" in page.locator("#series-readout").inner_text()


def test_a_refresh_without_news_touches_nothing(busy, look) -> None:
    page = look(busy)
    with page.expect_response("**/api/summary*"):
        page.locator("#decisions .open").nth(2).focus()
    page.evaluate(
        """() => {
          window.touched = [];
          new MutationObserver((all) => {
            for (const m of all) {
              const node = m.target.nodeType === 1 ? m.target : m.target.parentElement;
              if (!node || node.closest('#updated')) continue;
              window.touched.push(node.outerHTML.slice(0, 80));
            }
          }).observe(document.body,
            { subtree: true, childList: true, attributes: true, characterData: true });
        }"""
    )
    with page.expect_response("**/api/series*"):
        pass
    with page.expect_response("**/api/summary*"):
        pass
    assert page.evaluate("window.touched") == []
    assert page.evaluate("document.activeElement.classList.contains('open')")
