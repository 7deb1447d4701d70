"""What every router of the query scale must do, third parties' included.

`check_query_router(factory)` runs all of it and raises an AssertionError that says what was broken.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from wye.query.base import Estimate, NotFittedError, QueryRouter, RouterError
from wye.testing.query_data import made_outcomes

if TYPE_CHECKING:
    from wye.data import RoutingData

RouterFactory = Callable[[], QueryRouter]

_ODD_TEXTS = (
    "",
    " \n\t ",
    "¿Cuál es la capital de España? 日本の首都は? Какая столица? \U0001f600 \u202e",
    "a lone surrogate \ud800 and a zero \x00 byte",
    "word " * 20_000,
    "x" * 50_000,
)


def check_query_router(factory: RouterFactory) -> None:
    """Hold a router to the contract of `wye.query.base`.

    Args:
        factory: makes a router that has learned nothing, the same every time.

    Raises:
        AssertionError: the contract is broken; the message says where.

    Example:
        >>> from wye.query import ConstantRouter
        >>> check_query_router(ConstantRouter)
    """
    for check in QUERY_ROUTER_CHECKS:
        check(factory)


def check_parameters(factory: RouterFactory) -> None:
    """Parameters are stored under their names, are JSON, and make the same router again."""
    router = factory()
    params = router.get_params()
    try:
        json.dumps(params, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise AssertionError(f"get_params() is not JSON: {params!r}: {error}") from error
    again = type(router)(**params).get_params()
    assert again == params, f"a router made of get_params() has other parameters: {again}"
    assert isinstance(router.name, str), f"name is {router.name!r}, expected a string"
    assert router.name, "name is empty"


def check_not_fitted(factory: RouterFactory) -> None:
    """Before `fit` there is no estimate and nothing to save, and the error says so."""
    with _expected(NotFittedError, "estimate before fit"):
        factory().estimate(["hello"])
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "router"
        with _expected(NotFittedError, "save before fit"):
            factory().save(target)
        assert not target.exists(), "save before fit left files behind"


def check_estimate(factory: RouterFactory) -> None:
    """Estimates have the right shapes and ranges for many, one and no texts."""
    data, router = _fitted(factory)
    assert router.models_ == data.model_names, (
        f"models_ is {router.models_}, expected the models of the data {data.model_names}"
    )
    for texts in (data.texts[:7], data.texts[:1], []):
        estimate = router.estimate(texts)
        assert estimate.models == data.model_names, f"estimate.models is {estimate.models}"
        shape = (len(texts), len(data.model_names))
        assert estimate.quality.shape == shape, (
            f"quality of {len(texts)} texts has shape {estimate.quality.shape}, expected {shape}"
        )
        _in_range(estimate)


def check_learns(factory: RouterFactory) -> None:
    """The mean estimate of each model is near its mean quality."""
    data = made_outcomes(240, seed=1)
    estimate = factory().fit(data).estimate(data.texts)
    gap = np.abs(estimate.quality.mean(axis=0) - data.quality.mean(axis=0))
    assert gap.max() < 0.15, (
        f"mean estimates are off the mean quality by {gap.round(3).tolist()} on the very queries "
        "that were learned"
    )


def check_determinism(factory: RouterFactory) -> None:
    """The same data and parameters give the same estimates, and estimating changes nothing."""
    data, one = _fitted(factory)
    other = factory().fit(data)
    texts = data.texts[:10]
    first = one.estimate(texts)
    _same(first, other.estimate(texts), "two routers fitted on the same data differ")
    _same(first, one.estimate(texts), "the second estimate of a router differs from its first")
    _same(
        first,
        other.fit(data).estimate(texts),
        "a router fitted a second time differs from itself",
    )


def check_batch_independence(factory: RouterFactory) -> None:
    """An estimate depends on its own text alone, neither on its place nor on its neighbours."""
    data, router = _fitted(factory)
    texts = data.texts[:12]
    whole = router.estimate(texts)
    order = np.random.default_rng(0).permutation(len(texts))
    shuffled = router.estimate([texts[i] for i in order])
    _same(_rows(whole, order), shuffled, "estimates change with the order of the texts", 1e-5)
    single = router.estimate(texts[:1])
    _same(_rows(whole, [0]), single, "a text alone is estimated otherwise than in a batch", 1e-5)


def check_model_order(factory: RouterFactory) -> None:
    """The order of the models in the data is the order of the columns, and nothing else."""
    data, router = _fitted(factory)
    names = tuple(reversed(data.model_names))
    texts = data.texts[:10]
    forward = router.estimate(texts)
    backward = factory().fit(data.with_models(names)).estimate(texts)
    assert backward.models == names, f"columns are {backward.models}, expected {names}"
    gap = np.abs(backward.restrict(data.model_names).quality - forward.quality).max()
    assert gap < 0.05, f"estimates move by {gap:.3f} when the models come in another order"


def check_restrict(factory: RouterFactory) -> None:
    """An estimate can be cut down to some models, and refuses unknown ones.

    A router that reads an embedding lets a model leave and takes other prices; neither changes what
    it says of the quality of the others.
    """
    from wye.query.learning.embedded import EmbeddedRouter

    data, router = _fitted(factory)
    estimate = router.estimate(data.texts[:3])
    cut = estimate.restrict(data.model_names[2:0:-1])
    assert np.array_equal(cut.quality, estimate.quality[:, 2:0:-1]), "restrict mixes up columns"
    with _expected(RouterError, "restrict to an unknown model"):
        estimate.restrict(["no such model"])
    if isinstance(router, EmbeddedRouter):
        first, *others = data.model_names
        # This one changes, so it is nobody else's.
        leaving = factory().fit(data)
        assert isinstance(leaving, EmbeddedRouter), f"the factory made a {type(leaving)} next"
        leaving.remove_model(first).set_prices({others[0]: (9e3, 9e3)})
        left, before = leaving.estimate(data.texts[:3]), estimate.restrict(others)
        assert left.models == before.models, f"{first} left, and there are {left.models}"
        gap = np.abs(left.quality - before.quality).max()
        assert gap < 0.05, f"estimates move by {gap:.3f} when {first} leaves and a price changes"
        assert (left.cost[:, 0] > before.cost[:, 0]).all(), "a higher price does not cost more"


def check_missing_outcomes(factory: RouterFactory) -> None:
    """Unknown outcomes are neither failures nor successes."""
    sparse = made_outcomes(300, seed=2, density=0.5)
    estimate = factory().fit(sparse).estimate(sparse.texts)
    _in_range(estimate)
    seen = np.nanmean(sparse.quality, axis=0)
    gap = np.abs(estimate.quality.mean(axis=0) - seen)
    assert gap.max() < 0.15, (
        f"with half of the outcomes unknown, mean estimates are off the mean of the known ones by "
        f"{gap.round(3).tolist()}: unknown outcomes seem to count"
    )
    names = sparse.model_names
    hidden = sparse.outcomes["model"] != names[0]
    never = _with_outcomes(sparse, hidden.to_numpy(dtype=bool))
    estimate = factory().fit(never).estimate(sparse.texts[:5])
    assert estimate.models == names, "a model without outcomes was dropped"
    _in_range(estimate)


def check_little_data(factory: RouterFactory) -> None:
    """A handful of outcomes, a single one, and a single model are enough not to fail."""
    for n in (1, 2, 5):
        data = made_outcomes(n, seed=3)
        _in_range(factory().fit(data).estimate(["What is the capital of Peru?", *data.texts]))
    alone = made_outcomes(30).with_models(made_outcomes(30).model_names[:1])
    _in_range(factory().fit(alone).estimate(alone.texts[:3]))


def check_no_outcomes(factory: RouterFactory) -> None:
    """Data without any outcome is refused."""
    data = made_outcomes(10)
    empty = _with_outcomes(data, np.zeros(len(data.outcomes), dtype=bool))
    with _expected(RouterError, "fit on data without outcomes"):
        factory().fit(empty)


def check_bad_texts(factory: RouterFactory) -> None:
    """What is no list of strings is refused by a RouterError that names it."""
    _, router = _fitted(factory)
    for bad in (["fine", None], [3.5], "one string", [b"bytes"]):
        with _expected(RouterError, f"estimate({bad!r})"):
            router.estimate(bad)  # type: ignore[arg-type]


def check_odd_texts(factory: RouterFactory) -> None:
    """Empty, very long and strange texts get finite estimates."""
    _, router = _fitted(factory)
    for text in _ODD_TEXTS:
        try:
            estimate = router.estimate([text])
        except Exception as error:
            raise AssertionError(f"estimate failed on {text[:60]!r}: {error!r}") from error
        _in_range(estimate)
    _in_range(router.estimate(list(_ODD_TEXTS)))


def check_save_and_load(factory: RouterFactory) -> None:
    """A router on disk gives the same estimates; saving over it replaces it."""
    from wye.query.persistence import load_router

    data, router = _fitted(factory)
    texts = [*data.texts[:8], "", "something else entirely"]
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "router"
        router.save(target)
        loaded = load_router(target)
        assert type(loaded) is type(router), f"loaded a {type(loaded)}, saved a {type(router)}"
        assert loaded.get_params() == router.get_params(), "parameters differ after loading"
        _same(router.estimate(texts), loaded.estimate(texts), "estimates differ after loading")
        other = factory().fit(made_outcomes(80, seed=5))
        other.save(target)
        _same(
            other.estimate(texts),
            load_router(target).estimate(texts),
            "saving over a router does not replace it",
        )


def check_routes(factory: RouterFactory) -> None:
    """`route` gives one decision a text, among the models that are allowed."""
    data, router = _fitted(factory)
    allowed = np.array([False, True, True, False])
    routing = router.route(data.texts[:6], allowed=allowed, seed=0)
    assert len(routing.decisions) == 6, f"{len(routing.decisions)} decisions for 6 texts"
    outside = set(routing.targets) - set(data.model_names[1:3])
    assert not outside, f"models that were not allowed were chosen: {outside}"


QUERY_ROUTER_CHECKS: tuple[Callable[[RouterFactory], None], ...] = (
    check_parameters,
    check_not_fitted,
    check_estimate,
    check_learns,
    check_determinism,
    check_batch_independence,
    check_model_order,
    check_restrict,
    check_missing_outcomes,
    check_little_data,
    check_no_outcomes,
    check_bad_texts,
    check_odd_texts,
    check_save_and_load,
    check_routes,
)


@lru_cache(maxsize=1)
def _fitted(factory: RouterFactory) -> tuple[RoutingData, QueryRouter]:
    """Outcomes and a router that learned them, for all checks that leave it as it is."""
    data = made_outcomes()
    router = factory()
    assert router.fit(data) is router, "fit must return the router itself"
    return data, router


@contextmanager
def _expected(error: type[Exception], doing: str) -> Iterator[None]:
    try:
        yield
    except error as raised:
        if not str(raised):
            message = f"{doing} raises {error.__name__} without a message"
            raise AssertionError(message) from raised
    except Exception as raised:
        raise AssertionError(f"{doing} raises {raised!r}, expected {error.__name__}") from raised
    else:
        raise AssertionError(f"{doing} is accepted, expected {error.__name__}")


def _in_range(estimate: Estimate) -> None:
    quality, std, novelty = estimate.quality, estimate.quality_std, estimate.novelty
    assert ((quality >= 0) & (quality <= 1)).all(), "quality leaves 0 to 1"
    assert (std >= 0).all(), "quality_std is negative somewhere"
    assert ((novelty >= 0) & (novelty <= 1)).all(), "novelty leaves 0 to 1"
    for name in ("cost", "latency"):
        values = getattr(estimate, name)
        assert not (values < 0).any(), f"{name} is negative somewhere"
        assert not np.isinf(values).any(), f"{name} is infinite somewhere; unknown is NaN"


def _same(one: Estimate, other: Estimate, message: str, tolerance: float = 0.0) -> None:
    assert one.models == other.models, f"{message}: models {one.models} and {other.models}"
    for name in ("quality", "quality_std", "cost", "latency", "novelty"):
        a, b = getattr(one, name), getattr(other, name)
        close = np.allclose(a, b, rtol=tolerance, atol=tolerance, equal_nan=True)
        assert close, f"{message}: {name} by up to {np.nanmax(np.abs(a - b)):.3g}"


def _rows(estimate: Estimate, rows: Sequence[int] | NDArray[np.intp]) -> Estimate:
    index = np.asarray(rows, np.intp)
    return Estimate(
        models=estimate.models,
        quality=estimate.quality[index],
        quality_std=estimate.quality_std[index],
        cost=estimate.cost[index],
        latency=estimate.latency[index],
        novelty=estimate.novelty[index],
    )


def _with_outcomes(data: RoutingData, keep: NDArray[np.bool_]) -> RoutingData:
    from wye.data import RoutingData

    return RoutingData(data.queries, data.outcomes[keep], data.models, data.name)
