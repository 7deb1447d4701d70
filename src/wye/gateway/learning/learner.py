"""Policies that learn from feedback while they serve: epsilon-greedy, LinUCB, Thompson sampling.

    score_m(x) = quality_m - cost_weight x cost_m + theta_m . x

The first two terms are what the router (or a prior) expects; theta_m, one ridge regression for each
target on a context `x` of the text (`wye.gateway.learning.reading`), learns by how much judged
answers differ from that. So a learner begins as the policy `utility`, and feedback moves it.

A choice is never made by drawing scores. The probability of every target is computed first, mixed
with a uniform share, and the target is drawn from it:

    p = (1 - epsilon) law + epsilon / n,    n targets that may be chosen

so the propensity that is logged is the probability of the draw that was made, by construction, and
no importance weight exceeds n / epsilon. `law` is one-hot at the best score (epsilon-greedy), at
the best score plus alpha sqrt(x' A^-1 x) (LinUCB: Li, Chu, Langford and Schapire 2010, arXiv
1003.0146; deterministic by itself, so that without the share nothing could be learned from its log
about the other targets), or the probability that a draw from the posterior of this target's score
is the largest (Thompson: Agrawal and Goyal 2013, arXiv 1209.3352), by quadrature.

Feedback comes later, from anybody, to any gateway: `wye.gateway.learning.learner_feed`.

Shape letters: M targets, D context width, Q queries (here 1).
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from wye.core.bandits import LinearEpsilonGreedy, LinearThompson, LinUCB
from wye.gateway.learning.reading import Reader, reader_of
from wye.gateway.learning.records import ContextRecord
from wye.query.base import BoolArray, Estimate, FloatArray
from wye.query.policies.choosing import (
    NOTHING_ALLOWED,
    Reason,
    allowed_models,
    check_number,
    require_known,
    write_choice,
)
from wye.query.policy import Choice, Policy, PolicyError

LEARNERS = ("thompson", "linucb", "epsilon-greedy")
Bandit = LinearThompson | LinUCB | LinearEpsilonGreedy


class Learner(Policy):
    """Learns which target is worth its cost on which requests; see the module.

    It may be read and taught from several threads.

    Args:
        kind: one of `LEARNERS`.
        targets: M names.
        cost_weight: quality that one USD is worth, as in `utility`.
        epsilon: uniform share of the choices, above 0.
        alpha: weight of the bonus of LinUCB.
        sigma: standard deviation of a judged quality about its mean, of Thompson sampling.
        prior_std: standard deviation, beforehand, of what a weight of the context adds.
        context, embedder, width: see `reader_of`.

    Raises:
        PolicyError, RouterError: a parameter is wrong.
    """

    stateful = True

    def __init__(
        self,
        kind: str,
        targets: Sequence[str],
        *,
        cost_weight: float = 0.0,
        epsilon: float = 0.05,
        alpha: float = 0.5,
        sigma: float = 0.4,
        prior_std: float = 0.3,
        context: str = "text",
        embedder: str = "static",
        width: int = 16,
    ) -> None:
        self.name = kind
        self.targets = tuple(targets)
        self.cost_weight = check_number(kind, "cost_weight", cost_weight)
        self.epsilon = check_number(kind, "epsilon", epsilon, high=1.0)
        self.alpha = check_number(kind, "alpha", alpha)
        self.sigma = check_number(kind, "sigma", sigma)
        self.prior_std = check_number(kind, "prior_std", prior_std)
        for name in ("epsilon", "sigma", "prior_std"):
            if getattr(self, name) == 0.0:
                raise PolicyError(f"{kind}: {name}=0, expected a number above 0")
        if isinstance(width, bool) or not isinstance(width, int) or width < 1:
            raise PolicyError(f"{kind}: width={width!r}, expected a whole number of at least 1")
        self.reader: Reader = reader_of(context, embedder, width)
        self._bandit = self._make()
        self._turn = threading.Lock()

    def _make(self) -> Bandit:
        n, width = len(self.targets), self.reader.width
        reg = (self.sigma / self.prior_std) ** 2
        makers: Mapping[str, Callable[[], Bandit]] = {
            "thompson": lambda: LinearThompson(
                n, width, sigma=self.sigma, prior_var=self.prior_std**2
            ),
            "linucb": lambda: LinUCB(n, width, alpha=self.alpha, reg=reg),
            # The uniform share is mixed in below, for all kinds alike.
            "epsilon-greedy": lambda: LinearEpsilonGreedy(
                n, width, reg=reg, epsilon=0.0, decay=1.0, floor=0.0
            ),
        }
        return makers[self.name]()

    def on(self, text: str) -> LearnerView:
        """The learner before one request."""
        return LearnerView(self, self.reader.read(text))

    def choose(
        self,
        estimate: Estimate,
        *,
        allowed: BoolArray | None = None,
        generator: np.random.Generator | None = None,
    ) -> Choice:
        """Refuses: a learner chooses by the text, through `on`."""
        raise PolicyError(
            f"{self.describe()} chooses by the text of a request, which an estimate does not hold; "
            "it runs in the gateway alone"
        )

    def law(self, x: FloatArray, prior: FloatArray, mask: BoolArray) -> tuple[FloatArray, ...]:
        """Probabilities and scores `[M]` of every target, in context `x` `[D]`.

        Args:
            prior: `[M]` utility that is expected without what was learned.
            mask: `[M]` which targets may be chosen; at least one.
        """
        with self._turn:
            found, score = self._bandit.law(x, mask, prior)
        found = (1.0 - self.epsilon) * found + np.where(mask, self.epsilon / mask.sum(), 0.0)
        return found / found.sum(), score

    def utility(self, quality: FloatArray, cost: FloatArray) -> FloatArray:
        """quality - cost_weight x cost, elementwise; without a weight the cost is not read."""
        return quality - self.cost_weight * cost if self.cost_weight else quality

    def teach(self, target: str, x: FloatArray, surprise: FloatArray) -> None:
        """Learn by how much N answers of `target` in contexts `[N, D]` differed, `[N]`."""
        if target in self.targets:
            with self._turn:
                self._bandit.learn(self.targets.index(target), x, surprise)

    def correct(self, target: str, x: FloatArray, difference: float) -> None:
        """Change by `difference` what was learned of one answer of `target` in context `[D]`."""
        if target in self.targets:
            with self._turn:
                self._bandit.ridge.correct(self.targets.index(target), x, difference)

    @property
    def judged(self) -> dict[str, int]:
        """Judged answers that were learned from, by target."""
        counts = self._bandit.ridge.count.tolist()
        return dict(zip(self.targets, counts, strict=True))

    def describe(self) -> str:
        """Kind and parameters."""
        own = {"alpha": self.alpha} if self.name == "linucb" else {}
        own |= {"sigma": self.sigma} if self.name == "thompson" else {}
        told = {
            "cost_weight": self.cost_weight,
            "epsilon": self.epsilon,
            **own,
            "prior_std": self.prior_std,
            "reader": self.reader.name,
        }
        return f"{self.name}({', '.join(f'{n}={v!r}' for n, v in told.items())})"


class LearnerView(Policy):
    """A learner before one request, whose context it has read."""

    stateful = True

    def __init__(self, learner: Learner, context: FloatArray) -> None:
        self.name = learner.name
        self.learner = learner
        self.context = context

    def choose(
        self,
        estimate: Estimate,
        *,
        allowed: BoolArray | None = None,
        generator: np.random.Generator | None = None,
    ) -> Choice:
        """Draw a target from the learner's probabilities.

        Raises:
            PolicyError: a cost that counts is unknown.
        """
        learner = self.learner
        mask = allowed_models(estimate, allowed)
        if learner.cost_weight:
            require_known(
                self.name, estimate, "cost", mask, "set its prices, or leave out cost_weight"
            )
        if not mask.any():
            none = np.full(mask.shape, -np.inf)
            return write_choice(estimate, none, np.array([-1]), lambda _: NOTHING_ALLOWED)
        # An unknown cost is one of a target that may not be chosen.
        cost = np.where(mask[0], estimate.cost[0], 0.0)
        prior = learner.utility(estimate.quality[0], cost)
        law, score = learner.law(self.context, prior, mask[0])
        rng = np.random.default_rng() if generator is None else generator
        target = int(np.searchsorted(law.cumsum(), rng.random() * law.sum(), side="right"))
        # Rounding of the sum may lead past the last target that has a chance.
        target = min(target, int(np.flatnonzero(law)[-1]))

        def reason(_: int) -> Reason:
            return self._reason(estimate, law, score, target)

        return write_choice(
            estimate, score[None], np.array([target]), reason, law[[target]], law[None]
        )

    def record(self, decision_id: str, estimate: Estimate) -> ContextRecord:
        """What a judgement that comes later needs in order to teach."""
        expected = np.stack([estimate.quality[0], estimate.cost[0]]).astype("<f8")
        return ContextRecord(
            decision_id,
            self.learner.reader.name,
            estimate.models,
            self.context.astype("<f4").tobytes(),
            expected.tobytes(),
        )

    def describe(self) -> str:
        """Kind and parameters."""
        return self.learner.describe()

    def _reason(
        self, estimate: Estimate, law: FloatArray, score: FloatArray, target: int
    ) -> Reason:
        chosen, best = estimate.models[target], int(score.argmax())
        judged = self.learner.judged.get(chosen, 0)
        said = (
            f"{chosen} was drawn with probability {law[target]:.2f}; its score is "
            f"{score[target]:.2f}, learned from {judged} judged answers of it"
        )
        if best == target:
            return (said,)
        return (said, f"the best score has {estimate.models[best]}: {score[best]:.2f}")


def learner_of(kind: str, targets: Sequence[str], params: Mapping[str, Any]) -> Learner:
    """The learner of a table of `wye.toml`.

    Raises:
        PolicyError: an unknown parameter, or a wrong one.
    """
    known = (
        "cost_weight", "epsilon", "alpha", "sigma", "prior_std", "context", "embedder", "width",
    )  # fmt: skip
    for name in params:
        if name not in known:
            raise PolicyError(f"{kind} has no parameter {name!r}; it takes {', '.join(known)}")
    return Learner(kind, targets, **params)


def surprise(
    learner: Learner,
    expected: FloatArray,
    quality: float,
    cost: float,
) -> float:
    """By how much a judged answer differed from what was expected of its target.

    Args:
        expected: `[2]` quality and cost (USD); NaN where unknown.
        quality: as judged.
        cost: USD; NaN where unknown, then it is taken to be as expected.
    """
    difference = quality - float(expected[0])
    extra = cost - float(expected[1])
    return difference - (learner.cost_weight * extra if math.isfinite(extra) else 0.0)
