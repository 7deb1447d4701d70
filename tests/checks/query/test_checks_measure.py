"""Every check of the query scale can come out both ways, and says what it needs."""

import numpy as np
import pytest

from wye.catalog import load_catalog
from wye.checks import CheckContext, CheckError, CheckResult
from wye.data import RoutingData

CATALOG = load_catalog(plugins=False)
ROUTERS = ("avengers-pro", "knn-routing")
WITH_COSTS = ("cascade-routing", "budget-pacing", "conformal-risk-control")


def run(slug: str, data: RoutingData, seeds: tuple[int, ...] = (0,)) -> CheckResult:
    result = CATALOG.get(slug).load_check()(CheckContext(data, seeds))
    assert isinstance(result, CheckResult)
    return result


def claims(result: CheckResult) -> dict[str, bool]:
    return {c.figure: c.holds for c in result.claims}


def without(data: RoutingData, *columns: str) -> RoutingData:
    return RoutingData(data.queries, data.outcomes.drop(columns=list(columns)), data.models)


@pytest.mark.parametrize("slug", ROUTERS)
def test_routing_pays_where_the_text_tells_the_models_apart(
    slug: str, readable: RoutingData
) -> None:
    result = run(slug, readable)
    assert all(holds for figure, holds in claims(result).items() if "plain" not in figure)
    best = max(v for k, v in result.figures.items() if "NN" in k or "clusters" in k)
    # 0.95 on both kinds is the most that the text can tell.
    assert best == pytest.approx(0.95, abs=0.05)
    assert result.figures["best single"] == pytest.approx(0.75, abs=0.08)


@pytest.mark.parametrize("slug", ROUTERS)
def test_nothing_is_gained_where_the_text_says_nothing(slug: str, unreadable: RoutingData) -> None:
    result = run(slug, unreadable, (0, 1))
    gain = max(c.value for c in result.claims if "best single" in c.figure)
    assert gain < 0.02
    assert "readable" in result.text


def test_apgr_tells_a_readable_world_from_an_unreadable_one(
    readable: RoutingData, unreadable: RoutingData
) -> None:
    good = claims(run("routellm-metrics", readable))
    assert good["APGR kNN"]
    assert good["APGR kNN - random"]
    assert good["APGR oracle"]
    bad = claims(run("routellm-metrics", unreadable))
    assert not bad["APGR kNN"]
    assert bad["|APGR constant - 0.5|"]
    assert bad["APGR oracle"]


def test_a_model_joins_a_factorisation_from_few_answers(readable: RoutingData) -> None:
    result = run("embedllm", readable)
    assert claims(result)["accuracy - model means"]
    assert result.figures["accuracy factorisation"] > 0.8
    assert result.figures["loss from 200"] < 0.05
    with pytest.raises(CheckError, match="one joins two or more"):
        run("embedllm", readable.with_models(["atlas", "sage"]))


@pytest.mark.parametrize("kind", ["confidence", "answer length"])
def test_a_cascade_gains_from_what_answers_show(readable: RoutingData, kind: str) -> None:
    data = readable if kind == "confidence" else without(readable, "confidence")
    result = run("cascade-routing", data)
    assert f"judged by their {kind}" in result.text
    figures = result.figures
    assert claims(result)["cascade routing - mix"]
    assert max(figures["cascade routing"], figures["mix"]) <= figures["oracle"]


def test_a_cascade_needs_something_to_judge_by(readable: RoutingData) -> None:
    with pytest.raises(CheckError, match="neither a confidence nor the output tokens"):
        run("cascade-routing", without(readable, "confidence", "output_tokens"))


def test_a_budget_is_never_overspent_and_pacing_helps(readable: RoutingData) -> None:
    result = run("budget-pacing", readable)
    assert result.figures["spent / total, most"] <= 1.0
    assert claims(result)["paced - first come first served"]
    assert result.figures["paced"] <= result.figures["offline optimum"]


def test_a_promise_is_kept_for_less_than_the_best(readable: RoutingData) -> None:
    result = run("conformal-risk-control", readable)
    assert result.holds, [str(c) for c in result.claims]
    assert result.figures["cost share at 80%"] < 1.0


@pytest.mark.parametrize("slug", WITH_COSTS)
def test_a_check_about_cost_refuses_data_without_costs(slug: str, readable: RoutingData) -> None:
    with pytest.raises(CheckError, match="has no costs"):
        run(slug, without(readable, "cost_usd"))


def test_figures_are_the_same_for_the_same_seeds(readable: RoutingData) -> None:
    assert run("avengers-pro", readable, (5,)) == run("avengers-pro", readable, (5,))
    other = run("avengers-pro", readable, (6,)).figures
    assert other != run("avengers-pro", readable, (5,)).figures


def test_too_little_data_is_refused(readable: RoutingData) -> None:
    with pytest.raises(CheckError, match="a check needs 200 queries"):
        run("avengers-pro", readable.where(np.arange(len(readable)) < 150))
    with pytest.raises(CheckError, match="2 models"):
        run("avengers-pro", readable.with_models(["sage"]))


def test_the_checks_tested_here_are_in_the_catalogue() -> None:
    tested = {*ROUTERS, *WITH_COSTS, "routellm-metrics", "embedllm"}
    assert tested <= {s.slug for s in CATALOG.systems if s.scale == "query"}


def test_the_published_check_holds_on_real_outcomes(shared_data) -> None:  # type: ignore[no-untyped-def]
    data = RoutingData.read(shared_data / "routing" / "llmrouter")
    assert run("avengers-pro", data).holds


def test_a_question_that_stands_twice_is_never_trained_and_tested_on(
    readable: RoutingData,
) -> None:
    from wye.checks.query.trials import trials

    twice = readable.union(
        RoutingData(
            readable.queries.assign(text=readable.queries["text"].str.upper()),
            readable.outcomes,
            readable.models,
        ).with_prefix("again/")
    )
    for trial in trials(CheckContext(twice, (0, 1, 2))):
        train, test = ({t.lower() for t in part.texts} for part in (trial.train, trial.test))
        assert not train & test
        np.testing.assert_array_equal(trial.quality, trial.test.quality)


def test_a_dataset_on_which_the_best_model_is_broken_is_left_out(readable: RoutingData) -> None:
    from wye.checks.query.trials import comparable

    third = np.arange(len(readable)) % 3 == 0
    queries = readable.queries.assign(
        dataset=np.where(third, "broken", readable.queries["dataset"].to_numpy(dtype=object))
    )
    failed = readable.outcomes["query_id"].isin(queries.loc[third, "query_id"])
    failed &= readable.outcomes["model"] == "sage"
    outcomes = readable.outcomes.assign(
        quality=np.where(failed, 0.0, readable.outcomes["quality"] * 0.6)
    )
    outcomes.loc[~failed & (outcomes["model"] == "sage"), "quality"] = 1.0
    data = RoutingData(queries, outcomes, readable.models)
    assert set(comparable(data).datasets) == {"sums", "capitals"}
    assert set(comparable(readable).datasets) == {"sums", "capitals"}
