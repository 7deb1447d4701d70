"""GreenServ: features in the right bins, rewards on the right scale, energy where it is told."""

from __future__ import annotations

import numpy as np
import pytest

from wye.embed import get_embedder
from wye.query import RouterError
from wye.query.greenserv import ALGORITHMS, GreenServRouter
from wye.query.learning.discrete_context import (
    DiscreteContext,
    OnlineKMeans,
    complexity,
    complexity_bin,
)
from wye.query.learning.resource_scale import ResourceScale
from wye.query.online import energy as energy_module
from wye.query.online.energy import CounterMeter, TokenTable
from wye.query.online.feedback import Observed, Outcome
from wye.testing.query_data import made_outcomes

EASY = "The cat sat on the mat."
HARD = (
    "Organisational interdependencies necessitate comprehensive epistemological reconsideration "
    "of institutional responsibilities."
)


def reader(**changed: object) -> DiscreteContext:
    settings: dict[str, object] = {
        "features": ("task", "cluster", "complexity"),
        "tasks": ("sums", "facts"),
        "clusters": 3,
        "thresholds": (20.0, 30.0),
        "constant": False,
        "seed": 0,
    }
    return DiscreteContext(get_embedder("static"), **(settings | changed))  # type: ignore[arg-type]


def test_two_thresholds_make_three_bins_and_the_hardest_has_its_own() -> None:
    assert complexity(EASY) == 0.0
    assert complexity(HARD) == 100.0
    score = complexity("What is the name of the longest river in the north of the country?")
    assert complexity_bin(EASY, (20.0, 30.0)) == 0
    assert complexity_bin(HARD, (20.0, 30.0)) == 2
    # Half-open: a text at a threshold is above it.
    text = "What is the name of the longest river in the north of the country?"
    assert [complexity_bin(text, (t,)) for t in (score - 0.01, score, score + 0.01)] == [1, 1, 0]
    contexts = reader()
    read = contexts.read([EASY, HARD])
    vectors = contexts.embedder.embed([EASY, HARD])
    x = contexts.contexts(vectors, read, ["sums", "facts"])
    assert x.shape == (2, contexts.width) == (2, 2 + 3 + 3)
    assert x.sum(axis=1).tolist() == [3.0, 3.0]
    assert x[:, -3:].tolist() == [[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]


def test_text_without_words_is_easy_and_long_text_is_cut() -> None:
    assert complexity("12 + 34 = ?") == 0.0
    assert complexity("") == 0.0
    assert complexity(HARD * 400) == complexity((HARD * 400)[:4096])


def test_clusters_follow_the_published_steps() -> None:
    generator = np.random.default_rng(0)
    vectors = generator.normal(size=(40, 5)).astype(np.float32)
    vectors[1] = vectors[0]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    kmeans = OnlineKMeans(3, 5)
    centroids: list[np.ndarray] = []
    counts: list[int] = []
    for row in vectors:
        if len(centroids) < 3:
            assert kmeans.nearest(row[None]).tolist() == [0]
            same = [i for i, c in enumerate(centroids) if np.array_equal(c, row)]
            if same:
                counts[same[0]] += 1
            else:
                centroids.append(row.astype(np.float64))
                counts.append(1)
        else:
            cosine = [row @ c / np.linalg.norm(c) for c in centroids]
            best = int(np.argmax(cosine))
            assert kmeans.nearest(row[None]).tolist() == [best]
            counts[best] += 1
            centroids[best] = centroids[best] + (row - centroids[best]) / counts[best]
        kmeans.observe(row)
    np.testing.assert_allclose(kmeans.centroids, centroids, atol=1e-9)
    assert kmeans.count.tolist() == counts


def test_the_task_is_given_or_read_but_never_the_dataset() -> None:
    data = made_outcomes(150)
    router = GreenServRouter(features=("task",)).fit(data)
    texts = data.texts[:20]
    contexts = router.reader_.contexts(
        router.embedder_.embed(texts), router.reader_.read(texts), [None] * 20
    )
    tasks = sorted(set(data.datasets))
    read = [tasks[i] for i in contexts.argmax(axis=1)]
    assert np.mean([r == d for r, d in zip(read, data.datasets[:20], strict=True)]) > 0.9
    given = router.select(texts[0], task="code")
    assert given.context.argmax() == tasks.index("code")
    with pytest.raises(RouterError, match=r"unknown tasks \['poems'\]"):
        router.select(texts[0], task="poems")


def test_without_weight_the_reward_is_accuracy_and_without_quality_it_is_the_resource() -> None:
    quality = np.array([[0.0, 0.3, 1.0]])
    cost = np.array([[1.0, 10.0, np.nan]])
    unknown = np.full((1, 3), np.nan)
    observed = Observed(quality, cost, unknown, unknown)
    ends = {
        weight: GreenServRouter(
            arms=("a", "b", "c"), weight=weight, resource_range=(1.0, 100.0)
        ).start(["a", "b", "c"])
        for weight in (0.0, 0.25, 1.0)
    }
    rewards = {w: r.rewards(observed, [None]) for w, r in ends.items()}  # type: ignore[attr-defined]
    assert np.array_equal(rewards[0.0], quality)
    assert rewards[1.0][0, :2].tolist() == [1.0, 0.5]
    assert rewards[0.25][0, 1] == pytest.approx(0.75 * 0.3 + 0.25 * 0.5)
    assert np.isnan(rewards[0.25][0, 2])


def test_a_scale_without_bounds_says_half_and_clips_beyond_its_bounds() -> None:
    values = np.array([[0.5, 2.0], [50.0, np.nan]])
    assert ResourceScale().apply(values, [None, None])[0].tolist() == [0.5, 0.5]
    per_task = ResourceScale({"": (1.0, 3.0), "x": (5.0, 5.0)}, log=False)
    scaled = per_task.apply(values, [None, "x"])
    assert scaled[0].tolist() == [0.0, 0.5]
    assert scaled[1, 0] == 0.5
    assert np.isnan(scaled[1, 1])
    with pytest.raises(RouterError, match="expected finite"):
        ResourceScale({"": (3.0, 1.0)})


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_algorithm_learns_the_better_model(algorithm: str) -> None:
    router = GreenServRouter(arms=("bad", "good"), weight=0.0, algorithm=algorithm, seed=1)
    last = []
    for i in range(200):
        ticket = router.select(f"query {i % 5}")
        router.update(ticket, Outcome(quality=1.0 if ticket.target == "good" else 0.0))
        last.append(ticket.target)
    assert last[-50:].count("good") >= 45


def test_slow_models_are_left_out_while_others_are_there() -> None:
    router = GreenServRouter(arms=("slow", "fast"), weight=0.0, latency_limit=2.0)
    for name, seconds in (("slow", 9.0), ("fast", 1.0)):
        ticket = router.select("hello", allowed=[name])
        router.update(ticket, Outcome(quality=1.0, latency=seconds))
    assert {router.select(f"query {i}").target for i in range(10)} == {"fast"}
    assert router.select("hello", allowed=["slow"]).target == "slow"


def test_energy_of_a_log_comes_from_tokens() -> None:
    data = made_outcomes(60)
    names = data.model_names
    table = dict.fromkeys(names, 0.5) | {names[0]: 4.0}
    router = GreenServRouter(resource="energy", joules_per_token=table)
    observed = router.observed(data)
    expected = data.matrix("output_tokens") * np.array([table[m] for m in names])
    np.testing.assert_allclose(observed.energy, expected)
    router.fit(data)
    assert router.scale_.bounds[""][1] <= expected.max()
    with pytest.raises(RouterError, match="tells no energy"):
        GreenServRouter(resource="energy").fit(data)


def test_a_meter_counts_what_happens_inside_it() -> None:
    meter = TokenTable({"small": 0.5, "large": 3.0})
    meter.count("small", output_tokens=1000)
    with meter.measure("small") as reading:
        meter.count("small", output_tokens=20)
        meter.count("large", output_tokens=5)
        assert np.isnan(reading.joules)
    assert reading.joules == 10.0
    assert np.isnan(meter.joules("unheard of", 3))
    with pytest.raises(RouterError, match="joules_per_token of 'x' is -1"):
        TokenTable({"x": -1.0})


def test_counters_without_their_library_name_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(energy_module, "find_spec", lambda name: None)
    with pytest.raises(RouterError, match=r"wye\[energy\]"):
        CounterMeter()


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"algorithm": "ucb"}, "algorithm is 'ucb'"),
        ({"resource": "water"}, "resource is 'water'"),
        ({"weight": 1.5}, "weight is 1.5"),
        ({"features": ("task", "mood")}, "features is"),
        ({"clusters": 0}, "clusters is 0"),
        ({"thresholds": (30.0, 20.0)}, "rising"),
        ({"resource_range": (1.0,)}, r"expected \(low, high\)"),
    ],
)
def test_a_wrong_parameter_is_named(params: dict[str, object], message: str) -> None:
    with pytest.raises(RouterError, match=message):
        GreenServRouter(arms=("a",), **params).select("hello")  # type: ignore[arg-type]
