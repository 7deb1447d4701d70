"""Training and evaluation in blocks on Ray Data give what one machine gives."""

from __future__ import annotations

import numpy as np
import pytest

from wye.data import load_embedded
from wye.gateway.log_data import read_log
from wye.gateway.records import DecisionRecord, FeedbackRecord, OutcomeRecord, new_id
from wye.gateway.store import Store
from wye.query.linear_sums import LinearSumsRouter
from wye.query.policies import Budget, Quality, Utility
from wye.ray.evaluation import Reached, evaluate, reached
from wye.ray.logs import frame_of, outcome_rows
from wye.ray.serving import RayError
from wye.ray.training import train

pytestmark = pytest.mark.ray
QUESTIONS = ["What is 3 + 4?", "Who wrote Faust?", "Write a sonnet about rain.", "Why?"]


@pytest.fixture(scope="module")
def data():
    return load_embedded().part("train")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, data):
    """The outcomes in shuffled pieces, one of them empty."""
    folder = tmp_path_factory.mktemp("rows")
    frame = frame_of(data).sample(frac=1.0, random_state=3)
    for number, rows in enumerate(np.array_split(np.arange(len(frame)), 5)):
        frame.iloc[rows].to_parquet(folder / f"{number}.parquet")
    frame.iloc[:0].to_parquet(folder / "5.parquet")
    return folder


def assert_alike(found: LinearSumsRouter, expected: LinearSumsRouter) -> None:
    assert found.models_ == tuple(sorted(expected.models_))
    assert found.solved_.penalty == expected.solved_.penalty
    one = found.estimate(QUESTIONS)
    other = expected.estimate(QUESTIONS).restrict(found.models_)
    np.testing.assert_allclose(one.quality, other.quality, atol=1e-7)
    np.testing.assert_allclose(one.quality_std, other.quality_std, atol=1e-6)
    np.testing.assert_allclose(one.cost, other.cost, rtol=1e-9)
    np.testing.assert_allclose(one.novelty, other.novelty, atol=1e-12)


def test_a_router_trained_in_blocks_is_the_router_of_one_machine(cluster, data, folder, tmp_path):
    found = train(outcome_rows(folder))
    assert_alike(found, LinearSumsRouter().fit(data))
    from wye.query import load

    assert_alike(load(found.save(tmp_path / "router")), found)


def test_an_evaluation_in_blocks_is_the_mean_over_the_routers_choices(cluster, data, folder):
    router = LinearSumsRouter().fit(data)
    policy = Utility(cost_weight=50.0)
    found = evaluate(outcome_rows(folder), router, policy)
    targets = router.route(data.texts, policy).targets
    rows, columns = np.arange(len(data)), [data.model_names.index(t) for t in targets]
    quality, cost = data.quality[rows, columns], data.cost[rows, columns]
    assert found.matched == len(data)
    assert found.value == pytest.approx(np.nanmean(quality), rel=1e-12)
    assert found.cost_usd == pytest.approx(np.nanmean(cost), rel=1e-9)
    assert found.standard_error == pytest.approx(quality.std() / np.sqrt(len(data)), rel=1e-9)
    assert found.effective_rows == pytest.approx(len(data))


def test_a_policy_that_depends_on_the_order_is_refused(cluster, data, folder):
    router = LinearSumsRouter().fit(data)
    with pytest.raises(RayError, match="what came before"):
        evaluate(outcome_rows(folder), router, Budget(total=1.0))


def test_a_log_in_postgresql_is_read_in_ranges_by_both_workers(cluster, data, postgresql):
    url = postgresql.url(postgresql.database())
    logged = log_of(data, url)
    rows = outcome_rows(url, block=70)
    frame = rows.to_pandas()
    assert len(frame) == logged
    assert frame["propensity"].eq(1 / len(data.model_names)).all()
    found = train(rows)
    expected = LinearSumsRouter().fit(read_log(url))
    assert_alike(found, expected)
    total = evaluate(rows, found, Quality())
    alone = reached(found, Quality(), frame)
    assert total.value == pytest.approx(alone.value, rel=1e-12)
    assert total.matched == alone.matched > 10
    assert total.effective_rows == pytest.approx(total.matched)


def log_of(data, url: str) -> int:
    """A store with 300 decisions by chance and their outcomes, all but a few judged."""
    store = Store(url)
    generator = np.random.default_rng(0)
    judged = 0
    for query in range(300):
        model = int(generator.integers(len(data.model_names)))
        name, quality = data.model_names[model], data.quality[query, model]
        made = DecisionRecord(
            id=new_id(), time=float(query), requested="wye", policy_name="p", policy="p()",
            router="none", policy_version="0", target=name,
            propensity=1 / len(data.model_names), candidates=(), excluded={}, reasons=(),
            features={}, text=data.texts[query], stream=False, router_cost_usd=0.0,
            router_seconds=0.0,
        )  # fmt: skip
        store.add(made)
        cost = float(data.cost[query, model])
        store.add(OutcomeRecord(made.id, 1.0, name, "ok", 200, cost_usd=cost, latency_s=0.5))
        if query % 10 and np.isfinite(quality):
            # The latest counts.
            store.add(FeedbackRecord(made.id, 2.0, 0.5))
            store.add(FeedbackRecord(made.id, 3.0, float(quality)))
            judged += 1
    store.close()
    return judged


def test_rows_of_a_log_with_a_wrong_propensity_are_refused(data):
    router = LinearSumsRouter().fit(data)
    frame = frame_of(data).head(5)
    with pytest.raises(RayError, match="above 0"):
        reached(router, Quality(), frame.assign(propensity=0.0))
    assert reached(router, Quality(), frame.assign(propensity=np.nan)) == Reached()


def test_rare_choices_weigh_more_as_the_law_says(data):
    router = LinearSumsRouter().fit(data)
    frame = frame_of(data).head(600)
    propensity = np.random.default_rng(1).choice([0.1, 0.5], len(frame))
    found = reached(router, Quality(), frame.assign(propensity=propensity))
    targets = router.route(frame["text"].tolist(), Quality()).targets
    w = (np.array(targets) == frame["model"].to_numpy()) / propensity
    q = frame["quality"].to_numpy()
    value = (w * q).sum() / w.sum()
    assert found.value == pytest.approx(value)
    assert found.standard_error == pytest.approx(np.sqrt((w**2 * (q - value) ** 2).sum()) / w.sum())
    assert found.effective_rows == pytest.approx(w.sum() ** 2 / (w**2).sum())
