"""Cascade: one plan over routing and escalation, in which every answer and judgement costs.

Decides before an answer and again after each, on the estimate and on the judge's scores of the
answers so far (cascade routing: Dekoninck, Baader and Vechev 2024, arXiv 2410.10347, section 3).
With R the models already run, the best superset S maximises
    E[max_{m in S} q_m] - cost_weight sum_{m in S \\ R} (c_m + judging).
If S = R, the best answer so far is returned; otherwise the cheapest model of S \\ R runs, the judge
reads its answer, the estimates move, and the question is asked again.
With `max_depth=1`, or a judge that nobody can pay, this is plain utility routing (K2 of the survey
arXiv 2603.04445); with `order`, which allows only the next model of a fixed order, it is a
threshold cascade (K1).

Shape letters: Q queries, M models.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Self

import numpy as np

from wye.query.policies.choosing import (
    NOTHING_ALLOWED,
    IntArray,
    Reason,
    allowed_models,
    best_target,
    check_number,
    require_known,
    write_choice,
)
from wye.query.policies.judging import JudgeModel
from wye.query.policies.supermodel import SupermodelPlan, plan_supermodels
from wye.query.policy import Choice, Policy, PolicyError
from wye.query.wording import listed, usd

if TYPE_CHECKING:
    from wye.query.base import BoolArray, Estimate, FloatArray


@dataclass(frozen=True)
class CascadeState:
    """What is known of Q queries in the middle of a cascade.

    Attributes:
        estimate: before any answer.
        allowed: `[Q, M]`.
        mean: `[Q, M]` quality expected now.
        covariance: `[Q, M, M]` of what judging will still say; zero for judged models.
        ran: `[Q, M]` models run so far.
    """

    estimate: Estimate
    allowed: BoolArray
    mean: FloatArray
    covariance: FloatArray
    ran: BoolArray


@dataclass(frozen=True)
class Step:
    """What to do next with one query.

    Attributes:
        action: "run" `model`, or "return" the answer that `model` gave.
        model: None only where no model is allowed at all.
        judge: whether the answer of this run is to be judged and reported with `observe`; if not,
            it is the one to return.
        reason: why, in plain words.
        plan: the models that the plan of the moment would have run in the end.
    """

    action: Literal["run", "return"]
    model: str | None
    judge: bool
    reason: str
    plan: tuple[str, ...] = ()


class Cascade(Policy):
    """Route, judge the answer, escalate: whichever set of models is worth its whole cost.

    Args:
        cost_weight: how much quality one dollar is worth.
        judge_cost: USD that judging one answer takes; it counts for every answer that is judged.
        max_depth: the most models that may run for one query.
        beam: sets of models kept per size in the search.
        order: names of models, cheapest first, to walk in that order only; None for any order.

    Attributes:
        judge_: what `fit` learned of the judge; None before, and then nothing is worth escalating.

    Raises:
        PolicyError: a parameter out of range.

    Example:
        >>> Cascade(cost_weight=20, max_depth=2).describe()
        'cascade(cost_weight=20.0, judge_cost=0.0, max_depth=2, beam=16, order=None)'
    """

    name = "cascade"

    def __init__(
        self,
        *,
        cost_weight: float = 0.0,
        judge_cost: float = 0.0,
        max_depth: int = 3,
        beam: int = 16,
        order: tuple[str, ...] | None = None,
    ) -> None:
        self.cost_weight = check_number(self.name, "cost_weight", cost_weight)
        self.judge_cost = check_number(self.name, "judge_cost", judge_cost)
        self.max_depth = int(check_number(self.name, "max_depth", max_depth, low=1))
        self.beam = int(check_number(self.name, "beam", beam, low=1))
        self.order = None if order is None else tuple(order)
        if self.order is not None and not self.order:
            raise PolicyError("cascade: order is empty; name models, or leave it out")
        self.judge_: JudgeModel | None = None

    def fit(self, estimate: Estimate, quality: FloatArray, confidence: FloatArray) -> Self:
        """Learn what the judge's scores mean from held-out answers (`JudgeModel.fit`)."""
        self.judge_ = JudgeModel.fit(estimate, quality, confidence)
        return self

    def choose(
        self,
        estimate: Estimate,
        *,
        allowed: BoolArray | None = None,
        generator: np.random.Generator | None = None,
    ) -> Choice:
        """Choose the first model to run for each query; `open` leads one query to its end.

        Raises:
            PolicyError: the cost of an allowed model is unknown, or the judge never saw a model.
        """
        state = self.start(estimate, allowed=allowed)
        plan = self.plan(state)
        target = self.next_target(state, plan)

        def reason(i: int) -> Reason:
            if target[i] < 0:
                return NOTHING_ALLOWED
            return (self._run_reason(state, plan, i, int(target[i])),)

        return write_choice(estimate, self._score(state, plan, target), target, reason)

    def open(self, estimate: Estimate, *, allowed: BoolArray | None = None) -> CascadeRun:
        """Lead one query through the cascade, step by step.

        Raises:
            PolicyError: the estimate is not of exactly one query, or as `choose` raises.
        """
        if len(estimate) != 1:
            raise PolicyError(f"cascade: open takes one query, the estimate has {len(estimate)}")
        return CascadeRun(self, self.start(estimate, allowed=allowed))

    def start(self, estimate: Estimate, *, allowed: BoolArray | None = None) -> CascadeState:
        """The state of Q queries before any answer."""
        mask = allowed_models(estimate, allowed)
        if self.order is not None:
            unknown = [m for m in self.order if m not in estimate.models]
            if unknown:
                raise PolicyError(
                    f"cascade: order names {unknown}; the models are {list(estimate.models)}"
                )
            mask = mask & np.isin(np.array(estimate.models, dtype=object), self.order)
        if self.cost_weight:
            require_known(
                self.name,
                estimate,
                "cost",
                mask,
                "give their prices in the models table and fit again, leave them out with "
                "`allowed`, or set cost_weight=0",
            )
        return CascadeState(
            estimate=estimate,
            allowed=mask,
            mean=estimate.quality.copy(),
            covariance=self._covariance(estimate),
            ran=np.zeros(mask.shape, dtype=np.bool_),
        )

    def plan(self, state: CascadeState) -> SupermodelPlan:
        """The best set of models for each query of `state`, all with as many models run."""
        price = self.cost_weight * np.nan_to_num(state.estimate.cost, nan=0.0)
        return plan_supermodels(
            state.mean,
            state.covariance,
            price,
            self.cost_weight * self.judge_cost,
            state.ran,
            self._open(state),
            depth=min(self.max_depth, int(state.ran[0].sum()) + 1)
            if self.order is not None and len(state.estimate)
            else self.max_depth,
            beam=self.beam,
        )

    def next_target(self, state: CascadeState, plan: SupermodelPlan) -> IntArray:
        """`[Q]` column to run next: the cheapest of the plan; -1 to stop."""
        left = plan.members & ~state.ran
        cost = np.nan_to_num(state.estimate.cost, nan=np.inf)
        return best_target(np.where(left, -cost, -np.inf), -state.mean)

    def unread(self, plan: SupermodelPlan, state: CascadeState) -> BoolArray:
        """`[Q]` whether the next answer is returned without judging: a plan of one model."""
        first = ~state.ran.any(axis=1)
        unread: BoolArray = first & (plan.members.sum(axis=1) == 1) & (self.order is None)
        return unread

    def judged(self, state: CascadeState, target: IntArray, confidence: FloatArray) -> CascadeState:
        """The state after column `target[i]` answered with the judge's score `confidence[i]`.

        A score of NaN leaves the estimates as they are; the answer still counts as run.
        """
        rows = np.arange(len(state.estimate))
        ran = state.ran.copy()
        ran[rows, target] = True
        own = state.covariance[rows, target, target]
        moved = np.zeros(rows.shape[0])
        if self.judge_ is not None:
            model = self.judge_.restrict(state.estimate.models)
            scores = np.full(state.mean.shape, np.nan)
            scores[rows, target] = confidence
            after = model.posterior(state.mean, scores)
            moved = after[rows, target] - state.mean[rows, target]
        link = state.covariance[rows, target] / np.where(own > 0, own, 1.0)[:, None]
        link[rows, target] = 1.0
        heard = np.isfinite(confidence)[:, None] & (own > 0)[:, None]
        mean = np.where(heard, np.clip(state.mean + link * moved[:, None], 0.0, 1.0), state.mean)
        shared = link[:, :, None] * state.covariance[rows, target][:, None, :]
        covariance = np.where(heard[:, :, None], state.covariance - shared, state.covariance)
        # What has been run says nothing more, whether its score was heard or not.
        covariance[rows, target, :] = 0.0
        covariance[rows, :, target] = 0.0
        return CascadeState(state.estimate, state.allowed, mean, covariance, ran)

    def best_answer(self, state: CascadeState) -> IntArray:
        """`[Q]` the run model whose answer is expected to be best now, -1 where none ran."""
        return best_target(np.where(state.ran, state.mean, -np.inf), state.estimate.cost)

    def _covariance(self, estimate: Estimate) -> FloatArray:
        n_queries, n_models = estimate.quality.shape
        if self.judge_ is None:
            return np.zeros((n_queries, n_models, n_models))
        return self.judge_.restrict(estimate.models).covariance(estimate.quality)

    def _open(self, state: CascadeState) -> BoolArray:
        if self.order is None:
            return state.allowed
        walk = np.array([state.estimate.models.index(m) for m in self.order])
        left = state.allowed[:, walk] & ~state.ran[:, walk]
        following = np.zeros_like(state.allowed)
        rows = np.flatnonzero(left.any(axis=1))
        following[rows, walk[left[rows].argmax(axis=1)]] = True
        return following

    def _score(self, state: CascadeState, plan: SupermodelPlan, target: IntArray) -> FloatArray:
        score = plan.first_value.copy()
        rows = np.flatnonzero(target >= 0)
        score[rows, target[rows]] = np.maximum(score[rows, target[rows]], plan.value[rows])
        return np.where(state.allowed, score, -np.inf)

    def _run_reason(self, state: CascadeState, plan: SupermodelPlan, i: int, chosen: int) -> str:
        estimate = state.estimate
        members = [m for m, in_it in zip(estimate.models, plan.members[i], strict=True) if in_it]
        name = estimate.models[chosen]
        figures = (
            f"{name}: expected quality {state.mean[i, chosen]:.3f} for "
            f"{usd(float(estimate.cost[i, chosen]))}"
        )
        if len(members) == 1:
            return f"no second answer is worth its cost, so one model answers: {figures}"
        return (
            f"{name} goes first, as the cheapest of a plan over {listed(members)} worth "
            f"{plan.value[i]:.3f} in quality after cost; after its answer the plan is made again "
            f"({figures})"
        )


@dataclass
class CascadeRun:
    """One query on its way through a cascade: `step`, run the model, `observe`, and again.

    Example:
        >>> import numpy as np
        >>> from wye.query.base import Estimate
        >>> one = np.array([[0.6, 0.9]])
        >>> estimate = Estimate(("a", "b"), one, 0 * one, one * 1e-3, one, np.zeros(1))
        >>> Cascade().open(estimate).step().model
        'b'
    """

    policy: Cascade
    state: CascadeState
    scores: dict[str, float | None] = field(default_factory=dict)

    def step(self) -> Step:
        """What to do next."""
        policy, state = self.policy, self.state
        plan = policy.plan(state)
        target = int(policy.next_target(state, plan)[0])
        models = state.estimate.models
        names = tuple(m for m, in_it in zip(models, plan.members[0], strict=True) if in_it)
        if target >= 0:
            single = policy.unread(plan, state)[0]
            reason = policy._run_reason(state, plan, 0, target)
            if self.scores:
                reason = f"{self._so_far()}; escalating is worth its cost: {reason}"
            return Step("run", models[target], not bool(single), reason, names)
        best = int(policy.best_answer(state)[0])
        if best < 0:
            return Step("return", None, False, NOTHING_ALLOWED[0])
        return Step(
            "return",
            models[best],
            False,
            f"{self._so_far()}; no further answer is worth its cost, so that of {models[best]} "
            f"is returned (expected quality {state.mean[0, best]:.3f})",
            names,
        )

    def observe(self, model: str, score: float | None) -> Step:
        """Report the judge's score (0 to 1, None when unknown) of `model`'s answer; what is next.

        Raises:
            PolicyError: an unknown model, one that ran already, or a score out of range.
        """
        models = self.state.estimate.models
        if model not in models or model in self.scores:
            raise PolicyError(
                f"cascade: cannot observe {model!r}; still open are "
                f"{[m for m in models if m not in self.scores]}"
            )
        if score is not None and not 0.0 <= score <= 1.0:
            raise PolicyError(f"cascade: score={score!r}, expected 0 to 1, or None")
        value = np.array([np.nan if score is None else score])
        self.state = self.policy.judged(self.state, np.array([models.index(model)]), value)
        self.scores[model] = score
        return self.step()

    def _so_far(self) -> str:
        parts = [
            f"{m} scored {'nothing' if s is None else f'{s:.3f}'}" for m, s in self.scores.items()
        ]
        return ", ".join(parts)
