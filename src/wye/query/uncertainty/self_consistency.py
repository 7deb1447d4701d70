"""Self-consistency: ask the same model several times and trust the share of the majority.

Scores and chooses an answer after sampling; nothing is learned. Wang et al., Self-Consistency
Improves Chain of Thought Reasoning, arXiv 2203.11171. Stopping early: Aggarwal et al., Let's Sample
Step by Step (Adaptive-Consistency), arXiv 2305.11860, with their Beta criterion.

    score = votes of the most frequent answer / N
    stop  when P(theta > 1/2) > 0.95 under theta ~ Beta(v1 + 1, v2 + 1)

v1 and v2 are the votes of the two most frequent answers. Answers are compared in canonical form
(`wye.query.answers.canonical`); no answer agrees with nothing, itself included. At temperature 0
all samples are alike, and the score says nothing.

Shape letters: Q queries, N samples.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from wye.query.answers.canonical import canonical, canonical_all
from wye.query.answers.voting import IntArray, answer_numbers, same_answer, vote
from wye.query.base import BoolArray, FloatArray
from wye.query.policies.judging import Answer, Judge
from wye.query.policy import PolicyError


def majority_share(numbers: IntArray) -> FloatArray:
    """`[Q]` share of the most frequent answer among N samples, 0 where no sample is an answer.

    Args:
        numbers: `[Q, N]` answers by number, negative for none (`voting.answer_numbers`).

    Example:
        >>> majority_share(np.array([[0, 0, 1, -1]])).tolist()
        [0.5]
    """
    share = vote(numbers).share
    return np.where((numbers >= 0).any(axis=1), share, 0.0)


def lead_is_sure(first: FloatArray, second: FloatArray) -> FloatArray:
    """P(theta > 1/2) for theta ~ Beta(v1 + 1, v2 + 1), of any shape.

    Args:
        first, second: votes of the two most frequent answers, v1 and v2.

    Example:
        >>> float(lead_is_sure(np.array(3.0), np.array(0.0)))
        0.9375
    """
    from scipy.special import betainc

    # P(theta > 1/2) = I_{1/2}(v2 + 1, v1 + 1), by the symmetry of the Beta law.
    return np.asarray(betainc(np.asarray(second) + 1.0, np.asarray(first) + 1.0, 0.5), np.float64)


def samples_needed(numbers: IntArray, *, sure: float = 0.95, least: int = 1) -> IntArray:
    """`[Q]` samples after which the Beta rule stops, N where it never does.

    Args:
        numbers: `[Q, N]` answers by number in the order of drawing, negative for none.
        sure: the posterior probability to exceed.
        least: samples that are always drawn.

    Raises:
        PolicyError: `sure` is no probability, or `least` below 1.
    """
    _check_rule(sure, least)
    n_queries, n_samples = numbers.shape
    same = same_answer(numbers)
    stopped = np.full(n_queries, n_samples, np.intp)
    open_ = np.ones(n_queries, dtype=np.bool_)
    for n in range(max(least, 1), n_samples):
        first, second = _two_leads(numbers[:, :n], same[:, :n, :n])
        done = open_ & (lead_is_sure(first, second) > sure)
        stopped[done] = n
        open_ &= ~done
    return stopped


@dataclass(frozen=True)
class Consistent:
    """What adaptive sampling came to.

    Attributes:
        text: the first sample that gave the majority's answer.
        canonical: that answer, "" where no sample held one.
        share: of the samples drawn that gave it.
        samples: all that were drawn, in order.
    """

    text: str
    canonical: str
    share: float
    samples: tuple[str, ...]


def sample_until_sure(
    draw: Callable[[int], str],
    *,
    most: int = 40,
    sure: float = 0.95,
    least: int = 1,
    kind: str = "text",
) -> Consistent:
    """Draw answers until the Beta rule stops, `most` at the latest.

    Args:
        draw: of the number of the sample (from 0, a seed) the sample.
        most: samples.
        sure, least: as in `samples_needed`.
        kind: of the answers, as in `wye.query.answers.canonical`.

    Raises:
        PolicyError: `most` below 1, or as `samples_needed`.

    Example:
        >>> sample_until_sure(lambda i: "4", most=10, kind="number").samples
        ('4', '4', '4', '4')
    """
    _check_rule(sure, least)
    if most < 1:
        raise PolicyError(f"most={most}, expected at least 1 sample")
    samples: list[str] = []
    votes: Counter[str] = Counter()
    while len(samples) < most:
        samples.append(draw(len(samples)))
        read = canonical(samples[-1], kind)
        if read:
            votes[read] += 1
        leads = [float(v) for _, v in votes.most_common(2)] + [0.0, 0.0]
        if len(samples) >= least and float(lead_is_sure(*np.array(leads[:2]))) > sure:
            break
    numbers = answer_numbers([canonical_all(samples, kind)])
    at = int(vote(numbers).winner[0])
    return Consistent(
        samples[at],
        canonical(samples[at], kind),
        float(majority_share(numbers)[0]),
        tuple(samples),
    )


class SelfConsistencyJudge(Judge):
    """U4: the share of the samples that agree with the answer given.

    Where the answer given is the majority's, this is the share of the majority. None without
    samples.
    """

    name = "self-consistency"

    def __init__(self, kind: str = "text") -> None:
        canonical("", kind)
        self.kind = kind

    def score(self, text: str, answer: Answer) -> float | None:
        """Share of `answer.samples` with the same canonical answer."""
        if not answer.samples:
            return None
        own = canonical(answer.text, self.kind)
        agreeing = sum(read == own for read in canonical_all(answer.samples, self.kind))
        return agreeing / len(answer.samples) if own else 0.0


def _two_leads(numbers: IntArray, same: BoolArray) -> tuple[FloatArray, FloatArray]:
    """Votes of the most frequent answer and of the next, `[Q]` each; 0 where there is none."""
    votes = np.where(numbers >= 0, same.sum(axis=2), 0)
    leader = votes.argmax(axis=1)
    first = np.take_along_axis(votes, leader[:, None], axis=1)[:, 0]
    of_leader = np.take_along_axis(same, leader[:, None, None], axis=1)[:, 0]
    second = np.where(of_leader, 0, votes).max(axis=1)
    return first.astype(np.float64), second.astype(np.float64)


def _check_rule(sure: float, least: int) -> None:
    if not 0.0 < sure < 1.0 or least < 1:
        raise PolicyError(
            f"sure={sure!r}, least={least!r}; expected a probability between 0 and 1, at least 1"
        )
