"""Budget: a hard total over a stream, never overspent, paced by an online dual price.

Decides before an answer, on the estimate and on what has been spent. Online: choose
argmax q - price x cost among what still fits, then move the price (Balseiro, Lu and Mirrokni 2020,
arXiv 2002.10421, algorithm 1; core's `DualPrice`). In one batch: the best total quality within the
total cost (core's `within_budget`).

Shape letters: Q queries, M models.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from typing import TYPE_CHECKING, ClassVar, Literal

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
from wye.query.policy import Choice, Policy, PolicyError
from wye.query.wording import usd

if TYPE_CHECKING:
    from wye.core import DualPrice
    from wye.query.base import BoolArray, Estimate, FloatArray

_LEAST_PACE = 1e-3


class Budget(Policy):
    """Best quality under a hard total in USD, over a stream of queries or over one batch.

    Every choice reserves `worst_case` times its expected cost until `settle` says what it really
    cost (`Choice.reserved`); a model is feasible only where its reserve fits into what is neither
    spent nor reserved.
    So as long as no answer costs more than `worst_case` times its estimate, the total is never
    overspent, whatever the order of settling. An answer beyond that bound can exceed the total by
    no more than its own excess. The router's own cost is spent as it is incurred, and that of the
    queries still to come is held back.

    With a `horizon` the choices are paced: the price of a dollar rises when spending runs ahead of
    what is left per query left. Without one, each call of `choose` may spend all that is left, best
    for its queries together.

    `choose` and `settle` change the account: call them from one thread.

    Args:
        total: USD for everything.
        horizon: number of queries that the total is for; None for batches.
        worst_case: the most that an answer can cost, as a multiple of its estimate, at least 1.
        shortage: where the model that the price favours no longer fits: "degrade" takes the best
            that fits, "abstain" none. Where nothing fits the query goes nowhere either way.
        learning_rate: how fast the price moves, in quality; 1 / sqrt(horizon) when None.
        price: quality per USD to start from; `warm_start` computes one.
        spent: USD already spent, after a restart.
        epsilon: share of queries that take a feasible model at random, with exact propensity; needs
            a horizon.

    Attributes:
        spent_: USD spent so far, as settled.
        reserved_: USD reserved for answers that are not settled.
        price_: quality per USD at the moment.
        answered_: queries that got a model so far.

    Raises:
        PolicyError: a parameter out of range.

    Example:
        >>> policy = Budget(total=1.0, horizon=1000)
        >>> policy.settle(0.25)
        >>> policy.left
        0.75
    """

    name = "budget"
    stateful: ClassVar[bool] = True

    def __init__(
        self,
        *,
        total: float,
        horizon: int | None = None,
        worst_case: float = 2.0,
        shortage: Literal["degrade", "abstain"] = "degrade",
        learning_rate: float | None = None,
        price: float = 0.0,
        spent: float = 0.0,
        epsilon: float = 0.0,
    ) -> None:
        self.total = check_number(self.name, "total", total)
        if horizon is not None and (isinstance(horizon, bool) or int(horizon) != horizon):
            raise PolicyError(f"budget: horizon={horizon!r}, expected a whole number of queries")
        self.horizon = None if horizon is None else int(horizon)
        if self.horizon is not None and self.horizon < 1:
            raise PolicyError(f"budget: horizon={horizon!r}, expected at least 1 query")
        self.worst_case = check_number(self.name, "worst_case", worst_case, low=1.0)
        if shortage not in ("degrade", "abstain"):
            raise PolicyError(f"budget: shortage={shortage!r}, expected 'degrade' or 'abstain'")
        self.shortage = shortage
        self.learning_rate = (
            None
            if learning_rate is None
            else check_number(self.name, "learning_rate", learning_rate, low=1e-12)
        )
        self.price = check_number(self.name, "price", price)
        self.spent = check_number(self.name, "spent", spent)
        self.epsilon = check_number(self.name, "epsilon", epsilon, high=1.0)
        if self.epsilon and self.horizon is None:
            raise PolicyError("budget: epsilon needs a horizon; give one, or epsilon=0")
        self.spent_ = self.spent
        self.answered_ = 0
        self._seen = 0
        # Negated and in order, so that the smallest reserve is the last.
        self._reserves: list[float] = []
        self._reserved = 0.0
        self._pace: DualPrice | None = None
        if self.horizon is not None and self.total > 0:
            self._pace = self._new_pace(self.horizon)

    @property
    def reserved_(self) -> float:
        """USD reserved for answers that are not settled."""
        return self._reserved

    @property
    def left(self) -> float:
        """USD neither spent nor reserved; negative where answers broke their bound."""
        return self.total - self.spent_ - self.reserved_

    @property
    def price_(self) -> float:
        """Quality per USD at the moment, 0 without a horizon."""
        return 0.0 if self._pace is None else self._pace.price

    def warm_start(self, estimate: Estimate, *, allowed: BoolArray | None = None) -> Budget:
        """Start from the dual price of a sample of queries like those to come; returns itself.

        Raises:
            PolicyError: no horizon, or choices have been made already.
        """
        if self.horizon is None or self._seen:
            raise PolicyError("budget: warm_start needs a horizon and comes before the first query")
        from wye.core import solve_budget

        mask = self._priced(estimate, allowed)
        per_query = max(self.total / self.horizon - estimate.router_cost, 0.0)
        solution = solve_budget(
            np.where(mask, estimate.quality, -np.inf),
            np.where(mask, estimate.cost, 0.0),
            per_query * len(estimate),
            leave_out=True,
        )
        self.price = float(solution.price)
        if self._pace is not None:
            self._pace = self._new_pace(self.horizon)
        return self

    def settle(self, cost: float, *, reserved: float | None = None) -> None:
        """Count `cost` USD as spent and release the reserve of that choice.

        A request that failed settles with 0. Without `reserved` it is unknown whose answer it was;
        then the smallest reserve that is out is released, which keeps at least what the others
        need. Where several are out that may hold money for nobody until all are settled.

        Raises:
            PolicyError: cost is negative or not finite, or no such reserve is out.
        """
        if not (math.isfinite(cost) and cost >= 0):
            raise PolicyError(f"budget: settled cost is {cost!r}, expected finite USD >= 0")
        if reserved is not None:
            self._release(reserved)
        elif self._reserves:
            self._release(-self._reserves[-1])
        self.spent_ += cost

    def choose(
        self,
        estimate: Estimate,
        *,
        allowed: BoolArray | None = None,
        generator: np.random.Generator | None = None,
    ) -> Choice:
        """Choose for the queries in their order, and reserve what the choices may cost.

        Raises:
            PolicyError: the cost of an allowed model is unknown; the message names it.
        """
        mask = self._priced(estimate, allowed)
        self.spent_ += estimate.router_cost * len(estimate)
        if self.horizon is None:
            return self._choose_batch(estimate, mask)
        return self._choose_stream(estimate, mask, generator)

    def _choose_batch(self, estimate: Estimate, mask: BoolArray) -> Choice:
        from wye.core import within_budget

        score = np.where(mask, estimate.quality, -np.inf)
        worst = np.where(mask, self.worst_case * estimate.cost, np.inf)
        left = max(self.left, 0.0)
        score = np.where(worst <= left, score, -np.inf)
        possible = np.flatnonzero(~np.isneginf(score).all(axis=1))
        target = np.full(len(estimate), -1, dtype=np.intp)
        if possible.size:
            least = worst[possible].min(axis=1).sum()
            plan = within_budget(
                score[possible],
                np.where(np.isfinite(worst[possible]), worst[possible], 0.0),
                left,
                leave_out=bool(least > left),
            )
            target[possible[np.asarray(plan.source)]] = np.asarray(plan.target)
        [answered] = np.nonzero(target >= 0)
        reserved = np.zeros(len(estimate))
        reserved[answered] = worst[answered, target[answered]]
        self._reserve(reserved[answered].tolist())
        self._seen += len(estimate)
        self.answered_ += int((target >= 0).sum())

        def reason(i: int) -> Reason:
            chosen = int(target[i])
            if not mask[i].any():
                return NOTHING_ALLOWED
            if chosen < 0:
                return (f"no model fits into the {usd(left)} that are left for this batch",)
            return (
                (
                    f"{estimate.models[chosen]} is part of the plan with the best total quality "
                    f"for {len(estimate)} queries within {usd(left)}: expected quality "
                    f"{estimate.quality[i, chosen]:.3f} for {usd(float(estimate.cost[i, chosen]))}"
                ),
                f"{usd(float(worst[i, chosen]))} is reserved for it",
            )

        return write_choice(estimate, score, target, reason, reserved=reserved)

    def _choose_stream(
        self, estimate: Estimate, mask: BoolArray, generator: np.random.Generator | None
    ) -> Choice:
        # A stream is sequential: each choice moves the price that the next one sees.
        n_queries = len(estimate)
        score = np.full(mask.shape, -np.inf)
        target = np.full(n_queries, -1, dtype=np.intp)
        propensity, reserved = np.ones(n_queries), np.zeros(n_queries)
        account = np.zeros((n_queries, 2))
        rng = np.random.default_rng() if generator is None and self.epsilon else generator
        for i in range(n_queries):
            left = self._left_for_answers(estimate.router_cost)
            account[i] = left, self.price_
            priced = np.where(
                mask[i], estimate.quality[i] - self.price_ * estimate.cost[i], -np.inf
            )
            fits = mask[i] & (self.worst_case * estimate.cost[i] <= left)
            if self.shortage == "abstain":
                favourite = best_target(priced[None], estimate.cost[i : i + 1])[0]
                fits = fits & bool(favourite >= 0 and fits[favourite])
            score[i] = np.where(fits, priced, -np.inf)
            target[i] = best_target(score[i : i + 1], estimate.cost[i : i + 1])[0]
            if self.epsilon and rng is not None and target[i] >= 0:
                target[i], propensity[i] = self._explore(fits, int(target[i]), rng)
            reserved[i] = self._commit(estimate, i, int(target[i]))
        return write_choice(
            estimate,
            score,
            target,
            self._stream_reason(estimate, mask, target, account),
            propensity,
            reserved=reserved,
        )

    def _explore(self, fits: BoolArray, greedy: int, rng: np.random.Generator) -> tuple[int, float]:
        options = np.flatnonzero(fits)
        share = self.epsilon / options.size
        chosen = int(rng.choice(options)) if rng.random() < self.epsilon else greedy
        return chosen, (1.0 - self.epsilon + share) if chosen == greedy else share

    def _commit(self, estimate: Estimate, i: int, chosen: int) -> float:
        """Book a choice; what is reserved for it."""
        cost = float(estimate.cost[i, chosen]) if chosen >= 0 else 0.0
        worst = self.worst_case * cost
        if chosen >= 0:
            self._reserve([worst])
            self.answered_ += 1
        self._seen += 1
        if self._pace is None or self.horizon is None:
            return worst
        steps_left = max(self.horizon - self._seen, 1)
        expected_left = (
            self.total
            - self.spent_
            - self.reserved_ / self.worst_case
            - estimate.router_cost * (steps_left - 1)
        )
        least = _LEAST_PACE * self.total / self.horizon
        self._pace.update(cost, budget=max(expected_left / steps_left, least))
        return worst

    def _reserve(self, worst: list[float]) -> None:
        if len(worst) == 1:
            # A stream of choices that nobody settles yet would sort a longer list each time.
            insort(self._reserves, -worst[0])
        else:
            self._reserves.extend(-one for one in worst)
            self._reserves.sort()
        self._reserved += math.fsum(worst)

    def _release(self, reserved: float) -> None:
        place = bisect_left(self._reserves, -reserved)
        if place == len(self._reserves) or self._reserves[place] != -reserved:
            raise PolicyError(
                f"budget: no reserve of {reserved!r} USD is out; settle each choice once, with its "
                "own `Choice.reserved`, or without"
            )
        del self._reserves[place]
        # The running sum drifts by roundings, and must end at nothing.
        self._reserved = self._reserved - reserved if self._reserves else 0.0

    def _left_for_answers(self, router_cost: float) -> float:
        to_come = 0 if self.horizon is None else max(self.horizon - self._seen - 1, 0)
        return self.left - router_cost * to_come

    def _new_pace(self, horizon: int) -> DualPrice:
        from wye.core import DualPrice

        rate = self.learning_rate if self.learning_rate is not None else 1.0 / math.sqrt(horizon)
        return DualPrice(budget=self.total / horizon, learning_rate=rate, price=self.price)

    def _stream_reason(
        self, estimate: Estimate, mask: BoolArray, target: IntArray, account: FloatArray
    ) -> _StreamReason:
        return _StreamReason(estimate, mask, target, account, self.worst_case)

    def _priced(self, estimate: Estimate, allowed: BoolArray | None) -> BoolArray:
        mask = allowed_models(estimate, allowed)
        require_known(
            self.name,
            estimate,
            "cost",
            mask,
            "a budget cannot hold what it cannot count: give their prices in the models table and "
            "fit again, or leave them out with `allowed`",
        )
        return mask


class _StreamReason:
    def __init__(
        self,
        estimate: Estimate,
        mask: BoolArray,
        target: IntArray,
        account: FloatArray,
        worst_case: float,
    ) -> None:
        self._estimate = estimate
        self._mask = mask
        self._target = target
        self._account = account
        self._worst_case = worst_case

    def __call__(self, i: int) -> Reason:
        estimate, chosen = self._estimate, int(self._target[i])
        left, price = (float(x) for x in self._account[i])
        if not self._mask[i].any():
            return NOTHING_ALLOWED
        if chosen < 0:
            return (
                (
                    f"nothing fits: {usd(left)} is left, and an answer may cost "
                    f"{self._worst_case:g} times its estimate"
                ),
            )
        cost = float(estimate.cost[i, chosen])
        return (
            (
                f"{estimate.models[chosen]} gives the most at the price of the moment, "
                f"{price:.3g} of quality per dollar: expected quality "
                f"{estimate.quality[i, chosen]:.3f} for {usd(cost)}"
            ),
            f"{usd(left)} was left, of which {usd(self._worst_case * cost)} is reserved for it",
        )
