"""What `/metrics` exports, and that the Grafana dashboard asks for nothing else."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from wye.gateway.metrics import OTHERS, Metrics
from wye.gateway.money.keys import KeyBook, Limits
from wye.gateway.records import OutcomeRecord
from wye.gateway.telemetry.settings import MetricsTable

DASHBOARD = Path(__file__).resolve().parents[3] / "deploy" / "grafana" / "wye.json"
LABELS_OF = re.compile(r"(?:by|without|on|ignoring)\s*\([^)]*\)")
STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
SELECTOR = re.compile(r"\{[^}]*\}")
NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
WORDS = {"sum", "rate", "increase", "max", "min", "histogram_quantile", "by", "le"}


def samples(served) -> dict[str, list]:
    text = served.http.get("/metrics").text
    found: dict[str, list] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, []).append(sample)
    return found


def value(found: dict[str, list], name: str, **labels: str) -> float:
    (sample,) = [s for s in found[name] if labels.items() <= s.labels.items()]
    return sample.value


def asked(expression: str) -> tuple[set[str], set[str]]:
    """Names of metrics in PromQL, and the labels that it selects and groups by."""
    bare = STRING.sub('""', expression)
    labels = {name for part in LABELS_OF.findall(bare) for name in NAME.findall(part)[1:]}
    labels |= {name for part in SELECTOR.findall(bare) for name in NAME.findall(part)}
    bare = re.sub(r"\[[^\]]*\]", "", SELECTOR.sub("", LABELS_OF.sub("", bare)))
    return set(NAME.findall(bare)) - WORDS, labels - {"job", "instance"}


@pytest.fixture
def busy(serve, world, tmp_path):
    """A gateway that has seen a bit of everything."""
    served = serve(
        targets=[
            world.target("best", model="ok", quality=0.9),
            world.target("broken", model="500", quality=0.95, deployments=[
                {"base_url": world.base_url}, {"base_url": world.base_url},
            ], base_url=None),
        ],
        retries={"attempts": 0},
        metrics={"keys": True},
        server={"keys": True},
    )  # fmt: skip
    _, secret = KeyBook(served.gateway.store.engine).add("ada", Limits(budget_day=1.0))
    headers = {"authorization": f"Bearer {secret}"}
    body = {"model": "wye", "messages": [{"role": "user", "content": "hi"}]}
    assert served.http.post("/v1/chat/completions", json=body, headers=headers).status_code == 200
    stream = {**body, "stream": True}
    assert served.http.post("/v1/chat/completions", json=stream, headers=headers).status_code == 200
    return served


def test_what_happened_is_counted(busy):
    found = samples(busy)
    assert value(found, "wye_requests_total", target="best", status="ok") == 2
    assert value(found, "wye_upstream_failures_total", target="broken", fault="status") >= 2
    assert value(found, "wye_fallbacks_total", target="best") == 2
    assert value(found, "wye_tokens_total", target="best", direction="in") == 22
    assert value(found, "wye_tokens_total", target="best", direction="out") == 12
    cost = value(found, "wye_cost_usd_total", target="best")
    assert cost == pytest.approx(2 * (11e-6 + 12e-6))
    assert value(found, "wye_key_requests_total", key="ada") == 2
    assert value(found, "wye_key_cost_usd_total", key="ada") == pytest.approx(cost)
    assert value(found, "wye_key_budget_usd", key="ada", period="day") == 1.0
    assert value(found, "wye_key_budget_spent_usd", key="ada") == pytest.approx(cost, rel=1e-3)
    assert value(found, "wye_first_byte_seconds_count", target="best") == 2
    assert value(found, "wye_decision_seconds_count") == 2
    assert {s.labels["deployment"] for s in found["wye_deployment_circuit_open"]} == {
        "best", "broken #1", "broken #2",
    }  # fmt: skip
    assert value(found, "wye_requests_in_flight") == 0
    assert value(found, "wye_store_ok") == 1
    assert value(found, "wye_alarms_open", kind="traffic") == 0


def test_keys_have_no_series_unless_asked(serve, world):
    served = serve(targets=[world.target("ok")], server={"keys": True})
    _, secret = KeyBook(served.gateway.store.engine).add("ada", Limits(budget_day=1.0))
    served.http.post(
        "/v1/chat/completions",
        json={"model": "wye", "messages": [{"role": "user", "content": "hi"}]},
        headers={"authorization": f"Bearer {secret}"},
    )
    assert not [name for name in samples(served) if name.startswith("wye_key")]


def test_many_keys_make_few_series():
    metrics = Metrics(MetricsTable(keys=True, max_keys=3))
    for n in range(50):
        metrics.record("p", OutcomeRecord("d", 0.0, "t", "ok", 200, cost_usd=1.0), f"key {n}")
    found = {
        s.labels["key"]: s.value
        for family in metrics.registry.collect()
        for s in family.samples
        if s.name == "wye_key_requests_total"
    }
    assert found == {"key 0": 1, "key 1": 1, "key 2": 1, OTHERS: 47}


def test_retries_of_a_target_and_fallbacks_to_another_are_told_apart():
    metrics = Metrics()
    tried = [{"target": t, "fault": "status"} for t in ("a", "a", "b")]
    metrics.record("p", OutcomeRecord("d", 0.0, "c", "ok", 200, attempts=tuple(tried)))
    metrics.record("p", OutcomeRecord("d", 0.0, "b", "error", 503, attempts=tuple(tried)))
    counted = {
        (s.name, s.labels["target"]): s.value
        for family in metrics.registry.collect()
        for s in family.samples
        if s.name in ("wye_retries_total", "wye_fallbacks_total")
    }
    assert counted == {
        ("wye_retries_total", "a"): 2,
        ("wye_fallbacks_total", "b"): 2,
        ("wye_fallbacks_total", "c"): 1,
    }


def exported(served) -> dict[str, set[str]]:
    """Metrics of a scrape by the name of their family, as each can be asked for in PromQL."""
    text = served.http.get("/metrics").text
    found = {}
    for family in text_string_to_metric_families(text):
        # The library's own: when each series began.
        if family.name.endswith("_created"):
            continue
        # A counter with labels has no sample before it counts; its help line says that it is there.
        ends = {"counter": "_total", "histogram": "_bucket"}
        samples = {sample.name for sample in family.samples}
        found[family.name] = samples | {family.name + ends.get(family.type, "")}
    return found


def test_the_dashboard_asks_for_all_that_a_gateway_exports_and_for_nothing_else(busy):
    board = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    families = exported(busy)
    known = set().union(*families.values())
    declared = {
        f"{metric._name}{end}": set(metric._labelnames)
        for metric in busy.gateway.metrics.registry._collector_to_names
        for end in ("", "_total", "_bucket")
    }
    queries = [t["expr"] for p in board["panels"] for t in p.get("targets", ())]
    assert len(queries) > 30
    shown: set[str] = set()
    for query in queries:
        names, labels = asked(query)
        assert names, query
        assert names <= known, query
        shown |= names
        for label in labels - {"le"}:
            assert all(label in declared[name] for name in names), (query, label)
    assert [family for family, names in families.items() if not names & shown] == []


def test_every_metric_is_documented(busy):
    page = (DASHBOARD.parents[2] / "docs" / "gateway" / "watching.md").read_text(encoding="utf-8")
    told = set(re.findall(r"`(wye_\w+?)(?:_total)?(?:\{[\w,]+\})?`", page))
    assert told == set(exported(busy))


def test_the_dashboard_is_one_that_grafana_takes():
    board = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    assert board["schemaVersion"] >= 36
    assert re.fullmatch(r"[\w-]{1,40}", board["uid"])
    variables = {v["name"]: v for v in board["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    assert variables["datasource"]["query"] == "prometheus"
    ids = [panel["id"] for panel in board["panels"]]
    assert len(ids) == len(set(ids))
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        place = panel["gridPos"]
        assert 0 <= place["x"] <= 24 - place["w"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not taken & cells, panel["title"]
        taken |= cells
        if panel["type"] != "row":
            assert panel["type"] in ("timeseries", "stat")
            assert panel["datasource"]["uid"] == "${datasource}"
            references = [t["refId"] for t in panel["targets"]]
            assert len(references) == len(set(references))
            for query in panel["targets"]:
                used = set(re.findall(r"\$(\w+)", query["expr"]))
                assert used <= {*variables, "__rate_interval"}
