"""The frontier plot: labels that do not overlap, files written whole, a page that loads nothing."""

import re
import sys
from html import unescape
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wye.bench.frontier import PlotError, render, save
from wye.bench.labels import Box, path_obstacles, place_labels
from wye.bench.view import cost_label, cost_ticks, frontier_view, quality_ticks
from wye.query.report import evaluate, evaluate_many
from wye.testing.outcomes import estimate_of, routing_data, two_kinds


@pytest.fixture(scope="module")
def report():
    rng = np.random.default_rng(0)
    skill = np.linspace(0.3, 0.85, 12)
    quality = (rng.random((300, 12)) < skill + rng.normal(0, 0.1, (300, 1))).astype(float)
    cost = np.geomspace(1e-4, 1e-2, 12) * rng.uniform(0.7, 1.3, (300, 12))
    data = routing_data(quality, cost, models=[f"model-<{k}>-instruct" for k in range(12)])
    guess = np.clip(skill + 0.3 * (quality - skill), 0, 1)
    return evaluate_many(
        {
            "first & best": estimate_of(data, guess, cost),
            "second": estimate_of(data, np.tile(skill, (300, 1)), cost),
        },
        data,
        bootstrap=100,
    )


@pytest.fixture(scope="module")
def costless():
    data, chance = two_kinds()
    bare = routing_data(data.quality, models=("cheap", "dear"))
    return evaluate(estimate_of(bare, chance), bare, bootstrap=50)


@given(
    st.lists(
        st.tuples(st.floats(20, 780), st.floats(20, 480), st.floats(20, 160)),
        min_size=1,
        max_size=40,
    )
)
@settings(max_examples=60, deadline=None)
def test_labels_overlap_neither_each_other_nor_points_nor_curves(made):
    anchors = [(x, y) for x, y, _ in made]
    area = Box(0, 0, 800, 500)
    curve = path_obstacles([(0, 100), (400, 300), (800, 320)])
    places = place_labels(anchors, [(w, 14) for _, _, w in made], area, curve)
    boxes = [p.box for p in places if p is not None]
    assert boxes
    for k, box in enumerate(boxes):
        assert box.inside(area)
        assert not any(box.overlaps(other) for other in boxes[k + 1 :])
        assert not any(box.overlaps(other) for other in curve)
        assert not any(box.left < x < box.right and box.low < y < box.high for x, y in anchors)


def test_a_label_with_room_stays_at_its_point():
    (place,) = place_labels([(100, 100)], [(40, 12)], Box(0, 0, 400, 400))
    assert place is not None
    assert not place.leader
    assert place.box.left == pytest.approx(109)


@given(st.floats(1e-6, 1e2), st.floats(1.5, 1e5))
def test_cost_ticks_lie_on_the_axis_and_read_as_dollars(low, factor):
    ticks = cost_ticks(low, low * factor)
    assert all(low <= t <= low * factor for t in ticks)
    for tick in ticks:
        assert float(cost_label(tick).removeprefix("$")) == pytest.approx(tick)


@given(st.floats(0, 0.9), st.floats(0.01, 1.0))
def test_quality_ticks_are_few_and_round(low, span):
    ticks = quality_ticks(low, low + span)
    assert len(ticks) <= 9
    assert all(low - 1e-6 <= t <= low + span + 1e-6 for t in ticks)


def test_the_view_shows_all_routers_the_mix_and_the_best_single(report):
    view = frontier_view(report)
    kinds = {d.kind for d in view.dots}
    assert {"best", "router", "single"} <= kinds
    assert [line.label for line in view.lines] == ["first & best", "second"]
    assert len(view.mix) == len(report.mix)
    for line in view.lines:
        assert list(line.cost) == sorted(line.cost)
        assert all(view.costs[0] <= c <= view.costs[1] for c in line.cost)
        assert all(
            lo <= q <= hi for lo, q, hi in zip(line.low, line.quality, line.high, strict=True)
        )


@pytest.mark.parametrize("suffix", [".png", ".svg", ".html"])
@pytest.mark.parametrize("which", ["report", "costless"])
def test_a_plot_is_written_whole(tmp_path, request, suffix, which):
    made = request.getfixturevalue(which)
    path = save(made, tmp_path / f"plot{suffix}")
    content = path.read_bytes()
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    if suffix == ".png":
        assert content.startswith(b"\x89PNG")
    elif suffix == ".svg":
        assert ElementTree.fromstring(content).tag.endswith("svg")
    else:
        assert content.decode().rstrip().endswith("</html>")


def test_the_picture_has_a_label_for_every_model_on_it(report):
    written = unescape(render(report, "svg").decode())
    for dot in frontier_view(report).dots:
        assert dot.label in written


class Page(HTMLParser):
    def __init__(self):
        super().__init__()
        self.loads, self.tips, self.text, self.cells = [], [], [], []

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.loads += [v for k, v in found.items() if k in ("src", "href", "srcset", "data")]
        self.tips += [found["data-tip"]] if "data-tip" in found else []

    def handle_data(self, data):
        self.text.append(data)


def test_the_page_holds_everything_and_loads_nothing(report):
    html = render(report, "html").decode()
    page = Page()
    page.feed(html)
    assert page.loads == []
    assert not re.search(r"https?://|@import|url\(", html)
    text = " ".join(page.text)
    for result in report.routers.values():
        assert result.verdict in text
        assert f"router: {result.name}" in text
    for single in report.singles:
        assert single.name in text
    for note in report.notes:
        assert note in text
    labels = {tip.split("\n")[0] for tip in page.tips}
    assert {d.label for d in frontier_view(report).dots} <= labels


def test_drawing_touches_no_global_state(report):
    import matplotlib

    before = dict(matplotlib.rcParams)
    render(report, "png")
    assert dict(matplotlib.rcParams) == before
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or pyplot.get_fignums() == []


def test_a_failed_drawing_leaves_the_old_file(tmp_path, report, monkeypatch):
    path = tmp_path / "plot.html"
    path.write_text("old")
    monkeypatch.setattr("wye.bench.page.page", lambda report: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save(report, path)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["plot.html"]


def test_wrong_targets_are_refused(tmp_path, report):
    with pytest.raises(PlotError, match=r"cannot draw '.gif', expected one of"):
        save(report, tmp_path / "plot.gif")
    with pytest.raises(PlotError, match="does not exist; make it first"):
        save(report, tmp_path / "missing" / "plot.png")
    with pytest.raises(PlotError, match="expected 'png', 'svg' or 'html'"):
        render(report, "pdf")
