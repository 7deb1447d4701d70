"""Checks gated persona distillation (arXiv 2603.18507) on SmolLM2-135M with a persona of form.

The persona asks for a report of exactly three lines, with three examples as earlier turns, so that
a rule says whether an answer obeys and no weak judge is needed. Two kinds of prompts: open
questions, on which the persona's answers win where they keep the form and the plain one does not,
and facts, on which it never wins and a model is scored by the log-probability of the right answer
less that of a wrong one. The gate learns from which queries were won; the adapter (rank 8, layers 1
to 29) from the answers that won, by KL to the model under the persona.

Against it, in the same run: the model alone, the model under the persona on every prompt, and the
adapter without its gate.

Generation is what costs here: there are 24 prompts of each kind for training where 80 would do, 16
and 24 for measuring where 40 would, 2 persona answers tried instead of 4, and an adapter step reads
one answer, at a rate of 1e-3 since there are so few. The thresholds are those of the full size.

What is ours: the teacher is SmolLM2-135M itself, its 4-bit weights read back to float32, with the
persona and the examples in front; the paper's personas are experts by domain and told in words
alone, which a model of this size does not follow. There is one persona, of form and not of
knowledge, so that a rule judges in place of the model; the queries are written down here and not by
the model. So the check tests gate, distillation and serving, and not the paper's finding that the
personas of experts help and hurt.

That the facts are left alone is exact for every query gated off: it is a test of the gate, and not
of the adapter. It asks for a gate that is wrong on hardly any fact, and does not hold. What puts
the gate wrong is how few queries there are. Open prompts that the persona lost count against it
although they read like those it won, and where one of them is among the nine or ten queries that
say when to stop, the gate may stop early. On the states of seeds 0 and 1, with one to three lost
prompts drawn anew 48 times, the gate left all facts alone 41 times; the other seven all had a lost
prompt there, stopped after 11 to 15 of 100 epochs, and sent 12 to 38% of the facts, capitals, to
the adapter.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from wye.checks.base import CheckContext, CheckError, CheckResult, Claim
from wye.checks.moe.smollm import load_smollm, weights_file
from wye.checks.moe.trials import run_trials
from wye.checks.query.persona_prompts import EXAMPLES, PERSONA, Fact, facts, is_report, open_prompts

if TYPE_CHECKING:
    from wye.adapter.prism import PersonaRouter
    from wye.adapter.prompts import ChatFormat

N_TRAIN, N_OPEN, N_FACTS = 24, 16, 24
SAMPLES, NEW_TOKENS = 2, 48
RANK, ALPHA = 8, 16
RATE = 1e-3
STEPS, GATE_EPOCHS = 60, 100  # of two steps each: 200 of the gate
SEEDS = 2


def check(context: CheckContext) -> CheckResult:
    """Bootstrap on every seed (two at most) and measure base, persona, adapter and PRISM.

    Raises:
        CheckError: peft, transformers, gguf, accelerate or the weights are missing.
    """
    for name in ("peft", "transformers", "gguf", "accelerate"):
        if find_spec(name) is None:
            raise CheckError(
                f'{name} is not installed; install it with: pip install "wye[adapters]"'
            )
    weights_file()
    seeds = tuple(context.seeds[:SEEDS])
    # Each trial holds the whole model: side by side they would need its memory twice.
    runs = run_trials(trial, ("prism",), seeds, context, processes=1)
    found = [runs["prism", seed] for seed in seeds]
    mean = {name: float(np.mean([run[name] for run in found])) for name in found[0]}
    gap = mean["margin, base"] - mean["margin, adapter"]
    moved = abs(mean["margin, prism"] - mean["margin, base"])
    return CheckResult(
        claims=(
            Claim(
                "form kept by prism - 0.7 of the ungated adapter",
                mean["form, prism"] - 0.7 * mean["form, adapter"],
                ">=",
                0.0,
            ),
            # One more answer of all that were measured is the least that counts as more.
            Claim(
                "form kept by prism - base",
                mean["form, prism"] - mean["form, base"],
                ">=",
                1.0 / (N_OPEN * len(seeds)),
            ),
            Claim(
                "margin on facts moved by prism, nats", moved, "<=", 0.1 * gap if gap > 0 else 0.02
            ),
            Claim("balanced accuracy of the gate", mean["gate, balanced accuracy"], ">=", 0.8),
        ),
        figures={**mean, "gap, base - adapter": gap},
        seeds=seeds,
        text=(
            f"SmolLM2-135M, a persona that writes reports of three lines, {N_TRAIN} open prompts "
            f"and {N_TRAIN} facts to learn from, {N_OPEN} and {N_FACTS} to measure on, {SAMPLES} "
            f"persona answers of {NEW_TOKENS} tokens tried, {STEPS} steps of a rank-{RANK} "
            f"adapter; mean over {len(seeds)} seeds (prompts, drawn answers, initial weights)"
        ),
    )


def trial(arm: str, seed: int) -> dict[str, float]:
    """Every figure of one seed."""
    from transformers import AutoTokenizer

    from wye.adapter.judging import RuleJudge
    from wye.adapter.prism import BootstrapSettings, PersonaRouter
    from wye.adapter.prompts import ChatFormat

    file = weights_file()
    form = ChatFormat(AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name), EXAMPLES)
    asked = open_prompts(N_TRAIN + N_OPEN, seed)
    known = facts(N_TRAIN + N_FACTS, seed)
    wanted = set(asked)
    router = PersonaRouter.bootstrap(
        load_smollm(),
        form,
        {"report": PERSONA},
        queries={"report": asked[:N_TRAIN]},
        retain=[fact.question for fact in known[:N_TRAIN]],
        judge=RuleJudge(lambda query, answer: query in wanted and is_report(answer)),
        rank=RANK,
        alpha=ALPHA,
        settings=BootstrapSettings(
            samples=SAMPLES,
            max_new_tokens=NEW_TOKENS,
            batch=24,
            gate_epochs=GATE_EPOCHS,
            steps=STEPS,
            distil_batch=1,
            distil_rate=RATE,
        ),
        seed=seed,
    )
    assert router.history is not None
    won = [c.winner is not None for c in router.history.comparisons]
    figures = {"won by the persona, of the open": sum(won) / N_TRAIN}
    losses = router.history.distillation
    if losses:
        figures["distillation loss, first 10 steps"] = float(np.mean(losses[:10]))
        figures["distillation loss, last 10 steps"] = float(np.mean(losses[-10:]))
    else:
        figures["distillation loss, first 10 steps"] = float("nan")
        figures["distillation loss, last 10 steps"] = float("nan")
    return figures | _measured(router, form, asked[N_TRAIN:], known[N_TRAIN:])


def _measured(
    router: PersonaRouter, form: ChatFormat, asked: Sequence[str], known: Sequence[Fact]
) -> dict[str, float]:
    gated = router.gated
    plain = [form.encode(query) for query in asked]
    figures = {"form, prism": _form(router, form, plain)}
    with gated.forced("persona"):
        figures["form, adapter"] = _form(router, form, plain)
    with gated.forced("base"):
        figures["form, base"] = _form(router, form, plain)
        prompts = [form.encode(query, PERSONA) for query in asked]
        figures["form, persona prompt"] = _form(router, form, prompts)
    figures["margin, prism"] = _margin(router, form, known)
    with gated.forced("persona"):
        figures["margin, adapter"] = _margin(router, form, known)
    with gated.forced("base"):
        figures["margin, base"] = _margin(router, form, known)
        figures["margin, persona prompt"] = _margin(router, form, known, PERSONA)
    opened = [name != "base" for name in router.decide(asked).names]
    closed = [name == "base" for name in router.decide([f.question for f in known]).names]
    figures["gated on, open"] = float(np.mean(opened))
    figures["gated on, facts"] = 1.0 - float(np.mean(closed))
    figures["gate, balanced accuracy"] = (float(np.mean(opened)) + float(np.mean(closed))) / 2
    return figures


def _form(router: PersonaRouter, form: ChatFormat, prompts: Sequence[Sequence[int]]) -> float:
    """Share of answers that are reports."""
    from wye.adapter.prompts import answers

    found: Any = answers(
        router.gated.inner, form, prompts, max_new_tokens=NEW_TOKENS, batch=len(prompts)
    )
    return float(np.mean([is_report(form.decode(ids)) for ids in found]))


def _margin(
    router: PersonaRouter, form: ChatFormat, known: Sequence[Fact], persona: str | None = None
) -> float:
    """Mean log-probability of the right answer less that of the wrong one, nats."""
    from wye.adapter.prompts import log_probability

    found = []
    for fact in known:
        prompt = form.encode(fact.question, persona)
        # The gate reads the end of the question, whatever is scored behind it.
        end = torch.tensor([len(prompt) - 1 - form.tail])
        with router.gated.reading_at(end):
            right, wrong = (
                log_probability(router.gated.inner, prompt, form.encode_answer(option))
                for option in (fact.right, fact.wrong)
            )
        found.append(right - wrong)
    return float(np.mean(found))
