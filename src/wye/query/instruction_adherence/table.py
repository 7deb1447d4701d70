"""What is known of models' skills: passes and trials, Beta posteriors, intervals, difficulty.

    C[m, k] = (passes + a_k) / (trials + a_k + b_k)      a = b = 1, Laplace's rule, or
    a_k = s p_k, b_k = s (1 - p_k)                       s = 2 and p_k the published pass rates

so that C stays strictly between 0 and 1. Prior and table are ours; the rates are those of arXiv
2510.18892 over 256 models.

Shape letters: M models, K skills.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from wye.query.base import FloatArray, RouterError
from wye.query.instruction_adherence.probe import CATEGORIES

if TYPE_CHECKING:
    from wye.query.instruction_adherence.probing import ProbeRun

Prior = Literal["uniform", "published"]
PUBLISHED = {
    "string_manipulation": 0.120,
    "mathematical_operations": 0.449,
    "data_processing": 0.455,
    "format_conversion": 0.578,
    "constraint_compliance": 0.669,
}
STRENGTH = 2.0
EASY, HARD = 0.05, 0.95


@dataclass(frozen=True)
class CapabilityTable:
    """Passes and trials of M models in K skills.

    Attributes:
        models: names.
        passes, trials: `[M, K]` counts, not necessarily whole.
        prior: `uniform` or `published`.
        skills: names of the K skills.

    Raises:
        RouterError: shapes that contradict each other, counts out of range, or an unknown prior.

    Example:
        >>> table = CapabilityTable(("a",), np.array([[3.0]]), np.array([[4.0]]), skills=("json",))
        >>> round(float(table.means[0, 0]), 3)
        0.667
    """

    models: tuple[str, ...]
    passes: FloatArray
    trials: FloatArray
    prior: Prior = "uniform"
    skills: tuple[str, ...] = CATEGORIES

    def __post_init__(self) -> None:
        shape = (len(self.models), len(self.skills))
        if self.passes.shape != shape or self.trials.shape != shape:
            raise RouterError(
                f"passes have shape {self.passes.shape} and trials {self.trials.shape}, expected "
                f"[M, K] = {shape}"
            )
        fine = (self.passes >= 0) & (self.passes <= self.trials) & np.isfinite(self.trials)
        if not fine.all():
            raise RouterError("passes must be 0 or more and at most the trials, which are finite")
        checked_prior(self.prior)
        if self.prior == "published" and not set(self.skills) <= set(PUBLISHED):
            raise RouterError(f"rates are published for {list(PUBLISHED)}, not for {self.skills}")

    @classmethod
    def of(cls, runs: Sequence[ProbeRun], *, prior: Prior = "uniform") -> CapabilityTable:
        """The table of probed models; runs of one model add up.

        Raises:
            RouterError: no run.
        """
        if not runs:
            raise RouterError("no run of probes was given, expected one or more")
        models = tuple(dict.fromkeys(run.model for run in runs))
        passes, trials = np.zeros((2, len(models), len(CATEGORIES)))
        for run in runs:
            for result in run.results:
                cell = models.index(run.model), CATEGORIES.index(result.category)
                trials[cell] += 1
                passes[cell] += result.strict
        return cls(models, passes, trials, prior)

    @property
    def alpha(self) -> FloatArray:
        """`[M, K]` first parameter of each Beta posterior."""
        return np.asarray(self.passes + self._pseudo[0], np.float64)

    @property
    def beta(self) -> FloatArray:
        """`[M, K]` second parameter of each Beta posterior."""
        return np.asarray(self.trials - self.passes + self._pseudo[1], np.float64)

    @property
    def means(self) -> FloatArray:
        """C `[M, K]`, strictly between 0 and 1."""
        return np.asarray(self.alpha / (self.alpha + self.beta), np.float64)

    @property
    def errors(self) -> FloatArray:
        """`[M, K]` standard deviation of each posterior."""
        C, n = self.means, self.alpha + self.beta
        return np.asarray(np.sqrt(C * (1 - C) / (n + 1)), np.float64)

    def interval(self, level: float = 0.95) -> tuple[FloatArray, FloatArray]:
        """`[M, K]` lower and upper ends of the central posterior interval."""
        from scipy.stats import beta

        tail = (1 - level) / 2
        found = (beta.ppf(q, self.alpha, self.beta) for q in (tail, 1 - tail))
        low, high = (np.asarray(f, np.float64) for f in found)
        return low, high

    def counts(self) -> dict[str, dict[str, list[float]]]:
        """model -> skill -> [passes, trials], JSON: what `CapabilityRouter` takes."""
        return {
            model: {
                skill: [float(self.passes[m, k]), float(self.trials[m, k])]
                for k, skill in enumerate(self.skills)
            }
            for m, model in enumerate(self.models)
        }

    @property
    def _pseudo(self) -> tuple[FloatArray, FloatArray]:
        if self.prior == "uniform":
            return np.ones(len(self.skills)), np.ones(len(self.skills))
        rates = np.array([PUBLISHED[s] for s in self.skills])
        return STRENGTH * rates, STRENGTH * (1 - rates)


def checked_prior(prior: str) -> Prior:
    """`prior`, if it is one.

    Raises:
        RouterError: it is neither `uniform` nor `published`.
    """
    if prior == "uniform":
        return "uniform"
    if prior == "published":
        return "published"
    raise RouterError(f"prior is {prior!r}, expected 'uniform' or 'published'")


def difficulty(runs: Sequence[ProbeRun]) -> dict[str, float]:
    """d_j: of each probe the share of models that failed it, repeats of a model averaged."""
    shares: dict[str, dict[str, list[bool]]] = {}
    for run in runs:
        for result in run.results:
            shares.setdefault(result.name, {}).setdefault(run.model, []).append(result.strict)
    return {
        name: float(np.mean([1.0 - np.mean(passed) for passed in by_model.values()]))
        for name, by_model in shares.items()
    }


def separating(difficulties: Mapping[str, float]) -> list[str]:
    """The probes that tell models apart: neither nearly all pass nor nearly all fail."""
    return [name for name, d in difficulties.items() if EASY <= d <= HARD]
