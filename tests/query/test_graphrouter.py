"""Message passing between queries and models, its masks, and models that join as nodes."""

from __future__ import annotations

import numpy as np
import pytest

from wye.query import GraphRouter, RouterError
from wye.query.learning.bipartite import (
    edge_contributions,
    edge_logits,
    model_nodes,
    query_nodes,
    start,
)
from wye.query.learning.model_descriptions import described
from wye.query.learning.scenario import TaskScale, best_arms, reward, winners
from wye.testing import made_outcomes

Q, M, D, H = 9, 4, 6, 3


def graph(seed: int = 0):  # type: ignore[no-untyped-def]
    g = np.random.default_rng(seed)
    p = {k: v + 0.1 * g.standard_normal(v.shape) for k, v in start(D, D, D, H, seed).items()}
    return (
        p,
        g.standard_normal((Q, D)),
        g.standard_normal((Q, D)),
        g.standard_normal((M, D)),
        g.random((Q, M, 3)),
        (g.random((Q, M)) < 0.6).astype(float),
    )


def by_edges(p, queries, tasks, models, edges, visible):  # type: ignore[no-untyped-def]
    """The published formulas, one edge at a time."""

    def leaky(x):  # type: ignore[no-untyped-def]
        return np.where(x > 0, x, 0.01 * x)

    def norm(x, layer):  # type: ignore[no-untyped-def]
        z = (x - x.mean()) / np.sqrt(x.var() + 1e-5)
        return z * p[f"gain{layer}"] + p[f"shift{layer}"]

    x_q = [
        np.concatenate(
            [tasks[q] @ p["task"] + p["task_bias"], queries[q] @ p["query"] + p["query_bias"]]
        )
        for q in range(Q)
    ]
    x0, x_m = x_q, [models[m] @ p["model"] + p["model_bias"] for m in range(M)]
    for layer in ("1", "2"):
        out = []
        for m in range(M):
            arriving = [
                x_q[q] @ p[f"message{layer}"]
                + leaky(edges[q, m] @ p["edge_features"]) @ p[f"edge{layer}"]
                for q in range(Q)
                if visible[q, m]
            ]
            mean = np.mean(arriving, axis=0) if arriving else 0.0
            x = norm(mean + x_m[m] @ p[f"self{layer}"] + p[f"bias{layer}"], layer)
            out.append(leaky(x) if layer == "1" else x)
        x_q = [leaky(norm(x @ p[f"self{layer}"] + p[f"bias{layer}"], layer)) for x in x_q]
        x_m = out
    scores = np.array([[1 / (1 + np.exp(-np.mean(x0[q] * x_m[m]))) for m in range(M)]
                       for q in range(Q)])  # fmt: skip
    return np.array(x_m), scores


@pytest.mark.parametrize("seed", range(3))
def test_messages_and_decoder_equal_the_formulas_edge_by_edge(seed: int) -> None:
    p, queries, tasks, models, edges, visible = graph(seed)
    if seed == 2:
        visible[:, 1] = 0.0
    halves = query_nodes(p, queries, tasks)
    states = model_nodes(p, halves, models, edges, visible)
    expected_states, expected = by_edges(p, queries, tasks, models, edges, visible)
    assert np.allclose(states, expected_states, atol=1e-6)
    assert np.allclose(1 / (1 + np.exp(-edge_logits(halves, states))), expected, atol=1e-6)


def test_several_masks_at_once_equal_one_after_the_other() -> None:
    p, queries, tasks, models, edges, visible = graph()
    masks = np.stack([visible, 1.0 - visible, np.zeros_like(visible)])
    halves = query_nodes(p, queries, tasks)
    together = model_nodes(p, halves, models, edges, masks)
    for b, mask in enumerate(masks):
        alone = model_nodes(p, halves, models, edges, mask)
        assert np.allclose(together[b], alone)
        assert np.allclose(edge_logits(halves, together)[b], edge_logits(halves, alone))


@pytest.mark.torch
def test_tensors_and_arrays_give_the_same() -> None:
    import torch

    p, queries, tasks, models, edges, visible = graph()
    halves = query_nodes(p, queries, tasks)
    arrays = edge_logits(halves, model_nodes(p, halves, models, edges, visible))
    q = {k: torch.tensor(v) for k, v in p.items()}
    halves_t = query_nodes(q, torch.tensor(queries), torch.tensor(tasks))
    rest = (torch.tensor(a) for a in (models, edges, visible))
    assert np.allclose(edge_logits(halves_t, model_nodes(q, halves_t, *rest)).numpy(), arrays)


def test_permuting_models_permutes_scores() -> None:
    p, queries, tasks, models, edges, visible = graph()
    halves = query_nodes(p, queries, tasks)
    scores = edge_logits(halves, model_nodes(p, halves, models, edges, visible))
    order = np.array([2, 0, 3, 1])
    moved = model_nodes(p, halves, models[order], edges[:, order], visible[:, order])
    assert np.allclose(edge_logits(halves, moved), scores[:, order], atol=1e-12)


def test_hidden_edges_of_a_model_do_not_reach_its_score() -> None:
    p, queries, tasks, models, edges, visible = graph()
    halves = query_nodes(p, queries, tasks)
    other = edges.copy()
    other[:, 1] += np.random.default_rng(1).random((Q, 3))
    shown = model_nodes(p, halves, models, other, visible)
    assert not np.allclose(shown[1], model_nodes(p, halves, models, edges, visible)[1])
    visible[:, 1] = 0.0
    one, two = (model_nodes(p, halves, models, e, visible) for e in (edges, other))
    assert np.array_equal(one, two)


def test_contributions_are_the_slope_of_the_logits_in_the_last_messages() -> None:
    p, queries, tasks, models, edges, visible = graph()
    visible[1:, 2], visible[0, 2] = 0.0, 1.0
    halves = query_nodes(p, queries, tasks)
    asked = tuple(h[:1] for h in halves)
    found = edge_contributions(p, halves, models, edges, visible, asked)
    assert (found[visible == 0] == 0.0).all()

    def logits(scale: float) -> np.ndarray:
        scaled = p | {name: p[name] * scale for name in ("message2", "edge2")}
        return edge_logits(asked, model_nodes(scaled, halves, models, edges, visible))[0]

    slope = (logits(1 + 1e-5) - logits(1 - 1e-5)) / 2e-5
    assert np.allclose(found.sum(axis=0), slope, atol=1e-6)
    # A single visible edge is all that its model hears.
    assert np.isclose(found[0, 2], slope[2], atol=1e-6)


@pytest.mark.torch
def test_a_trace_names_the_outcomes_that_moved_a_score_most(fitted: GraphRouter) -> None:
    data = made_outcomes(200, seed=1)
    log = data.with_models([m for m in data.model_names if m != "calculator"])
    before = fitted.estimate(log.texts[:2]).quality
    found = fitted.trace("Compute 3 + 4 * 5 and give the result as a number.", log, k=7)
    sizes = [abs(t.contribution) for t in found]
    assert sizes == sorted(sizes, reverse=True)
    assert len({(t.model, t.query_id) for t in found}) == 7
    assert {t.model for t in found} <= set(log.model_names)
    assert {t.query_id for t in found} <= set(log.queries["query_id"])
    assert np.array_equal(fitted.estimate(log.texts[:2]).quality, before)
    with pytest.raises(RouterError, match="k is 0"):
        fitted.trace("x", log, k=0)


@pytest.mark.torch
def test_predicted_edges_are_never_visible(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    """Edges whose label is asked for have no gradient from their own features."""
    import torch

    from wye.query.learning import bipartite

    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    inner = torch.nn.functional.binary_cross_entropy_with_logits

    def spy_nodes(p, halves, models, edges, visible):  # type: ignore[no-untyped-def]
        seen.append(visible.clone())
        return model_nodes(p, halves, models, edges, visible)

    losses: list[torch.Tensor] = []

    def spy_loss(logits, target, reduction):  # type: ignore[no-untyped-def]
        each = inner(logits, target, reduction=reduction)
        each.register_hook(losses.append)
        return each

    monkeypatch.setattr(bipartite, "model_nodes", spy_nodes)
    monkeypatch.setattr(torch.nn.functional, "binary_cross_entropy_with_logits", spy_loss)
    _, queries, tasks, models, edges, known = graph()
    bipartite.train_graph(
        "test",
        start(D, D, D, H, 0),
        (queries, tasks, models),
        edges.astype(np.float32),
        known > 0,
        np.where(known > 0, 1.0, np.nan),
        lambda p: (0.0, 0.0),
        steps=3,
        draws=2,
        visible_share=0.5,
        learning_rate=1e-2,
        weight_decay=0.0,
        seed=0,
    )
    assert len(seen) == len(losses) == 3
    for visible, gradient in zip(seen, losses, strict=True):
        asked = gradient.abs() > 0
        assert asked.any()
        assert not (asked & (visible > 0)).any()
        assert ((visible > 0) | asked)[:, torch.tensor(known > 0)].all()


@pytest.fixture(scope="module")
def fitted() -> GraphRouter:
    data = made_outcomes(200, seed=1)
    kept = [m for m in data.model_names if m != "calculator"]
    return GraphRouter(steps=40, hidden=16, seed=1).fit(data.with_models(kept))


@pytest.mark.torch
def test_a_model_joins_from_a_description_and_a_few_edges(fitted: GraphRouter) -> None:
    data, test = made_outcomes(200, seed=1), made_outcomes(60, seed=2)
    before = fitted.estimate(test.texts)
    column = data.model_names.index("calculator")
    joined = data.quality[:50, column]
    fitted.add_model(
        "calculator", data.texts[:50], joined.tolist(), description="A model for arithmetic"
    )
    after = fitted.estimate(test.texts)
    assert after.models == (*before.models, "calculator")
    assert np.allclose(after.quality[:, :-1], before.quality)
    strong = after.quality[:, -1].mean()
    fitted.remove_model("calculator")
    fitted.add_model("hopeless", data.texts[:50], [0.0] * 50, description="A model for arithmetic")
    assert fitted.estimate(test.texts).quality[:, -1].mean() < strong
    fitted.remove_model("hopeless")


@pytest.mark.torch
def test_scores_of_a_query_do_not_depend_on_others(fitted: GraphRouter) -> None:
    texts = made_outcomes(30, seed=3).texts
    alone = fitted.estimate(texts[:1]).quality
    assert np.allclose(fitted.estimate(texts).quality[:1], alone, atol=1e-6)


@pytest.mark.torch
def test_cost_first_prefers_cheaper_models_than_performance_first() -> None:
    data = made_outcomes(200, seed=4)
    cost = []
    for scenario in ((1.0, 0.0), (0.2, 0.8)):
        router = GraphRouter(scenario=scenario, steps=40, hidden=16).fit(data)
        chosen = router.estimate(data.texts).quality.argmax(axis=1)
        cost.append(data.cost[np.arange(len(data)), chosen].mean())
    assert cost[1] < cost[0]


@pytest.mark.torch
def test_a_scenario_with_cost_needs_costs() -> None:
    data = made_outcomes(30)
    free = type(data)(data.queries, data.outcomes.assign(cost_usd=np.nan), data.models, data.name)
    with pytest.raises(RouterError, match="cost_usd"):
        GraphRouter(scenario=(0.5, 0.5), steps=1).fit(free)


@pytest.mark.parametrize(
    "wrong", [{"scenario": (0.0, 1.0)}, {"hidden": 0}, {"visible_share": 1.0}, {"draws": 0}]
)
def test_wrong_parameters_are_refused(wrong: dict) -> None:  # type: ignore[type-arg]
    with pytest.raises(RouterError):
        GraphRouter(**wrong).fit(made_outcomes(20))


def test_descriptions_say_what_is_known() -> None:
    assert described("a-b") == "The language model a b."
    assert "3 dollars per million tokens read" in described("x", price_in=3.0)


# The reward.


def test_performance_first_equals_scaled_performance() -> None:
    g = np.random.default_rng(0)
    values, tasks = g.random((20, 3)), g.integers(0, 4, 20)
    scaled = TaskScale.fit(values, tasks, 4).apply(values, tasks)
    assert np.array_equal(reward(scaled, g.random((20, 3)), (1.0, 0.0)), scaled)
    for t in range(4):
        own = values[tasks == t]
        by_hand = (own - own.min()) / (own.max() - own.min())
        assert np.allclose(scaled[tasks == t], by_hand)


def test_a_constant_task_scales_to_zero_and_unknown_stays_unknown() -> None:
    values = np.array([[2.0, 2.0], [np.nan, 1.0], [3.0, 5.0]])
    scale = TaskScale.fit(values, np.array([0, 1, 2]), 3)
    scaled = scale.apply(values, np.array([0, 1, 2]))
    assert scaled[0].tolist() == [0.0, 0.0]
    assert np.isnan(scaled[1, 0])
    assert scaled[1, 1] == 0.0
    assert scaled[2].tolist() == [0.0, 1.0]


def test_test_queries_are_scaled_by_training_bounds() -> None:
    scale = TaskScale.fit(np.array([[0.0, 2.0]]), np.array([0]), 1)
    assert scale.apply(np.array([[1.0, 9.0, -1.0]]), np.array([0])).tolist() == [[0.5, 1.0, 0.0]]


def test_the_best_arm_breaks_ties_by_cost_then_by_average() -> None:
    utility = np.array([[1.0, 1.0, 0.0], [0.5, 0.5, 0.5], [np.nan, 0.2, 0.9], [1.0, 1.0, 0.0]])
    cost = np.array([[2.0, 1.0, 0.1], [1.0, 1.0, 1.0], [1.0, 1.0, 1.0], [1.0, 1.0, 0.1]])
    assert best_arms(utility, cost).tolist() == [1, -1, 2, 0]
    assert winners(utility).sum(axis=1).tolist() == [2, 0, 1, 2]
