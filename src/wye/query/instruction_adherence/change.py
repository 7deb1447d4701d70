"""Has a model changed between two runs of probes? A test of two proportions for each category.

Fisher's exact test, which holds at any number of trials, where the normal approximation does not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from wye.query.instruction_adherence.probe import CATEGORIES

if TYPE_CHECKING:
    from wye.query.instruction_adherence.probing import ProbeRun

FLAG_BELOW = 0.01


@dataclass(frozen=True)
class CategoryDrift:
    """One category in two runs.

    Attributes:
        category: its name.
        before, after: passes and trials.
        p: two-sided probability of a difference like this or larger, if nothing has changed.
    """

    category: str
    before: tuple[int, int]
    after: tuple[int, int]
    p: float

    @property
    def flagged(self) -> bool:
        """Whether p is below 0.01."""
        return self.p < FLAG_BELOW

    @property
    def detectable(self) -> bool:
        """Whether the trials suffice for any difference to be flagged."""
        return _fisher((self.before[1], self.before[1]), (0, self.after[1])) < FLAG_BELOW


def drift(before: ProbeRun, after: ProbeRun) -> list[CategoryDrift]:
    """Compare two runs category by category; categories that one of them lacks are left out.

    With 4 trials a category in each run no difference reaches 0.01; from 5 in each on the largest
    does. Run with `repeats` to have enough.
    """
    found = []
    for category in CATEGORIES:
        old, new = before.counts(category), after.counts(category)
        if old[1] and new[1]:
            found.append(CategoryDrift(category, old, new, _fisher(old, new)))
    return found


def _fisher(old: tuple[int, int], new: tuple[int, int]) -> float:
    """Two-sided p of two counts of passes among trials."""
    import numpy as np
    from scipy.stats import fisher_exact

    cells = np.array([[passed, trials - passed] for passed, trials in (old, new)])
    return float(fisher_exact(cells).pvalue)
