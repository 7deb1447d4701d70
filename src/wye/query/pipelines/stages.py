"""The stages that pipelines are made of: guard, eligibility, route, judge, escalate.

Any router, policy, judge or guard of the library is a stage by one of these.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import numpy as np

from wye.query.arguments import check_policy
from wye.query.base import QueryRouter
from wye.query.pipelines.frame import Facets, How, PipelineError, is_number
from wye.query.pipelines.pipeline import Action, Kind, Stage, State
from wye.query.policies.choosing import targets_of
from wye.query.policies.judging import Judge
from wye.query.policies.quality import Quality
from wye.query.policy import Policy


class GuardStage(Stage):
    """Reject a query that `refuses` names a reason for, before anything is spent on it.

    Args:
        refuses: of the text, the reason for which it is rejected, or None.
        how: by which means it decides.
    """

    name = "guard"
    before_spending = True
    may: frozenset[Kind] = frozenset({"reject", "defer"})

    def __init__(self, refuses: Callable[[str], str | None], *, how: How = "rule") -> None:
        self.refuses = refuses
        self.facets = Facets("before the answer", ("text",), how)

    def decide(self, state: State) -> Action:
        """Reject or pass on."""
        reason = self.refuses(state.text)
        return Action("defer") if reason is None else Action("reject", reason=reason)


class EligibleStage(Stage):
    """Keep the targets that can serve what the caller needs, by `metadata["needs"]`.

    Args:
        offers: what each target can do, for instance `{"large": {"images", "tools"}}`.

    Raises:
        PipelineError: anything else than sets of words by target.
    """

    name = "eligible"
    facets = Facets("before the answer", ("metadata",), "rule")
    may: frozenset[Kind] = frozenset({"keep", "reject"})

    def __init__(self, offers: Mapping[str, Collection[str]]) -> None:
        if not isinstance(offers, Mapping) or not all(
            isinstance(o, Collection)
            and not isinstance(o, str)
            and all(isinstance(w, str) for w in o)
            for o in offers.values()
        ):
            raise PipelineError(
                f"offers is {offers!r}, expected lists of words by target, such as "
                "{'large': ['images', 'tools']}"
            )
        self.offers = {target: set(words) for target, words in offers.items()}
        self.names = tuple(self.offers)

    def decide(self, state: State) -> Action:
        """Keep those that offer all that is needed."""
        needs = set(state.metadata.get("needs", ()))
        able = tuple(t for t in state.targets if needs <= self.offers.get(t, set()))
        if able:
            return Action("keep", able, f"these can serve {sorted(needs)}" if needs else "no needs")
        return Action("reject", reason=f"no target offers {sorted(needs)}")


class RouteStage(Stage):
    """Choose a target by a router and a policy, and run it.

    Models that cost more than is left in the ledger cannot be chosen; with a price in the ledger,
    quality - price * cost decides among the rest.

    Args:
        router: fitted.
        policy: the rule; `Quality()` when not given. Stateful policies keep an account of their
            own, beside the ledger, and are refused.
        how: by which means the router decides.

    Raises:
        PipelineError: a router or policy that is none, or a stateful policy.
    """

    name = "route"
    may: frozenset[Kind] = frozenset({"run", "reject"})

    def __init__(
        self, router: QueryRouter, policy: Policy | None = None, *, how: How = "supervised"
    ) -> None:
        if not isinstance(router, QueryRouter):
            raise PipelineError(f"router is {router!r}, expected a fitted router")
        if policy is not None:
            check_policy(policy)
        self.router = router
        self.policy = Quality() if policy is None else policy
        if self.policy.stateful:
            raise PipelineError(
                f"{self.policy.describe()} keeps its own account; give the pipeline a ledger with "
                "that budget instead"
            )
        self.reach = router.models_
        self.facets = Facets("before the answer", ("text", "cost"), how)

    def decide(self, state: State) -> Action:
        """Run the best target that can be paid."""
        known = [t for t in state.unasked if t in self.router.models_]
        if not known:
            return Action("reject", reason=f"{self.router.name} knows none of {state.unasked}")
        estimate = self.router.estimate([state.text]).restrict(known)
        state.ledger.charge(self.name, self.router.name, estimate.router_cost)
        state.estimate = estimate
        price = state.ledger.price
        cost = estimate.cost[0]
        payable = np.where(np.isnan(cost), np.isinf(state.ledger.left_usd), cost) <= (
            state.ledger.left_usd
        )
        if not payable.any():
            return Action("reject", reason=f"{state.ledger.left_usd:.6f} USD pay for none")
        if price > 0:
            score = np.where(payable, estimate.quality[0] - price * cost, -np.inf)
            target = known[int(np.argmax(score))]
            return Action("run", (target,), f"best at a price of {price:.4g} quality per USD")
        choice = self.policy.choose(estimate, allowed=payable[None])
        column = int(targets_of(choice)[0])
        if column < 0:
            return Action("reject", reason="; ".join(choice.reasons[0]))
        return Action("run", (known[column],), choice.reasons[0][0] if choice.reasons[0] else "")


class JudgeStage(Stage):
    """Accept the last answer where the judge's score reaches a threshold, else defer.

    Args:
        judge: reads the answer.
        threshold: least score that is accepted, 0 to 1. A score that cannot be said defers.

    Raises:
        PipelineError: a threshold outside 0 to 1.
    """

    name = "judge"
    may: frozenset[Kind] = frozenset({"accept", "defer"})

    def __init__(self, judge: Judge, threshold: float, *, how: How = "uncertainty") -> None:
        if not is_number(threshold) or not 0.0 <= threshold <= 1.0:
            raise PipelineError(f"threshold is {threshold!r}, expected a number from 0 to 1")
        self.judge = judge
        self.threshold = threshold
        self.facets = Facets("after the answer", ("text", "answers"), how)

    def decide(self, state: State) -> Action:
        """Accept or pass on."""
        score = self.judge.score(state.text, state.last)
        state.ledger.charge(self.name, self.judge.name, self.judge.cost)
        if score is not None and score >= self.threshold:
            reason = f"{self.judge.name} {score:.3f} >= {self.threshold:g}"
            return Action("accept", (state.last.model,), reason)
        said = "nothing" if score is None else f"{score:.3f}"
        return Action("defer", reason=f"{self.judge.name} said {said}, below {self.threshold:g}")


class RunStage(Stage):
    """Run one given target, if it has not answered and can be paid; the step of a fixed cascade.

    Args:
        target: a name.
        cost_usd: what an answer of it is expected to cost.

    Raises:
        PipelineError: a target that is no name, or a cost that is no number of 0 or more.
    """

    may: frozenset[Kind] = frozenset({"run", "defer"})

    def __init__(self, target: str, *, cost_usd: float = 0.0) -> None:
        if not isinstance(target, str):
            raise PipelineError(f"target is {target!r}, expected the name of one")
        if not is_number(cost_usd) or not 0.0 <= cost_usd < float("inf"):
            raise PipelineError(f"cost_usd is {cost_usd!r}, expected a number of 0 or more")
        self.names, self.runs = (target,), target
        self.target = target
        self.cost_usd = cost_usd
        self.name = f"run {target}"
        self.facets = Facets("before the answer", ("cost",), "rule")

    def decide(self, state: State) -> Action:
        """Run it, or pass on where that is not possible."""
        if self.target not in state.unasked:
            return Action("defer", reason=f"{self.target} is not open to this query")
        if self.cost_usd > state.ledger.left_usd:
            return Action("defer", reason=f"{state.ledger.left_usd:.6f} USD do not pay for it")
        return Action("run", (self.target,), "next of a fixed order")


def _are_words(offered: object) -> bool:
    if isinstance(offered, str) or not isinstance(offered, Collection):
        return False
    return all(isinstance(word, str) for word in offered)
