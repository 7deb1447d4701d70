"""Abstain: where the router does not know, a default target instead of a guess.

Decides before an answer, on the estimate's novelty and uncertainty: a query unlike the training
queries, or an estimate too uncertain, is not routed by the inner policy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from wye.query.policies.choosing import (
    Reason,
    allowed_models,
    check_number,
    targets_of,
    write_choice,
)
from wye.query.policies.quality import Quality
from wye.query.policy import Choice, Policy, PolicyError

if TYPE_CHECKING:
    from wye.query.base import BoolArray, Estimate, FloatArray


class Abstain(Policy):
    """Send novel or uncertain queries to `default`; leave the others to `inner`.

    Args:
        inner: the policy for the queries that the router knows; `Quality()` when None.
        default: the model for the others; None routes them nowhere, for the caller to handle.
        max_novelty: the largest `Estimate.novelty` that counts as known, 0 to 1. 0.99 sends away
            what lies farther out than 99% of the training queries did.
        max_std: the largest `quality_std` of the chosen model that counts as known; None does not
            look at it.

    Raises:
        PolicyError: a parameter out of range, or an inner policy that keeps state.

    Example:
        >>> Abstain(default="gpt-4", max_novelty=0.9).default
        'gpt-4'
    """

    name = "abstain"

    def __init__(
        self,
        *,
        inner: Policy | None = None,
        default: str | None = None,
        max_novelty: float = 0.99,
        max_std: float | None = None,
    ) -> None:
        self.inner = Quality() if inner is None else inner
        if self.inner.stateful:
            raise PolicyError(
                f"abstain: {self.inner.name} keeps account of its own choices, which abstain would "
                "override; choose the queries with `allowed` instead"
            )
        self.default = default
        self.max_novelty = check_number(self.name, "max_novelty", max_novelty, high=1.0)
        self.max_std = None if max_std is None else check_number(self.name, "max_std", max_std)

    def choose(
        self,
        estimate: Estimate,
        *,
        allowed: BoolArray | None = None,
        generator: np.random.Generator | None = None,
    ) -> Choice:
        """Choose as `inner`, then replace the choice where the router does not know.

        Raises:
            PolicyError: `default` is not among the estimate's models, or as `inner` raises.
        """
        default = self._column(estimate)
        mask = allowed_models(estimate, allowed)
        choice = self.inner.choose(estimate, allowed=allowed, generator=generator)
        inner_target = targets_of(choice)
        novel = estimate.novelty > self.max_novelty
        unsure = np.zeros(len(estimate), dtype=np.bool_)
        if self.max_std is not None and len(estimate.models):
            std = np.take_along_axis(estimate.quality_std, inner_target[:, None], axis=1)[:, 0]
            unsure = (std > self.max_std) & (inner_target >= 0)
        away = novel | unsure
        may_default = mask[:, default] if default is not None else np.zeros_like(away)
        target = np.where(
            away, np.where(may_default, default if default is not None else -1, -1), inner_target
        )

        def reason(i: int) -> Reason:
            if not away[i]:
                return choice.reasons[i]
            why = (
                f"this query is unlike the training queries (novelty {estimate.novelty[i]:.3f}, "
                f"at most {self.max_novelty:g} is routed)"
                if novel[i]
                else "the router is too unsure of "
                f"{estimate.models[int(inner_target[i])]} (quality give or take "
                f"{estimate.quality_std[i, inner_target[i]]:.3f}, at most {self.max_std:g})"
            )
            if target[i] >= 0:
                return (why, f"it goes to the default, {self.default}")
            if self.default is None:
                return (why, "there is no default, so it goes nowhere")
            return (why, f"the default, {self.default}, is not allowed, so it goes nowhere")

        if choice.probabilities is None:
            certain = np.where(away, 1.0, choice.propensity)
            return write_choice(estimate, choice.score, target, reason, certain)
        law = self._law(estimate, choice.probabilities, default, may_default)
        nowhere = np.clip(1.0 - law.sum(axis=1), 0.0, 1.0)
        rows = np.arange(len(target))
        propensity = np.where(target >= 0, law[rows, target], nowhere)
        return write_choice(estimate, choice.score, target, reason, propensity, law)

    def _law(
        self,
        estimate: Estimate,
        inner: FloatArray,
        default: int | None,
        may_default: BoolArray,
    ) -> FloatArray:
        """`[Q, M]` probabilities where `inner` draws: what it would lose goes to the default."""
        novel = estimate.novelty > self.max_novelty
        lost = np.broadcast_to(novel[:, None], inner.shape)
        if self.max_std is not None:
            lost = lost | (estimate.quality_std > self.max_std)
        law = np.where(lost, 0.0, inner)
        if default is not None:
            moved = np.where(novel, 1.0, np.where(lost, inner, 0.0).sum(axis=1))
            law[:, default] += np.where(may_default, moved, 0.0)
        return law

    def describe(self) -> str:
        """Name and parameters, those of the inner policy included."""
        return (
            f"abstain(inner={self.inner.describe()}, default={self.default!r}, "
            f"max_novelty={self.max_novelty!r}, max_std={self.max_std!r})"
        )

    def _column(self, estimate: Estimate) -> int | None:
        if self.default is None:
            return None
        if self.default not in estimate.models:
            raise PolicyError(
                f"abstain: default={self.default!r} is none of the models {list(estimate.models)}"
            )
        return estimate.models.index(self.default)
