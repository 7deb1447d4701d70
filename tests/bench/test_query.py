"""The comparison of query routers: figures are those of the report, and nobody is lost silently."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from wye.bench.query import BenchError, bench_query
from wye.bench.query_page import page, save
from wye.bench.query_result import AGAINST, QueryBench
from wye.data import RoutingData
from wye.query import ConstantRouter, RouterError, get_router
from wye.query import registry as routers
from wye.query.base import MissingPartError
from wye.query.cross_fit import cross_fit
from wye.query.metrics.significance import holm
from wye.query.report import evaluate_many
from wye.testing import made_outcomes

NAMES = ["constant", "linear", "broken", "wants-torch", "wants-a-model"]


class Broken(ConstantRouter):
    name = "broken"

    def fit(self, data: RoutingData) -> Broken:
        raise ZeroDivisionError("it always fails")


class WantsTorch(ConstantRouter):
    name = "wants-torch"

    def fit(self, data: RoutingData) -> WantsTorch:
        raise MissingPartError("install it with: pip install torch")


class WantsAModel(ConstantRouter):
    name = "wants-a-model"

    def __init__(self, model: object, *, seed: int = 0) -> None:
        super().__init__(seed=seed)
        self.model = model


@pytest.fixture(scope="module")
def bench() -> QueryBench:
    found = {"broken": Broken, "wants-torch": WantsTorch, "wants-a-model": WantsAModel}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "wye.bench.query.router_class", lambda n: found.get(n) or routers.router_class(n)
        )
        patch.setattr(
            "wye.bench.query.get_router",
            lambda n, **p: found[n](**p) if n in found else routers.get_router(n, **p),
        )
        return bench_query(made_outcomes(150), NAMES, bootstrap=200)


def test_every_router_named_is_a_row_or_left_out_with_its_reason(bench: QueryBench) -> None:
    assert {r.router for r in bench.rows} == {"constant", "linear", "broken"}
    assert "pip install torch" in bench.left_out["wants-torch"]
    assert "needs model" in bench.left_out["wants-a-model"]
    failed = bench.rows[-1]
    assert (failed.router, failed.result) == ("broken", None)
    assert "it always fails" in failed.error


def test_figures_are_those_of_a_report_on_cross_fitted_estimates(bench: QueryBench) -> None:
    data = made_outcomes(150)
    estimate = cross_fit(lambda: get_router("linear", seed=0), data, folds=3, seed=0).estimate
    expected = evaluate_many({"linear": estimate}, data, bootstrap=200).routers["linear"]
    row = next(r for r in bench.rows if r.router == "linear")
    assert row.result is not None
    assert row.result.quality.value == pytest.approx(expected.quality.value, abs=1e-9)
    assert row.result.aiq.value == pytest.approx(expected.aiq.value, abs=1e-6)
    gap = row.differences[AGAINST[0]].figure
    assert gap.value == pytest.approx(expected.gain["any"].value, abs=1e-9)
    over_mix = np.mean([g.value for k, g in expected.gain.items() if k != "any" and g.known])
    assert row.differences[AGAINST[1]].figure.value == pytest.approx(over_mix, abs=1e-6)
    assert row.decision_ms > 0
    assert row.train_seconds > 0


def test_p_values_are_corrected_for_all_routers_together(bench: QueryBench) -> None:
    made = [r.differences[key] for r in bench.rows if r.result for key in AGAINST]
    expected = holm(np.array([d.p for d in made]))
    np.testing.assert_allclose([d.p_holm for d in made], expected)
    assert bench.tests == 4


def test_the_winner_is_named_and_the_page_holds_everything(
    bench: QueryBench, tmp_path: Path
) -> None:
    assert bench.verdict.startswith("route with linear")
    content = page(bench)
    for said in ("linear", "constant", "it always fails", "pip install torch", "Holm", "<svg"):
        assert said in content
    assert not re.search(r'(src|href)="?http', content)
    written = save(bench, tmp_path / "out")
    assert {p.name for p in written} == {"query.html", "query.json", "query.png", "query.svg"}
    told = json.loads((tmp_path / "out" / "query.json").read_text())
    assert told["verdict"] == bench.verdict
    assert {r["router"] for r in told["rows"]} == {"constant", "linear", "broken"}
    assert (tmp_path / "out" / "query.png").read_bytes().startswith(b"\x89PNG")


def test_where_texts_tell_nothing_the_verdict_is_not_to_route() -> None:
    data = made_outcomes(160, seed=7)
    rng = np.random.default_rng(0)
    quality = data.outcomes["quality"].to_numpy(copy=True)
    for model in data.model_names:
        rows = np.flatnonzero(data.outcomes["model"] == model)
        quality[rows] = rng.permutation(quality[rows])
    same_cost = data.outcomes.assign(quality=quality, cost_usd=1e-5)
    noise = RoutingData(data.queries, same_cost, data.models, "noise")
    made = bench_query(noise, ["linear"], bootstrap=300)
    best = made.report.best_single.name
    assert made.verdict.startswith(f"do not route: {best} alone is as good")


def test_the_split_of_the_data_and_several_seeds() -> None:
    data = made_outcomes(160)
    made = bench_query(data, ["constant"], own_split=True, seeds=(0, 1), bootstrap=20)
    (row,) = made.rows
    assert made.report.n_compared == 40
    test = data.part("test")
    estimate = get_router("constant").fit(data.part("train")).estimate(test.texts)
    best = int(estimate.quality[0].argmax())
    assert row.quality_by_seed == pytest.approx([test.quality[:, best].mean()] * 2)


def test_a_set_without_costs_is_compared_on_quality_alone(tmp_path: Path) -> None:
    data = made_outcomes(100)
    free = RoutingData(data.queries, data.outcomes.assign(cost_usd=np.nan), data.models, "free")
    made = bench_query(free, ["constant"], bootstrap=20)
    (row,) = made.rows
    assert np.isnan(row.differences[AGAINST[1]].p_holm)
    assert len(save(made, tmp_path)) == 4
    json.dumps(made.to_dict(), allow_nan=False)


def test_an_interruption_leaves_no_page(tmp_path: Path) -> None:
    def interrupt(done: int, total: int, said: str) -> None:
        if done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        save(bench_query(made_outcomes(60), ["constant", "linear"], progress=interrupt), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_plug_in_that_cannot_be_loaded_does_not_end_the_comparison(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gone = {"constant": routers.BUILT_IN["constant"], "gone": "no.such.module:Router"}

    def load(name: str) -> type:
        if name == "gone":
            raise RouterError("the plug-in of router 'gone' cannot be loaded")
        return routers.router_class(name)

    monkeypatch.setattr(routers, "BUILT_IN", gone)
    monkeypatch.setattr("wye.bench.query.router_class", load)
    made = bench_query(made_outcomes(60), bootstrap=20)
    assert {r.router for r in made.rows} == {"constant"}
    assert "cannot be loaded" in made.left_out["gone"]
    assert "cascade-routing" in made.left_out


def test_requests_that_cannot_be_met_are_refused() -> None:
    data = made_outcomes(40)
    with pytest.raises(RouterError, match="no router is named 'nearest'"):
        bench_query(data, ["nearest"])
    with pytest.raises(BenchError, match="seeds"):
        bench_query(data, ["constant"], seeds=())
