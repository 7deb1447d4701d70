"""Predicted losses, flags, penalties and the Pareto sweep."""

from __future__ import annotations

import numpy as np
import pytest

import wye
from wye.embed import get_embedder
from wye.query import RouterError, TryageRouter
from wye.query.learning.predicted_losses import LossEstimator
from wye.query.policies import Quality
from wye.query.prompts.flags import read_flags
from wye.query.tryage import pareto_sweep, scaled_constraint
from wye.testing import made_outcomes

SIZES = {"generalist": 30.0, "calculator": 7.0, "coder": 9.0, "weak": 3.0}


@pytest.fixture(scope="module")
def router() -> TryageRouter:
    return TryageRouter(constraints={"size": SIZES}, hidden=32, epochs=30).fit(made_outcomes(200))


def test_without_weights_the_least_predicted_loss_is_taken(router: TryageRouter) -> None:
    texts = made_outcomes(40, seed=1).texts
    best = router.estimate(texts).quality.argmax(axis=1)
    assert router.route(texts).targets == [router.models_[m] for m in best]


def test_a_huge_weight_takes_the_smallest_model_for_every_query(router: TryageRouter) -> None:
    texts = made_outcomes(40, seed=1).texts
    assert set(router.route(texts, weights={"size": 1e6}).targets) == {"weak"}
    flagged = router.route([f"[Flag: smallest model] {t}" for t in texts]).targets
    assert flagged == router.route(texts, weights={"size": 2.0}).targets
    assert flagged.count("weak") > router.route(texts).targets.count("weak")


def test_weights_may_differ_by_query(router: TryageRouter) -> None:
    text = made_outcomes(1, seed=1).texts[0]
    plain = router.route([text]).targets[0]
    both = router.route([text, text], weights=[{}, {"size": 1e6}]).targets
    assert both == [plain, "weak"]


def test_the_choice_is_the_argmin_of_loss_and_penalties(router: TryageRouter) -> None:
    texts = made_outcomes(30, seed=2).texts
    loss = 1.0 - router.estimate(texts).quality
    total = loss + 0.3 * scaled_constraint([SIZES[m] for m in router.models_])
    chosen = [router.models_[m] for m in total.argmin(axis=1)]
    assert router.route(texts, weights={"size": 0.3}).targets == chosen


def test_a_constant_added_to_a_constraint_changes_no_decision() -> None:
    data, texts = made_outcomes(100), made_outcomes(30, seed=3).texts
    routed = [
        TryageRouter(constraints={"size": {m: s + c for m, s in SIZES.items()}}, hidden=8, epochs=3)
        .fit(data)
        .route(texts, weights={"size": 0.4})
        .targets
        for c in (0.0, 1000.0)
    ]
    assert routed[0] == routed[1]


def test_permuting_the_weights_of_the_last_layer_permutes_the_losses(router: TryageRouter) -> None:
    estimator = router.estimators_["loss"]
    assert isinstance(estimator, LossEstimator)
    inputs = router._inputs(made_outcomes(9, seed=4).texts)
    order = np.array([2, 0, 3, 1])
    state = estimator.get_state()
    for name in ("center", "scale", "last_bias"):
        state[name] = state[name][order]
    state["last"] = state["last"][:, order]
    moved = LossEstimator()
    moved.set_state(state)
    assert np.allclose(moved.losses(inputs), estimator.losses(inputs)[:, order])


def test_losses_come_back_in_their_own_unit() -> None:
    """A weak model with little spread is not taken for a good one."""
    data = made_outcomes(150, seed=5)
    fitted = TryageRouter(hidden=16, epochs=20, calibration="none").fit(data)
    gap = np.abs(fitted.estimate(data.texts).quality.mean(axis=0) - data.quality.mean(axis=0))
    assert gap.max() < 0.1


# Learning from the chosen model.


def learner() -> TryageRouter:
    return TryageRouter(hidden=8, epochs=3, calibration="none", online_rate=0.5).fit(
        made_outcomes(60)
    )


def test_an_outcome_takes_its_share_of_the_error_away_and_leaves_other_models() -> None:
    fitted = learner()
    text = made_outcomes(1, seed=8).texts[0]
    coder = fitted.models_.index("coder")
    before = fitted.estimators_["loss"].losses(fitted._inputs([text]))[0]  # type: ignore[attr-defined]
    fitted.observe(f"[Flag: small] {text}", {"coder": 0.25})
    after = fitted.estimators_["loss"].losses(fitted._inputs([text]))[0]  # type: ignore[attr-defined]
    expected = before.copy()
    expected[coder] = 0.5 * before[coder] + 0.5 * 0.75
    assert np.allclose(after, expected, atol=1e-6)


def test_a_model_that_fails_is_left_in_the_end_and_that_survives_saving(tmp_path) -> None:  # type: ignore[no-untyped-def]
    fitted = learner()
    text = made_outcomes(1, seed=9).texts[0]
    first = fitted.route([text]).targets[0]
    assert first is not None
    for _ in range(12):
        fitted.observe(text, {first: 0.0})
    assert fitted.route([text]).targets[0] != first
    fitted.save(tmp_path / "router")
    assert np.array_equal(
        wye.load(tmp_path / "router").estimate([text]).quality, fitted.estimate([text]).quality
    )


def test_an_outcome_of_a_model_beside_one_that_left_reaches_its_own_column() -> None:
    fitted = learner()
    text = made_outcomes(1, seed=9).texts[0]
    fitted.remove_model(fitted.models_[0])
    before = fitted.estimate([text]).quality[0]
    after = fitted.observe(text, {fitted.models_[1]: 0.0}).estimate([text]).quality[0]
    assert np.isclose(before, after).tolist() == [True, False, True]


@pytest.mark.parametrize("wrong", [{"nobody": 1.0}, {"coder": float("nan")}, {"coder": 1.5}])
def test_outcomes_that_cannot_be_are_refused(router: TryageRouter, wrong: dict) -> None:  # type: ignore[type-arg]
    with pytest.raises(RouterError, match=r"no model|0 to 1"):
        router.observe("x", wrong)
    with pytest.raises(RouterError, match="online_rate"):
        TryageRouter(online_rate=0.0).fit(made_outcomes(20))


# What a decision says.


def test_decisions_tell_flags_and_queries_that_are_cut(
    router: TryageRouter, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert router.route(["a word"]).decisions[0].features["truncated"] == 0.0
    # An encoder with a window of ten characters: the flag is not what makes a query too long.
    monkeypatch.setattr(
        router.embedder_, "reads_whole", lambda texts: np.array([len(t) <= 10 for t in texts])
    )
    one, two = router.route(["[Flag: smallest model, purple] short", "no short query"]).decisions
    assert (one.features["truncated"], two.features["truncated"]) == (0.0, 1.0)
    assert (one.features["flag:size"], one.features["unknown flags"]) == (2.0, "purple")
    assert "novelty" in two.features


# Flags.


@pytest.mark.parametrize(
    ("text", "bare", "weights", "unknown"),
    [
        ("[Flag: smallest model] Hi there", "Hi there", {"size": 2.0}, ()),
        ("Hi [flags: small,  Cheapest models] there", "Hi there", {"size": 0.2, "price": 2.0}, ()),
        ("[Flag: smaller][FLAG: small] x", "x", {"size": 0.5}, ()),
        (
            "x  y[Flag: small] [flag: cheap]  z\n    w",
            "x  y z\n    w",
            {"size": 0.2, "price": 0.2},
            (),
        ),
        ("x [Flag: purple]", "x", {}, ("purple",)),
        ("Plain  text [not a flag]", "Plain  text [not a flag]", {}, ()),
        ("[Flag:]", "[Flag:]", {}, ()),
    ],
)
def test_flags_are_read_and_taken_out(
    text: str,
    bare: str,
    weights: dict,  # type: ignore[type-arg]
    unknown: tuple,  # type: ignore[type-arg]
) -> None:
    read = read_flags(text)
    assert (read.text, dict(read.weights), read.unknown) == (bare, weights, unknown)


def test_flags_never_reach_the_embedder(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    embedder, seen = get_embedder("static"), []
    inner = embedder.embed

    def spy(texts):  # type: ignore[no-untyped-def]
        seen.extend(texts)
        return inner(texts)

    monkeypatch.setattr(embedder, "embed", spy)
    data = made_outcomes(40)
    flagged = data.queries.assign(text=["[Flag: smallest model] " + t for t in data.texts])
    data = type(data)(flagged, data.outcomes, data.models)
    fitted = TryageRouter(constraints={"size": SIZES}, hidden=8, epochs=2, embedder=embedder)
    fitted.fit(data)
    fitted.route(data.texts[:3])
    fitted.route(data.texts[:3], Quality())
    fitted.estimate(data.texts[:3])
    assert len(seen) >= 49
    assert not [t for t in seen if "flag" in t.lower()]


# The sweep.


def test_the_mean_constraint_never_rises_with_its_weight() -> None:
    g = np.random.default_rng(0)
    predicted, constraint = g.random((200, 5)), scaled_constraint(g.random(5))
    points = pareto_sweep(predicted, predicted, constraint, np.linspace(0, 3, 25).tolist())
    assert (np.diff([p.constraint for p in points]) <= 1e-12).all()
    assert (np.diff([p.loss for p in points]) >= -1e-12).all()
    assert not any(p.dominated for p in points)


def test_dominated_points_are_marked() -> None:
    # The prediction is wrong: the dear model is worse, so any weight that avoids it is better.
    predicted, loss = np.array([[0.0, 0.3]]), np.array([[0.9, 0.1]])
    points = pareto_sweep(predicted, loss, np.array([1.0, 0.0]), [0.0, 1.0])
    assert [p.dominated for p in points] == [True, False]


def test_the_router_sweeps_on_other_queries(router: TryageRouter) -> None:
    points = router.pareto(made_outcomes(80, seed=6), "size", [0.0, 0.2, 10.0])
    assert points[-1].constraint == 0.0
    assert points[0].constraint >= points[1].constraint >= points[2].constraint
    assert points[0].loss < points[-1].loss


def test_constraints_survive_saving_and_leaving(router: TryageRouter, tmp_path) -> None:  # type: ignore[no-untyped-def]
    router.save(tmp_path / "router")
    loaded = wye.load(tmp_path / "router")
    assert isinstance(loaded, TryageRouter)
    texts = made_outcomes(10, seed=7).texts
    assert np.allclose(loaded.penalty(texts, {"size": 0.4}), router.penalty(texts, {"size": 0.4}))
    loaded.remove_model("weak")
    assert set(loaded.route(texts, weights={"size": 1e6}).targets) == {"calculator"}


def test_sizes_and_prices_of_the_log_are_constraints() -> None:
    data = made_outcomes(30)
    models = data.models.assign(params_b=[SIZES[m] for m in data.model_names])
    fitted = TryageRouter(hidden=4, epochs=1).fit(type(data)(data.queries, data.outcomes, models))
    assert set(fitted.constraints_) == {"size", "price"}
    assert fitted.constraints_["size"][data.model_names.index("weak")] == 0.0
    assert fitted.constraints_["size"].max() == 1.0


@pytest.mark.parametrize(
    ("weights", "message"),
    [({"size": -1.0}, "0 or more"), ({"charm": 1.0}, "no constraint"), ([{}], "expected one each")],
)
def test_wrong_weights_are_refused(router: TryageRouter, weights, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(RouterError, match=message):
        router.route(["a", "b"], weights=weights)


def test_wrong_constraints_are_refused() -> None:
    with pytest.raises(RouterError, match="says nothing of"):
        TryageRouter(constraints={"size": {"weak": 1.0}}).fit(made_outcomes(20))
    with pytest.raises(RouterError, match="finite"):
        TryageRouter(constraints={"size": dict.fromkeys(SIZES, float("nan"))}).fit(
            made_outcomes(20)
        )
    with pytest.raises(RouterError, match="hidden"):
        TryageRouter(hidden=0).fit(made_outcomes(20))
