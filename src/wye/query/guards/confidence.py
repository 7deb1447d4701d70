"""Guards that read the logits of a domain classifier.

    sigmoid   max_c 1 / (1 + exp(-logit_c))        may be low for every domain at once
    softmax   max_c exp(logit_c) / sum_d exp(logit_d)   always has one unit of mass to give away
    energy    T log sum_c exp(logit_c / T)         Liu et al., NeurIPS 2020, arXiv 2010.03759
    score     max_c logit_c                        a margin, a cosine

Source of the first as the guard of a router: arXiv 2505.14524; the softmax baseline: Hendrycks and
Gimpel, ICLR 2017, arXiv 1610.02136.
"""

from __future__ import annotations

import numpy as np
from scipy.special import expit, logsumexp

from wye.query.base import FloatArray, RouterError
from wye.query.guards.base import Reading, ThresholdGuard


class SigmoidGuard(ThresholdGuard):
    """Rejects where even the likeliest domain, taken alone, is unlikely; tau is 0 to 1."""

    kind = "sigmoid"

    def confidence(self, reading: Reading) -> FloatArray:
        """`[Q]` largest sigmoid."""
        return np.asarray(expit(reading.logits.max(axis=1, initial=-np.inf)), np.float64)


class SoftmaxGuard(ThresholdGuard):
    """Rejects where no domain takes most of the probability; tau is 1 / C to 1."""

    kind = "softmax"

    def confidence(self, reading: Reading) -> FloatArray:
        """`[Q]` largest probability among the domains."""
        top = reading.logits.max(axis=1, initial=-np.inf)
        return np.asarray(np.exp(top - logsumexp(reading.logits, axis=1)), np.float64)


class EnergyGuard(ThresholdGuard):
    """Rejects where the free energy is high.

    Args:
        temperature: T, above 0.
        eps, tau: see `ThresholdGuard`.
    """

    kind = "energy"

    def __init__(
        self, *, temperature: float = 1.0, eps: float = 0.05, tau: float | None = None
    ) -> None:
        super().__init__(eps=eps, tau=tau)
        if not (np.isfinite(temperature) and temperature > 0):
            raise RouterError(f"temperature is {temperature}, expected a finite number above 0")
        self.temperature = temperature

    def confidence(self, reading: Reading) -> FloatArray:
        """`[Q]` negative free energy, in units of a logit."""
        T = self.temperature
        return np.asarray(T * logsumexp(reading.logits / T, axis=1), np.float64)


class ScoreGuard(ThresholdGuard):
    """Rejects where the best score is low: the margin of a machine, the cosine to an exemplar."""

    kind = "score"

    def confidence(self, reading: Reading) -> FloatArray:
        """`[Q]` largest logit."""
        return np.asarray(reading.logits.max(axis=1, initial=-np.inf), np.float64)
