"""Routing by descriptions in words, with a real small model that was never trained for it.

Papers: Arch-Router, arXiv 2506.16655, and the model-selection step of HuggingGPT, arXiv 2303.17580
(the prompt router that papers compare with). SmolLM2-135M-Instruct reads descriptions of four kinds
of questions and names the one that a question of reasoning-gym belongs to: by the log-probabilities
of the names (Arch-Router) and in writing (prompt router). Baseline: a name drawn at random. The
authors' router has 1.5 billion parameters and is trained on the task; that a model of 135 million
finds the route without training is not their claim, only that descriptions suffice to route by.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from wye.checks.base import CheckResult, Claim

if TYPE_CHECKING:
    from wye.checks.base import CheckContext

N_QUESTIONS = 40
LEAST_GAIN = 0.1
DESCRIPTIONS = {
    "arithmetic": "adding and subtracting numbers",
    "letters": "counting how often a letter occurs in a text",
    "animals": "counting the legs of animals",
    "divisors": "finding the greatest common divisor of numbers",
}
_KINDS = dict(zip(("sum", "letters", "legs", "gcd"), DESCRIPTIONS, strict=True))


def check(context: CheckContext) -> CheckResult:
    """Share of questions that go where their kind belongs, by both ways of naming.

    Raises:
        CheckError: reasoning-gym or the weights of SmolLM2 are missing.
    """
    from wye.checks.query.smollm_chat import smollm_chat
    from wye.checks.query.tasks import draw
    from wye.query.arch_router import OTHER, ArchRouter
    from wye.query.prompt_router import DescriptionRouter

    chat = smollm_chat()
    arch = ArchRouter(chat, DESCRIPTIONS, {name: name for name in (*DESCRIPTIONS, OTHER)})
    prompted = DescriptionRouter(chat, DESCRIPTIONS, otherwise="arithmetic")
    prompted.asker.max_tokens = 12
    named, written, lost = [], [], []
    for number, seed in enumerate(context.seeds, start=1):
        context.progress(f"seed {number} of {len(context.seeds)}")
        # As many questions in all, however many seeds there are.
        for item in draw(list(_KINDS), max(4, N_QUESTIONS // len(context.seeds)), seed=seed):
            right = _KINDS[item.task]
            match = arch.choose([{"role": "user", "content": item.question}])
            named.append(match.policy == right)
            choice = prompted.choose(item.question)
            written.append(choice.target == right)
            lost.append(choice.fallback)
    figures = {
        "accuracy by log-probabilities": float(np.mean(named)),
        "accuracy in writing": float(np.mean(written)),
        "written replies without a name": float(np.mean(lost)),
        "accuracy at random": 1.0 / len(DESCRIPTIONS),
    }
    gain = figures["accuracy by log-probabilities"] - figures["accuracy at random"]
    text = (
        f"SmolLM2-135M-Instruct, untrained, sends {len(named)} questions of four kinds to four "
        "descriptions and `other`. The named data are not used."
    )
    claims = (Claim("accuracy by log-probabilities - at random", gain, ">=", LEAST_GAIN),)
    return CheckResult(claims, figures, context.seeds, text)
