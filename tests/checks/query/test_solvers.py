"""Solvers of checks: their questions, their training and their writing."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("reasoning_gym")

from wye.checks.base import CheckError  # noqa: E402
from wye.checks.query import solvers  # noqa: E402
from wye.checks.query.solvers import Recipe, Size, fit_solver, train_solver  # noqa: E402
from wye.checks.query.tasks import LEVELS, TASKS, draw, grade  # noqa: E402

pytestmark = pytest.mark.torch
TINY = Size(n_layers=2, width=32, n_heads=2, steps=40)
PROMPTS = ["sum 3 + 4=", "a", "backward word=", "sum 31 - 8 + 62="]


@pytest.fixture(scope="module")
def solver() -> solvers.Solver:
    pairs = [(f"copy {a}{b}=", f"{a}{b}") for a in "abcdef" for b in "uvwxyz"]
    return fit_solver(pairs, TINY, steps=110, seed=0, batch=16, length=48)


@pytest.mark.parametrize("family", [f"{t}-{v}" for t in TASKS for v in LEVELS])
def test_every_right_answer_is_graded_right_and_another_wrong(family: str) -> None:
    for item in draw([family], 12, seed=3):
        assert item.family == family
        assert grade(item, item.answer) == 1.0
        assert grade(item, item.answer + "7") == 0.0
        assert grade(item, "") == 0.0


def test_no_solver_practises_on_a_question_that_is_held_out() -> None:
    practised = draw(["sum-easy"], 800, seed=1, part="practice")
    asked = draw(["sum-easy"], 400, seed=2)
    assert not {i.prompt for i in practised} & {i.prompt for i in asked}
    assert len({i.prompt for i in asked}) == 400


def test_the_same_seed_draws_the_same_questions_in_the_asked_shares() -> None:
    first, again = (draw({"sum": 3, "gcd-hard": 1}, 40, seed=5) for _ in range(2))
    assert first == again
    counts = {f: sum(i.family == f for i in first) for f in {i.family for i in first}}
    assert counts == {"sum-easy": 15, "sum-hard": 15, "gcd-hard": 10}


def test_unknown_families_and_exhausted_ones_are_refused() -> None:
    with pytest.raises(CheckError, match="family 'sums'"):
        draw(["sums"], 3, seed=0)
    with pytest.raises(CheckError, match="distinct questions"):
        draw(["gcd-easy"], 700, seed=0)


def test_a_solver_learns_its_pairs(solver: solvers.Solver) -> None:
    replies = solver.answer(["copy av=", "copy fz="])
    assert [r[0].text for r in replies] == ["av", "fz"]
    assert solver.losses[-1] < solver.losses[0] / 4


def test_writing_with_memory_equals_reading_the_whole_text_anew(solver: solvers.Solver) -> None:
    for temperature in (0.0, 1.0):
        replies = solver.answer(PROMPTS, temperature=temperature, samples=2, most=9, seed=4)
        for prompt, some in zip(PROMPTS, replies, strict=True):
            for reply in some:
                raw = reply.text.encode()
                if len(raw) + int(reply.ended) != len(reply.log_probabilities):
                    continue  # bytes that are no UTF-8 were replaced in the text
                ids = torch.tensor([list(prompt.encode() + raw + bytes([solvers.END]))])
                with torch.no_grad():
                    law = solver.model(ids[:, :-1]).log_softmax(-1)[0, len(prompt) - 1 :]
                written = ids[0, len(prompt) :]
                n = len(reply.log_probabilities)
                expected = law.gather(1, written[:, None])[:n, 0].numpy()
                np.testing.assert_allclose(reply.log_probabilities, expected, atol=1e-4)
                others = law.scatter(1, written[:, None], -torch.inf).amax(-1)[:n].numpy()
                np.testing.assert_allclose(reply.runner_up, others, atol=1e-4)


def test_given_answers_score_as_they_did_when_written(solver: solvers.Solver) -> None:
    replies = [r[0] for r in solver.answer(["copy bw=", "copy ex="])]
    scored = solver.log_probabilities(["copy bw=", "copy ex="], [r.text for r in replies])
    for reply, values in zip(replies, scored, strict=True):
        np.testing.assert_allclose(values, reply.log_probabilities, atol=1e-4)
    assert solver.hidden_states(["copy bw="], ["bw"]).shape == (1, TINY.width)


def test_greedy_replies_do_not_depend_on_the_other_prompts(solver: solvers.Solver) -> None:
    together = [r[0].text for r in solver.answer(PROMPTS, most=9)]
    assert together == [solver.answer([p], most=9)[0][0].text for p in PROMPTS]


def test_a_recipe_is_trained_once_and_follows_from_its_seed() -> None:
    recipe = Recipe.of(["sum-easy"], TINY, steps=3, seed=1)
    assert train_solver(recipe) is train_solver(Recipe.of({"sum-easy": 1.0}, TINY, steps=3, seed=1))
    pairs = [("a=", "b"), ("c=", "d")]
    one, same, other = (fit_solver(pairs, TINY, steps=3, seed=s, batch=2) for s in (7, 7, 8))
    np.testing.assert_array_equal(one.losses, same.losses)
    assert (one.losses != other.losses).any()


def test_training_further_starts_from_the_given_weights(solver: solvers.Solver) -> None:
    pairs = [("copy au=", "au")] * 16
    further = fit_solver(pairs, TINY, steps=1, batch=16, length=48, start=solver)
    anew = fit_solver(pairs, TINY, steps=1, batch=16, length=48)
    assert further.losses[0] < anew.losses[0] / 4


def test_prompts_that_do_not_fit_are_refused(solver: solvers.Solver) -> None:
    for prompt in ("", "x" * 45, "a\0b"):
        with pytest.raises(CheckError, match="the prompt"):
            solver.answer([prompt], most=8)
    with pytest.raises(CheckError, match="the pair"):
        fit_solver([("", "a")], TINY)
