"""Threshold: quality at least q at the least cost, with a guarantee from held-out answers.

Decides before an answer, on the estimate: the cheapest model whose expected quality reaches a
cutoff, and the best model where none does. The cutoff comes from conformal risk control
(Angelopoulos, Bates, Fisch, Lei and Schuster 2022, arXiv 2208.02814, equation 4).

Shape letters: Q queries, M models, G cutoffs on a grid.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Self

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

_GRID = 401


class Threshold(Policy):
    """The cheapest model whose expected quality reaches a cutoff; the best one where none does.

    Without `calibrate` the cutoff is `quality` itself: right as far as the estimates are
    calibrated, and guaranteed by nothing. `calibrate` finds the cutoff for which the mean quality
    of what is chosen is at least `quality` on exchangeable queries.

    Args:
        quality: the mean quality to hold, 0 to 1.
        cutoff: expected quality that a model must reach to be taken for its price; None for
            `quality`, infinity for "always the best model". `calibrate` sets it.

    Raises:
        PolicyError: a parameter out of range.

    Example:
        >>> Threshold(quality=0.8).describe()
        'threshold(quality=0.8, cutoff=None)'
    """

    name = "threshold"

    def __init__(self, *, quality: float = 0.8, cutoff: float | None = None) -> None:
        self.quality = check_number(self.name, "quality", quality, high=1.0)
        self.cutoff = None if cutoff is None else check_number(self.name, "cutoff", cutoff)

    def calibrate(
        self, estimate: Estimate, quality: FloatArray, *, allowed: BoolArray | None = None
    ) -> Self:
        """Set the cutoff so that E[quality of the chosen answer] >= `self.quality`.

        Conformal risk control with the loss L_i(t) = 1 - quality of the answer that cutoff t
        chooses for query i, made monotone per query by its maximum over all cutoffs >= t, and the
        bound B = 1: the least t with n/(n+1) mean_i L_i(t) + 1/(n+1) <= 1 - `self.quality`. The
        monotone loss is never below the real one, so the guarantee holds for the real one, on the
        careful side. An unknown outcome counts as the worst loss here, which can only raise t.

        Args:
            estimate: of n queries that the router was not fitted on, drawn as those to come.
            quality: `[Q, M]` what came out, 0 to 1, NaN where unknown; columns as in `estimate`.
            allowed: as it will be in `choose`.

        Raises:
            PolicyError: shapes differ, no query is given, or even the best model for each query
                does not reach the quality.
        """
        shape = (len(estimate), len(estimate.models))
        if quality.shape != shape:
            raise PolicyError(
                f"threshold: quality has shape {quality.shape}, expected [Q, M] = {shape} as the "
                "estimate has"
            )
        if not len(estimate):
            raise PolicyError("threshold: no held-out query to calibrate on, expected at least one")
        mask = self._priced(estimate, allowed)
        cutoffs = np.concatenate(([np.inf], np.linspace(1.0, 0.0, _GRID)))
        rows = np.arange(len(estimate))
        # In the order of cost the choice is the first model that brings the best so far to the
        # cutoff; where none does, the best one, which is how `choose` falls back.
        order = np.argsort(np.where(mask, estimate.cost, np.inf), axis=1, kind="stable")
        expected = np.where(mask, estimate.quality, -np.inf)
        so_far = np.maximum.accumulate(np.take_along_axis(expected, order, axis=1), axis=1)
        best = best_target(expected, estimate.cost)
        loss = np.ones((len(estimate), cutoffs.shape[0]))
        for g, cutoff in enumerate(cutoffs):
            first = (so_far < cutoff).sum(axis=1)
            found = first < shape[1]
            target = np.where(found, order[rows, np.minimum(first, shape[1] - 1)], best)
            loss[:, g] = np.where(best >= 0, 1.0 - quality[rows, target], 1.0)
        loss = np.maximum.accumulate(np.nan_to_num(loss, nan=1.0), axis=1)
        n = len(estimate)
        risk = n / (n + 1) * loss.mean(axis=0) + 1.0 / (n + 1)
        # Floats that should be equal to the level may lie a rounding above it.
        holds = np.flatnonzero(risk <= 1.0 - self.quality + 1e-12)
        if not holds.size:
            raise PolicyError(
                f"threshold: a mean quality of {self.quality:g} cannot be promised: on these {n} "
                f"queries the best model for each reaches {1.0 - loss[:, 0].mean():.3f}, and "
                f"{1.0 - risk[0]:.3f} can be promised; ask for less, or for better models"
            )
        self.cutoff = float(cutoffs[holds[-1]])
        return self

    def choose(
        self,
        estimate: Estimate,
        *,
        allowed: BoolArray | None = None,
        generator: np.random.Generator | None = None,
    ) -> Choice:
        """Choose the cheapest model at or above the cutoff; `generator` is not used.

        Raises:
            PolicyError: the cost of an allowed model is unknown; the message names it.
        """
        mask = self._priced(estimate, allowed)
        cutoff = self.quality if self.cutoff is None else self.cutoff
        score = _score(estimate, mask, cutoff)
        target = best_target(score, estimate.cost)
        promise = (
            "the estimate's word for it (not calibrated)"
            if self.cutoff is None
            else f"set on held-out answers to keep a mean quality of {self.quality:g}"
        )

        def reason(i: int) -> Reason:
            chosen = int(target[i])
            if chosen < 0:
                return NOTHING_ALLOWED
            name, expected = estimate.models[chosen], estimate.quality[i, chosen]
            n = int((mask[i] & (estimate.quality[i] >= cutoff)).sum())
            if n == 0:
                return (
                    (
                        f"no model reaches an expected quality of {cutoff:.3f}, so the best one "
                        f"answers: {name} with {expected:.3f}"
                    ),
                    f"the cutoff is {promise}",
                )
            return (
                (
                    f"{name} is the cheapest of {n} models with an expected quality of at least "
                    f"{cutoff:.3f}: {expected:.3f} for {usd(float(estimate.cost[i, chosen]))}"
                ),
                f"the cutoff is {promise}",
            )

        return write_choice(estimate, score, target, reason)

    def _priced(self, estimate: Estimate, allowed: BoolArray | None) -> BoolArray:
        mask = allowed_models(estimate, allowed)
        require_known(
            self.name,
            estimate,
            "cost",
            mask,
            "give their prices in the models table and fit again, or leave them out with `allowed`",
        )
        return mask


def _score(estimate: Estimate, mask: BoolArray, cutoff: float) -> FloatArray:
    reaches = mask & (estimate.quality >= cutoff)
    none = ~reaches.any(axis=1, keepdims=True) if not math.isinf(cutoff) else np.True_
    fallback = np.where(mask, estimate.quality, -np.inf)
    return np.where(none, fallback, np.where(reaches, -estimate.cost, -np.inf))
