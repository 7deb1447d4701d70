"""Answers of many models to the same queries, as a log keeps them, and the best of them.

Source: FusionBench's records, FusionFactory, arXiv 2507.10540. A row is found by query and model:
rows with empty responses are often missing, so no query has a fixed number of them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from wye.query.base import RouterError

BEST, KEPT = 5, 3


@dataclass(frozen=True)
class LoggedAnswer:
    """One answer.

    Attributes:
        query: the text that was asked; answers belong together where it is the same.
        task: that the query belongs to.
        model: who answered.
        response: what it said.
        performance: 0 to 1, by the task's own grader.
        cost: USD.
        judge: 0 to 1, by a judge of the reasoning; `performance` where nobody judged.

    Raises:
        RouterError: performance or judge is not from 0 to 1, or the cost is not 0 or more.
    """

    query: str
    task: str
    model: str
    response: str
    performance: float
    cost: float = 0.0
    judge: float | None = None

    def __post_init__(self) -> None:
        for name, value in (("performance", self.performance), ("judge", self.judged)):
            if not 0.0 <= value <= 1.0:
                raise RouterError(f"{name} of {self.model!r} is {value}, expected 0 to 1")
        if not self.cost >= 0.0:
            raise RouterError(f"cost of {self.model!r} is {self.cost}, expected 0 or more")

    @property
    def judged(self) -> float:
        """The judge's score, or the performance where there is none."""
        return self.performance if self.judge is None else self.judge


def by_query(answers: Iterable[LoggedAnswer]) -> dict[tuple[str, str], list[LoggedAnswer]]:
    """Answers by (task, query), in the order in which queries first occur.

    Raises:
        RouterError: a model answered the same query of a task twice.
    """
    grouped: dict[tuple[str, str], dict[str, LoggedAnswer]] = {}
    for answer in answers:
        own = grouped.setdefault((answer.task, answer.query), {})
        if answer.model in own:
            raise RouterError(
                f"model {answer.model!r} answered {answer.query[:80]!r} twice; keep one answer"
            )
        own[answer.model] = answer
    return {key: list(own.values()) for key, own in grouped.items()}


def best_answers(
    answers: Iterable[LoggedAnswer],
    *,
    best: int = BEST,
    kept: int = KEPT,
    models: Collection[str] | None = None,
) -> list[LoggedAnswer]:
    """The answers to one query from which a thought is made.

    The `best` by (performance, cheapest first), and of those `kept` by (judge, cheapest first).
    Ties beyond stay in the order given.

    Args:
        answers: of one query.
        best, kept: how many.
        models: the declared group; all when None.
    """
    allowed = [a for a in answers if models is None or a.model in models]
    first = sorted(allowed, key=lambda a: (-a.performance, a.cost))[:best]
    return sorted(first, key=lambda a: (-a.judged, a.cost))[:kept]
