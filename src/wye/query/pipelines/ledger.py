"""The ledger of a pipeline: one account for every stage, hard in total, priced on a stream.

Every answer, judgement and embedding that any stage pays for is charged here. What is left is a
hard bound; the price is that of online dual ascent (`wye.core.DualPrice`; arXiv 2603.04445,
"budget ledger": lambda <- max(0, lambda + eta (cost_t - B))), so that any stage that maximises
quality - price * cost spends the budget evenly over the stream.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from wye.core import DualPrice
from wye.query.pipelines.frame import PipelineError, is_number


@dataclass
class Ledger:
    """What a pipeline may spend and what it has spent.

    Args:
        total_usd: never exceeded by what is known of prices; unlimited when infinite.
        per_query_usd: what a query may cost on average; None leaves the price at 0.
        learning_rate: of the price, see `DualPrice`.

    Attributes:
        spent_usd: so far.
        entries: (stage, what, USD) of the query under way.

    Raises:
        PipelineError: a budget that is not positive.

    Example:
        >>> ledger = Ledger(total_usd=1.0)
        >>> ledger.charge("route", "large", 0.25)
        >>> ledger.left_usd
        0.75
    """

    total_usd: float = math.inf
    per_query_usd: float | None = None
    learning_rate: float = 0.05
    spent_usd: float = field(default=0.0, init=False)
    entries: list[tuple[str, str, float]] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        for name in ("total_usd", "per_query_usd"):
            value = getattr(self, name)
            if value is not None and not (is_number(value) and value > 0):
                raise PipelineError(f"{name} is {value!r}, expected more than 0")
        if not is_number(self.learning_rate) or not self.learning_rate > 0:
            raise PipelineError(
                f"learning_rate is {self.learning_rate!r}, expected a number above 0"
            )
        self._price = (
            None
            if self.per_query_usd is None
            else DualPrice(self.per_query_usd, self.learning_rate)
        )

    @property
    def left_usd(self) -> float:
        """What may still be spent."""
        return max(0.0, self.total_usd - self.spent_usd)

    @property
    def price(self) -> float:
        """Quality that one USD must bring at this moment, >= 0."""
        return 0.0 if self._price is None else self._price.price

    def charge(self, stage: str, what: str, cost_usd: float) -> None:
        """Book a cost. A cost that nobody knows (NaN) is an error: it could not be kept.

        Raises:
            PipelineError: `cost_usd` is negative, or NaN while there is a budget.
        """
        bounded = math.isfinite(self.total_usd) or self._price is not None
        if cost_usd < 0 or (math.isnan(cost_usd) and bounded):
            raise PipelineError(
                f"{stage} charges {cost_usd} USD for {what}, expected 0 or more; give the prices "
                "of the model, or drop the budget of the ledger"
            )
        self.entries.append((stage, what, cost_usd))
        if not math.isnan(cost_usd):
            self.spent_usd += cost_usd

    def open_query(self) -> None:
        """Begin a query: its entries are counted from here."""
        self.entries = []

    def close_query(self) -> float:
        """End a query, move the price by what it cost, and return that (USD)."""
        cost = float(sum(c for _, _, c in self.entries if not math.isnan(c)))
        if self._price is not None:
            self._price.update(cost)
        return cost
