"""Instruction adherence: probes fill a table that is true, and the table routes.

Paper: arXiv 2510.18892, which probes 256 models and routes nothing. Here SmolLM2-135M-Instruct at
temperature 0, the same model with one solved example in front of each probe, and two programs that
follow one category each, so that what the table should say of them is known. Held to account: the
programs' cells, whether routing 200 fresh probes (40 a category, the category declared) by the
table beats the best single model, and that no checker fails on odd output. Decoding under a grammar
is left out: the library has none, and a mask made for each probe would solve it in its place. The
paper's rates stand beside for reference; nothing here says anything of large models.

Shape letters: M models, K categories.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from wye.checks.base import CheckResult, Claim

if TYPE_CHECKING:
    from wye.checks.base import CheckContext
    from wye.query.chat_models.base import ChatModel, Generation, Message
    from wye.query.instruction_adherence import Probe, ProbeRun

MAX_TOKENS = 48
FRESH = 10
# Seeds far from those of the runs: fresh probes are built of other numbers and words.
FRESH_SEED, EXAMPLE_SEED = 1_000_000, 2_000_000
ODD = ("", "\x00\ufffd\ud800", "x" * 1_000_000, "[" * 19_000, "9" * 10_000, "\n" * 100, "|||||")


def check(context: CheckContext) -> CheckResult:
    """The table of four models, the difficulty of each probe, and quality of routing by it.

    Raises:
        CheckError: transformers, gguf or the weights of SmolLM2 are missing.
    """
    from wye.checks.query.probe_programs import format_program, string_program
    from wye.checks.query.smollm_chat import smollm_chat
    from wye.query.instruction_adherence import CATEGORIES, CapabilityTable
    from wye.query.instruction_adherence.table import PUBLISHED, difficulty

    chat = smollm_chat()
    models: list[ChatModel] = [chat, _one_shot(chat), format_program(), string_program()]
    runs = [_run(model, seed, context) for model in models for seed in context.seeds]
    table = CapabilityTable.of(runs)
    low, high = table.interval()
    rates = table.passes / table.trials
    figures: dict[str, float] = {}
    for m, model in enumerate(table.models):
        for k, category in enumerate(CATEGORIES):
            figures |= {
                f"{model}, {category}": rates[m, k],
                f"{model}, {category}, low": low[m, k],
                f"{model}, {category}, high": high[m, k],
            }
    figures |= {f"difficulty of {name}": d for name, d in difficulty(runs).items()}
    figures |= {f"256 models of the paper, {c}": p for c, p in PUBLISHED.items()}
    truth = np.zeros((2, len(CATEGORIES)))
    truth[0, CATEGORIES.index("format_conversion")] = 1.0
    truth[1, CATEGORIES.index("string_manipulation")] = 1.0
    figures |= _routed(runs, models, context)
    claims = (
        Claim("cells of the programs that are wrong",
              float((rates[2:] != truth).sum()), "<=", 0.0),
        Claim("routed - best single", figures["routed"] - figures["best single"], ">=", 0.1),
        Claim("checkers that fail on odd output", float(_crashes(context.seeds)), "<=", 0.0),
    )  # fmt: skip
    text = (
        f"20 probes x {len(context.seeds)} seeds x {len(models)} models, at most {MAX_TOKENS} new "
        f"tokens; then {20 * FRESH} fresh probes routed by the table with their category declared."
    )
    return CheckResult(claims, figures, context.seeds, text)


def _run(model: ChatModel, seed: int, context: CheckContext) -> ProbeRun:
    from wye.query.instruction_adherence import run_probes

    return run_probes(
        model,
        seed=seed,
        max_tokens=MAX_TOKENS,
        progress=lambda done, total, name: context.progress(
            f"{model.name}, seed {seed}: {done} of {total}"
        ),
    )


def _one_shot(chat: ChatModel) -> ChatModel:
    """The model with a solved probe of the same name, of other numbers, before each question."""
    from wye.query.chat_models.base import ChatModel as Base
    from wye.query.instruction_adherence import probes

    examples = probes(EXAMPLE_SEED)

    class OneShot(Base):
        name = f"{chat.name}, one example"

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
            shown = _alike(messages[-1]["content"], examples)
            return chat.generate(
                [
                    {"role": "user", "content": shown.prompt},
                    {"role": "assistant", "content": shown.reference},
                    *messages,
                ],
                max_tokens=max_tokens,
                temperature=temperature,
                top_p=top_p,
                seed=seed,
                stop=stop,
            )

    return OneShot()


def _alike(prompt: str, examples: Sequence[Probe]) -> Probe:
    """The example whose words overlap the prompt's the most."""
    words = set(prompt.lower().split())

    def overlap(probe: Probe) -> float:
        own = set(probe.prompt.lower().split())
        return len(own & words) / len(own | words)

    return max(examples, key=overlap)


def _routed(
    runs: Sequence[ProbeRun], models: Sequence[ChatModel], context: CheckContext
) -> dict[str, float]:
    """Pass rates on fresh probes: routed by the table, of each model, and at random."""
    from wye.query.instruction_adherence import CapabilityRouter, probes, run_probes
    from wye.query.instruction_adherence.probing import as_data

    fresh = probes(FRESH_SEED, repeats=FRESH)
    router = CapabilityRouter().fit(as_data(runs))
    chosen = router.route([p.prompt for p in fresh], needs=[(p.category,) for p in fresh]).targets
    passed = {}
    for model in models:
        run = run_probes(
            model,
            asked=fresh,
            max_tokens=MAX_TOKENS,
            progress=lambda done, total, name, model=model: context.progress(  # type: ignore[misc]
                f"{model.name}, fresh probes: {done} of {total}"
            ),
        )
        passed[model.name] = [r.strict for r in run.results]
    routed = [passed[str(name)][i] for i, name in enumerate(chosen)]
    alone = {name: float(np.mean(p)) for name, p in passed.items()}
    return {
        "routed": float(np.mean(routed)),
        "best single": max(alone.values()),
        "random": float(np.mean(list(alone.values()))),
        **{f"alone, {name}": rate for name, rate in alone.items()},
    }


def _crashes(seeds: Sequence[int]) -> int:
    """How many checks of odd answers raise."""
    from wye.query.instruction_adherence import probes

    crashes = 0
    for seed in seeds:
        for probe in probes(seed):
            for odd in ODD:
                try:
                    probe.check(odd)
                except Exception:  # noqa: BLE001 - any failure counts
                    crashes += 1
    return crashes
