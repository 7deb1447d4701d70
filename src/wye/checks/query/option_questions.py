"""Questions with four options, made of a log that holds the text of right answers.

The true option of a question is the shortest answer to it that was graded right; the three others
are right answers to other questions of the same data set. The order of options is drawn.

Shape letters: Q questions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from wye.checks.base import CheckError
from wye.query.answers.canonical import canonical

if TYPE_CHECKING:
    from wye.data import RoutingData

LETTERS = "ABCD"
_LONGEST = 40


@dataclass(frozen=True)
class OptionQuestions:
    """Q questions with four options each.

    Attributes:
        prompts: question, options and `Answer:`, to be continued with a letter.
        truth: `[Q]` index of the true option.
    """

    prompts: list[str]
    truth: NDArray[np.intp]


def option_questions(data: RoutingData, *, most: int, seed: int = 0) -> OptionQuestions:
    """At most `most` questions of `data`, drawn at random.

    Raises:
        CheckError: the outcomes have no column `answer`, or no right answers short enough.
    """
    if "answer" not in data.outcomes.columns:
        raise CheckError(
            f"{data.name} does not hold the text of its answers; name a set whose outcomes have a "
            "column `answer`, such as the embedded one"
        )
    right = _right_answers(data)
    pools: dict[str, dict[str, str]] = {}
    for dataset, _, answer in right:
        pools.setdefault(dataset, {}).setdefault(canonical(answer), answer)
    generator = np.random.default_rng(seed)
    prompts: list[str] = []
    truth: list[int] = []
    for i in generator.permutation(len(right)).tolist():
        dataset, text, answer = right[i]
        others = [shown for read, shown in pools[dataset].items() if read != canonical(answer)]
        if len(others) < len(LETTERS) - 1 or len(prompts) == most:
            continue
        drawn = generator.choice(len(others), len(LETTERS) - 1, replace=False)
        options = [others[k] for k in drawn]
        place = int(generator.integers(len(LETTERS)))
        options.insert(place, answer)
        lines = "\n".join(f"{letter}. {o}" for letter, o in zip(LETTERS, options, strict=True))
        prompts.append(f"{text}\n{lines}\nAnswer:")
        truth.append(place)
    if not prompts:
        raise CheckError(f"{data.name} has no right answers of at most {_LONGEST} characters")
    return OptionQuestions(prompts, np.array(truth, np.intp))


def option_probabilities(prompts: list[str]) -> NDArray[np.float64]:
    """`[Q, 4]` what SmolLM2-135M gives each letter after a prompt, normalised over the four.

    Raises:
        CheckError: transformers, gguf or the weights are missing.
    """
    import torch

    from wye.checks.moe.smollm import load_smollm, tokens_of

    model = load_smollm()
    letters = torch.stack([tokens_of(f" {letter}")[-1] for letter in LETTERS])
    ids = [tokens_of(p) for p in prompts]
    probabilities = np.zeros((len(prompts), len(LETTERS)))
    by_length: dict[int, list[int]] = {}
    for i, row in enumerate(ids):
        by_length.setdefault(len(row), []).append(i)
    with torch.no_grad():
        for rows in by_length.values():
            logits = model(torch.stack([ids[i] for i in rows]), logits_to_keep=1).logits[:, -1]
            probabilities[rows] = logits[:, letters].double().softmax(-1).numpy()
    return probabilities


def _right_answers(data: RoutingData) -> list[tuple[str, str, str]]:
    """Data set, text and shortest right answer of each question that has a short one."""
    outcomes = data.outcomes
    kept = outcomes[(outcomes["quality"] >= 1.0) & outcomes["answer"].notna()]
    shortest: dict[str, str] = {}
    for key, answer in zip(kept["query_id"], kept["answer"].astype(str), strict=True):
        shown = " ".join(answer.split())
        if canonical(shown) and len(shown) <= _LONGEST:
            shortest[key] = min(shortest.get(key, shown), shown, key=lambda s: (len(s), s))
    queries = zip(data.queries["query_id"], data.datasets, data.texts, strict=True)
    return [(d, " ".join(t.split()), shortest[key]) for key, d, t in queries if key in shortest]
