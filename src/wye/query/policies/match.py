"""Match: the cheapest model that is expected to do as well as the strong one, else the strong one.

Decides before an answer, on the estimate. The rule of HybridLLM (Ding et al., arXiv 2404.14618) for
one small model and of BEST-Route (Ding et al., arXiv 2506.22716) for several targets. Their
threshold is on the probability of a match; `policy(threshold)` of those routers turns it into the
cutoffs on expected quality that this policy takes.

Shape letters: Q queries, M models.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from wye.query.policies.choosing import (
    NOTHING_ALLOWED,
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
    from wye.query.base import BoolArray, Estimate, FloatArray


class CheapestMatch(Policy):
    """The cheapest of the strong model and all models at or above a cutoff.

    Args:
        cutoff: expected quality from which on a model counts as a match; one for all, or by name.
        strong: the model that always counts; None for the best expected one of each query. Where
            it is not allowed and no other reaches the cutoff, the best expected one answers.

    Raises:
        PolicyError: a parameter out of range.

    Example:
        >>> CheapestMatch(cutoff=0.7, strong="large").describe()
        "match(cutoff=0.7, strong='large')"
    """

    name = "match"

    def __init__(
        self, *, cutoff: float | Mapping[str, float] = 0.5, strong: str | None = None
    ) -> None:
        self.cutoff: float | dict[str, float]
        if isinstance(cutoff, Mapping):
            self.cutoff = {
                model: check_number(self.name, f"cutoff of {model}", value, high=1.0)
                for model, value in cutoff.items()
            }
        else:
            self.cutoff = check_number(self.name, "cutoff", cutoff, high=1.0)
        if strong is not None and not isinstance(strong, str):
            raise PolicyError(f"match: strong={strong!r}, expected the name of a model")
        self.strong = strong

    def choose(
        self,
        estimate: Estimate,
        *,
        allowed: BoolArray | None = None,
        generator: np.random.Generator | None = None,
    ) -> Choice:
        """Choose the cheapest match for every query; `generator` is not used.

        Raises:
            PolicyError: the strong model is unknown, or the cost or cutoff of an allowed model is.
        """
        mask = allowed_models(estimate, allowed)
        require_known(
            self.name,
            estimate,
            "cost",
            mask,
            "give their prices in the models table and fit again, or leave them out with `allowed`",
        )
        cutoff = self._cutoffs(estimate)
        # A probability that equals the threshold may come out a rounding below it as quality.
        matches = mask & (estimate.quality >= cutoff - 1e-12)
        best = np.where(mask, estimate.quality, -np.inf)
        if self.strong is None:
            strong = best_target(best, estimate.cost)
            rows = np.flatnonzero(strong >= 0)
            matches[rows, strong[rows]] = True
        elif self.strong in estimate.models:
            column = estimate.models.index(self.strong)
            matches[:, column] = mask[:, column]
        else:
            raise PolicyError(
                f"match: no model {self.strong!r}; this estimate has {list(estimate.models)}"
            )
        none = np.asarray(~matches.any(axis=1, keepdims=True), np.bool_)
        score = np.where(none, best, np.where(matches, -estimate.cost, -np.inf))
        target = best_target(score, estimate.cost)

        def reason(i: int) -> Reason:
            chosen = int(target[i])
            if chosen < 0:
                return NOTHING_ALLOWED
            name, expected = estimate.models[chosen], estimate.quality[i, chosen]
            if none[i, 0]:
                why = f"{self.strong} is not allowed and no other model is expected to match it"
                return (f"{why}, so the best expected one answers: {name} with {expected:.3f}",)
            price = usd(float(estimate.cost[i, chosen]))
            if name != self.strong and expected >= cutoff[chosen] - 1e-12:
                why = f"its expected quality {expected:.3f} reaches the cutoff {cutoff[chosen]:.3f}"
            else:
                why = "it is the strong one, and no cheaper model is expected to match it"
            return (f"{name} is the cheapest match for {price}: {why}",)

        return write_choice(estimate, score, target, reason)

    def _cutoffs(self, estimate: Estimate) -> FloatArray:
        """`[M]` cutoffs."""
        if not isinstance(self.cutoff, dict):
            return np.full(len(estimate.models), self.cutoff)
        missing = [m for m in estimate.models if m not in self.cutoff]
        if missing:
            raise PolicyError(f"match: no cutoff for {missing}; there are {list(self.cutoff)}")
        return np.array([self.cutoff[m] for m in estimate.models])
