"""Asking a model the probes: a question whether it lives, then each probe once a repeat.

A run is a JSON file, so that it can be compared with a later one (`drift`) and put into a table.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from wye.files import write_whole
from wye.query.chat_models.base import ChatModel, ChatModelError
from wye.query.instruction_adherence.probe import CATEGORIES, without_reasoning
from wye.query.instruction_adherence.suite import probes

if TYPE_CHECKING:
    from wye.data import RoutingData
    from wye.query.instruction_adherence.probe import Probe

FORMAT = "wye.query.probe_run"
MAX_TOKENS = 512
LIVENESS = "What is the capital of France? Answer with the name of the city."
_ALIVE = "paris"

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class ProbeResult:
    """One answer to one probe.

    Attributes:
        name, category: of the probe.
        prompt, answer: what was asked and what was written.
        strict, lenient, reason: the verdict.
        served: who answered, as the backend says; providers may route.
        cost_usd, seconds: of the call; None where unknown.
    """

    name: str
    category: str
    prompt: str
    answer: str
    strict: bool
    lenient: bool
    reason: str
    served: str
    cost_usd: float | None
    seconds: float | None


@dataclass(frozen=True)
class ProbeRun:
    """All answers of one model.

    Attributes:
        model: its name.
        when: ISO 8601, UTC.
        seed, repeats, temperature: what the run follows from.
        results: probe by probe.
    """

    model: str
    when: str
    seed: int
    repeats: int
    temperature: float
    results: tuple[ProbeResult, ...]

    @property
    def served(self) -> tuple[str, ...]:
        """Everybody who answered, sorted."""
        return tuple(sorted({r.served for r in self.results}))

    def counts(self, category: str, *, lenient: bool = False) -> tuple[int, int]:
        """Passes and trials in a category."""
        own = [r.lenient if lenient else r.strict for r in self.results if r.category == category]
        return sum(own), len(own)

    def to_dict(self) -> dict[str, Any]:
        """JSON-serialisable form."""
        return {"format": FORMAT, **asdict(self)}

    def save(self, path: str | Path) -> Path:
        """Write the run as JSON, whole or not at all.

        Raises:
            ChatModelError: the file cannot be written.
        """
        target = Path(path)
        text = json.dumps(self.to_dict(), indent=1, allow_nan=False)
        try:
            return write_whole(target, f"{text}\n".encode())
        except OSError as error:
            raise ChatModelError(f"{target} cannot be written: {error}") from error

    @classmethod
    def load(cls, path: str | Path) -> ProbeRun:
        """Read what `save` wrote.

        Raises:
            ChatModelError: there is no such file, or it holds no run.
        """
        try:
            held = json.loads(Path(path).read_text(encoding="utf-8"))
            if held.pop("format") != FORMAT:
                raise ValueError(f"it has no format {FORMAT!r}")
            held["results"] = tuple(ProbeResult(**r) for r in held["results"])
            if {r.category for r in held["results"]} - set(CATEGORIES):
                raise ValueError("it has other categories")
            return cls(**held)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ChatModelError(f"{path} holds no run of probes: {error!r}") from error


def check_alive(model: ChatModel, *, reasoning_tag: str | None = None) -> None:
    """Ask a simple question of fact, as the paper does before it probes.

    Raises:
        ChatModelError: the model cannot be reached, refuses, or answers wrongly.
    """
    said = model.generate([{"role": "user", "content": LIVENESS}], max_tokens=MAX_TOKENS)
    if _ALIVE not in without_reasoning(said.text, reasoning_tag).lower():
        raise ChatModelError(
            f"{model.name} answered {said.text[:120]!r} to {LIVENESS!r}; probes would say nothing "
            "of a model that does not answer this, so look at its chat template and its load first"
        )


def run_probes(
    model: ChatModel,
    *,
    name: str | None = None,
    repeats: int = 1,
    seed: int = 0,
    temperature: float = 0.0,
    max_tokens: int = MAX_TOKENS,
    reasoning_tag: str | None = None,
    asked: Sequence[Probe] | None = None,
    progress: Progress | None = None,
) -> ProbeRun:
    """Ask every probe; 20 calls a repeat.

    Args:
        model: answers.
        name: of the model in the run; its own when not given.
        repeats: instances of each probe, with fresh numbers and words. One instance of each leaves
            a standard error of about 11 points overall and 25 in a category.
        seed: of the probes.
        temperature: 0 is greedy.
        max_tokens: of an answer.
        reasoning_tag: of a block of reasoning that the model declares, for instance `think`.
        asked: these probes instead.
        progress: told (done, total, name of the probe).

    Raises:
        ChatModelError: a call fails.
    """
    chosen = probes(seed, repeats=repeats) if asked is None else list(asked)
    results = []
    for number, probe in enumerate(chosen):
        if progress is not None:
            progress(number, len(chosen), probe.name)
        said = model.generate(
            [{"role": "user", "content": probe.prompt}],
            max_tokens=max_tokens,
            temperature=temperature,
            seed=seed if temperature > 0 else None,
        )
        verdict = probe.check(without_reasoning(said.text, reasoning_tag))
        results.append(
            ProbeResult(
                name=probe.name,
                category=probe.category,
                prompt=probe.prompt,
                answer=said.text,
                strict=verdict.strict,
                lenient=verdict.lenient,
                reason=verdict.reason,
                served=said.model,
                cost_usd=_known(said.cost_usd),
                seconds=_known(said.seconds),
            )
        )
    return ProbeRun(
        model=model.name if name is None else name,
        when=datetime.now(UTC).isoformat(timespec="seconds"),
        seed=seed,
        repeats=repeats,
        temperature=temperature,
        results=tuple(results),
    )


def as_data(runs: Sequence[ProbeRun]) -> RoutingData:
    """Runs as outcomes that any router learns from: the dataset of a probe is its category.

    Raises:
        ChatModelError: no run.
    """
    import pandas as pd

    from wye.data import RoutingData

    if not runs:
        raise ChatModelError("no run of probes was given, expected one or more")
    prompts: dict[str, str] = {}
    outcomes: dict[tuple[str, str], list[ProbeResult]] = {}
    for run in runs:
        for result in run.results:
            prompts[result.prompt] = result.category
            outcomes.setdefault((result.prompt, run.model), []).append(result)
    ids = {prompt: f"probe-{i}" for i, prompt in enumerate(prompts)}
    rows = [
        {
            "query_id": ids[prompt],
            "model": model,
            "quality": float(np.mean([r.strict for r in found])),
            "cost_usd": _mean([r.cost_usd for r in found]),
            "latency_s": _mean([r.seconds for r in found]),
        }
        for (prompt, model), found in outcomes.items()
    ]
    models = list(dict.fromkeys(run.model for run in runs))
    return RoutingData(
        queries=pd.DataFrame(
            {
                "query_id": list(ids.values()),
                "dataset": list(prompts.values()),
                "text": list(prompts),
                "split": "train",
            }
        ),
        outcomes=pd.DataFrame(rows),
        models=pd.DataFrame({"model": models}),
        name="probes",
    )


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _mean(values: Sequence[float | None]) -> float:
    known = [v for v in values if v is not None]
    return float(np.mean(known)) if known else float("nan")
