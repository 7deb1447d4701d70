"""ACAR: one, two or three models answer, by how far cheap probe answers disagree.

Routes a query to a set of models, after probing and before the ensemble, on the dispersion of the
probe's answers; nothing is learned. Source: Kumaresan, ACAR, arXiv 2602.21231.

    sigma = (distinct answers - 1) / (N - 1)              of N answers of the probe
    mode  = 1 where sigma <= t_low      the probe's answer stands
            3 where sigma >= t_high     all models of the ensemble answer
            2 otherwise                 the first two do
    answer = majority of the models that answered, ties to the first of them

Ours, where the paper does not say: the formula of sigma, N = 3 at temperature 0.7, the vote over
single answers with ties to the order of the ensemble, whether the probe's majority votes too
(`probe_votes`, off), and that the probe's answers stand in where no model of the ensemble gave one.
Sigma is no confidence: probes can agree and be wrong; the paper puts the loss from that at about
8 points against the full ensemble. ACAR-U is this without `memory`; with it, the retrieval variant.

Every step can be written to an audit log, from which `replay` computes sigma, mode and vote again
without any model. No clock and no random number enters a decision.

Shape letters: Q queries, N probe answers, K models of the ensemble in order of priority.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from wye.core.audit import AuditError, AuditLog, AuditRecord, digest
from wye.query.answers.dispersion import DispersionKind, dispersion
from wye.query.answers.voting import NO_ANSWER, IntArray, answer_numbers, vote
from wye.query.base import FloatArray, RouterError
from wye.query.chat_models.base import ChatModel, Generation, Message
from wye.query.decisions import first_id, format_id
from wye.query.prompts.experience import ExperienceMemory

Canonicalise = Callable[[str], str]
SINGLE, PAIR, FULL = 1, 2, 3


@dataclass(frozen=True)
class AcarChoice:
    """What ACAR makes of Q recorded sets of answers.

    Attributes:
        sigma: `[Q]` dispersion of the probe's answers, 0 to 1.
        mode: `[Q]` 1, 2 or 3.
        chosen: `[Q]` column of the answer returned, among the K models and then the N probes.
        calls: `[Q]` calls made: N, and those of the ensemble.
    """

    sigma: FloatArray
    mode: IntArray
    chosen: IntArray
    calls: IntArray


def modes(sigma: FloatArray, *, t_low: float = 0.0, t_high: float = 1.0) -> IntArray:
    """`[Q]` 1 where sigma <= t_low, 3 where sigma >= t_high, else 2.

    Raises:
        RouterError: thresholds out of order.

    Example:
        >>> modes(np.array([0.0, 0.5, 1.0])).tolist()
        [1, 2, 3]
    """
    if not 0.0 <= t_low < t_high:
        raise RouterError(f"t_low={t_low}, t_high={t_high}; expected 0 <= t_low < t_high")
    return np.where(sigma <= t_low, SINGLE, np.where(sigma >= t_high, FULL, PAIR)).astype(np.intp)


def answered_in_mode(
    probes: IntArray, ensemble: IntArray, mode: IntArray, *, probe_votes: bool = False
) -> IntArray:
    """`[Q]` column of the answer that each mode returns, among the K models and then the N probes.

    Args:
        probes: `[Q, N]` answers of the probe by number, negative for none.
        ensemble: `[Q, K]` of the models, K at least 2, in the same numbering row by row.
        mode: `[Q]` 1, 2 or 3.
        probe_votes: whether the probe's majority has a vote beside the models.

    Raises:
        RouterError: shapes do not fit.
    """
    if ensemble.ndim != 2 or ensemble.shape[1] < 2 or probes.shape[:1] != ensemble.shape[:1]:
        raise RouterError(
            f"probes have shape {probes.shape} and the ensemble {ensemble.shape}, expected [Q, N] "
            "and [Q, K] with K at least 2"
        )
    n_models = ensemble.shape[1]
    asked = np.array([0, 0, 2, n_models])[mode]
    called = np.arange(n_models) < asked[:, None]
    numbers = np.concatenate([np.where(called, ensemble, NO_ANSWER), probes], axis=1)
    weights = np.zeros(numbers.shape)
    weights[:, :n_models] = called
    alone = mode == SINGLE
    weights[alone, n_models:] = 1.0
    if probe_votes:
        rows = np.flatnonzero(~alone)
        weights[rows, n_models + vote(probes).winner[rows]] = 1.0
    return vote(numbers, weights).winner


def choose(
    probes: IntArray,
    ensemble: IntArray,
    *,
    t_low: float = 0.0,
    t_high: float = 1.0,
    kind: DispersionKind = "distinct",
    probe_votes: bool = False,
) -> AcarChoice:
    """ACAR on recorded answers; arguments as of `answered_in_mode`, `modes` and `dispersion`.

    Example:
        >>> probes = np.array([[0, 0, 0], [0, 1, 2]])
        >>> found = choose(probes, np.array([[1, 1, 1], [1, 3, 3]]))
        >>> found.mode.tolist(), found.chosen.tolist(), found.calls.tolist()
        ([1, 3], [3, 1], [3, 6])
    """
    sigma = dispersion(probes, kind)
    mode = modes(sigma, t_low=t_low, t_high=t_high)
    chosen = answered_in_mode(probes, ensemble, mode, probe_votes=probe_votes)
    calls = probes.shape[1] + np.array([0, 0, 2, ensemble.shape[1]])[mode]
    return AcarChoice(sigma, mode, chosen, calls)


@dataclass(frozen=True)
class AcarAnswer:
    """One query answered.

    Attributes:
        text: as the model wrote it; empty where nobody gave an answer that could be read.
        canonical: the same in canonical form.
        model: who wrote it.
        sigma: dispersion of the probe's answers.
        mode: 1, 2 or 3.
        calls: how many answers were generated.
        cost_usd: of all of them; NaN where a price is unknown.
        run: id of the run in the log.
    """

    text: str
    canonical: str
    model: str
    sigma: float
    mode: int
    calls: int
    cost_usd: float
    run: str


class Acar:
    """Answer queries with a probe and an ensemble of chat models.

    Args:
        probe: the cheap model.
        ensemble: two models or more, in order of priority.
        kind: how answers are compared: a kind of `wye.query.answers.canonical`, or a function from
            text to canonical answer, empty for no answer. Code is compared by what it does: give a
            function that runs it on sample inputs.
        n_probes, temperature: of the probe's answers; at temperature 0 they would always agree.
        t_low, t_high, dispersion, probe_votes: as in `choose`.
        max_tokens: of one answer.
        memory: earlier solved tasks to show (the retrieval variant); None for ACAR-U.
        log: where every step is written; nowhere when None.
        seed: of the probe's sampling; sample i of every query takes seed + i.

    Raises:
        RouterError: a parameter out of range.
    """

    def __init__(
        self,
        probe: ChatModel,
        ensemble: Sequence[ChatModel],
        *,
        kind: str | Canonicalise = "text",
        n_probes: int = 3,
        temperature: float = 0.7,
        t_low: float = 0.0,
        t_high: float = 1.0,
        dispersion: DispersionKind = "distinct",
        probe_votes: bool = False,
        max_tokens: int = 512,
        memory: ExperienceMemory | None = None,
        log: AuditLog | None = None,
        seed: int = 0,
    ) -> None:
        if n_probes < 2 or temperature <= 0 or len(ensemble) < 2:
            raise RouterError(
                f"n_probes={n_probes}, temperature={temperature}, {len(ensemble)} models; expected "
                "2 probes or more, a temperature above 0 (else they always agree) and 2 models"
            )
        modes(np.zeros(1), t_low=t_low, t_high=t_high)
        self.probe = probe
        self.ensemble = tuple(ensemble)
        self.kind = kind
        self.n_probes = n_probes
        self.temperature = temperature
        self.t_low, self.t_high = t_low, t_high
        self.dispersion = dispersion
        self.probe_votes = probe_votes
        self.max_tokens = max_tokens
        self.memory = memory
        self.log = log
        self.seed = seed

    def answer(self, task: str) -> AcarAnswer:
        """Probe, decide, ask and vote.

        Raises:
            ChatModelError: a model cannot answer.
        """
        canonicalise = canonicaliser(self.kind)
        run = format_id(first_id())
        messages = self._messages(task)
        asked_of_all = {"task": digest(task), "inputs": digest(messages), "rule": self._rule()}
        self._write("task", run, asked_of_all)
        probes, calls, said = [], [], []
        for i in range(self.n_probes):
            made, read = self._ask("probe", run, self.probe, messages, canonicalise, i)
            probes.append(read)
            said.append(made)
        sigma = float(dispersion(answer_numbers([probes]), self.dispersion)[0])
        self._write("sigma", run, {"value": sigma})
        mode = int(modes(np.array([sigma]), t_low=self.t_low, t_high=self.t_high)[0])
        self._write("mode", run, {"value": mode})
        asked = self.ensemble[: {SINGLE: 0, PAIR: 2, FULL: len(self.ensemble)}[mode]]
        made_by_model = []
        for i, model in enumerate(asked):
            made, read = self._ask("call", run, model, messages, canonicalise, i)
            calls.append(read)
            made_by_model.append(made)
        chosen = _chosen(probes, calls, mode, len(self.ensemble), self.probe_votes)
        answers, outputs = [*calls, *probes], [*made_by_model, *said]
        self._write("vote", run, {"chosen": chosen, "answer": answers[chosen]})
        best = outputs[chosen]
        return AcarAnswer(
            text=best.text if answers[chosen] else "",
            canonical=answers[chosen],
            model=best.model,
            sigma=sigma,
            mode=mode,
            calls=len(outputs),
            cost_usd=float(sum(o.cost_usd for o in outputs)),
            run=run,
        )

    def record_score(self, answer: AcarAnswer, score: float) -> None:
        """Enter into the log how good `answer` turned out, 0 to 1."""
        self._write("score", answer.run, {"value": float(score)})

    def _messages(self, task: str) -> list[Message]:
        shown = [] if self.memory is None else self.memory.recall(task)
        parts = [f"A similar task: {e.task}\nIts answer: {e.answer}" for e in shown]
        content = "\n\n".join([*parts, f"The task: {task}"]) if parts else task
        return [{"role": "user", "content": content}]

    def _ask(
        self,
        step: str,
        run: str,
        model: ChatModel,
        messages: list[Message],
        canonicalise: Canonicalise,
        place: int,
    ) -> tuple[Generation, str]:
        drawn = step == "probe"
        temperature = self.temperature if drawn else 0.0
        seed = self.seed + place if drawn else None
        made = model.generate(
            messages, max_tokens=self.max_tokens, temperature=temperature, seed=seed
        )
        read = canonicalise(made.text)
        self._write(
            step,
            run,
            {
                "place": place,
                "model": model.name,
                "temperature": float(temperature),
                "max_tokens": self.max_tokens,
                "seed": seed,
                "output": made.text,
                "canonical": read,
                "cost_usd": _known(made.cost_usd),
                "seconds": _known(made.seconds),
                "at": time.time(),
            },
        )
        return made, read

    def _rule(self) -> dict[str, Any]:
        return {
            "kind": self.kind if isinstance(self.kind, str) else None,
            "n_probes": self.n_probes,
            "ensemble": len(self.ensemble),
            "t_low": float(self.t_low),
            "t_high": float(self.t_high),
            "dispersion": self.dispersion,
            "probe_votes": self.probe_votes,
        }

    def _write(self, step: str, run: str, held: dict[str, Any]) -> None:
        if self.log is not None:
            self.log.append(step, {"run": run, **held})


@dataclass(frozen=True)
class ReplayedRun:
    """What the stored outputs of one run lead to."""

    run: str
    sigma: float
    mode: int
    answer: str


def replay(
    records: Iterable[AuditRecord], canonicalise: Canonicalise | None = None
) -> list[ReplayedRun]:
    """Compute canonical answers, sigma, mode and vote again, and require what was recorded.

    Args:
        records: of a chain that was verified; other systems' records are passed over.
        canonicalise: the function that `Acar` was given as `kind`, where it was one.

    Raises:
        AuditError: a step comes out otherwise, or is missing; the message names the run.
    """
    runs: dict[str, list[AuditRecord]] = {}
    for record in records:
        if record.step == "task" and "rule" in record.body:
            runs[record.body["run"]] = [record]
        elif record.body.get("run") in runs:
            runs[record.body["run"]].append(record)
    return [_replayed(run, steps, canonicalise) for run, steps in runs.items()]


def _replayed(run: str, steps: list[AuditRecord], canonicalise: Canonicalise | None) -> ReplayedRun:
    rule = steps[0].body["rule"]
    if rule["kind"] is None and canonicalise is None:
        raise AuditError(f"run {run} compared answers by a function; pass it as canonicalise")
    read = canonicaliser(rule["kind"]) if canonicalise is None else canonicalise
    answers: dict[str, list[str]] = {"probe": [], "call": []}
    for step in steps:
        if step.step in answers:
            answer = read(step.body["output"])
            if answer != step.body["canonical"]:
                was = step.body["canonical"]
                raise AuditError(f"run {run}: {step.step} was {was!r}, is {answer!r} now")
            answers[step.step].append(answer)
    sigma = float(dispersion(answer_numbers([answers["probe"]]), rule["dispersion"])[0])
    mode = int(modes(np.array([sigma]), t_low=rule["t_low"], t_high=rule["t_high"])[0])
    chosen = _chosen(answers["probe"], answers["call"], mode, rule["ensemble"], rule["probe_votes"])
    answer = [*answers["call"], *answers["probe"]][chosen]
    came_out = {"sigma": sigma, "mode": mode, "vote": answer}
    recorded = {s.step: s.body.get("value", s.body.get("answer")) for s in steps}
    for name, value in came_out.items():
        if recorded.get(name) != value:
            raise AuditError(f"run {run}: {name} was {recorded.get(name)!r}, is {value!r} now")
    return ReplayedRun(run, sigma, mode, answer)


def canonicaliser(kind: str | Canonicalise) -> Canonicalise:
    """The function from text to canonical answer that `kind` stands for."""
    if not isinstance(kind, str):
        return kind
    from wye.query.answers.canonical import canonical

    return lambda text: canonical(text, kind)


def _chosen(
    probes: Sequence[str], calls: Sequence[str], mode: int, n_models: int, probe_votes: bool
) -> int:
    """Place of the answer returned, among the calls made and then the probes."""
    absent = [""] * (n_models - len(calls))
    numbers = answer_numbers([[*calls, *absent, *probes]])
    column = answered_in_mode(
        numbers[:, n_models:], numbers[:, :n_models], np.array([mode]), probe_votes=probe_votes
    )
    place = int(column[0])
    return place if place < n_models else place - len(absent)


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
