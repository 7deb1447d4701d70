"""The contract of a check: one claim of a system, run here against its own baseline.

A check is a function `(CheckContext) -> CheckResult`. It measures; it tunes nothing. A claim that
does not hold is a result. A check that cannot run raises.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from wye.errors import WyeError

if TYPE_CHECKING:
    from wye.data import RoutingData

Relation = Literal[">=", "<="]


class CheckError(WyeError):
    """A check cannot run on what it was given; the message says what it needs."""


@dataclass(frozen=True)
class CheckContext:
    """What a check runs on.

    Attributes:
        data: outcomes; the embedded set unless the user names another.
        seeds: of splits and of everything random; figures are means over them.
        progress: tells a person what is going on.
    """

    data: RoutingData
    seeds: tuple[int, ...] = (0, 1, 2)
    progress: Callable[[str], None] = field(default=lambda message: None)


@dataclass(frozen=True)
class Claim:
    """One figure and the threshold that it must meet.

    Raises:
        CheckError: the figure is not a number.

    Example:
        >>> Claim("quality - best single", 0.02, ">=", 0.0).holds
        True
    """

    figure: str
    value: float
    relation: Relation
    threshold: float

    def __post_init__(self) -> None:
        # A NumPy scalar would make `holds` one, which is no JSON.
        object.__setattr__(self, "value", float(self.value))
        if not math.isfinite(self.value):
            raise CheckError(f"{self.figure} is {self.value}, expected a number to hold it to")

    @property
    def holds(self) -> bool:
        """Whether the figure meets the threshold."""
        if self.relation == ">=":
            return self.value >= self.threshold
        return self.value <= self.threshold

    def __str__(self) -> str:
        verdict = "holds" if self.holds else "does not hold"
        return f"{self.figure} = {self.value:.4f} {self.relation} {self.threshold:.4g}: {verdict}"


@dataclass(frozen=True)
class CheckResult:
    """What a check measured.

    Attributes:
        claims: what must hold, each with its threshold.
        figures: everything else that was measured, by name; NaN where it has no meaning here.
        seeds: of the runs behind the figures.
        text: what was done, on what, in a sentence or two.
    """

    claims: tuple[Claim, ...]
    figures: Mapping[str, float]
    seeds: tuple[int, ...]
    text: str

    def __post_init__(self) -> None:
        if not self.claims:
            raise CheckError("a check states at least one claim")

    @property
    def holds(self) -> bool:
        """Whether every claim holds."""
        return all(claim.holds for claim in self.claims)

    def to_dict(self) -> dict[str, Any]:
        """JSON-serialisable form; a figure without meaning is None."""
        return {
            "holds": self.holds,
            "claims": [
                {
                    "figure": c.figure,
                    "value": c.value,
                    "relation": c.relation,
                    "threshold": c.threshold,
                    "holds": c.holds,
                }
                for c in self.claims
            ],
            "figures": {k: float(v) if math.isfinite(v) else None for k, v in self.figures.items()},
            "seeds": list(self.seeds),
            "text": self.text,
        }
