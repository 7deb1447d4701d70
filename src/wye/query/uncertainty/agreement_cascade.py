"""Agreement-based cascading (ABC): an ensemble of cheap models at each tier, asked before a dearer.

Routes after the answers of a tier, on their agreement; nothing is trained. Kolawole et al.,
Agreement-Based Cascading for Efficient Inference, arXiv 2407.02348.

    tier k answers where share_k = votes of its majority / n_k >= tau_k, else tier k + 1 is asked;
    the last tier answers in any case.

Every answer of every tier that was asked is paid. Ties within a tier go to its earliest model.

Shape letters: Q queries, K tiers, n models of a tier.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from wye.query.answers.canonical import canonical_all
from wye.query.answers.voting import IntArray, answer_numbers, vote
from wye.query.base import FloatArray
from wye.query.chat_models.base import ChatModel, Generation, Message
from wye.query.policy import PolicyError
from wye.query.uncertainty.self_consistency import majority_share


@dataclass(frozen=True)
class AgreementOutcome:
    """What a cascade over recorded answers did.

    Attributes:
        tier: `[Q]` the tier that answered.
        member: `[Q]` the model of that tier whose answer is returned.
        share: `[Q]` agreement at that tier.
        cost: `[Q]` of all answers of all tiers asked.
    """

    tier: IntArray
    member: IntArray
    share: FloatArray
    cost: FloatArray


def run_agreement_cascade(
    answers: Sequence[IntArray], costs: Sequence[FloatArray], taus: Sequence[float]
) -> AgreementOutcome:
    """Lead Q queries through K tiers with recorded answers.

    Args:
        answers: per tier `[Q, n]` answers by number, negative for none (`answer_numbers`).
        costs: per tier `[Q, n]` or `[n]` USD of each answer.
        taus: `[K - 1]` share from which each tier but the last answers.

    Raises:
        PolicyError: no tiers, other numbers of queries, or thresholds that do not fit.

    Example:
        >>> tiers = [np.array([[0, 0], [0, 1]]), np.array([[5], [5]])]
        >>> run_agreement_cascade(tiers, [np.ones(2), np.array([9.0])], [1.0]).cost.tolist()
        [2.0, 11.0]
    """
    check_taus(taus, len(answers))
    if len(costs) != len(answers) or len({a.shape[0] for a in answers}) != 1:
        raise PolicyError(
            f"{len(answers)} tiers of {sorted({a.shape[0] for a in answers})} queries with costs "
            f"of {len(costs)}, expected one number of queries and costs of every tier"
        )
    n_queries = answers[0].shape[0]
    tier = np.full(n_queries, len(answers) - 1, np.intp)
    member, share = np.zeros(n_queries, np.intp), np.zeros(n_queries)
    paid = np.zeros(n_queries)
    open_ = np.ones(n_queries, dtype=np.bool_)
    for k, (numbers, cost) in enumerate(zip(answers, costs, strict=True)):
        of_tier = np.broadcast_to(np.asarray(cost, np.float64), numbers.shape).sum(axis=1)
        paid[open_] += of_tier[open_]
        agreed, winner = majority_share(numbers), vote(numbers).winner
        tau = taus[k] if k < len(taus) else -np.inf
        done = open_ & (agreed >= tau)
        tier[done], member[done], share[done] = k, winner[done], agreed[done]
        open_ &= ~done
    return AgreementOutcome(tier, member, share, paid)


@dataclass(frozen=True)
class AgreementAnswer:
    """One query led through a cascade of chat models.

    Attributes:
        generation: the answer returned.
        tier: the tier that gave it.
        share: agreement there.
        calls: of all tiers asked, in order.
    """

    generation: Generation
    tier: int
    share: float
    calls: tuple[Generation, ...]


class AgreementCascade:
    """U9: tiers of chat models, the cheap ones first.

    Args:
        tiers: models of each tier, the first of a tier first in ties.
        taus: share from which each tier but the last answers.
        kind: of the answers, as in `wye.query.answers.canonical`, or a function from text to
            canonical answer.
        max_tokens, temperature: of every call.

    Raises:
        PolicyError: no tiers, an empty one, or thresholds that do not fit.
    """

    def __init__(
        self,
        tiers: Sequence[Sequence[ChatModel]],
        taus: Sequence[float],
        *,
        kind: str | Callable[[str], str] = "text",
        max_tokens: int = 512,
        temperature: float = 0.0,
    ) -> None:
        check_taus(taus, len(tiers))
        if not all(tiers):
            raise PolicyError("every tier needs at least one model")
        self.tiers, self.taus, self.kind = tiers, tuple(taus), kind
        self.max_tokens, self.temperature = max_tokens, temperature

    def answer(self, messages: Sequence[Message], *, seed: int | None = None) -> AgreementAnswer:
        """Ask tier after tier until one agrees.

        Raises:
            ChatModelError: a model refuses or cannot be reached.
        """
        calls: list[Generation] = []
        for k, tier in enumerate(self.tiers):
            said = [
                m.generate(
                    messages, max_tokens=self.max_tokens, temperature=self.temperature, seed=seed
                )
                for m in tier
            ]
            calls += said
            texts = [g.text for g in said]
            kind = self.kind
            read = canonical_all(texts, kind) if isinstance(kind, str) else [kind(t) for t in texts]
            numbers = answer_numbers([read])
            share = float(majority_share(numbers)[0])
            if k == len(self.taus) or share >= self.taus[k]:
                winner = said[int(vote(numbers).winner[0])]
                return AgreementAnswer(winner, k, share, tuple(calls))
        raise PolicyError("a cascade without tiers answers nothing")


def check_taus(taus: Sequence[float], n_tiers: int) -> None:
    """Refuse thresholds that do not fit `n_tiers` tiers.

    Raises:
        PolicyError: no tiers, another number of thresholds, or one outside 0 to 1.
    """
    if n_tiers < 1 or len(taus) != n_tiers - 1 or not all(0.0 <= t <= 1.0 for t in taus):
        raise PolicyError(
            f"taus={list(taus)} for {n_tiers} tiers, expected one share from 0 to 1 for each tier "
            "but the last"
        )
