"""From a request to a decision: estimate, policy, record.

Routes a chat request to one of the configured targets, before any answer exists, on what the person
asks (`wye.query.ask`) and the request's declared needs. When the chosen target fails, the same
estimate is put before the same policy again without it.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from wye.gateway.config import Config, Target
from wye.gateway.decision_record import candidates_of, context_of, features_of
from wye.gateway.estimates import Expected
from wye.gateway.learning.course import Course
from wye.gateway.learning.learner import LearnerView
from wye.gateway.learning.records import AssignmentRecord, LearningRecord
from wye.gateway.learning.trials import Trials
from wye.gateway.money.usage import Usage
from wye.gateway.openai_api import ChatRequest
from wye.gateway.policy_set import PolicySet
from wye.gateway.records import DecisionRecord, new_id
from wye.gateway.store import Store
from wye.query.base import QueryRouter
from wye.query.policy import Choice, Policy, chances

DIRECT = "direct"
GUARD = "guard"


@dataclass
class Held:
    """What a policy holds for a request's present choice, in USD; None where it tells nothing."""

    usd: float | None = None


@dataclass(frozen=True)
class Routed:
    """A decision in progress.

    Attributes:
        record: what is stored of it.
        target: where the request goes; None when the policy found nothing to choose.
        expected: the estimate it rests on, for a second choice and for the baseline.
        policy: the policy that chose and must be settled with; None for a direct request.
        held: what that policy set aside for the choice, or for the latest one after it.
    """

    record: DecisionRecord
    target: str | None
    expected: Expected
    policy: Policy | None
    held: Held = field(default_factory=Held)

    def settle(self, cost: float) -> None:
        """Tell the policy what its latest choice for this request really cost, in USD."""
        if self.policy is None:
            return
        if self.held.usd is None:
            self.policy.settle(cost)
        else:
            self.policy.settle(cost, reserved=self.held.usd)


class RouterService:
    """Decides, for every request, which target answers.

    Args:
        config: targets, policies, baseline, seed.
        router: a fitted router; None when there is none, then priors alone speak.
        spent: USD that each policy has spent before this start, by its name, so that a budget
            holds across restarts.

    Attributes:
        present: what decides requests that come from here on.
        trials: the experiments that run.

    Raises:
        ConfigError: a policy's kind or parameters are wrong.
    """

    def __init__(
        self, config: Config, router: QueryRouter | None, spent: Mapping[str, float] | None = None
    ) -> None:
        self.targets: tuple[Target, ...] = config.targets
        self.by_name = {t.name: t for t in config.targets}
        self.generator = config.router.generator()
        self.present = PolicySet(config, router, self.generator, spent=spent)
        self.trials = Trials()
        self._keep_text = config.prompts_kept
        self._baseline = config.baseline
        self._quality_sum = np.zeros(len(config.targets))

    @property
    def policies(self) -> Mapping[str, Policy]:
        """The policies that may be asked for, by name."""
        return self.present.policies

    @property
    def first_policy(self) -> str:
        """The policy that `model: "wye"` asks for."""
        return self.present.default_policy

    @property
    def known(self) -> list[str]:
        """Targets of which the router has outcomes."""
        return list(self.present.columns)

    def rehearsal(self) -> RouterService:
        """A copy whose choices leave no trace here: nothing is booked and nothing is drawn."""
        twin = copy.copy(self)
        twin.present = self.present.rehearsal()
        twin._quality_sum = self._quality_sum.copy()
        return twin

    async def expect(
        self,
        chat: ChatRequest,
        *,
        policy: str | None = None,
        key: str | None = None,
        session: str | None = None,
    ) -> Expected:
        """What is expected of every target on `chat`, by the set of policies that decides it.

        Args:
            policy: the policy that was asked for; None where the client named a target.
            key, session: who asks, so that a conversation stays in its arm of an experiment.
        """
        if policy is None:
            course = Course(self.present)
        else:
            course = self.trials.course(self.present, policy, key, session)
        expected = await course.deciding.expect(chat)
        expected.course = course
        self._quality_sum += expected.estimate.quality[0]
        return expected

    def decide(
        self,
        chat: ChatRequest,
        expected: Expected,
        policy_name: str,
        excluded: Mapping[str, str],
    ) -> Routed:
        """Choose among the targets that are not `excluded` (each with its reason)."""
        started = time.perf_counter()
        deciding = self._deciding(expected)
        policy = deciding.policy(policy_name, chat)
        choice, excluded = deciding.choose(policy, expected, excluded)
        column = _column(choice)
        target = expected.estimate.models[column] if column >= 0 else None
        reasons = choice.reasons[0] if choice is not None else ("every target is excluded",)
        record = self._record(
            chat,
            expected,
            policy_name=policy_name,
            policy=policy.describe(),
            target=target,
            propensity=float(choice.propensity[0]) if choice is not None and target else 1.0,
            scores=choice.score[0] if choice is not None else None,
            law=chances(choice, 0, column) if choice is not None else None,
            reasons=(*reasons, *_trial(expected), *context_of(target, expected, excluded)),
            excluded=excluded,
            seconds=time.perf_counter() - started,
        )
        if target is None:
            return Routed(record, None, expected, None)
        return Routed(record, target, expected, policy, Held(_reserved(choice)))

    def direct(
        self, chat: ChatRequest, expected: Expected, target: str, refused: str | None = None
    ) -> Routed:
        """The decision of a client that named the target itself; `refused` says why it may not."""
        started = time.perf_counter()
        record = self._record(
            chat,
            expected,
            policy_name=DIRECT,
            policy=DIRECT,
            target=target if refused is None else None,
            propensity=1.0,
            scores=None,
            law=None,
            reasons=(
                f"the client asked for {target} by name",
                *((f"{target} was left out: {refused}",) if refused is not None else ()),
            ),
            excluded={target: refused} if refused is not None else {},
            seconds=time.perf_counter() - started,
        )
        return Routed(record, record.target, expected, None)

    def guarded(
        self,
        chat: ChatRequest,
        expected: Expected,
        target: str | None,
        reasons: tuple[str, ...],
        refused: str | None = None,
    ) -> Routed:
        """The decision of the guard, which no policy has made; `refused` says why it may not be."""
        left_out = {target: refused} if target is not None and refused is not None else {}
        record = self._record(
            chat,
            expected,
            policy_name=GUARD,
            policy=DIRECT,
            target=None if left_out else target,
            propensity=1.0,
            scores=None,
            law=None,
            reasons=(*reasons, *(f"{name} was left out: {why}" for name, why in left_out.items())),
            excluded=left_out,
            seconds=0.0,
        )
        return Routed(record, record.target, expected, None)

    def remember(self, chat: ChatRequest, routed: Routed, store: Store) -> None:
        """Store a decision, and what learning needs of it; have the shadows decide it too."""
        record = routed.record
        store.add(record)
        course = routed.expected.course
        for further in _further(routed):
            store.add(further)
        if course is not None and course.shadows and routed.policy is not None:
            self.trials.shadows.add(course, chat, record, routed.expected, store)

    def again(self, routed: Routed, excluded: Mapping[str, str]) -> str | None:
        """The same policy's next choice without the `excluded`; None when none is left."""
        if routed.policy is None:
            return None
        # The router's own cost was counted with the first choice.
        estimate = replace(routed.expected.estimate, router_cost=0.0)
        expected = replace(routed.expected, estimate=estimate)
        choice, _ = self._deciding(expected).choose(routed.policy, expected, excluded)
        column = _column(choice)
        if column < 0:
            return None
        routed.held.usd = _reserved(choice)
        return expected.estimate.models[column]

    def baseline(self) -> str:
        """The target that 'all to the best model' means: configured, or of best mean estimate."""
        if self._baseline is not None:
            return self._baseline
        return self.targets[int(np.argmax(self._quality_sum))].name

    def baseline_cost(
        self, routed: Routed, served: str, cost: float | None, usage: Usage
    ) -> float | None:
        """USD that this request is expected to have cost at the baseline target.

        Its real cost where the baseline served it; the router's estimate where the router knows the
        baseline; else the tokens that were used, at the baseline's prices. What is cached of the
        conversation anywhere would be cached at the baseline, had it all gone there.
        """
        baseline, followed = self.baseline(), routed.expected.conversation
        if baseline == served:
            return cost
        if baseline in self._deciding(routed.expected).columns:
            column = routed.expected.estimate.models.index(baseline)
            costs = routed.expected.estimate.cost[0] if followed is None else followed.always
            value = float(costs[column])
            if math.isfinite(value):
                return value
        known = followed.known if followed is not None else 0
        return self.by_name[baseline].price(
            Usage(usage.input, usage.output, cached_input=min(known, usage.input))
        )

    def _deciding(self, expected: Expected) -> PolicySet:
        return expected.course.deciding if expected.course is not None else self.present

    def _record(
        self,
        chat: ChatRequest,
        expected: Expected,
        *,
        policy_name: str,
        policy: str,
        target: str | None,
        propensity: float,
        scores: np.ndarray | None,
        law: np.ndarray | None,
        reasons: tuple[str, ...],
        excluded: Mapping[str, str],
        seconds: float,
    ) -> DecisionRecord:
        deciding = self._deciding(expected)
        return DecisionRecord(
            id=new_id(),
            time=time.time(),
            requested=chat.model,
            policy_name=policy_name,
            policy=policy,
            router=deciding.router_name,
            policy_version=deciding.digest,
            target=target,
            propensity=propensity,
            candidates=candidates_of(expected, scores, law, excluded),
            excluded=dict(excluded),
            reasons=reasons,
            features=features_of(chat, expected),
            text=chat.text if self._keep_text else None,
            stream=chat.stream,
            router_cost_usd=expected.estimate.router_cost,
            router_seconds=expected.seconds + seconds,
        )


def _column(choice: Choice | None) -> int:
    """The chosen column of one query; -1 where nothing was chosen."""
    if choice is None or len(choice.plan.target) == 0:
        return -1
    return int(choice.plan.target[0])


def _reserved(choice: Choice | None) -> float | None:
    """USD that a policy holds for its choice for one query; None where it tells nothing."""
    if choice is None or choice.reserved is None:
        return None
    return float(choice.reserved[0])


def _trial(expected: Expected) -> tuple[str, ...]:
    """In which experiment the decision was made, in words."""
    course = expected.course
    if course is None or course.assignment is None:
        return ()
    arm = course.assignment
    return (f"it is of the {arm.arm} arm of the experiment {arm.name!r}",)


def _further(routed: Routed) -> list[LearningRecord]:
    """What is stored beside a decision: what a learner read, and the arm of an experiment."""
    found: list[LearningRecord] = []
    if isinstance(routed.policy, LearnerView):
        found.append(routed.policy.record(routed.record.id, routed.expected.estimate))
    course = routed.expected.course
    if course is not None and course.assignment is not None and routed.policy is not None:
        arm = course.assignment
        found.append(AssignmentRecord(routed.record.id, arm.experiment, arm.arm, arm.unit))
    return found
