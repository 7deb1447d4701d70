"""The online dual price: a budget per step held over a stream, without seeing the future.

Dual subgradient descent on the budget constraint (Balseiro, Lu and Mirrokni 2020, arXiv 2002.10421,
algorithm 1, with the Euclidean reference function): choose what is best at the price of the moment,
    p <- max(0, p + rate (spent - budget per step)),
written in units of the budget, so that the rate has the unit of a score whatever money is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from wye.core.arrays import Array, SelectionError


@dataclass
class DualPrice:
    """A price per unit of cost that rises when spending runs ahead of the budget and falls behind.

    Choose by `scores - price * cost` (`adjusted`), then report what the choice cost (`update`).
    With m the price of one step's whole budget, m <- max(0, m + learning_rate (cost / budget - 1))
    and `price = m / budget`.

    Args:
        budget: what may be spent per step on average, > 0, in the unit of cost.
        learning_rate: score by which m moves when a step spends nothing or twice its budget; about
            the spread of scores over the square root of the number of steps is a good start.
        price: to start from, score per unit of cost, >= 0.

    Attributes:
        steps: updates so far.
        spent: total cost so far.

    Raises:
        SelectionError: budget or learning rate not positive and finite, a negative price.

    Example:
        >>> price = DualPrice(budget=2.0, learning_rate=0.1)
        >>> round(price.update(6.0), 3)
        0.1
        >>> price.update(0.0) < 0.1
        True
    """

    budget: float
    learning_rate: float = 0.05
    price: float = 0.0
    steps: int = field(default=0, init=False)
    spent: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        for name in ("budget", "learning_rate"):
            number = getattr(self, name)
            if not (math.isfinite(number) and number > 0):
                raise SelectionError(f"{name} is {number}, expected a finite number > 0")
        if not (math.isfinite(self.price) and self.price >= 0):
            raise SelectionError(f"price is {self.price}, expected a finite number >= 0")

    def adjusted(self, scores: Array, cost: Array) -> Array:
        """`scores - price * cost`, shapes as they broadcast (`[S, T]` with `[T]` or `[S, T]`)."""
        return scores - self.price * cost

    def update(self, cost: float, *, steps: int = 1, budget: float | None = None) -> float:
        """Move the price after `steps` steps that cost `cost` in all, and return it.

        Args:
            cost: what was spent, >= 0.
            steps: how many steps it was spent on.
            budget: budget per step from here on, where it changes (what is left over the steps that
                are left); the price per unit of cost stays and then moves.

        Raises:
            SelectionError: a cost that is negative or not finite, `steps` < 1, a bad budget.
        """
        if not (math.isfinite(cost) and cost >= 0):
            raise SelectionError(f"cost is {cost}, expected a finite number >= 0")
        if steps < 1:
            raise SelectionError(f"steps is {steps}, expected at least 1")
        if budget is not None:
            if not (math.isfinite(budget) and budget > 0):
                raise SelectionError(f"budget is {budget}, expected a finite number > 0")
            self.budget = budget
        moved = self.price * self.budget + self.learning_rate * (cost / self.budget - steps)
        self.price = max(0.0, moved / self.budget)
        self.steps += steps
        self.spent += cost
        return self.price
