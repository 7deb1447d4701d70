"""From the store to the learners: judgements of answers, whoever sent them and whichever gateway.

A learner holds sums over judged answers (`wye.core.bandits.RidgeArms`), which come out the same in
any order. So each gateway reads the feedback that is new in the store, joins it to the contexts
that were stored with the decisions, and adds it up; at a start it reads everything. Gateways of one
store learn from each other's feedback, and nothing is lost with a process.

An answer teaches about the target that gave it, also after a fallback: what a target's answer is
worth in a context does not depend on how the request came to it. The latest judgement of an answer
counts; one that comes after another replaces it.

Shape letters: D context width, M targets.
"""

from __future__ import annotations

import time
from collections import OrderedDict, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import sqlalchemy as sa

from wye.gateway.learning.learner import Learner, surprise
from wye.gateway.learning.tables import contexts
from wye.gateway.schema import feedback, outcomes
from wye.query.base import FloatArray

# Transactions end out of order: rows numbered a little lower may appear after higher ones.
_OVERLAP = 1000
# Judgements that may still be replaced, and seconds for which an outcome is waited for.
_REMEMBERED, _PATIENCE = 50_000, 3600.0


@dataclass(frozen=True)
class _Lesson:
    target: str
    context: FloatArray
    surprise: float


@dataclass
class _Progress:
    """How far one learner has read.

    Attributes:
        high: the largest number that was read.
        seen: numbers near `high` that were read.
        mark: how many rows there were near `high`, by which new ones are noticed.
        waiting: numbers whose outcome is not written yet.
        taught: the number and the lesson of each decision, for when it is judged anew.
    """

    high: int = 0
    mark: int = 0
    seen: set[int] = field(default_factory=set)
    waiting: set[int] = field(default_factory=set)
    taught: OrderedDict[str, tuple[int, _Lesson]] = field(default_factory=OrderedDict)


class LearnerFeed:
    """Teaches learners. Used from one thread at a time.

    Args:
        engine: of the store.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._progress: dict[int, tuple[Learner, _Progress]] = {}

    def teach(self, learners: Iterable[Learner]) -> int:
        """Teach each learner what is new to it; how many judgements that were.

        A learner that is not among them any more is forgotten.

        Raises:
            DatabaseError: the store cannot be read; nothing is lost, a later call reads it.
        """
        known = {id(learner): learner for learner in learners}
        self._progress = {
            name: self._progress.get(name, (learner, _Progress()))
            for name, learner in known.items()
        }
        return sum(self._teach(learner, progress) for learner, progress in self._progress.values())

    def _teach(self, learner: Learner, progress: _Progress) -> int:
        high = progress.high
        [mark] = self._marks(high)
        if mark == progress.mark and not progress.waiting:
            return 0
        # Read to the end before anything is learned of it: the store may fail on the way.
        new = list(self._new(learner, progress))
        lessons: dict[str, list[_Lesson]] = defaultdict(list)
        first = not progress.taught
        for number, decision, lesson in new:
            before = progress.taught.get(decision)
            if before is not None and before[0] > number:
                continue
            progress.taught[decision] = (number, lesson)
            progress.taught.move_to_end(decision)
            if first:
                continue
            if before is None:
                lessons[lesson.target].append(lesson)
            else:
                difference = lesson.surprise - before[1].surprise
                learner.correct(lesson.target, lesson.context, difference)
        if first:
            for _, lesson in progress.taught.values():
                lessons[lesson.target].append(lesson)
        for target, group in lessons.items():
            learner.teach(
                target,
                np.stack([one.context for one in group]),
                np.array([one.surprise for one in group]),
            )
        again, progress.mark = self._marks(high, progress.high)
        if again != mark:
            # Something came while this was read, maybe after it: the next call reads again.
            progress.mark = -1
        while len(progress.taught) > _REMEMBERED:
            progress.taught.popitem(last=False)
        return len(new)

    def _marks(self, *highs: int) -> list[int]:
        """How many rows there are near or above each of `highs`, at one moment."""
        counts = [
            sa.select(sa.func.count()).where(feedback.c.number > high - _OVERLAP).scalar_subquery()
            for high in highs
        ]
        with self._engine.connect() as connection:
            return [int(count) for count in connection.execute(sa.select(*counts)).one()]

    def _new(self, learner: Learner, progress: _Progress) -> Iterable[tuple[int, str, _Lesson]]:
        """Number, decision and lesson of every judgement that was not read yet, in order.

        They count as read once all are.
        """
        after = sa.or_(
            feedback.c.number > progress.high - _OVERLAP,
            feedback.c.number.in_(sorted(progress.waiting)[:_OVERLAP]),
        )
        query = (
            sa.select(
                feedback.c.number,
                feedback.c.decision_id,
                feedback.c.time,
                feedback.c.quality,
                contexts.c.targets,
                contexts.c.context,
                contexts.c.expected,
                outcomes.c.decision_id.label("outcome"),
                outcomes.c.target,
                outcomes.c.cost_usd,
            )
            .join(contexts, contexts.c.decision_id == feedback.c.decision_id)
            .outerjoin(outcomes, outcomes.c.decision_id == feedback.c.decision_id)
            .where(contexts.c.reader == learner.reader.name, after)
            .order_by(feedback.c.number)
        )
        high, seen, waiting = progress.high, set(progress.seen), set(progress.waiting)
        with self._engine.connect() as connection:
            for row in connection.execute(query).mappings():
                number = row["number"]
                if number in seen and number not in waiting:
                    continue
                seen.add(number)
                high = max(high, number)
                waiting.discard(number)
                if row["outcome"] is None:
                    if row["time"] > time.time() - _PATIENCE:
                        waiting.add(number)
                    continue
                lesson = _lesson(learner, row)
                if lesson is not None:
                    yield number, row["decision_id"], lesson
        progress.high, progress.waiting = high, waiting
        progress.seen = {number for number in seen if number > high - _OVERLAP}


def _lesson(learner: Learner, row: sa.RowMapping) -> _Lesson | None:
    """What a judged answer teaches; None where none of the candidates answered."""
    target, names = row["target"], list(row["targets"])
    if target not in names:
        return None
    expected = np.frombuffer(row["expected"], "<f8").reshape(2, -1)[:, names.index(target)]
    context = np.frombuffer(row["context"], "<f4").astype(np.float64)
    cost = row["cost_usd"]
    found = surprise(learner, expected, row["quality"], np.nan if cost is None else cost)
    return _Lesson(target, context, found)
