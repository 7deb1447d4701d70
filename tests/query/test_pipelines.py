"""Pipelines: what they refuse to be, what they run, and what they account for."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wye.query.base import Estimate
from wye.query.constant import ConstantRouter
from wye.query.pipelines.frame import Facets, PipelineError
from wye.query.pipelines.ledger import Ledger
from wye.query.pipelines.pipeline import Action, Pipeline, Stage, State
from wye.query.pipelines.stages import (
    EligibleStage,
    GuardStage,
    JudgeStage,
    RouteStage,
    RunStage,
)
from wye.query.policies import Budget, Utility
from wye.query.policies.judging import Answer, ConfidenceJudge
from wye.testing.query_data import made_outcomes

SURE = {"small": 0.2, "large": 0.9}


def call(model: str, text: str) -> tuple[Answer, float]:
    return Answer(model, f"{model}: {text}", confidence=SURE.get(model)), 0.25


def cascade(ledger: Ledger | None = None) -> Pipeline:
    judge = ConfidenceJudge()
    return Pipeline(
        [RunStage("small"), JudgeStage(judge, 0.5), RunStage("large", cost_usd=0.25)],
        ["small", "large"],
        ledger=ledger,
    )


def test_a_stage_that_reads_answers_needs_one_that_runs_a_model_before_it() -> None:
    with pytest.raises(PipelineError, match="reads answers"):
        Pipeline([JudgeStage(ConfidenceJudge(), 0.5), RunStage("a")], ["a"])


def test_a_chain_that_answers_nothing_is_refused() -> None:
    with pytest.raises(PipelineError, match="runs a model"):
        Pipeline([GuardStage(lambda text: None)], ["a"])


@pytest.mark.parametrize("targets", [[], ["a", "a"]])
def test_targets_are_there_once(targets: list[str]) -> None:
    with pytest.raises(PipelineError, match="no target twice"):
        Pipeline([RunStage("a")], targets)


def test_words_outside_the_frame_are_refused() -> None:
    with pytest.raises(PipelineError, match="not in the frame"):
        Facets("sometimes", ("text",), "rule")
    with pytest.raises(PipelineError, match="needs"):
        Facets("after the answer", ("tea leaves",), "rule")


def test_an_answer_that_is_not_trusted_goes_on_and_both_are_paid() -> None:
    result = cascade().run("2 + 2?", call)
    assert result.answer is not None
    assert result.answer.model == "large"
    assert result.cost_usd == 0.5
    assert [step[1] for step in result.trace] == ["run", "defer", "run"]


def test_an_answer_that_is_trusted_is_the_last_word() -> None:
    judge = JudgeStage(ConfidenceJudge(), 0.1)
    pipeline = Pipeline([RunStage("small"), judge, RunStage("large")], ["small", "large"])
    result = pipeline.run("2 + 2?", call)
    assert result.answer is not None
    assert result.answer.model == "small"
    assert result.cost_usd == 0.25


def test_where_the_money_ends_the_last_answer_stands() -> None:
    ledger = Ledger(total_usd=0.3)
    result = cascade(ledger).run("2 + 2?", call)
    assert result.answer is not None
    assert result.answer.model == "small"
    assert ledger.spent_usd <= 0.3


def test_a_rejected_query_costs_nothing() -> None:
    guard = GuardStage(lambda text: "no cats" if "cat" in text else None)
    pipeline = Pipeline([guard, RunStage("small")], ["small"])
    result = pipeline.run("my cat", call)
    assert (result.answer, result.rejected, result.cost_usd) == (None, "no cats", 0.0)
    assert pipeline.run("my dog", call).rejected is None


def test_only_targets_that_offer_what_is_needed_stay() -> None:
    offers = {"small": set[str](), "large": {"images"}}
    pipeline = Pipeline(
        [EligibleStage(offers), RunStage("small"), RunStage("large")], ["small", "large"]
    )
    result = pipeline.run("look", call, metadata={"needs": ["images"]})
    assert result.answer is not None
    assert result.answer.model == "large"
    assert result.cost_usd == 0.25
    assert pipeline.run("x", call, metadata={"needs": ["sound"]}).rejected == (
        "no target offers ['sound']"
    )


def test_routing_alone_equals_the_router_and_its_policy() -> None:
    data = made_outcomes(60)
    router = ConstantRouter().fit(data)
    policy = Utility(cost_weight=50)
    pipeline = Pipeline([RouteStage(router, policy)], router.models_)
    expected = router.route(data.texts[:5], policy).targets
    got = [pipeline.run(t, lambda m, t: (Answer(m, t), 0.0)).answer for t in data.texts[:5]]
    assert [a.model for a in got if a is not None] == expected


def test_a_model_that_cannot_be_paid_is_not_routed_to() -> None:
    router = ConstantRouter().fit(made_outcomes(60))
    cost = router.estimate(["x"]).cost[0]
    cheapest = router.models_[int(np.argmin(cost))]
    ledger = Ledger(total_usd=float(cost.min()) * 1.01)
    result = Pipeline([RouteStage(router)], router.models_, ledger=ledger).run(
        "x", lambda m, t: (Answer(m, t), float(cost.min()))
    )
    assert result.answer is not None
    assert result.answer.model == cheapest
    again = Pipeline([RouteStage(router)], router.models_, ledger=ledger)
    assert again.run("x", call).rejected is not None


def test_a_policy_with_an_account_of_its_own_is_refused() -> None:
    router = ConstantRouter().fit(made_outcomes(60))
    with pytest.raises(PipelineError, match="ledger"):
        RouteStage(router, Budget(total=1.0))


@given(st.lists(st.floats(0, 5), min_size=1, max_size=40))
def test_the_price_of_a_ledger_never_falls_below_zero(costs: list[float]) -> None:
    ledger = Ledger(per_query_usd=1.0)
    for cost in costs:
        ledger.open_query()
        ledger.charge("route", "m", cost)
        ledger.close_query()
        assert ledger.price >= 0
    assert math.isclose(ledger.spent_usd, sum(costs))


def test_a_price_turns_the_choice_to_the_cheap_model() -> None:
    router = ConstantRouter().fit(made_outcomes(200))
    estimate: Estimate = router.estimate(["x"])
    best = estimate.models[int(estimate.quality[0].argmax())]
    budget = float(estimate.cost[0].min()) * 1.5
    ledger = Ledger(per_query_usd=budget, learning_rate=0.2)
    pipeline = Pipeline([RouteStage(router)], router.models_, ledger=ledger)
    cost = dict(zip(estimate.models, estimate.cost[0].tolist(), strict=True))
    chosen = []
    for _ in range(400):
        answer = pipeline.run("x", lambda m, t: (Answer(m, t), cost[m])).answer
        assert answer is not None
        chosen.append(answer.model)
    assert chosen[0] == best
    spent = np.mean([cost[m] for m in chosen[200:]])
    assert spent <= 1.25 * budget


@pytest.mark.parametrize("cost", [-1.0, float("nan")])
def test_a_cost_that_cannot_be_kept_is_an_error(cost: float) -> None:
    with pytest.raises(PipelineError, match="charges"):
        Ledger(total_usd=1.0).charge("route", "m", cost)


@pytest.mark.parametrize("bad", [0.0, -1.0])
def test_a_budget_is_positive(bad: float) -> None:
    with pytest.raises(PipelineError, match="expected more than 0"):
        Ledger(total_usd=bad)


def test_a_stage_is_held_to_what_it_says_of_itself() -> None:
    class Odd(Stage):
        name = "odd"
        facets = Facets("before the answer", ("text",), "rule")
        may = frozenset({"run"})

        def decide(self, state: State) -> Action:
            return Action("reject")

    with pytest.raises(PipelineError, match="may"):
        Pipeline([Odd()], ["a"]).run("x", call)


def test_an_answer_of_another_model_is_an_error() -> None:
    with pytest.raises(PipelineError, match="answered as"):
        Pipeline([RunStage("a")], ["a"]).run("x", lambda m, t: (Answer("b", t), 0.0))


def test_the_table_says_when_on_what_and_how() -> None:
    table = cascade().explain().splitlines()
    assert len(table) == 4
    assert "after the answer" in table[2]
    assert "uncertainty" in table[2]
