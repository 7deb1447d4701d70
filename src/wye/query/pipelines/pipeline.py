"""A pipeline: stages that decide one after another on one query, under one ledger.

A stage looks at what is known (`State`) and says what follows: keep some targets, run one, accept
an answer, defer to the next stage, or reject the query. The pipeline runs models, keeps account and
writes down every step. It refuses a chain that cannot work when it is built.

Source of the frame: arXiv 2603.04445 (`wye.query.pipelines.frame`).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from wye.query.pipelines.frame import Facets, PipelineError, frame_table
from wye.query.pipelines.ledger import Ledger
from wye.query.policies.judging import Answer

if TYPE_CHECKING:
    from wye.query.base import Estimate

Kind = Literal["keep", "run", "accept", "defer", "reject"]


@dataclass(frozen=True)
class Action:
    """What a stage decided.

    Attributes:
        kind: `keep` only `targets` for later stages; `run` the first of `targets`; `accept` its
            answer; `defer` to the next stage; `reject` the query.
        targets: models, as `kind` needs them.
        reason: in plain words.
    """

    kind: Kind
    targets: tuple[str, ...] = ()
    reason: str = ""


@dataclass
class State:
    """What is known of one query on its way.

    Attributes:
        text: the query.
        metadata: what the caller said beside it.
        targets: models that may still be chosen.
        answers: given so far, oldest first.
        costs: USD of each answer.
        estimate: of a routing stage, for those after it; None before one.
        ledger: of the pipeline.
    """

    text: str
    metadata: Mapping[str, Any]
    targets: tuple[str, ...]
    ledger: Ledger
    answers: list[Answer] = field(default_factory=list)
    costs: list[float] = field(default_factory=list)
    estimate: Estimate | None = None

    @property
    def last(self) -> Answer:
        """The answer given last.

        Raises:
            PipelineError: there is none yet.
        """
        if not self.answers:
            raise PipelineError("no answer exists yet; a stage that runs a model comes first")
        return self.answers[-1]

    @property
    def unasked(self) -> tuple[str, ...]:
        """Targets that have not answered this query."""
        asked = {a.model for a in self.answers}
        return tuple(t for t in self.targets if t not in asked)


class Stage(ABC):
    """One decision of a pipeline.

    Attributes:
        name: in traces and tables.
        facets: when, on what, how.
        may: what `decide` can return.
        names: targets that it was built with, which must be among those of the pipeline.
        runs: the one target that it always runs, where there is one.
        reach: targets among which it chooses, where it knows only these.
        before_spending: whether it makes sense only ahead of every stage that runs a model.
    """

    name: str
    facets: Facets
    may: frozenset[Kind]
    names: tuple[str, ...] = ()
    runs: str | None = None
    reach: tuple[str, ...] | None = None
    before_spending: bool = False

    @abstractmethod
    def decide(self, state: State) -> Action:
        """What follows, from what is known."""


Call = Callable[[str, str], tuple[Answer, float]]


@dataclass(frozen=True)
class PipelineResult:
    """One query led through a pipeline.

    Attributes:
        answer: returned to the caller; None where the query was rejected.
        rejected: the reason, where it was.
        cost_usd: of all answers and stages, those thrown away included.
        trace: (stage, kind, targets, reason) of each step.
    """

    answer: Answer | None
    rejected: str | None
    cost_usd: float
    trace: tuple[tuple[str, Kind, tuple[str, ...], str], ...]


class Pipeline:
    """A chain of stages under one ledger.

    Args:
        stages: first to last.
        targets: models that may be called.
        ledger: shared by all stages and queries; without a budget when not given.

    Raises:
        PipelineError: no stage or target, two targets of one name, a stage that is none, names
            targets that are not there or runs one again, a stage that reads answers before any
            stage can have run a model, or a chain that can end without an answer.
    """

    def __init__(
        self, stages: Sequence[Stage], targets: Sequence[str], *, ledger: Ledger | None = None
    ) -> None:
        if not stages or not targets or len(set(targets)) != len(targets):
            raise PipelineError(
                f"{len(stages)} stages over {list(targets)}, expected one or more of each, "
                "no target twice"
            )
        can_answer = False
        run: list[str] = []
        for number, stage in enumerate(stages, start=1):
            if not isinstance(stage, Stage):
                raise PipelineError(f"stage {number} is {stage!r}, expected a Stage")
            strange = [t for t in stage.names if t not in targets]
            if strange:
                raise PipelineError(
                    f"stage {number} ({stage.name}) names {strange}, and the targets are "
                    f"{list(targets)}; add them there or correct the stage"
                )
            if stage.before_spending and can_answer:
                raise PipelineError(
                    f"stage {number} ({stage.name}) is there to turn queries away before anything "
                    "is spent on them, and an earlier stage runs a model; put it first"
                )
            if stage.reach is not None and not set(stage.reach) & set(targets):
                raise PipelineError(
                    f"stage {number} ({stage.name}) knows {list(stage.reach)}, and none of the "
                    f"targets {list(targets)}; name targets as the router does"
                )
            if stage.runs is not None:
                if stage.runs in run:
                    raise PipelineError(
                        f"stage {number} ({stage.name}) would run what an earlier stage runs: a "
                        "target answers a query once; drop the stage"
                    )
                run.append(stage.runs)
            if stage.facets.reads_answers and not can_answer:
                raise PipelineError(
                    f"stage {number} ({stage.name}) reads answers, and no stage before it runs a "
                    "model; put a routing stage in front of it"
                )
            can_answer = can_answer or "run" in stage.may
        if not can_answer:
            raise PipelineError(
                f"no stage of {[s.name for s in stages]} runs a model, so that no query is "
                "answered; end with a routing stage"
            )
        self.stages = tuple(stages)
        self.targets = tuple(targets)
        self.ledger = Ledger() if ledger is None else ledger

    def explain(self) -> str:
        """The frame's table: each stage, when it decides, on what, how, and what may follow."""
        return frame_table([(s.name, s.facets, " or ".join(sorted(s.may))) for s in self.stages])

    def run(
        self, text: str, call: Call, *, metadata: Mapping[str, Any] | None = None
    ) -> PipelineResult:
        """Lead one query through the stages.

        Where the last stage defers, the last answer is returned.

        Args:
            text: the query.
            call: of (model, text) the answer and what it cost (USD); NaN where unknown.
            metadata: what the caller says beside the text.

        Raises:
            PipelineError: a stage decides what it may not, no target is left, or no answer came.
        """
        self.ledger.open_query()
        state = State(text, dict(metadata or {}), self.targets, self.ledger)
        trace: list[tuple[str, Kind, tuple[str, ...], str]] = []
        answer: Answer | None = None
        rejected: str | None = None
        try:
            for stage in self.stages:
                action = self._decided(stage, state)
                trace.append((stage.name, action.kind, action.targets, action.reason))
                if action.kind == "reject":
                    rejected = action.reason
                    break
                if action.kind == "keep":
                    state.targets = action.targets
                elif action.kind == "run":
                    self._ask(stage, state, action.targets[0], call)
                elif action.kind == "accept":
                    answer = next(a for a in state.answers if a.model == action.targets[0])
                    break
        finally:
            cost = self.ledger.close_query()
        if answer is None and rejected is None:
            answer = state.last
        return PipelineResult(answer, rejected, cost, tuple(trace))

    def _decided(self, stage: Stage, state: State) -> Action:
        action = stage.decide(state)
        if action.kind not in stage.may:
            raise PipelineError(
                f"stage {stage.name} decided {action.kind!r}, and says of itself that it may "
                f"{sorted(stage.may)}"
            )
        known = state.targets if action.kind != "accept" else [a.model for a in state.answers]
        strange = [t for t in action.targets if t not in known]
        if strange or (action.kind in ("keep", "run", "accept") and not action.targets):
            raise PipelineError(
                f"stage {stage.name} decided to {action.kind} {list(action.targets)}, expected "
                f"some of {list(known)}"
            )
        return action

    def _ask(self, stage: Stage, state: State, target: str, call: Call) -> None:
        answer, cost = call(target, state.text)
        if answer.model != target:
            raise PipelineError(
                f"the call for {target!r} answered as {answer.model!r}; name answers by target"
            )
        state.answers.append(answer)
        state.costs.append(math.nan if cost is None else cost)
        state.ledger.charge(stage.name, target, state.costs[-1])
