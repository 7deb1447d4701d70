"""Guarded query routing: identities of the score, thresholds, guards, drops, drift, storage."""

from __future__ import annotations

import sys
import types
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit

from wye.query import LinearRouter, NotFittedError, RouterError
from wye.query.base import MissingPartError
from wye.query.guarded_query_routing import (
    OOD,
    GuardedRouter,
    as_package_model,
    gqr_score,
    harmonic_mean,
    package_benchmark,
)
from wye.query.guards import (
    AnyGuard,
    DomainClassifier,
    EnergyGuard,
    FastText,
    Guard,
    KnownTokenGuard,
    MahalanobisGuard,
    NearestGuard,
    Reading,
    RejectionWatch,
    ScoreGuard,
    SemanticRouter,
    SigmoidGuard,
    SoftmaxGuard,
    VectorClassifier,
    WideMLP,
)
from wye.query.guards.base import coverage_curve, largest_threshold
from wye.query.pipelines.pipeline import Pipeline
from wye.query.pipelines.stages import GuardStage, RouteStage
from wye.query.policies.judging import Answer
from wye.testing import made_outcomes

LAW = "court judge ruled appeal statute plaintiff contract liable verdict counsel"
HEALTH = "doctor patient fever dose nurse symptom blood therapy tablet clinic"
MONEY = "bank loan interest bond dividend profit market share credit invest"
WORDS = {"law": LAW.split(), "health": HEALTH.split(), "money": MONEY.split()}
FOREIGN = [
    "der Hund schläft heute lange",
    "日本の首都はどこですか",
    "xqz vvkj wpl",
    "",
    "\ud800 \x00",
]
SHARE = st.floats(0, 1)


def queries(n: int, seed: int) -> tuple[list[str], list[str]]:
    """n queries of each domain, of words of its own and words of all."""
    draw = np.random.default_rng(seed)
    shared = ["the", "a", "of", "in", "what", "should", "i", "do", "about", "my", "is", "this"]
    texts, domains = [], []
    for domain, own in WORDS.items():
        for _ in range(n):
            words = [*draw.choice(own, 4), *draw.choice(shared, 5)]
            texts.append(" ".join(draw.permutation(words)))
            domains.append(domain)
    return texts, domains


def classifiers() -> dict[str, DomainClassifier]:
    return {
        "widemlp": WideMLP(width=32, epochs=8, batch=16, learning_rate=1e-2),
        "fasttext": FastText(width=8, epochs=8, batch=16, buckets=4096),
        "logistic": VectorClassifier(head="logistic"),
        "svm": VectorClassifier(head="svm"),
        "mlp": VectorClassifier(head="mlp", hidden=16),
        "centroids": SemanticRouter(),
        "exemplars": SemanticRouter(by="exemplars", most=20),
    }


GUARDS: tuple[type[Guard], ...] = (
    SigmoidGuard,
    SoftmaxGuard,
    EnergyGuard,
    ScoreGuard,
    MahalanobisGuard,
    NearestGuard,
    KnownTokenGuard,
)
TRAINED = [
    pytest.param(n, marks=pytest.mark.torch if n in ("widemlp", "fasttext") else ())
    for n in classifiers()
]


@lru_cache
def fitted(name: str) -> GuardedRouter:
    guard = AnyGuard(guards=(ScoreGuard(eps=0.05), KnownTokenGuard()))
    return GuardedRouter(classifiers()[name], guard).fit(*queries(60, 0))


def reading(n: int = 200, seed: int = 0) -> tuple[Reading, np.ndarray]:
    draw = np.random.default_rng(seed)
    logits = draw.normal(0, 2, (n, 3))
    features = draw.normal(0, 1, (n, 5)).astype(np.float32)
    truth = np.where(draw.random(n) < 0.8, logits.argmax(axis=1), 0)
    return Reading(tuple(f"text {i % 9} of {i % 7}" for i in range(n)), logits, features), truth


@given(SHARE, SHARE)
def test_the_score_is_the_harmonic_mean(a: float, b: float) -> None:
    assert harmonic_mean(1.0, 1.0) == 1.0
    assert harmonic_mean(a, 0.0) == 0.0
    assert harmonic_mean(a, b) == harmonic_mean(b, a)
    assert harmonic_mean(a, b) <= 2 * min(a, b) + 1e-12


@pytest.mark.parametrize("guard", [SigmoidGuard, SoftmaxGuard, KnownTokenGuard])
def test_tau_0_never_rejects_and_above_1_always(guard: type[SigmoidGuard]) -> None:
    read, truth = reading()
    strange = Reading(("日本", ""), np.array([[-50.0, -60.0, -80.0]] * 2), np.zeros((2, 5), "f4"))
    never = guard(tau=0.0).fit(read, truth, read, truth)
    always = guard(tau=1.0 + 1e-9).fit(read, truth, read, truth)
    for seen in (read, strange):
        assert not never.rejects(seen).any()
        assert always.rejects(seen).all()


@pytest.mark.parametrize("guard", GUARDS, ids=lambda g: g.kind)
def test_raising_tau_never_raises_coverage(guard: type[SigmoidGuard]) -> None:
    read, truth = reading()
    learned = guard().fit(read, truth, read, truth)
    taus = np.quantile(learned.confidence(read), np.linspace(0, 1, 15))
    kept = []
    for tau in taus:
        learned.tau_ = float(tau)
        kept.append(~learned.rejects(read))
    for less, more in zip(kept[1:], kept[:-1], strict=True):
        assert (more | ~less).all()


@given(st.integers(1, 60), st.integers(0, 10_000), st.floats(0, 0.95))
def test_the_threshold_is_the_largest_that_keeps_the_right_answers(
    n: int, seed: int, eps: float
) -> None:
    draw = np.random.default_rng(seed)
    confidence, right = draw.integers(0, 12, n) / 12.0, draw.random(n) < 0.7
    tau = largest_threshold(confidence, right, eps)
    enough = [
        t
        for t in np.unique(confidence)
        if (right & (confidence >= t)).sum() >= (1 - eps) * right.sum() - 1e-9
    ]
    if right.any():
        assert tau == max(t for t in enough if t in confidence[right])
        # A larger one either costs too much, or cuts nothing that was right.
        larger = [t for t in enough if t > tau]
        kept = (right & (confidence >= tau)).sum()
        assert all((right & (confidence >= t)).sum() <= kept for t in larger)


def test_the_coverage_curve_falls_and_begins_at_one() -> None:
    read, truth = reading()
    curve = coverage_curve(read.logits.max(axis=1), read.logits.argmax(axis=1) == truth)
    assert curve["coverage"][0] == 1.0
    assert (np.diff(curve["coverage"]) < 0).all()
    assert (np.diff(curve["accuracy"]) <= 0).all()


def test_confidences_are_what_their_papers_say() -> None:
    read, truth = reading(50)
    weight = np.exp(read.logits)
    assert np.allclose(SigmoidGuard().confidence(read), expit(read.logits).max(axis=1))
    naive = (weight / weight.sum(axis=1, keepdims=True)).max(axis=1)
    assert np.allclose(SoftmaxGuard().confidence(read), naive)
    energy = EnergyGuard(temperature=2.0).confidence(read)
    assert np.allclose(energy, 2 * np.log(np.exp(read.logits / 2).sum(axis=1)))
    unit = read.features / np.linalg.norm(read.features, axis=1, keepdims=True)
    far = np.sort(np.linalg.norm(unit[:, None] - unit[None], axis=2), axis=1)
    nearest = NearestGuard(k=4).fit(read, truth, read, truth)
    assert np.allclose(nearest.confidence(read), -far[:, 3], atol=1e-3)


def test_mahalanobis_measures_in_units_of_the_spread() -> None:
    draw = np.random.default_rng(0)
    features = (draw.normal(size=(4000, 2)) * [1.0, 10.0]).astype("f4")
    read = Reading(("x",) * 4000, np.zeros((4000, 2)), features)
    guard = MahalanobisGuard().fit(read, np.zeros(4000, np.intp), read, np.zeros(4000, np.intp))
    points = np.array([[3.0, 0.0], [0.0, 30.0], [0.0, 3.0]], "f4")
    found = guard.confidence(Reading(("x",) * 3, np.zeros((3, 2)), points))
    assert found == pytest.approx([-9.0, -9.0, -0.09], rel=0.15)


def test_a_text_without_a_known_word_is_rejected_by_known_tokens() -> None:
    texts, _ = queries(30, 0)
    n = len(texts)
    read = Reading(tuple(texts), np.zeros((n, 2)), np.zeros((n, 1), "f4"))
    # Held-out texts none of whose words are known would put the quantile at zero.
    strange = Reading(("zz",), np.zeros((1, 2)), np.zeros((1, 1), "f4"))
    guard = KnownTokenGuard().fit(read, np.zeros(n, np.intp), strange, np.zeros(1, np.intp))
    assert guard.tau_ == 0.0
    asked = Reading(("zz qq", "", texts[0]), np.zeros((3, 2)), np.zeros((3, 1), "f4"))
    assert guard.rejects(asked).tolist() == [True, True, False]


@pytest.mark.parametrize("name", TRAINED)
def test_domains_are_told_apart_and_strangers_refused(name: str) -> None:
    router = fitted(name)
    texts, domains = queries(40, 1)
    report = gqr_score(router, texts, domains, {"foreign": FOREIGN})
    assert report.id_accuracy > 0.8
    assert report.ood["foreign"] == 1.0
    assert router.score_batch(texts) == [router.score(t) for t in texts]


@pytest.mark.parametrize("name", TRAINED)
def test_what_was_saved_says_the_same(name: str, tmp_path: Path) -> None:
    router = fitted(name)
    loaded = GuardedRouter.load(router.save(tmp_path / "guard.safetensors"))
    texts = [*queries(10, 2)[0], *FOREIGN]
    assert loaded.score_batch(texts) == router.score_batch(texts)
    assert np.array_equal(loaded.router.read(texts).logits, router.router.read(texts).logits)
    assert loaded.rejection_rate_ == router.rejection_rate_


@pytest.mark.parametrize("guard", GUARDS, ids=lambda g: g.kind)
def test_every_guard_is_saved(guard: type[Guard], tmp_path: Path) -> None:
    router = GuardedRouter(VectorClassifier(), guard()).fit(*queries(20, 3))
    loaded = GuardedRouter.load(router.save(tmp_path / "guard.safetensors"))
    texts = [*queries(10, 4)[0], *FOREIGN]
    assert loaded.score_batch(texts) == router.score_batch(texts)


def test_an_unguarded_router_scores_zero() -> None:
    texts, domains = queries(30, 0)
    router = GuardedRouter(VectorClassifier(), SigmoidGuard(tau=0.0)).fit(texts, domains)
    assert gqr_score(router, *queries(10, 1), {"foreign": FOREIGN}).score == 0.0


def test_the_mean_over_sets_is_unweighted() -> None:
    router = fitted("logistic")
    texts, domains = queries(10, 1)
    inside = texts[:4]
    once = gqr_score(router, texts, domains, {"a": FOREIGN, "b": inside})
    often = gqr_score(router, texts, domains, {"a": FOREIGN * 7, "b": inside})
    assert (
        once.ood_accuracy == often.ood_accuracy == pytest.approx(np.mean(list(once.ood.values())))
    )


def test_a_rejected_query_is_a_drop_or_goes_to_the_fallback() -> None:
    router = fitted("centroids")
    text = queries(1, 5)[0][0]
    routed = router.route([text, "日本の首都"])
    assert routed.chosen == ["law", None]
    assert routed.dropped == (None, OOD)
    assert routed.plan.source.tolist() == [0]
    assert routed.rules["known tokens"].tolist() == [False, True]
    kept = GuardedRouter(
        router.router,
        router.guard,
        targets={"law": "expert", "health": "nurse", "money": "expert"},
        fallback="large",
    ).fit(*queries(60, 0))
    assert kept.route([text, "日本の首都"]).chosen == ["expert", "large"]
    assert kept.route(["日本の首都"]).dropped == (None,)
    assert router.route([]).chosen == []


def test_a_guard_stands_in_front_of_a_router_and_in_a_pipeline() -> None:
    data = made_outcomes(120)
    models = LinearRouter().fit(data)
    guarded = GuardedRouter(VectorClassifier()).fit(data.texts, data.datasets.tolist())
    texts = [*data.texts[:5], "日本の首都はどこですか"]
    routed = guarded.guard_routing(texts, models)
    accepted = [t for t in texts if guarded.refuses(t) is None]
    assert len(accepted) >= 4
    assert [c for c in routed.chosen if c is not None] == models.route(accepted).targets
    assert routed.dropped[-1] == OOD
    nobody = guarded.guard_routing(texts, models, allowed=np.zeros((6, 4), np.bool_))
    assert nobody.chosen == [None] * 6
    assert nobody.dropped[-1] == OOD
    pipeline = Pipeline([GuardStage(guarded.refuses), RouteStage(models)], models.models_)
    called = []

    def call(model: str, text: str) -> tuple[Answer, float]:
        called.append(text)
        return Answer(model, "said"), 0.0

    assert pipeline.run(texts[-1], call).rejected == OOD
    assert called == []
    assert pipeline.run(accepted[0], call).answer is not None


def test_texts_that_ask_the_same_are_learned_once() -> None:
    texts, domains = queries(30, 0)
    router = GuardedRouter(VectorClassifier(), ScoreGuard())
    once = router.fit(texts, domains).router.read(texts[:3]).logits
    twice = router.fit([*texts, *(t.upper() for t in texts)], domains * 2)
    assert np.array_equal(once, twice.router.read(texts[:3]).logits)


def test_a_rising_rate_of_rejections_is_noticed_and_the_usual_one_is_not() -> None:
    draw = np.random.default_rng(0)
    late, alarms = [], 0
    for _ in range(40):
        watch = RejectionWatch(0.05, rise=0.1, false_alarm_every=10_000)
        alarms += watch.update(draw.random(1000) < 0.05)
        watch.reset()
        steps = 0
        while not watch.update([bool(draw.random() < 0.3)]):
            steps += 1
        late.append(steps)
    # 40 runs of a tenth of the mean time to an alarm: 4 expected at most.
    assert alarms <= 9
    assert np.mean(late) < 60
    watched = fitted("logistic").watch()
    fitted("logistic").route(["日本の首都"] * 50, watch=watched)
    assert watched.alarm
    assert (watched.seen, watched.rejected) == (50, 50)


def test_the_package_gets_its_own_order_of_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    router = fitted("logistic")
    names = ["money", "law", "health"]
    ask = as_package_model(router, names)
    texts, domains = queries(3, 6)
    for text, domain in zip([*texts, FOREIGN[1]], [*domains, None], strict=True):
        said = ask(text)
        assert said == (3 if router.refuses(text) else names.index(router.route([text]).chosen[0]))
        assert domain is not None or said == 3
    with pytest.raises(RouterError, match="expected"):
        as_package_model(router, ["law"])
    if "gqr" not in sys.modules:
        with pytest.raises(MissingPartError, match="pip install gqr"):
            package_benchmark()
    # The package's loaders hand out frames with these columns; its data lies on a hub.
    package = types.ModuleType("gqr")
    package.__spec__ = types.SimpleNamespace()  # type: ignore[assignment]
    frame = pd.DataFrame({"text": ["a", "b"], "label": [0, 2], "dataset": ["x ", "x"]})
    package.load_id_test_dataset = lambda: frame  # type: ignore[attr-defined]
    package.load_ood_test_dataset = lambda: frame  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "gqr", package)
    assert package_benchmark() == (["a", "b"], [0, 2], {"x": ["a", "b"]})


@pytest.mark.parametrize(
    ("doing", "error", "message"),
    [
        (lambda: GuardedRouter(VectorClassifier()).route(["x"]), NotFittedError, "call fit"),
        (lambda: fitted("logistic").score_batch("one"), RouterError, "one string"),
        (lambda: fitted("logistic").score_batch([3]), RouterError, "int"),
        (lambda: GuardedRouter().fit(["a"], ["b", "c"]), RouterError, "1 texts"),
        (
            lambda: GuardedRouter(targets={"law": "x"}).fit(*queries(9, 0)),
            RouterError,
            "no target",
        ),
        (lambda: GuardedRouter().fit(["a", "b"], ["x", "y"]), RouterError, "too few"),
        (lambda: GuardedRouter(validation_share=1.0), RouterError, "validation_share"),
        (lambda: AnyGuard(guards=()), RouterError, "one or more"),
        (lambda: AnyGuard(guards=(ScoreGuard(), ScoreGuard())), RouterError, "different"),
        (lambda: SigmoidGuard(eps=1.0), RouterError, "eps"),
        (lambda: SigmoidGuard(tau=float("nan")), RouterError, "tau"),
        (lambda: EnergyGuard(temperature=0.0), RouterError, "temperature"),
        (lambda: RejectionWatch(0.0), RouterError, "rate"),
        (lambda: WideMLP(loss="hinge"), RouterError, "loss"),  # type: ignore[arg-type]
        (lambda: FastText(shortest=5, longest=3), RouterError, "shortest"),
        (lambda: VectorClassifier(head="x"), RouterError, "head"),  # type: ignore[arg-type]
        (lambda: SemanticRouter(most=0), RouterError, "most"),
        (lambda: Reading(("a",), np.full((1, 2), np.nan), np.zeros((1, 1))), RouterError, "finite"),
        (lambda: gqr_score(fitted("logistic"), ["a"], ["law"], {}), RouterError, "no empty one"),
        (
            lambda: gqr_score(fitted("logistic"), ["a"], ["art"], {"x": ["y"]}),
            RouterError,
            "unknown domains",
        ),
        (lambda: GuardedRouter.load("/nowhere"), RouterError, "no guarded router"),
    ],
)
def test_bad_input_is_answered(doing, error, message) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(error, match=message):
        doing()
