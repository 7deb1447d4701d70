"""Every built-in router keeps the contract, and the suite notices routers that do not."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest

from wye.query import ConstantRouter, Estimate, QueryRouter, RouterError, get_router
from wye.query.registry import BUILT_IN
from wye.testing import QUERY_ROUTER_CHECKS, check_query_router

# Learn with PyTorch; the contract holds after any number of passes.
TRAINED = {
    "graphrouter": {"steps": 30, "hidden": 8, "draws": 2},
    "routellm-mf": {"epochs": 3},
    "routerdc": {"epochs": 12, "width": 16},
}


# One factory a router: checks of the same factory share what they may share of its fits.
FACTORIES = {name: partial(get_router, name, **TRAINED.get(name, {})) for name in BUILT_IN}


@pytest.mark.parametrize("check", QUERY_ROUTER_CHECKS, ids=lambda c: c.__name__)
@pytest.mark.parametrize("name", sorted(set(BUILT_IN) - set(TRAINED)))
def test_built_in_routers_conform(name: str, check: Callable[..., None]) -> None:
    check(FACTORIES[name])


@pytest.mark.torch
@pytest.mark.parametrize("check", QUERY_ROUTER_CHECKS, ids=lambda c: c.__name__)
@pytest.mark.parametrize("name", sorted(TRAINED))
def test_trained_routers_conform(name: str, check: Callable[..., None]) -> None:
    check(FACTORIES[name])


@pytest.mark.parametrize("calibration", ["isotonic", "none"])
def test_every_calibration_conforms(calibration: str) -> None:
    check_query_router(partial(get_router, "knn", calibration=calibration))


def test_tfidf_embedder_conforms() -> None:
    check_query_router(partial(get_router, "linear", embedder="tfidf:128,1"))


class Forgetful(ConstantRouter):
    """Draws its estimates anew at each call."""

    name = "constant"

    def estimate(self, texts: list[str]) -> Estimate:  # type: ignore[override]
        made = super().estimate(texts)
        noise = np.random.default_rng().uniform(0, 0.1, made.quality.shape)
        return Estimate(
            made.models,
            np.clip(made.quality + noise, 0, 1),
            made.quality_std,
            made.cost,
            made.latency,
            made.novelty,
        )


class Gullible(ConstantRouter):
    """Takes a single string for a list of texts."""

    name = "constant"

    def estimate(self, texts: list[str] | str) -> Estimate:  # type: ignore[override]
        return super().estimate([texts] if isinstance(texts, str) else texts)


class CountsUnknownAsWrong(ConstantRouter):
    """Fills unknown outcomes with zero."""

    name = "constant"

    def _learn_quality(self, inputs, quality) -> None:  # type: ignore[no-untyped-def]
        super()._learn_quality(inputs, np.nan_to_num(quality))


@pytest.mark.parametrize(
    ("broken", "complaint"),
    [
        (Forgetful, "differ"),
        (Gullible, "one string"),
        (CountsUnknownAsWrong, "unknown outcomes seem to count"),
    ],
)
def test_a_broken_router_is_noticed(broken: Callable[[], QueryRouter], complaint: str) -> None:
    with pytest.raises(AssertionError, match=complaint):
        check_query_router(broken)


def test_an_unknown_router_is_answered_with_the_names() -> None:
    with pytest.raises(RouterError, match=r"'nearest'.*'auto'.*'knn'"):
        get_router("nearest")


def test_an_unknown_parameter_is_answered_with_the_parameters() -> None:
    with pytest.raises(RouterError, match=r"\['neighbours'\].*'k'"):
        get_router("knn", neighbours=3)
