"""Categories, the table of experts within a budget, the fallback, and the tiers of memory."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

import wye
from wye.query import CompositionOfExpertsRouter, RouterError
from wye.query.composition_of_experts import routed_text
from wye.query.hosting import host_experts
from wye.query.learning.categories import CategoryEstimator
from wye.query.learning.embedded import EmbeddedRouter
from wye.query.learning.expert_table import agreed_labels
from wye.query.policies import Quality
from wye.query.residency import batch_by_expert, simulate_residency
from wye.testing import made_outcomes

SIZES = {"generalist": 30.0, "calculator": 7.0, "coder": 9.0, "weak": 3.0}


def sized(n: int, seed: int):  # type: ignore[no-untyped-def]
    data = made_outcomes(n, seed=seed)
    models = data.models.assign(params_b=[SIZES[m] for m in data.model_names])
    return type(data)(data.queries, data.outcomes, models, data.name)


def problem(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    c, m = generator.integers(1, 6), generator.integers(2, 7)
    return generator.random((c, m)), generator.random(c) * 50, generator.integers(1, 40, m) * 1.0


# Hosting.


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("size_penalty", [0.0, 0.01])
def test_the_programme_equals_trying_every_table(seed: int, size_penalty: float) -> None:
    quality, weight, sizes = problem(seed)
    budget = float(np.sort(sizes)[:2].sum())
    best = -np.inf
    for table in product(range(sizes.size), repeat=len(weight)):
        if sizes[list(set(table))].sum() <= budget:
            gain = quality[np.arange(len(weight)), table] - size_penalty * sizes[list(table)]
            best = max(best, float(weight @ gain))
    for solver in ("milp", "enumerate"):
        found = host_experts(
            quality, weight, sizes, budget=budget, size_penalty=size_penalty, solver=solver
        )
        assert found.objective == pytest.approx(best, abs=1e-9)
        assert found.size <= budget
        assert found.hosted[found.expert].all()


def test_without_a_budget_every_category_gets_its_best_model() -> None:
    quality, weight, sizes = problem(7)
    for budget in (None, sizes.sum()):
        found = host_experts(quality, weight, sizes, budget=budget)
        assert found.expert.tolist() == quality.argmax(axis=1).tolist()


def test_a_larger_budget_never_lowers_the_optimum() -> None:
    quality, weight, sizes = problem(8)
    budgets = np.linspace(sizes.min(), sizes.sum(), 12)
    values = [host_experts(quality, weight, sizes, budget=b).objective for b in budgets]
    assert (np.diff(values) >= -1e-9).all()


def test_one_category_gets_the_best_single_expert_that_fits() -> None:
    quality, sizes = np.array([[0.5, 0.9, 0.7]]), np.array([5.0, 50.0, 9.0])
    assert host_experts(quality, np.ones(1), sizes).expert.tolist() == [1]
    assert host_experts(quality, np.ones(1), sizes, budget=20.0).expert.tolist() == [2]


def test_equal_experts_give_way_to_the_smaller() -> None:
    quality, sizes = np.full((2, 3), 0.5), np.array([9.0, 3.0, 5.0])
    for solver in ("milp", "enumerate"):
        found = host_experts(quality, np.ones(2), sizes, budget=17.0, solver=solver)
        assert found.expert.tolist() == [1, 1]
    assert host_experts(quality, np.ones(2), sizes).expert.tolist() == [1, 1]


def test_a_price_on_size_trades_quality_for_active_parameters() -> None:
    quality, weight, sizes = problem(9)
    active = [
        float(weight @ sizes[host_experts(quality, weight, sizes, size_penalty=mu).expert])
        for mu in (0.0, 0.005, 0.02, 1.0)
    ]
    assert (np.diff(active) <= 1e-9).all()
    assert active[-1] == pytest.approx(weight.sum() * sizes.min())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"budget": 0.5}, "no model fits"),
        ({"sizes": np.array([np.nan, 2.0]), "budget": 5.0}, "params_b"),
        ({"weight": np.array([np.nan])}, "finite"),
        ({"solver": "greedy"}, "greedy"),
        ({"size_penalty": -1.0}, "size_penalty"),
        ({"quality": np.zeros(2)}, "do not fit"),
    ],
)
def test_hosting_that_cannot_be_is_refused(change: dict, message: str) -> None:  # type: ignore[type-arg]
    given = {"quality": np.ones((1, 2)), "weight": np.ones(1), "sizes": np.array([1.0, 2.0])}
    with pytest.raises(RouterError, match=message):
        host_experts(**(given | change))


# Categories.


@pytest.mark.parametrize("head", ["knn", "linear", "svm", "mlp"])
def test_quality_is_the_posterior_times_the_shrunk_table(head: str) -> None:
    class ByCategory(EmbeddedRouter):
        name = "by-category"
        stacked = False
        n_folds = 2

        def _estimators(self):  # type: ignore[no-untyped-def]
            return {"category": CategoryEstimator(head=head, shrinkage=20.0)}

    data = made_outcomes(150, seed=1)
    router = ByCategory().fit(data)
    estimator = router.estimators_["category"]
    means = data.quality.mean(axis=0)
    for c, name in enumerate(estimator.names_):
        own = data.quality[data.datasets == name]
        n = len(own)
        by_hand = (n * own.mean(axis=0) + 20.0 * means) / (n + 20.0)
        assert np.allclose(estimator.table_[c], by_hand)
    inputs = router._inputs(made_outcomes(40, seed=2).texts)
    posterior = estimator.posterior(inputs)
    assert np.allclose(posterior.sum(axis=1), 1.0)
    assert np.allclose(estimator.predict(inputs)[0], posterior @ estimator.table_)
    right = [estimator.names_[c] for c in posterior.argmax(axis=1)]
    assert np.mean(np.array(right) == made_outcomes(40, seed=2).datasets) > 0.9


def test_rare_categories_are_learned_as_one() -> None:
    data = made_outcomes(60, seed=3)
    names = data.datasets.copy()
    names[:3] = ["one", "two", "two"]
    data = type(data)(data.queries.assign(dataset=names), data.outcomes, data.models)
    router = CompositionOfExpertsRouter().fit(data)
    assert {"one", "two", "general"} <= set(router.table_)
    estimator = CategoryEstimator(least=5).fit(router._training_inputs(data), data.quality)
    assert {"one", "two"}.isdisjoint(estimator.names_)
    assert "general" in estimator.names_


def test_only_neighbours_that_agree_label_a_query() -> None:
    vectors = np.eye(4, dtype=np.float32)[[0, 0, 1, 1]]
    labels = np.array([2, 2, 0, 1])
    assert agreed_labels(vectors, labels, np.eye(4, dtype=np.float32)[:2], k=2).tolist() == [2, -1]


def test_unlabelled_queries_are_learned_from() -> None:
    data, pool = made_outcomes(30, seed=4), made_outcomes(200, seed=5).texts
    texts = made_outcomes(50, seed=6).texts
    without, with_pool = (
        CompositionOfExpertsRouter(head="linear").fit(data, unlabelled=u) for u in ((), pool)
    )
    one, other = without.trace(texts), with_pool.trace(texts)
    assert any(a.posterior != b.posterior for a, b in zip(one, other, strict=True))
    assert np.mean([max(t.posterior.values()) for t in other]) > np.mean(
        [max(t.posterior.values()) for t in one]
    )


# The router.


def test_the_router_hosts_within_its_budget_and_follows_its_table() -> None:
    data = sized(200, 1)
    router = CompositionOfExpertsRouter(budget=20.0).fit(data)
    assert sum(SIZES[m] for m in router.models_) <= 20.0
    texts = made_outcomes(30, seed=2).texts
    by_table = [t.expert for t in router.trace(texts)]
    assert router.route(texts).targets == by_table
    router.host(budget=None)
    assert router.models_ == data.model_names
    assert router.table_["geography"] == "generalist"


def test_the_table_can_be_edited_and_a_policy_ignores_it() -> None:
    data = sized(200, 1)
    router = CompositionOfExpertsRouter(uncertainty="none").fit(data)
    texts = [t for t, d in zip(data.texts, data.datasets, strict=True) if d == "sums"][:5]
    router.assign("sums", "weak")
    assert router.route(texts).targets == ["weak"] * 5
    assert router.route(texts, Quality()).targets == ["calculator"] * 5
    allowed = np.array([m != "weak" for m in router.models_])
    assert router.route(texts, allowed=allowed).targets == ["calculator"] * 5
    with pytest.raises(RouterError, match="no category"):
        router.assign("poems", "weak")


def test_a_model_that_leaves_is_replaced_in_the_table() -> None:
    router = CompositionOfExpertsRouter().fit(sized(200, 1))
    router.remove_model("calculator")
    assert "calculator" not in router.table_.values()
    router.host(budget=40.0)
    assert "calculator" not in router.models_


def test_a_model_joins_the_programme_as_if_it_had_been_there(tmp_path) -> None:  # type: ignore[no-untyped-def]
    data = sized(200, 1)
    others = [m for m in data.model_names if m != "calculator"]
    router = CompositionOfExpertsRouter(budget=46.0).fit(data.with_models(others))
    assert "calculator" not in router.table_.values()
    column = data.quality[:, data.model_names.index("calculator")]
    router.add_model("calculator", data.texts, column.tolist(), params_b=SIZES["calculator"])
    assert router.table_["sums"] == "calculator"
    # From the same answers, its cells are those of a router that learned it from the start.
    whole = CompositionOfExpertsRouter(budget=46.0).fit(data)
    assert router.table_ == whole.table_
    joined = router.composition().table_[:, -1]
    learned = whole.composition().table_[:, data.model_names.index("calculator")]
    assert np.abs(joined - learned).max() < 0.02
    texts = made_outcomes(20, seed=2).texts
    router.save(tmp_path / "router")
    loaded = wye.load(tmp_path / "router")
    assert loaded.route(texts).targets == router.route(texts).targets
    assert loaded.models_ == router.models_
    assert "calculator" not in router.host(budget=2.0 + SIZES["weak"]).models_


def test_a_model_that_joins_beside_a_budget_needs_a_size_and_its_own_name() -> None:
    router = CompositionOfExpertsRouter(budget=20.0).fit(sized(60, 1))
    with pytest.raises(RouterError, match="params_b"):
        router.add_model("new", ["a"], [1.0])
    with pytest.raises(RouterError, match="learned already"):
        router.add_model("weak", ["a"], [1.0], params_b=1.0)
    with pytest.raises(RouterError, match="without NaN"):
        router.add_model("new", ["a"], [float("nan")], params_b=1.0)
    assert "new" not in router.pool_


@pytest.mark.parametrize("uncertainty", ["distance", "entropy", "probability"])
def test_uncertain_queries_go_to_general(uncertainty: str) -> None:
    data = sized(150, 1)
    router = CompositionOfExpertsRouter(uncertainty=uncertainty, threshold=-1.0).fit(data)
    assert {t.category for t in router.trace(data.texts[:9])} == {"general"}
    best = data.model_names[int(data.quality.mean(axis=0).argmax())]
    assert {t.expert for t in router.trace(data.texts[:9])} == {best}
    sure = CompositionOfExpertsRouter(uncertainty=uncertainty, threshold=2.0).fit(data)
    for t in sure.trace(data.texts[:9]):
        assert not t.fallback
        assert t.category == max(t.posterior, key=lambda c: t.posterior[c])


def test_texts_unlike_all_others_fall_back() -> None:
    data = made_outcomes(300, seed=1)
    router = CompositionOfExpertsRouter().fit(data)
    own = np.mean([t.fallback for t in router.trace(made_outcomes(100, seed=2).texts)])
    foreign = [f"Elegy {i} on moss and moonlit herons" for i in range(20)]
    assert np.mean([t.fallback for t in router.trace(foreign)]) > own + 0.5


def test_thresholds_of_posteriors_come_from_held_out_queries() -> None:
    router = CompositionOfExpertsRouter(uncertainty="entropy", head="linear")
    router.fit(made_outcomes(120, seed=1))
    threshold = router.trace(["1 + 1"])[0].threshold
    assert threshold in np.linspace(1.0, 0.05, 20).tolist()


def test_hosting_and_edits_survive_saving(tmp_path) -> None:  # type: ignore[no-untyped-def]
    router = CompositionOfExpertsRouter(budget=20.0).fit(sized(120, 1)).assign("code", "calculator")
    router.save(tmp_path / "router")
    loaded = wye.load(tmp_path / "router")
    assert isinstance(loaded, CompositionOfExpertsRouter)
    assert loaded.table_ == router.table_
    assert loaded.models_ == router.models_
    assert loaded.host(budget=None).table_ == router.host(budget=None).table_


def test_a_turn_is_routed_on_the_last_two_user_turns() -> None:
    chat = [
        {"role": "system", "content": "S"},
        *({"role": r, "content": c} for r, c in (("user", "A"), ("assistant", "x"), ("user", "B"))),
        *({"role": r, "content": c} for r, c in (("assistant", "y"), ("user", "C"))),
    ]
    assert routed_text(chat) == "B\nC"
    assert routed_text(chat, turns=1) == "C"
    with pytest.raises(RouterError, match="no user turn"):
        routed_text(chat[:1])
    router = CompositionOfExpertsRouter().fit(made_outcomes(80, seed=1))
    assert router.route_conversations([chat]).targets == router.route(["B\nC"]).targets


@pytest.mark.parametrize(
    "wrong",
    [{"head": "tree"}, {"uncertainty": "mood"}, {"k": 0}, {"shrinkage": -1.0}, {"budget": 20.0}],
)
def test_wrong_parameters_are_refused(wrong: dict) -> None:  # type: ignore[type-arg]
    with pytest.raises(RouterError):
        CompositionOfExpertsRouter(**wrong).fit(made_outcomes(20))


# Tiers of memory.


def naive_misses(requests: list[int], slots: int, *, ahead: bool) -> int:
    held: list[int] = []
    misses = 0
    for i, expert in enumerate(requests):
        if expert in held:
            held.remove(expert)
        else:
            misses += 1
            if len(held) == slots:
                if ahead:
                    rest = requests[i + 1 :]
                    held.remove(
                        max(held, key=lambda e: rest.index(e) if e in rest else len(requests))
                    )
                else:
                    held.pop(0)
        held.append(expert)
    return misses


@pytest.mark.parametrize("seed", range(4))
def test_residency_equals_a_list_of_slots(seed: int) -> None:
    requests = np.random.default_rng(seed).integers(0, 6, 60).tolist()
    misses = {}
    for rule in ("lru", "belady"):
        run = simulate_residency(requests, np.ones(6), 3.0, rule=rule)
        misses[rule] = int((~run.hit).sum())
        assert misses[rule] == naive_misses(requests, 3, ahead=rule == "belady")
        assert run.loads.sum() == misses[rule] == run.loaded
    assert misses["belady"] <= misses["lru"]


def test_loads_take_time_by_size_and_evict_as_many_as_needed() -> None:
    run = simulate_residency([0, 1, 2, 0], np.array([2.0, 2.0, 4.0]), 4.0, bandwidth=2.0)
    assert run.evictions == 3
    assert run.loaded == 10.0
    assert run.seconds == 5.0
    assert run.hit_rate == 0.0


def test_batches_serve_each_expert_in_one_run_of_a_window() -> None:
    requests = np.random.default_rng(0).integers(0, 5, 40)
    order = batch_by_expert(requests, 10)
    assert sorted(order.tolist()) == list(range(40))
    for start in range(0, 40, 10):
        part = order[start : start + 10]
        assert set(part.tolist()) == set(range(start, start + 10))
        assert (np.diff(requests[part]) != 0).sum() == len(set(requests[part].tolist())) - 1
    before = simulate_residency(requests, np.ones(5), 2.0)
    assert simulate_residency(requests[order], np.ones(5), 2.0).loaded < before.loaded


@pytest.mark.parametrize(
    "wrong",
    [
        {"rule": "fifo"},
        {"requests": [5]},
        {"capacity": 0.5},
        {"sizes": np.array([1.0, 0.0])},
        {"bandwidth": 0.0},
    ],
)
def test_residency_that_cannot_be_is_refused(wrong: dict) -> None:  # type: ignore[type-arg]
    given = {"requests": [0, 1], "sizes": np.ones(2), "capacity": 1.0}
    with pytest.raises(RouterError):
        simulate_residency(**(given | wrong))
    with pytest.raises(RouterError, match="window"):
        batch_by_expert([0], 0)
