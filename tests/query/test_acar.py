"""ACAR spends an ensemble where probes disagree, and its log is replayed without any model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from wye.core.audit import AuditChain, AuditError, verify
from wye.query.acar import FULL, PAIR, SINGLE, Acar, answered_in_mode, choose, modes, replay
from wye.query.answers.attribution import attribution_proxies, leave_one_out, proxy_correlations
from wye.query.answers.dispersion import dispersion
from wye.query.answers.voting import answer_numbers, distinct_answers, vote
from wye.query.base import RouterError
from wye.query.chat_models.base import ChatModel, Generation, Message
from wye.query.prompts.experience import ExperienceMemory


class Reciter(ChatModel):
    """A program that gives its answers in turn, and keeps what it was asked."""

    def __init__(self, name: str, answers: Sequence[str]) -> None:
        self.name = name
        self.answers = list(answers)
        self.asked: list[str] = []

    def generate(
        self,
        messages: Sequence[Message],
        *,
        max_tokens: int = 512,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int | None = None,
        stop: Sequence[str] = (),
    ) -> Generation:
        text = self.answers[len(self.asked) % len(self.answers)]
        self.asked.append(messages[-1]["content"])
        return Generation(text, 3, 1, "stop", self.name, seconds=0.1, cost_usd=0.5)


def plain(text: str) -> str:
    return text.strip().lower()


def acar(probes: Sequence[str], *models: str, **given: object) -> tuple[Acar, AuditChain]:
    log = AuditChain()
    ensemble = [Reciter(f"m{i}", [m]) for i, m in enumerate(models)]
    return Acar(Reciter("probe", probes), ensemble, kind=plain, log=log, **given), log  # type: ignore[arg-type]


# Votes and dispersion.


def naive_vote(row: Sequence[str]) -> int:
    given = [a for a in row if a]
    if not given:
        return 0
    most = max(given.count(a) for a in given)
    return next(i for i, a in enumerate(row) if a and row.count(a) == most)


def test_a_vote_is_that_of_the_naive_count() -> None:
    rows = [list(row) for row in product(["", "x", "y", "z"], repeat=4)]
    found = vote(answer_numbers(rows))
    assert found.winner.tolist() == [naive_vote(row) for row in rows]
    for row, winner, share in zip(rows, found.winner, found.share, strict=True):
        expected = row.count(row[winner]) if row[winner] else 1
        assert share == expected / 4


def test_ties_and_refusals_of_a_vote() -> None:
    assert vote(answer_numbers([["a", "b", "b", "a"]])).winner.tolist() == [0]
    assert vote(answer_numbers([["", "", "b"]])).winner.tolist() == [2]
    weights = np.array([0.1, 0.2, 0.3])
    assert vote(np.array([[0, 0, 1]]), weights).winner.tolist() == [0]
    assert vote(np.array([[0, 2, 1]]), weights).winner.tolist() == [2]


@pytest.mark.parametrize(
    ("numbers", "weights", "complaint"),
    [
        (np.zeros(3, int), None, "expected integers"),
        (np.zeros((2, 0), int), None, "K at least 1"),
        (np.zeros((2, 3)), None, "float64"),
        (np.zeros((2, 3), int), np.ones(2), "expected"),
        (np.zeros((2, 3), int), np.full(3, np.nan), "finite"),
    ],
)
def test_what_is_no_vote_is_refused(
    numbers: np.ndarray, weights: np.ndarray | None, complaint: str
) -> None:
    with pytest.raises(RouterError, match=complaint):
        vote(numbers, weights)


def test_rows_of_answers_have_one_length() -> None:
    with pytest.raises(RouterError, match=r"rows of \[1, 2\] answers"):
        answer_numbers([["a"], ["a", "b"]])
    assert answer_numbers([]).shape == (0, 0)


@pytest.mark.parametrize("kind", ["distinct", "minority", "entropy"])
def test_sigma_reads_how_many_agree_and_not_in_what_order(kind: str) -> None:
    rng = np.random.default_rng(0)
    rows = np.concatenate([rng.integers(-1, 4, (200, 5)), [[2] * 5, [-1] * 5, [0, 1, 2, 3, 4]]])
    shuffled = rng.permuted(rows, axis=1)
    sigma = dispersion(rows, kind)  # type: ignore[arg-type]
    np.testing.assert_allclose(sigma, dispersion(shuffled, kind))  # type: ignore[arg-type]
    agreed = distinct_answers(rows) == 1
    assert agreed.any()
    np.testing.assert_array_equal(sigma < 1e-12, agreed)
    np.testing.assert_allclose(sigma[distinct_answers(rows) == 5], 1.0)
    assert ((sigma >= 0) & (sigma <= 1)).all()


def test_refusals_are_no_agreement() -> None:
    assert dispersion(answer_numbers([["", "", ""], ["4", "4", ""]])).tolist() == [1.0, 0.5]
    assert distinct_answers(np.array([[-1, -2, -1]])).tolist() == [3]


def test_dispersion_needs_two_answers_and_a_known_kind() -> None:
    with pytest.raises(RouterError, match="one answer cannot disagree"):
        dispersion(np.zeros((3, 1), int))
    with pytest.raises(RouterError, match="expected one of"):
        dispersion(np.zeros((3, 2), int), "variance")  # type: ignore[arg-type]


# The choice on recorded answers.


def test_every_task_has_one_mode_and_its_thresholds_hold() -> None:
    rng = np.random.default_rng(1)
    found = choose(rng.integers(0, 4, (300, 3)), rng.integers(0, 4, (300, 3)))
    counts = np.bincount(found.mode, minlength=4)
    assert counts[1:].sum() == 300
    assert counts[0] == 0
    np.testing.assert_array_equal(found.mode == SINGLE, found.sigma == 0)
    np.testing.assert_array_equal(found.mode == FULL, found.sigma == 1)
    assert set(found.calls[found.mode == PAIR].tolist()) == {5}
    assert modes(np.array([0.3, 0.6]), t_low=0.4, t_high=0.5).tolist() == [SINGLE, FULL]
    with pytest.raises(RouterError, match="t_low"):
        modes(np.zeros(1), t_low=0.5, t_high=0.5)


def test_each_mode_asks_only_its_models() -> None:
    probes = np.array([[9, 9, 9]] * 3)
    ensemble = np.array([[1, 2, 2]] * 3)
    chosen = answered_in_mode(probes, ensemble, np.array([SINGLE, PAIR, FULL]))
    # Column 3 is the first probe; a pair that disagrees follows the first; all three, the majority.
    assert chosen.tolist() == [3, 0, 1]
    voted = answered_in_mode(
        np.array([[2, 2, 1]]), ensemble[:1], np.array([PAIR]), probe_votes=True
    )
    assert voted.tolist() == [1]
    # Nobody of the pair answers: the probe stands in, never a model that was not asked.
    silent = np.array([[-1, -1, 5]])
    assert answered_in_mode(probes[:1], silent, np.array([PAIR])).tolist() == [3]
    with pytest.raises(RouterError, match="K at least 2"):
        answered_in_mode(probes, ensemble[:, :1], np.array([1, 1, 1]))


# The live system.


@pytest.mark.parametrize(
    ("probes", "models", "sigma", "mode", "answer", "writer"),
    [
        (["4", "4 ", "4"], ["5", "5", "5"], 0.0, 1, "4", "probe"),
        (["4", "4", "5"], ["5", "6", "6"], 0.5, 2, "5", "m0"),
        (["4", "7", "5"], ["5", "6", "6"], 1.0, 3, "6", "m1"),
        (["", "", ""], ["", "6", "7"], 1.0, 3, "6", "m1"),
    ],
)
def test_a_query_takes_the_way_of_its_sigma(
    probes: list[str], models: list[str], sigma: float, mode: int, answer: str, writer: str
) -> None:
    system, log = acar(probes, *models)
    found = system.answer("2 + 2")
    assert (found.sigma, found.mode, found.canonical, found.model) == (sigma, mode, answer, writer)
    assert found.calls == 3 + {1: 0, 2: 2, 3: 3}[mode]
    assert found.cost_usd == 0.5 * found.calls
    system.record_score(found, 1.0)
    steps = [r.step for r in log]
    assert steps == [
        "task", *["probe"] * 3, "sigma", "mode", *["call"] * (found.calls - 3), "vote", "score",
    ]  # fmt: skip


def test_a_stored_run_is_replayed_without_models() -> None:
    system, log = acar(["4", "4", "5", "1", "1", "1", "1", "2", "3"], "5", "6", "6")
    answers = [system.answer(f"task {i}") for i in range(3)]
    system.record_score(answers[0], 0.0)
    del system
    verify(log)
    again = replay(log, plain)
    assert [(r.run, r.sigma, r.mode, r.answer) for r in again] == [
        (a.run, a.sigma, a.mode, a.canonical) for a in answers
    ]


@pytest.mark.parametrize(
    ("step", "change", "complaint"),
    [
        ("sigma", {"value": 0.0}, "sigma was 0.0, is 0.5"),
        ("mode", {"value": 1}, "mode was 1, is 2"),
        ("vote", {"answer": "6"}, "vote was '6', is '5'"),
        ("call", {"output": "9"}, "call was '5', is '9'"),
    ],
)
def test_a_replay_notices_a_step_that_does_not_follow(
    step: str, change: dict[str, object], complaint: str
) -> None:
    system, log = acar(["4", "4", "5"], "5", "6", "6")
    system.answer("task")
    records = list(log)
    place = next(i for i, r in enumerate(records) if r.step == step)
    records[place] = replace(records[place], body={**records[place].body, **change})
    with pytest.raises(AuditError, match=complaint):
        replay(records, plain)
    with pytest.raises(AuditError, match="edited"):
        verify(records)
    with pytest.raises(AuditError, match="pass it as canonicalise"):
        replay(log)


def test_parameters_that_make_no_sense_are_refused() -> None:
    for given in ({"temperature": 0.0}, {"n_probes": 1}, {"t_low": 1.0}):
        with pytest.raises(RouterError, match="expected"):
            acar(["4"], "5", "6", **given)
    with pytest.raises(RouterError, match="2 models"):
        acar(["4"], "5")


def test_only_a_similar_task_is_shown() -> None:
    memory = ExperienceMemory(gate=0.6)
    memory.add("What is the capital of France?", "Paris")
    memory.add("What is the capital of France?", "paris, of course")
    assert len(memory) == 1
    assert memory.recall("def f(x): return x * 3") == []
    (found,) = memory.recall("What's the capital of France")
    assert found.answer == "paris, of course"
    assert found.similarity >= 0.6
    system, _ = acar(["4"], "5", "6", memory=memory)
    system.answer("What is the capital of France?")
    system.answer("def f(x): return x * 3")
    probe = system.probe
    assert isinstance(probe, Reciter)
    assert "paris, of course" in probe.asked[0]
    assert probe.asked[-1] == "def f(x): return x * 3"
    with pytest.raises(RouterError, match="gate"):
        ExperienceMemory(gate=2.0)


# Attribution.


def test_leaving_a_model_out_is_a_vote_without_it() -> None:
    rng = np.random.default_rng(2)
    numbers = rng.integers(-1, 3, (60, 4))
    right = (numbers == 1).astype(float)
    value = leave_one_out(numbers, right)
    for q, row in enumerate(numbers):
        words = [str(a) if a >= 0 else "" for a in row]
        whole = right[q, naive_vote(words)]
        for m in range(4):
            others = words[:m] + words[m + 1 :]
            winner = naive_vote(others)
            assert value[q, m] == whole - right[q, winner if winner < m else winner + 1]
    assert set(np.unique(value)) == {-1.0, 0.0, 1.0}


def test_proxies_say_what_they_say() -> None:
    numbers = np.array([[0, 0, 1], [0, 1, 2], [0, 0, 0]])
    proxies = attribution_proxies(numbers)
    np.testing.assert_allclose(proxies.similarity, [[0.5, 0.5, 0], [0, 0, 0], [1, 1, 1]])
    # Without the odd one out no entropy is left; without one of the pair, more than before.
    assert proxies.entropy[0, 2] < 0 < proxies.entropy[0, 0]
    np.testing.assert_allclose(proxies.entropy[2], 0.0)
    value = leave_one_out(numbers, (numbers == 0).astype(float))
    found = proxy_correlations(value, proxies)
    assert set(found) == {"similarity", "entropy"}
    assert np.isnan(proxy_correlations(np.zeros((3, 3)), proxies)["entropy"])
    with pytest.raises(RouterError, match="K at least 2"):
        attribution_proxies(numbers[:, :1])
    with pytest.raises(RouterError, match="finite"):
        leave_one_out(numbers, np.full((3, 3), np.nan))


def test_two_ways_to_write_a_number_are_no_disagreement() -> None:
    log = AuditChain()
    models = [Reciter("m0", ["1"]), Reciter("m1", ["1"])]
    system = Acar(Reciter("probe", ["1/2", "0.5", "50%"]), models, kind="number", log=log)
    found = system.answer("half of one")
    assert (found.sigma, found.mode, found.canonical) == (0.0, SINGLE, "1/2")
    assert [r.answer for r in replay(log)] == ["1/2"]
