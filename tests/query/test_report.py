"""The honest report: its figures on cases with a known answer, its verdict, its JSON."""

import io
import json
from typing import get_type_hints

import numpy as np
import pytest
from rich.console import Console

from wye.query.base import QueryRouter
from wye.query.learning.training import train
from wye.query.policies import Budget, Quality, Utility
from wye.query.report import ReportError, evaluate, evaluate_many
from wye.query.report.types import ReportJson, RouterJson
from wye.testing import made_outcomes
from wye.testing.outcomes import estimate_of, routing_data, two_kinds


class Known(QueryRouter):
    """A router that knows the chance of each query by its number in the text."""

    name = "known"

    def __init__(self, *, data, chance):
        self.data = data
        self.chance = chance

    def fit(self, data):
        return self

    def estimate(self, texts):
        rows = [int(t.rsplit(" ", 1)[1]) for t in texts]
        return estimate_of(
            self.data.where([f"q{i}" for i in rows]), self.chance[rows], [1e-3, 1e-2]
        )

    def get_state(self):
        return {}, {}

    def set_state(self, arrays, values):
        pass


def test_a_router_that_knows_the_hard_queries_pays():
    data, chance = two_kinds()
    report = evaluate(estimate_of(data, chance, [0.001, 0.01]), data)
    result = report.routers["estimate"]
    assert report.best_single.name == "dear"
    assert result.pays
    assert result.verdict.startswith("route with estimate")
    assert report.verdict == result.verdict
    # Half the queries go to each model: 55% of the dear one's cost, and better than it.
    assert result.gain["0.5"].low > 0
    assert result.cost_save.value > 0.3
    assert result.at_budget["1.0"].value > report.best_single.quality.value


def test_a_router_that_knows_nothing_does_not_pay():
    data, chance = two_kinds()
    blind = np.tile(chance.mean(axis=0), (len(data), 1))
    result = evaluate(estimate_of(data, blind, [0.001, 0.01]), data).routers["estimate"]
    assert not result.pays
    assert result.verdict.startswith("do not route, use dear: at the same cost estimate")
    assert result.gain["1.0"].value == pytest.approx(0.0, abs=1e-9)
    assert result.apgr.value == pytest.approx(0.5)


def test_a_noisy_router_is_not_praised_for_chance():
    """Over many sets without anything to learn the verdict is 'route' no more than its level."""
    rng = np.random.default_rng(0)
    praised = 0
    for seed in range(40):
        data, chance = two_kinds(200, seed, gain=0.0, lead=0.0)
        guess = np.clip(chance + rng.normal(0, 0.2, chance.shape), 0, 1)
        estimate = estimate_of(data, guess, [0.001, 0.01])
        praised += evaluate(estimate, data, bootstrap=200).routers["estimate"].pays
    assert praised <= 5


def test_quality_at_a_budget_is_never_above_its_realised_cost():
    """Against a sweep by hand: the mixture that spends exactly the budget."""
    data, chance = two_kinds(300, 1)
    report = evaluate(estimate_of(data, chance, [0.001, 0.01]), data, bootstrap=0)
    quality, cost = data.quality, data.cost
    dear_first = np.argsort(-(chance[:, 1] - chance[:, 0]), kind="stable")
    budget = 0.5 * cost[:, 1].mean()
    choice = np.zeros(300, dtype=int)
    choice[dear_first[:150]] = 1
    rows = np.arange(300)
    routed = (cost[rows, choice].mean(), quality[rows, choice].mean())
    cheap = (cost[:, 0].mean(), quality[:, 0].mean())
    share = (budget - cheap[0]) / (routed[0] - cheap[0])
    expected = share * routed[1] + (1 - share) * cheap[1]
    assert report.routers["estimate"].at_budget["0.5"].value == pytest.approx(expected)


def test_a_budget_below_every_model_has_no_quality():
    data, chance = two_kinds()
    report = evaluate(estimate_of(data, chance, [0.001, 0.01]), data, bootstrap=50)
    assert report.routers["estimate"].at_budget["0.25"].known
    steep = routing_data(data.quality, data.cost * np.array([5.0, 1.0]), models=("cheap", "dear"))
    low = evaluate(estimate_of(steep, chance, [0.005, 0.01]), steep, bootstrap=50)
    value = low.to_dict()["routers"]["estimate"]
    assert value["at_budget"]["0.1"] is None
    assert value["at_budget_ci"]["0.1"] is None


def test_the_routers_own_cost_counts():
    data, chance = two_kinds()
    free = evaluate(estimate_of(data, chance, [0.001, 0.01]), data, bootstrap=0)
    paid = evaluate(estimate_of(data, chance, [0.001, 0.01], router_cost=0.002), data, bootstrap=0)
    one, other = free.routers["estimate"], paid.routers["estimate"]
    assert other.cost.value == pytest.approx(one.cost.value + 0.002)
    assert other.at_budget["0.5"].value < one.at_budget["0.5"].value
    assert other.cost_save.value < one.cost_save.value


def test_without_draws_there_is_no_verdict():
    data, chance = two_kinds(50)
    report = evaluate(estimate_of(data, chance, [0.001, 0.01]), data, bootstrap=0)
    assert report.verdict.startswith("no verdict: whether estimate pays")
    assert report.to_dict()["routers"]["estimate"]["quality_ci"] is None


def test_a_set_without_costs_reports_quality_alone():
    data, chance = two_kinds(400, gain=0.5)
    bare = routing_data(data.quality, models=("cheap", "dear", "odd")[:2])
    flipped = chance.copy()
    flipped[:200, 0] = 0.99
    report = evaluate(estimate_of(bare, flipped), bare)
    value = report.to_dict()
    assert value["oracle"]["cost_usd"] is None
    router = value["routers"]["estimate"]
    for name in ("cost_usd", "aiq", "cost_save", "cost_at_best_usd"):
        assert router[name] is None
        assert router[f"{name}_ci"] is None
    assert set(router["at_budget"].values()) == {None}
    assert router["frontier"] == []
    assert "no costs" in value["notes"][-1]
    assert value["cheapest_mix"]["vertices"] == []


def test_two_models_without_costs_pay_in_calls_to_the_strong_one():
    data, chance = two_kinds(800, lead=0.0)
    bare = routing_data(data.quality, models=("cheap", "dear"))
    result = evaluate(estimate_of(bare, chance), bare).routers["estimate"]
    assert result.pays
    assert result.apgr.low > 0.5
    assert "where dear is the dearer model" in result.verdict
    assert "do not route, use dear" in result.verdict


def test_more_than_two_models_have_no_apgr():
    rng = np.random.default_rng(3)
    data = routing_data(rng.random((50, 3)), [0.1, 0.2, 0.3])
    router = evaluate(estimate_of(data, rng.random((50, 3)), [0.1, 0.2, 0.3]), data).to_dict()
    assert router["routers"]["estimate"]["apgr"] is None
    assert router["routers"]["estimate"]["cpt50_ci"] is None


def test_the_json_has_exactly_the_documented_names_and_no_infinity():
    data, chance = two_kinds()
    report = evaluate(
        Known(data=data, chance=chance), data, policies=[Quality(), Utility(cost_weight=20)]
    )
    value = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert set(value) == set(get_type_hints(ReportJson))
    router = value["routers"]["known"]
    assert set(router) == set(get_type_hints(RouterJson))
    for name in ("quality", "cost_usd", "aiq", "apgr", "cpt50", "cpt80", "perf_gain", "cost_save",
                 "regret", "ece", "brier"):  # fmt: skip
        low, high = router[f"{name}_ci"]
        assert low <= router[name] <= high, name
    assert set(router["at_budget"]) == set(router["at_budget_ci"]) == {"1.0", "0.5", "0.25", "0.1"}
    assert set(router["latency_ms"]) == {"p50", "p99"}
    assert 0 < router["latency_ms"]["p50"] <= router["latency_ms"]["p99"]
    assert [p["policy"] for p in router["policies"]] == [
        "quality()",
        "utility(cost_weight=20.0, latency_weight=0.0)",
    ]
    assert router["policies"][0]["quality"] == router["quality"]
    assert sum(router["share_by_model"].values()) == pytest.approx(1.0)
    assert value["best_per_dataset"]["models"] == {
        d: data.model_names[int(data.quality[data.datasets == d].mean(axis=0).argmax())]
        for d in ("easy", "hard")
    }


def test_a_seed_repeats_the_report():
    data, chance = two_kinds()
    estimate = estimate_of(data, chance, [0.001, 0.01])
    one, same, other = (evaluate(estimate, data, seed=s, bootstrap=100) for s in (1, 1, 2))
    assert one.to_dict() == same.to_dict()
    assert one.to_dict() != other.to_dict()


def test_several_routers_share_the_baselines_and_the_better_one_is_the_verdict():
    data, chance = two_kinds()
    blind = np.tile(chance.mean(axis=0), (len(data), 1))
    report = evaluate_many(
        {
            "blind": estimate_of(data, blind, [0.001, 0.01]),
            "seeing": estimate_of(data, chance, [0.001, 0.01]),
        },
        data,
    )
    assert list(report.routers) == ["blind", "seeing"]
    assert report.verdict == report.routers["seeing"].verdict
    assert report.routers["seeing"].aiq.value > report.routers["blind"].aiq.value
    assert report.routers["blind"].aiq.value == pytest.approx(report.mix_aiq.value)


def test_a_model_the_router_does_not_know_is_never_chosen():
    data, chance = two_kinds()
    three = routing_data(
        np.column_stack([data.quality, np.ones(len(data))]),
        np.column_stack([data.cost, np.full(len(data), 0.02)]),
        models=("cheap", "dear", "new"),
    )
    report = evaluate(estimate_of(data, chance, [0.001, 0.01]), three, bootstrap=20)
    assert report.best_single.name == "new"
    assert "new" not in report.routers["estimate"].share_by_model
    assert any("does not know ['new']" in note for note in report.notes)


def test_an_estimate_without_costs_has_one_operating_point():
    data, chance = two_kinds()
    result = evaluate(estimate_of(data, chance), data, bootstrap=20).routers["estimate"]
    assert len(result.frontier) == 1
    assert result.frontier[0].quality.value == result.quality.value


def test_a_budget_as_a_policy_starts_afresh_for_each_router():
    data, chance = two_kinds(100)
    policy = Budget(total=0.2, horizon=100, worst_case=1.0)
    estimate = estimate_of(data, chance, [0.001, 0.01])
    report = evaluate_many({"a": estimate, "b": estimate}, data, policies=[policy], bootstrap=10)
    one, other = (report.routers[n].policies[0] for n in "ab")
    assert one == other
    assert policy.answered_ == 0


def test_the_screen_shows_verdict_budgets_and_notes():
    data, chance = two_kinds()
    report = evaluate(estimate_of(data, chance, [0.001, 0.01]), data, name="mine")
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(report)
    text = console.export_text()
    for expected in (
        "best single: dear",
        "router: mine",
        "gain over the mix",
        "oracle (knows the outcome)",
        "APGR",
        "Verdict: route with mine",
        "All figures are on the same 400 of 400 queries",
    ):
        assert expected in text


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda d, c: evaluate_many({}, d), "no routers"),
        (
            lambda d, c: evaluate(estimate_of(d, c).restrict(["cheap"]), d.where(["q0"])),
            "is of 400",
        ),
        (lambda d, c: evaluate(estimate_of(d, c), d, bootstrap=-1), "bootstrap=-1"),
        (
            lambda d, c: evaluate(
                estimate_of(routing_data(d.quality, models=("x", "y")), c), d, name="alien"
            ),
            "alien knows the models",
        ),
    ],
)
def test_what_cannot_be_reported_is_refused(make, message):
    data, chance = two_kinds()
    with pytest.raises(ReportError, match=message):
        make(data, chance)


def test_dataset_means_on_real_outcomes_say_when_not_to_route(shared_data):
    """The dataset's mean as an estimate: it pays on mmlu_pro and not measurably on zeroeval."""
    from wye.data import RoutingData

    verdicts = {}
    for name in ("mmlu_pro", "zeroeval"):
        data = RoutingData.read(shared_data / "routing" / name)
        train, test = data.part("train"), data.part("test")
        quality, cost = np.empty((2, len(test), len(test.model_names)))
        for dataset in set(test.datasets):
            rows, known = test.datasets == dataset, train.datasets == dataset
            for made, real in ((quality, train.quality), (cost, train.cost)):
                count = np.isfinite(real[known]).sum(axis=0)
                total = np.nansum(real[known], axis=0)
                made[rows] = np.where(count > 0, total / np.maximum(count, 1), np.nan)
        estimate = estimate_of(test, np.nan_to_num(quality), cost)
        verdicts[name] = evaluate(estimate, test, bootstrap=300).routers["estimate"]
    assert verdicts["mmlu_pro"].pays
    assert verdicts["mmlu_pro"].at_budget["0.5"].value > 0.7
    assert not verdicts["zeroeval"].pays
    assert verdicts["zeroeval"].verdict.startswith("do not route, use claude-3-5-sonnet-20241022")


def test_a_router_judged_on_what_it_learned_gets_no_verdict():
    data = made_outcomes(80)
    learned, new = data.part("train"), data.part("test")
    router = train(learned, "linear")
    known = evaluate(router, learned, bootstrap=50)
    assert known.verdict.startswith("no verdict: linear learned from 60 of these 60 queries")
    assert not known.routers["linear"].pays
    assert any("learned from 60 of these" in note for note in known.notes)
    fresh = evaluate(router, new, bootstrap=50)
    assert not fresh.verdict.startswith("no verdict")
    assert not any("learned from" in note for note in fresh.notes)


def test_no_interval_is_broken_over_two_lines_of_a_narrow_screen():
    data, chance = two_kinds(200)
    shown = Console(file=io.StringIO(), width=110)
    shown.print(evaluate(estimate_of(data, chance, [1e-3, 1e-2]), data, bootstrap=40))
    lines = shown.file.getvalue().splitlines()
    assert sum("[" in line for line in lines) > 8
    for line in lines:
        if line.startswith("│"):
            assert line.count("[") == line.count("]"), line
