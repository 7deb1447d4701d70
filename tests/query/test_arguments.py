"""What a router is given by mistake: told where the mistake was made, in words."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import wye
from wye.query import ConstantRouter, FactorisationRouter, LinearRouter, RouterError
from wye.query.ask import human_ask
from wye.query.calibration_monitor import CalibrationMonitor, watch
from wye.query.learning.training import train
from wye.query.policies import Quality
from wye.query.pool import value_pool
from wye.query.report import evaluate
from wye.testing import made_outcomes

DATA = made_outcomes(40)


@pytest.fixture(scope="module")
def router() -> LinearRouter:
    return LinearRouter().fit(DATA)


def anything(value: object) -> Any:
    """A value of a type that the checker would refuse, as an untyped caller gives it."""
    return value


@pytest.mark.parametrize("texts", [None, 5, "text", b"text", {"a": 1}, {"a"}, [None], [["a"]]])
def test_texts_are_a_sequence_of_strings(router: LinearRouter, texts: object) -> None:
    for ask in (router.route, router.estimate):
        with pytest.raises(RouterError, match=r"texts(\[0\])? is .* expected"):
            ask(anything(texts))


def test_texts_may_come_one_by_one(router: LinearRouter) -> None:
    listed = ["What is 2 + 2?", "Name a river."]
    given = router.route(anything(t for t in listed))
    assert given.targets == router.route(listed).targets
    assert router.estimate(anything(iter(listed))).quality.shape == (2, 4)


@pytest.mark.parametrize("seed", [-1, 1.5, "x", True])
def test_a_seed_is_a_whole_number(router: LinearRouter, seed: object) -> None:
    for use in (
        lambda: router.route(["x"], seed=anything(seed)),
        lambda: LinearRouter(seed=anything(seed)).fit(DATA),
        lambda: evaluate(router, DATA, seed=anything(seed)),
        lambda: train(DATA, "linear", seed=anything(seed)),
    ):
        with pytest.raises(RouterError, match=r"seed is .* whole number"):
            use()


def test_a_policy_is_built_before_it_is_given(router: LinearRouter) -> None:
    for wrong, way in (("quality", "parse_policy"), (Quality, r"Quality\(\)"), (5, "expected a P")):
        with pytest.raises(RouterError, match=way):
            router.route(["x"], anything(wrong))


@pytest.mark.parametrize("data", [None, "embedded", DATA.queries])
def test_data_are_routing_data(router: LinearRouter, data: object) -> None:
    for use in (
        lambda: LinearRouter().fit(anything(data)),
        lambda: evaluate(router, anything(data)),
        lambda: value_pool(anything(data)),
        lambda: watch(router, anything(data)),
    ):
        with pytest.raises(RouterError, match="expected RoutingData"):
            use()


def test_a_router_is_read_from_a_path(router: LinearRouter) -> None:
    for use in (lambda: wye.load(anything(None)), lambda: router.save(anything(3))):
        with pytest.raises(RouterError, match="expected a path"):
            use()


@pytest.mark.parametrize(
    "prices", [{"weak": 1}, {"weak": None}, {"weak": ("a", "b")}, {"weak": "ab"}, [1], None]
)
def test_prices_are_pairs_of_numbers_by_model(router: LinearRouter, prices: object) -> None:
    with pytest.raises(RouterError, match=r"expected (two numbers|a dictionary)"):
        router.set_prices(anything(prices))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": ""}, "name is ''"),
        ({"name": None}, "name is None"),
        ({"name": "weak"}, "let it leave first"),
        ({"texts": "text"}, "one string"),
        ({"texts": [5]}, r"texts\[0\] is int"),
        ({"texts": []}, "at least one"),
        ({"quality": ["good"]}, "no sequence of numbers"),
        ({"quality": None}, "expected one figure"),
        ({"quality": [float("nan")]}, "0 to 1"),
        ({"cost_usd": -1.0}, "cost_usd is -1"),
        ({"cost_usd": float("nan")}, "cost_usd is nan"),
        ({"latency_s": float("inf")}, "latency_s is inf"),
        ({"price_in_per_mtok": 1.0}, "both or neither"),
        ({"price_in_per_mtok": -1.0, "price_out_per_mtok": 1.0}, "price_in_per_mtok is -1"),
    ],
)
def test_a_newcomer_that_makes_no_sense_changes_nothing(
    changes: dict[str, object], message: str
) -> None:
    router = FactorisationRouter().fit(DATA)
    given: Any = {"name": "new", "texts": ["x"], "quality": [1.0]} | changes
    with pytest.raises(RouterError, match=message):
        router.add_model(given.pop("name"), given.pop("texts"), given.pop("quality"), **given)
    assert router.models_ == DATA.model_names
    assert router.estimate(["x"]).quality.shape == (1, 4)


@pytest.mark.parametrize("messages", [None, "text", {"role": "user"}, [1]])
def test_a_conversation_is_a_list_of_messages(messages: object) -> None:
    with pytest.raises(RouterError, match="expected a"):
        human_ask(anything(messages))


def test_outcomes_that_are_watched_are_numbers() -> None:
    with pytest.raises(RouterError, match="must be numbers"):
        list(CalibrationMonitor().update(["high"], [1.0]))


def test_no_router_is_surer_than_the_scale_is_wide() -> None:
    data = made_outcomes(30)
    one = data.where([True] + [False] * 29)
    for router in (LinearRouter(), ConstantRouter()):
        std = router.fit(one).estimate(["x", data.texts[0]]).quality_std
        assert (std <= 0.5).all()
        assert np.isfinite(std).all()
