"""Model level of FusionFactory: the best answers of a log become training pairs for one model.

Routes nothing at run time: what a router would choose is taught to one model. Source: Feng et al.,
FusionFactory, arXiv 2507.10540.

    pairs of a query = its gold answer in the form of the task, and the K = 5 best responses with a
                       performance above 0
    perf    by (performance, longer response)
    judge   by (judge, longer response)
    hybrid  by (performance, judge)
    gold    the gold answer alone

Longer responses first among equals is the paper's rule; it favours wordy answers. `shortest` among
the parameters turns it round.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from wye.query.answers.logged_answers import LoggedAnswer, by_query
from wye.query.base import RouterError

ORDERS = ("perf", "judge", "hybrid", "gold")
BEST = 5
T = TypeVar("T")


@dataclass(frozen=True)
class TrainingPair:
    """What a model is asked, and what it is taught to answer.

    Attributes:
        prompt: the query.
        answer: gold or logged.
        source: the model that answered, `gold` for the gold answer.
    """

    prompt: str
    answer: str
    source: str


Trainer = Callable[[Sequence[TrainingPair]], T]


def training_pairs(
    answers: Iterable[LoggedAnswer],
    gold: Mapping[str, str],
    *,
    order: str = "perf",
    best: int = BEST,
    shortest: bool = False,
) -> list[TrainingPair]:
    """Pairs for training with the loss on the answer, query by query, gold first.

    Args:
        answers: the log.
        gold: gold answer by query, in the form of its task (`gold_answer`).
        order: `perf`, `judge`, `hybrid`, or `gold` for the gold answers alone.
        best: responses of each query (K).
        shortest: whether shorter responses come first among equals.

    Raises:
        RouterError: an unknown order, or a query without a gold answer.
    """
    if order not in ORDERS:
        raise RouterError(f"order is {order!r}, expected one of {list(ORDERS)}")
    if best < 0:
        raise RouterError(f"best is {best}, expected 0 or more")
    pairs: list[TrainingPair] = []
    for (_, query), own in by_query(answers).items():
        if query not in gold:
            raise RouterError(f"no gold answer of {query[:80]!r}")
        pairs.append(TrainingPair(query, gold[query], "gold"))
        if order == "gold":
            continue
        right = sorted(
            (a for a in own if a.performance > 0), key=lambda a: _key(a, order, shortest)
        )
        pairs += [TrainingPair(query, a.response, a.model) for a in right[:best]]
    return pairs


def gold_answer(answer: str, kind: str = "text") -> str:
    """A gold answer in the form that its task asks for.

    Args:
        answer: for instance `b` or the text of a program.
        kind: `option` (a letter in parentheses), `code` (between markers) or `text` (as it is).

    Example:
        >>> gold_answer("b", "option")
        '(B)'
    """
    if kind == "option":
        return f"({answer.strip().strip('()').upper()})"
    if kind == "code":
        return f"[BEGIN]\n{answer.strip()}\n[DONE]"
    if kind == "text":
        return answer
    raise RouterError(f"kind is {kind!r}, expected option, code or text")


def distil(
    answers: Iterable[LoggedAnswer],
    gold: Mapping[str, str],
    trainer: Trainer[T],
    *,
    order: str = "perf",
    best: int = BEST,
) -> T:
    """Build the pairs and train on them.

    Args:
        answers, gold, order, best: see `training_pairs`.
        trainer: of the pairs, for instance LoRA by PEFT with rate 1e-4 for 3 epochs, with
            cross-entropy on the tokens of the answers; its result is returned.
    """
    return trainer(training_pairs(answers, gold, order=order, best=best))


def _key(answer: LoggedAnswer, order: str, shortest: bool) -> tuple[float, float]:
    length = float(len(answer.response)) * (1.0 if shortest else -1.0)
    if order == "judge":
        return -answer.judged, length
    if order == "hybrid":
        return -answer.performance, -answer.judged
    return -answer.performance, length
