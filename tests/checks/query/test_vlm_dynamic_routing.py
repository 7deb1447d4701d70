"""What the check of routing among modules is made of: questions, figures, a run of a few steps."""

from __future__ import annotations

import warnings

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("peft")

from wye.adapter import DynamicRouting  # noqa: E402
from wye.checks import CheckError  # noqa: E402
from wye.checks.query import tiny_vlm, vlm_dynamic_routing  # noqa: E402
from wye.checks.query.tiny_vlm import (  # noqa: E402
    BASE,
    GENERAL,
    QUESTIONS,
    TASKS,
    Examples,
    TinyVLM,
    task_examples,
)

pytestmark = [
    pytest.mark.torch,
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`"),
]


def answer_to(question: str, digit: int) -> str:
    """The right answer to a question about a digit, where the digit alone tells it."""
    return {
        "which digit?": str(digit),
        "one more is?": str(digit + 1)[-1],
        "holes in it?": {0: "1", 6: "1", 9: "1", 8: "2"}.get(digit, "0"),
        "divides by three?": "y" if digit in (0, 3, 6, 9) else "n",
        "odd or even?": "o" if digit % 2 else "e",
        "at least five?": "y" if digit > 4 else "n",
    }[question]


@pytest.mark.parametrize("task", [BASE, "next", "loops", "three", "parity", "five"])
def test_answers_follow_from_the_digit(task: str) -> None:
    digits = task_examples(BASE, held_out=True).answer - ord("0")
    examples = task_examples(task, held_out=True)
    assert bytes(examples.text[0].tolist()).decode() == QUESTIONS[task]
    said = [chr(a) for a in examples.answer]
    assert said == [answer_to(QUESTIONS[task], int(d)) for d in digits]


@pytest.mark.parametrize(
    ("task", "asked", "said"),
    [
        ("letter", "next letter: z", "a"),
        ("letter", "next letter: c", "d"),
        ("same", "copy: q", "q"),
        ("upper", "capital of: q", "Q"),
        ("vowel", "vowel? e", "v"),
        ("vowel", "vowel? f", "c"),
        ("first", "first of: xa", "x"),
    ],
)
def test_answers_follow_from_the_letter(task: str, asked: str, said: str) -> None:
    examples = task_examples(task, held_out=True)
    rows = {
        bytes(row.tolist()).decode(): chr(a)
        for row, a in zip(examples.text, examples.answer, strict=True)
    }
    assert rows[asked] == said
    assert examples.images is None


def test_dark_halves_are_quarters_of_the_training_images() -> None:
    counts = torch.bincount(task_examples("dark", held_out=False).answer - ord("0")).tolist()
    assert len(counts) == 4
    assert max(counts) - min(counts) < 0.05 * sum(counts)


def test_no_task_was_seen_before() -> None:
    assert not {QUESTIONS[t] for t in TASKS} & {QUESTIONS[t] for t in (BASE, *GENERAL)}
    assert set(QUESTIONS) == {*TASKS, *GENERAL, BASE}


def test_an_unknown_task_is_refused() -> None:
    with pytest.raises(CheckError, match="parity"):
        task_examples("colour", held_out=True)


def test_a_question_may_come_without_an_image() -> None:
    vlm = TinyVLM()
    for task in ("parity", "letter"):
        examples = task_examples(task, held_out=True).at(torch.arange(3))
        assert vlm(examples).shape == (3, 128)


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Six examples of every task."""

    def some(task: str, held_out: bool) -> Examples:
        return task_examples(task, held_out).at(torch.arange(6))

    for module in (tiny_vlm, vlm_dynamic_routing):
        monkeypatch.setattr(module, "task_examples", some)


def test_every_figure_of_a_short_run_is_a_share(few: None) -> None:
    steps = vlm_dynamic_routing.Steps(base=9, module=1, gate=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        found = vlm_dynamic_routing.trial("all arms", 0, steps)
    assert all(0.0 <= value <= 1.0 for value in found.values())
    assert found["oracle, digit"] == found["untouched base, digit"]
    arms = [name.removesuffix(", letter") for name in found if name.endswith(", letter")]
    assert {"routing", "sequential", "multi-task", "oracle", "uniform"} < set(arms)
    for arm in arms:
        each = [found[f"{arm}, {task}"] for task in (BASE, *TASKS)]
        assert found[f"{arm}, average"] == pytest.approx(sum(each) / 5)


def test_modules_without_a_trained_vector_leave_every_question_to_the_null(few: None) -> None:
    vlm = TinyVLM()
    routed = DynamicRouting(vlm.language)
    for task in TASKS:
        routed.add(task, rank=2)
    found = vlm_dynamic_routing._choices(routed, vlm)
    assert found["null share, average"] == 1.0
    for task in (BASE, *TASKS):
        assert found[f"right module at the answer, {task}"] == float(task == BASE)


def test_what_the_first_layer_reads_tells_last_bytes_apart_and_no_more(few: None) -> None:
    vlm = TinyVLM()
    routed = DynamicRouting(vlm.language)
    routed.add("parity", rank=2)
    read = {
        task: vlm_dynamic_routing._activations(routed, vlm, task, True)
        for task in ("parity", "five", "letter")
    }
    first = next(iter(read["parity"]))
    assert torch.equal(read["parity"][first], read["five"][first])
    assert not torch.equal(read["parity"][first], read["letter"][first])
    deepest = list(read["parity"])[-1]
    assert not torch.equal(read["parity"][deepest], read["five"][deepest])
