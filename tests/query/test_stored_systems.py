"""Systems outside of the registry on disk: they answer as before, and say what cannot be read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import wye
from wye.query import ConstantRouter
from wye.query.automix import AutoMix, TwoModelOutcomes
from wye.query.base import NotFittedError, RouterError
from wye.query.chat_models import ProgramChatModel
from wye.query.chat_models.base import Generation
from wye.query.frugalgpt import FrugalGPT
from wye.query.hybrid_preferences import AnnotatorRouter
from wye.query.learning.preference_features import InstanceFeatures
from wye.query.llm_blender import LLMBlender, PairRanker
from wye.query.persistence import MANIFEST
from wye.query.stored_system import StoredSystem
from wye.testing import made_outcomes

QUESTIONS = [f"What is {i} plus {i % 7}?" for i in range(60)]
RIGHT = np.arange(60) % 3 != 0
ANSWERS = [
    [f"The sum is {i + i % 7}." if ok else "perhaps several, maybe unsure", str(i + i % 7)]
    for i, ok in enumerate(RIGHT)
]
QUALITY = np.stack([RIGHT.astype(float), np.ones(60)], axis=1)
COST = np.tile([1.0, 10.0], (60, 1))


def length(made: Generation) -> list[float]:
    return [float(len(made.text))]


LENGTHS = np.array([[[float(len(a))] for a in row] for row in ANSWERS])


def verified(n: int = 300) -> TwoModelOutcomes:
    rng = np.random.default_rng(0)
    small = (rng.random(n) < 0.6).astype(float)
    value = rng.binomial(4, np.where(small > 0, 0.8, 0.3)) / 4
    one = np.ones(n)
    large = (rng.random(n) < 0.9).astype(float)
    return TwoModelOutcomes(value, small, large, 1.2 * one, 20.0 * one, one)


def annotated() -> tuple[InstanceFeatures, list[tuple[frozenset[str], float]]]:
    rng = np.random.default_rng(0)
    active = rng.random((40, 4)) < 0.4
    features = InstanceFeatures(tuple(f"i{k}" for k in range(40)), tuple("abcd"), active)
    sets = AnnotatorRouter().propose_runs(features, 20)
    return features, [(s, float(rng.random())) for s in sets]


def frugal() -> FrugalGPT:
    return FrugalGPT(budget=5.0).fit(["cheap", "dear"], QUESTIONS, ANSWERS, QUALITY, COST)


def automix() -> AutoMix:
    return AutoMix(k=4, seed=3).fit(verified())


def annotator() -> AnnotatorRouter:
    return AnnotatorRouter(outcome="quadratic", reference=0.2).fit(*annotated())


MADE: list[Callable[[], StoredSystem]] = [frugal, automix, annotator]


@pytest.mark.parametrize("hidden", [0, 4])
@pytest.mark.parametrize("embedder", ["static", "tfidf:64,1"])
def test_frugalgpt_scores_and_answers_as_it_did(hidden: int, embedder: str, tmp_path: Path) -> None:
    made = FrugalGPT(budget=5.0, hidden=hidden, embedder=embedder, observe=length, seed=2)
    made.fit(["cheap", "dear"], QUESTIONS, ANSWERS, QUALITY, COST, LENGTHS)
    loaded = FrugalGPT.load(made.save(tmp_path / "chain"), observe=length)
    assert loaded.get_params() == made.get_params()
    assert (loaded.models_, loaded.chain_) == (made.models_, made.chain_)
    np.testing.assert_array_equal(loaded.training_score_, made.training_score_)
    np.testing.assert_array_equal(
        loaded.score(QUESTIONS, ANSWERS, LENGTHS), made.score(QUESTIONS, ANSWERS, LENGTHS)
    )
    said = dict(zip(QUESTIONS, ANSWERS, strict=True))
    models = {
        name: ProgramChatModel(name, lambda messages, m=m: said[messages[-1]["content"]][m])
        for m, name in enumerate(["cheap", "dear"])
    }
    for question in QUESTIONS[:6]:
        one, other = made.answer(question, models), loaded.answer(question, models)
        assert (one.text, one.model, one.scores) == (other.text, other.model, other.scores)


def test_a_chain_without_scorers_runs_as_it_did(tmp_path: Path) -> None:
    score = np.stack([QUALITY[:, 0] * 0.5 + 0.25, np.full(60, 0.9)], axis=1)
    made = FrugalGPT(budget=5.0).fit_chain(["cheap", "dear"], score, QUALITY, COST)
    loaded = FrugalGPT.load(made.save(tmp_path / "chain"))
    np.testing.assert_array_equal(
        loaded.run(score, QUALITY, COST).answered_by, made.run(score, QUALITY, COST).answered_by
    )
    with pytest.raises(NotFittedError, match="no scorers"):
        loaded.score(QUESTIONS, ANSWERS)


def test_automix_escalates_as_it_did(tmp_path: Path) -> None:
    made = AutoMix(k=4, cost_range=(1.0, 18.5), meta_verifiers=["greedy", "pomdp"]).fit(verified())
    loaded = AutoMix.load(made.save(tmp_path / "mix"))
    assert loaded.get_params() == made.get_params()
    assert (loaded.meta_verifier_, loaded.lift_) == (made.meta_verifier_, made.lift_)
    value = np.arange(5) / 4
    np.testing.assert_array_equal(loaded.escalate(value), made.escalate(value))


@pytest.mark.parametrize("outcome", ["linear", "quadratic"])
def test_the_annotator_router_chooses_as_it_did(outcome: str, tmp_path: Path) -> None:
    features, runs = annotated()
    made = AnnotatorRouter(outcome=outcome, epsilon=0.1, seed=4).fit(features, runs)  # type: ignore[arg-type]
    loaded = AnnotatorRouter.load(made.save(tmp_path / "who"))
    assert loaded.get_params() == made.get_params()
    np.testing.assert_array_equal(loaded.gains(features), made.gains(features))
    assert loaded.choose(features, 0.25) == made.choose(features, 0.25)


def test_a_regressor_from_elsewhere_is_not_stored(tmp_path: Path) -> None:
    from sklearn.linear_model import Ridge

    made = AnnotatorRouter(outcome=Ridge()).fit(*annotated())
    with pytest.raises(RouterError, match="'linear' and 'quadratic'"):
        made.save(tmp_path / "who")
    assert not (tmp_path / "who").exists()


@pytest.mark.torch
@pytest.mark.parametrize("hidden", [0, 8])
def test_the_blender_ranks_and_fuses_as_it_did(hidden: int, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    made = PairRanker(hidden=hidden, epochs=2, embedder="tfidf:64,1", seed=1)
    made.fit(QUESTIONS, ANSWERS, QUALITY)
    ranker = PairRanker.load(made.save(tmp_path / "ranker"))
    expected = made.compare(QUESTIONS, ANSWERS)
    np.testing.assert_array_equal(ranker.compare(QUESTIONS, ANSWERS), expected)
    fuser = ProgramChatModel("echo", lambda messages: messages[-1]["content"])
    folder = LLMBlender(made, fuser, top=1).save(tmp_path / "blender")
    loaded = LLMBlender.load(folder, fuser=fuser)
    assert loaded.top == 1
    assert loaded.ranker.get_params() == made.get_params()
    one = LLMBlender(made, fuser, top=1).blend(QUESTIONS[0], ANSWERS[0])
    other = loaded.blend(QUESTIONS[0], ANSWERS[0])
    assert (one.order, one.text) == (other.order, other.text)
    assert LLMBlender.load(folder).blend(QUESTIONS[0], ANSWERS[0]).generation is None
    with pytest.raises(RouterError, match=r"holds 'PairRanker', expected 'LLMBlender'"):
        LLMBlender.load(tmp_path / "ranker")


@pytest.mark.parametrize(
    "system", [FrugalGPT(budget=1.0), AutoMix(), PairRanker(), AnnotatorRouter()]
)
def test_what_was_not_fitted_is_not_written(system: StoredSystem, tmp_path: Path) -> None:
    with pytest.raises(NotFittedError, match="call fit"):
        system.save(tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()


@pytest.mark.parametrize("make", MADE)
def test_a_wrong_folder_and_a_wrong_kind_are_named(
    make: Callable[[], StoredSystem], tmp_path: Path
) -> None:
    made = make()
    cls, name = type(made), type(made).__name__
    (tmp_path / "empty").mkdir()
    for folder in ("empty", "absent"):
        with pytest.raises(RouterError, match=r"router\.json is missing; `save` makes one"):
            cls.load(tmp_path / folder)
    folder = made.save(tmp_path / "system")
    with pytest.raises(RouterError, match=rf"holds '{name}'; read it with {name}\.load"):
        wye.load(folder)
    other = AutoMix if cls is FrugalGPT else FrugalGPT
    with pytest.raises(RouterError, match=rf"holds '{name}', expected '{other.__name__}'"):
        other.load(folder)
    router = ConstantRouter().fit(made_outcomes(20)).save(tmp_path / "router")
    with pytest.raises(RouterError, match=r"a router 'constant'; read it with wye\.load"):
        cls.load(router)
    (tmp_path / "others").mkdir()
    (tmp_path / "others" / "thesis.txt").write_text("years of work")
    with pytest.raises(RouterError, match="no router"):
        made.save(tmp_path / "others")


@pytest.mark.parametrize("make", MADE)
def test_a_truncated_file_is_named(make: Callable[[], StoredSystem], tmp_path: Path) -> None:
    made = make()
    folder = made.save(tmp_path / "system")
    assert {p.suffix for p in folder.iterdir()} == {".json", ".safetensors"}
    arrays = next(folder.glob("*.safetensors"))
    whole = arrays.read_bytes()
    arrays.write_bytes(whole[:-1])
    with pytest.raises(RouterError, match=rf"{arrays.name} is damaged"):
        type(made).load(folder)
    arrays.write_bytes(whole)
    manifest = (folder / MANIFEST).read_text()
    (folder / MANIFEST).write_text(manifest[: len(manifest) // 2])
    with pytest.raises(RouterError, match=r"router\.json cannot be read as JSON"):
        type(made).load(folder)
    told = json.loads(manifest)
    (folder / MANIFEST).write_text(json.dumps(told | {"values": {}}))
    with pytest.raises(RouterError, match="does not hold what"):
        type(made).load(folder)


def test_vectors_of_another_embedder_are_refused(tmp_path: Path) -> None:
    folder = frugal().save(tmp_path / "chain")
    told = json.loads((folder / MANIFEST).read_text())
    told["values"]["scorers"][1]["embedder"] = "static:wordllama-0.0.1:chars=16384"
    (folder / MANIFEST).write_text(json.dumps(told))
    with pytest.raises(RouterError, match=r"wordllama-0\.0\.1.*train again"):
        FrugalGPT.load(folder)
