"""Checks of routers that learn from outcomes: what the text can tell is won, what it cannot is not.

Both worlds are those of `conftest.py`: 0.95 is the most that a readable text gives, and in the
unreadable one no router can beat the best single model but by chance.
"""

import numpy as np
import pytest

from wye.catalog import load_catalog
from wye.checks import CheckContext, CheckError, CheckResult
from wye.checks.query import online_bandits
from wye.data import RoutingData

CATALOG = load_catalog(plugins=False)
METHODS = {
    "avengers": "avengers, 8 clusters",
    "uniroute": "uniroute",
    "zooter": "zooter",
    "routerdc": "routerdc",
    "irt": "irt",
    "shnitzer": "S2",
}


def run(slug: str, data: RoutingData) -> CheckResult:
    result = CATALOG.get(slug).load_check()(CheckContext(data, (0,)))
    assert isinstance(result, CheckResult)
    return result


def first(data: RoutingData, queries: int) -> RoutingData:
    return data.where(np.arange(len(data)) < queries)


@pytest.mark.parametrize(("slug", "figure"), METHODS.items())
def test_a_ranker_wins_what_the_text_tells(slug: str, figure: str, readable: RoutingData) -> None:
    result = run(slug, readable)
    assert result.holds, [str(c) for c in result.claims]
    assert result.figures[figure] == pytest.approx(0.95, abs=0.05)
    assert result.figures["best single"] < 0.85


@pytest.mark.parametrize(("slug", "figure"), METHODS.items())
def test_a_ranker_wins_nothing_from_text_that_tells_nothing(
    slug: str, figure: str, unreadable: RoutingData
) -> None:
    figures = run(slug, unreadable).figures
    assert figures[figure] - figures["best single"] < 0.02
    assert figures[figure] < figures["oracle"] - 0.2


def test_ratings_near_the_query_win_less_than_neighbours(readable: RoutingData) -> None:
    figures = run("eagle", readable).figures
    assert figures["random"] < figures["best single"] <= figures["eagle"] < figures["knn"]


def test_a_log_that_tells_nothing_does_not_pay_by_fusionfactory(unreadable: RoutingData) -> None:
    result = run("fusionfactory", unreadable)
    assert not result.holds
    assert result.figures["share of the oracle gap closed"] < 0.1


def test_edges_of_the_graph_win_what_the_text_tells(readable: RoutingData) -> None:
    figures = run("graphrouter", first(readable, 260)).figures
    for name in ("performance first", "balance"):
        assert figures[f"{name}, share of the gap closed"] > 0.8


def in_four_tasks(data: RoutingData) -> RoutingData:
    part = np.arange(len(data)) // 2 % 2
    names = [f"{kind}-{p}" for kind, p in zip(data.datasets, part, strict=True)]
    return RoutingData(data.queries.assign(dataset=names), data.outcomes, data.models, name="four")


def test_bandits_that_read_the_query_pass_the_best_single_model(readable: RoutingData) -> None:
    data = in_four_tasks(first(readable, 300))
    figures = online_bandits.check(CheckContext(data, (0,))).figures
    for name in ("MetaLLM", "MixLLM"):
        assert figures[name] > figures[f"{name}: best in hindsight"] + 0.1
    for name in ("PickLLM, Q-learning", "PickLLM, gradient"):
        # These read nothing, so the best single model is the most they can come to but by chance.
        assert figures[name] < figures[f"{name}: best in hindsight"] + 0.05


def test_bandits_need_tasks_to_tell_apart(readable: RoutingData) -> None:
    with pytest.raises(CheckError, match="tasks are told apart from 3 on"):
        online_bandits.check(CheckContext(readable, (0,)))
