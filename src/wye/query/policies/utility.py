"""Utility: quality minus weighted cost minus weighted latency.

Decides before an answer, on the estimate alone: argmax_m q - cost_weight c - latency_weight t, the
Lagrangian form of quality under a budget (survey arXiv 2502.00409, section V; optimal routing in
arXiv 2410.10347, K2).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from wye.query.policies.choosing import (
    NOTHING_ALLOWED,
    Reason,
    allowed_models,
    best_target,
    check_number,
    require_known,
    runner_up,
    write_choice,
)
from wye.query.policy import Choice, Policy
from wye.query.wording import seconds, usd

if TYPE_CHECKING:
    from wye.query.base import BoolArray, Estimate


class Utility(Policy):
    """argmax of quality - cost_weight x USD - latency_weight x seconds; ties go to the cheaper.

    Args:
        cost_weight: how much quality one dollar is worth: 50 gives up 0.05 of quality to save a
            tenth of a cent.
        latency_weight: how much quality one second is worth.

    Raises:
        PolicyError: a weight is negative or not a number.

    Example:
        >>> Utility(cost_weight=50).describe()
        'utility(cost_weight=50.0, latency_weight=0.0)'
    """

    name = "utility"

    def __init__(self, *, cost_weight: float = 0.0, latency_weight: float = 0.0) -> None:
        self.cost_weight = check_number(self.name, "cost_weight", cost_weight)
        self.latency_weight = check_number(self.name, "latency_weight", latency_weight)

    def choose(
        self,
        estimate: Estimate,
        *,
        allowed: BoolArray | None = None,
        generator: np.random.Generator | None = None,
    ) -> Choice:
        """Choose argmax of utility per query; `generator` is not used.

        Raises:
            PolicyError: the cost (latency) of an allowed model is unknown while its weight is not
                zero; the message names the models.
        """
        mask = allowed_models(estimate, allowed)
        score = estimate.quality
        if self.cost_weight:
            require_known(
                self.name,
                estimate,
                "cost",
                mask,
                "give their prices in the models table and fit again, leave them out with "
                "`allowed`, or set cost_weight=0",
            )
            score = score - self.cost_weight * estimate.cost
        if self.latency_weight:
            require_known(
                self.name,
                estimate,
                "latency",
                mask,
                "measure latency_s in the outcomes and fit again, leave them out with `allowed`, "
                "or set latency_weight=0",
            )
            score = score - self.latency_weight * estimate.latency
        score = np.where(mask, score, -np.inf)
        target = best_target(score, estimate.cost)

        def reason(i: int) -> Reason:
            chosen = int(target[i])
            if chosen < 0:
                return NOTHING_ALLOWED
            reached = score[i].tolist()
            first = (
                f"{estimate.models[chosen]} has the highest utility, {reached[chosen]:.3f}: "
                f"{self._terms(estimate, i, chosen)}"
            )
            second = runner_up(reached, chosen)
            if second is None:
                return (first,)
            return (
                first,
                (
                    f"next is {estimate.models[second]} with {reached[second]:.3f}: "
                    f"{self._terms(estimate, i, second)}"
                ),
            )

        return write_choice(estimate, score, target, reason)

    def _terms(self, estimate: Estimate, i: int, m: int) -> str:
        text = f"expected quality {estimate.quality.item(i, m):.3f}"
        if self.cost_weight:
            text += f" - {self.cost_weight:g} x {usd(estimate.cost.item(i, m))}"
        if self.latency_weight:
            text += f" - {self.latency_weight:g} x {seconds(estimate.latency.item(i, m))}"
        return text
