"""Choices that were logged, with the probabilities with which they were made.

Shape letters: Q rows (logged decisions), M models. Axes before Q are samples of their own.
"""

from __future__ import annotations

import math
from copy import copy
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wye.query.off_policy.errors import OffPolicyError

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]
ROUNDING = 1e-6
# A log is refused for its shares by chance less than once in a million models.
_LOG_ODDS = math.log(2e6)


@dataclass(frozen=True)
class Logged:
    """Q choices among M models.

    Attributes:
        chosen: `[..., Q]` column of the model that was chosen.
        propensity: `[..., Q]` probability of that choice, in (0, 1].
        law: `[..., Q, M]` probability of every model for that query, where the log tells; None
            where it tells those of the choices alone.

    Raises:
        OffPolicyError: shapes differ, there is no row, a propensity is missing, 0 or above 1, the
            law disagrees with it, or with how often each model was chosen.

    Example:
        >>> Logged.of([0, 1], [0.9, 0.1]).propensity.tolist()
        [0.9, 0.1]
    """

    chosen: Ints
    propensity: Floats
    law: Floats | None = None

    @classmethod
    def of(cls, chosen: object, propensity: object, law: object = None) -> Logged:
        """From anything that NumPy reads as arrays."""
        return cls(
            np.asarray(chosen, np.intp),
            np.asarray(propensity, np.float64),
            None if law is None else np.asarray(law, np.float64),
        )

    def __post_init__(self) -> None:
        if self.chosen.shape != self.propensity.shape or not self.chosen.size:
            raise OffPolicyError(
                f"chosen has shape {self.chosen.shape} and propensity {self.propensity.shape}, "
                "expected [Q] each, with at least one row"
            )
        _check_propensity(self.propensity)
        if (self.chosen < 0).any():
            raise OffPolicyError("chosen holds a negative column; leave out rows without a choice")
        if self.law is not None:
            self._check_law(self.law)

    def __len__(self) -> int:
        return int(self.chosen.shape[-1])

    @property
    def deterministic(self) -> bool:
        """Whether every choice was certain, so that nothing else was ever tried."""
        return bool((self.propensity >= 1.0 - ROUNDING).all())

    def at_choice(self, table: Floats) -> Floats:
        """`[..., Q]` what `table` `[..., Q, M]` holds at the chosen models."""
        return np.take_along_axis(table, self.chosen[..., None], axis=-1)[..., 0]

    def take(self, rows: NDArray[np.bool_]) -> Logged:
        """The choices of some rows `[Q]`.

        They were checked as a whole and are not checked again: which rows have an outcome may
        depend on the choice, so their shares prove nothing.
        """
        part = copy(self)
        object.__setattr__(part, "chosen", self.chosen[rows])
        object.__setattr__(part, "propensity", self.propensity[rows])
        object.__setattr__(part, "law", None if self.law is None else self.law[rows])
        return part

    def _check_law(self, law: Floats) -> None:
        if law.ndim != self.chosen.ndim + 1 or law.shape[:-1] != self.chosen.shape:
            raise OffPolicyError(
                f"law has shape {law.shape}, expected [Q, M] with Q = {self.chosen.shape[-1]}"
            )
        if self.chosen.max() >= law.shape[-1]:
            raise OffPolicyError(
                f"chosen holds column {int(self.chosen.max())}; the law has {law.shape[-1]} models"
            )
        if not (np.isfinite(law).all() and (law >= 0).all()):
            raise OffPolicyError("law holds a probability that is negative or not a number")
        wrong = np.abs(self.at_choice(law) - self.propensity) > ROUNDING
        if wrong.any():
            raise OffPolicyError(
                f"{int(wrong.sum())} of {wrong.size} propensities are not those of the choice that "
                "was made: the law gives the chosen model another probability; log the propensity "
                "of the choice that was really acted on"
            )
        excess = law.sum(axis=-1) > 1.0 + ROUNDING
        if excess.any():
            raise OffPolicyError(
                f"the probabilities of {int(excess.sum())} of {excess.size} rows add up to more "
                "than 1"
            )
        self._check_shares(law)

    def _check_shares(self, law: Floats) -> None:
        """Refuse a law under which the shares of the models chosen could hardly have come.

        By Bernstein's inequality: P(|times - expected| > t) <= 2 exp(-t^2 / (2 (var + t / 3))).
        """
        times = (self.chosen[..., None] == np.arange(law.shape[-1])).sum(axis=-2)
        expected = law.sum(axis=-2)
        variance = (law * (1.0 - law)).clip(0.0).sum(axis=-2)
        third = _LOG_ODDS / 3.0
        most = third + np.sqrt(third**2 + 2.0 * _LOG_ODDS * variance)
        off = np.argwhere(np.abs(times - expected) > most)
        if off.size:
            place = tuple(off[0])
            raise OffPolicyError(
                "the propensities are not those of the choices that were made: the model of column "
                f"{place[-1]} was chosen {int(times[place])} times, where they lead to expect "
                f"{expected[place]:.0f} +- {math.sqrt(variance[place]):.0f}"
            )


def _check_propensity(propensity: Floats) -> None:
    for bad, what in (
        (~np.isfinite(propensity), "missing"),
        (propensity <= 0, "0 or less"),
        (propensity > 1.0 + ROUNDING, "above 1"),
    ):
        if bad.any():
            raise OffPolicyError(
                f"{int(bad.sum())} of {bad.size} propensities are {what}, expected the probability "
                "in (0, 1] with which the logged choice was made; without it nothing can be said "
                "of another policy"
            )
