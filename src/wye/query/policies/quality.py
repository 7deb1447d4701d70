"""Quality: the model with the highest expected quality, whatever it costs.

Decides before an answer, on the estimate alone: argmax_m q[q, m]. Ties go to the cheaper model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from wye.query.policies.choosing import (
    NOTHING_ALLOWED,
    Reason,
    allowed_models,
    best_target,
    runner_up,
    write_choice,
)
from wye.query.policy import Choice, Policy

if TYPE_CHECKING:
    from wye.query.base import BoolArray, Estimate


class Quality(Policy):
    """The model with the highest expected quality; ties go to the cheaper one.

    Example:
        >>> Quality().describe()
        'quality()'
    """

    name = "quality"

    def choose(
        self,
        estimate: Estimate,
        *,
        allowed: BoolArray | None = None,
        generator: np.random.Generator | None = None,
    ) -> Choice:
        """Choose argmax of quality per query; `generator` is not used.

        Raises:
            PolicyError: `allowed` has a wrong shape.
        """
        score = np.where(allowed_models(estimate, allowed), estimate.quality, -np.inf)
        target = best_target(score, estimate.cost)

        def reason(i: int) -> Reason:
            chosen = int(target[i])
            if chosen < 0:
                return NOTHING_ALLOWED
            name, quality = estimate.models[chosen], estimate.quality[i, chosen]
            second = runner_up(score[i].tolist(), chosen)
            if second is None:
                return (f"{name} is the only model allowed (expected quality {quality:.3f})",)
            other, least = estimate.models[second], estimate.quality[i, second]
            if least == quality:
                return (
                    (
                        f"{name} and {other} share the highest expected quality, {quality:.3f}; "
                        f"{name} is the cheaper one"
                    ),
                )
            return (
                (
                    f"{name} has the highest expected quality, {quality:.3f} "
                    f"(give or take {estimate.quality_std[i, chosen]:.3f})"
                ),
                f"next is {other} with {least:.3f}",
            )

        return write_choice(estimate, score, target, reason)
