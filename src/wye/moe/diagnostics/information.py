"""Mutual information of two labellings, with what chance alone gives.

A plug-in estimate of I(a; b) from n pairs is too large by about (|a| - 1)(|b| - 1) / 2n. Shuffling
one side measures that: the mean over shuffles is what independent labels of the same frequencies
would give.

    I(a; b) = sum_{a, b} p(a, b) ln( p(a, b) / (p(a) p(b)) )    in nats
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from sklearn.metrics import mutual_info_score

from wye.core import Plan
from wye.moe.base import MoEError
from wye.moe.diagnostics.choices import first_choice, labels_of


@dataclass(frozen=True)
class Information:
    """What one labelling tells of another, in nats.

    Attributes:
        plain: I(a; b) as counted.
        chance: mean of the same over shuffles of b; 0 without shuffles.
        chance_deviation: standard deviation over the shuffles.
        entropy_a: H(a).
        entropy_b: H(b).
        n: pairs.
    """

    plain: float
    chance: float
    chance_deviation: float
    entropy_a: float
    entropy_b: float
    n: int

    @property
    def corrected(self) -> float:
        """I(a; b) less what chance gives; about 0 for independent labels."""
        return self.plain - self.chance

    @property
    def share(self) -> float:
        """I(a; b) / H(b): how much of b is known once a is; 0 where b is constant."""
        return self.plain / self.entropy_b if self.entropy_b > 0 else 0.0

    @property
    def chance_share(self) -> float:
        """The same of shuffled labels."""
        return self.chance / self.entropy_b if self.entropy_b > 0 else 0.0


def mutual_information(a: Any, b: Any, *, shuffles: int = 5, seed: int = 0) -> Information:
    """I(a; b) of two labellings of the same things.

    Args:
        a, b: `[n]` integers.
        shuffles: draws of chance.
        seed: of the shuffles.

    Raises:
        MoEError: different lengths, no pairs, or a negative number of shuffles.

    Example:
        >>> import numpy as np
        >>> halves = np.arange(1000) % 2
        >>> round(mutual_information(halves, halves).plain, 4)
        0.6931
    """
    a = labels_of(a, np.size(np.asarray(a)), "labels")
    b = labels_of(b, a.shape[0], "labels")
    if a.shape[0] == 0 or shuffles < 0:
        raise MoEError(
            f"{a.shape[0]} pairs and shuffles={shuffles}, expected at least one pair and no "
            "negative number"
        )
    rng = np.random.default_rng(seed)
    chance = [float(mutual_info_score(a, rng.permutation(b))) for _ in range(shuffles)]
    return Information(
        float(mutual_info_score(a, b)),
        float(np.mean(chance)) if chance else 0.0,
        float(np.std(chance)) if chance else 0.0,
        float(mutual_info_score(a, a)),
        float(mutual_info_score(b, b)),
        int(a.shape[0]),
    )


def between_layers(plans: Sequence[Plan], *, shuffles: int = 5, seed: int = 0) -> list[Information]:
    """What the first choice of each layer tells of that of the next, one entry a pair of layers.

    Tokens that either layer sends nowhere are left out.

    Args:
        plans: of the same tokens, layer by layer.
        shuffles, seed: as in `mutual_information`.

    Raises:
        MoEError: layers with different numbers of tokens.
    """
    sizes = {plan.n_sources for plan in plans}
    if len(sizes) > 1:
        raise MoEError(f"layers with {sorted(sizes)} tokens, expected the same ones in each")
    choices = [first_choice(plan) for plan in plans]
    found = []
    for below, above in pairwise(choices):
        both = (below >= 0) & (above >= 0)
        found.append(mutual_information(below[both], above[both], shuffles=shuffles, seed=seed))
    return found
