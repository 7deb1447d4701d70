"""Policies: from an estimate to a choice.

A policy sees the `Estimate` of a batch of queries and says, for each, which model answers, with
what probability it chose so, and why. It never sees the text or the true outcome.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar

from wye.errors import WyeError

if TYPE_CHECKING:
    import numpy as np

    from wye.core import Plan
    from wye.query.base import BoolArray, Estimate, FloatArray


class PolicyError(WyeError):
    """A policy cannot choose from what it was given; the message says what to do."""


@dataclass(frozen=True)
class Choice:
    """What a policy chose for Q queries.

    Attributes:
        plan: Q sources, M targets; at most one target per source. A source without an entry
            abstains.
        score: `[Q, M]` what the policy maximised; -inf where a model was not allowed or infeasible.
        propensity: `[Q]` probability of the choice that was made; 1 for deterministic policies.
        reasons: for each query, sentences in plain words, most important first. May build them
            when they are read.
        probabilities: `[Q, M]` probability with which the policy chooses each model; a row adds up
            to 1 less the probability of abstaining. None where the choice was certain, or where a
            policy that draws cannot tell.
        reserved: `[Q]` USD that the policy holds for each choice until it is settled; None where it
            keeps no account.
    """

    plan: Plan
    score: FloatArray
    propensity: FloatArray
    reasons: Sequence[tuple[str, ...]]
    probabilities: FloatArray | None = None
    reserved: FloatArray | None = None


class Policy(ABC):
    """Base of every policy. Parameters are constructor keywords stored under their own names.

    A policy whose choices depend on earlier ones (a budget) says so with `stateful = True`: then
    the order of the queries matters, and nobody may override its choice behind its back.
    """

    name: str
    stateful: ClassVar[bool] = False

    @abstractmethod
    def choose(
        self,
        estimate: Estimate,
        *,
        allowed: BoolArray | None = None,
        generator: np.random.Generator | None = None,
    ) -> Choice:
        """Choose for every query of `estimate` among the `allowed` `[Q, M]` models."""

    def probabilities(self, estimate: Estimate, *, allowed: BoolArray | None = None) -> FloatArray:
        """`[Q, M]` probability with which each model is chosen; 1 minus its sum is to abstain.

        Off-policy evaluation rests on these. They come from `choose`.

        Raises:
            PolicyError: the policy keeps account of its own choices, or draws and does not tell
                `Choice.probabilities`; or as `choose` raises.
        """
        import numpy as np

        if self.stateful:
            raise PolicyError(
                f"{self.describe()} keeps account of its own choices, so the probability of a "
                "choice depends on what came before; take a policy that looks at one query alone, "
                "such as utility with the price that the account led to"
            )
        choice = self.choose(estimate, allowed=allowed, generator=np.random.default_rng(0))
        return law_of(choice, self.describe())

    def settle(self, cost: float, *, reserved: float | None = None) -> None:  # noqa: B027
        """Tell the policy what a chosen answer really cost (USD). Stateless policies ignore it.

        Args:
            cost: USD; 0 where nothing came of the choice.
            reserved: `Choice.reserved` of that choice, where it is told.
        """

    def describe(self) -> str:
        """Name and parameters, as in `utility(cost_weight=50.0)`."""
        names = parameter_names(type(self))
        return f"{self.name}({', '.join(f'{n}={getattr(self, n)!r}' for n in names)})"


def law_of(choice: Choice, policy: str) -> FloatArray:
    """`[Q, M]` probabilities behind a choice of `policy`, one-hot where it was certain.

    Raises:
        PolicyError: it was drawn, and the policy does not tell among what.
    """
    import numpy as np

    if choice.probabilities is not None:
        return choice.probabilities
    if bool((choice.propensity != 1.0).any()):
        raise PolicyError(
            f"{policy} draws, but does not tell the probabilities of all models; set "
            "Choice.probabilities"
        )
    law = np.zeros((choice.plan.n_sources, choice.plan.n_targets))
    law[np.asarray(choice.plan.source), np.asarray(choice.plan.target)] = 1.0
    return law


def chances(choice: Choice, row: int, target: int) -> FloatArray | None:
    """`[M]` probability of every model for one query; None where it was drawn untold.

    Args:
        choice: of Q queries.
        row: of the query.
        target: column that was chosen for it, -1 for none.
    """
    import numpy as np

    if choice.probabilities is not None:
        return np.asarray(choice.probabilities[row], np.float64)
    if choice.propensity[row] != 1.0:
        return None
    law = np.zeros(choice.plan.n_targets)
    if target >= 0:
        law[target] = 1.0
    return law


@lru_cache(maxsize=256)
def parameter_names(policy: type[Policy]) -> tuple[str, ...]:
    """The constructor's parameters of a policy class, in order."""
    import inspect

    return tuple(inspect.signature(policy).parameters)
