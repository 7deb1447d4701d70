"""AutoMix: the small model answers and verifies itself; a meta-verifier decides whether it stands.

Routes a query from a small to a large model, after the small one's answer, on its verification of
that answer. Source: Aggarwal, Madaan et al., AutoMix, arXiv 2310.12963.

    v = share of K verdicts "correct" when the small model is shown its own answer and asked,
        few-shot, whether it follows from the context
    threshold          escalate where v <= t
    double threshold   escalate where t1 <= v <= t2: a very low v can mean that nobody can answer
    greedy             bins of v by mean gain of the large model, smoothed by a Gaussian of sigma 2;
                       the first bins of that order escalate
    POMDP              P(NEEDY | v), P(GOOD | v), P(HOPELESS | v) from training; the action of the
                       higher expected reward under
                           keep      (-R, 0, -R - 1)
                           escalate  (-100, -100, -R - 100),       R = 0, 1, ..., 5000
    IBC = (quality - quality_small) / (cost - cost_small)
    IBC lift = (IBC_policy - IBC_base) / IBC_base,  base: everything to the large model

Since v takes K + 1 values, every policy is a table of K + 1 booleans. All tables of all four kinds
are tried, and the one of the highest IBC lift on the training queries wins. Ours: the wording of
the prompt, categories by quality at least one half, and a bin never seen, which keeps.

Shape letters: Q queries, K verifications, B = K + 1 bins of v.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

import numpy as np
from numpy.typing import NDArray

from wye.query.base import BoolArray, FloatArray, NotFittedError, RouterError
from wye.query.chat_models.base import ChatModel, Generation
from wye.query.learning.meta_verifiers import TwoModelOutcomes as TwoModelOutcomes
from wye.query.learning.meta_verifiers import category_shares as category_shares
from wye.query.learning.meta_verifiers import double_threshold_tables as double_threshold_tables
from wye.query.learning.meta_verifiers import greedy_tables as greedy_tables
from wye.query.learning.meta_verifiers import ibc as ibc
from wye.query.learning.meta_verifiers import ibc_lift as ibc_lift
from wye.query.learning.meta_verifiers import pomdp_tables as pomdp_tables
from wye.query.learning.meta_verifiers import threshold_tables as threshold_tables
from wye.query.stored_system import StoredSystem

MetaVerifier = Literal["threshold", "double threshold", "greedy", "pomdp"]

_EXAMPLES = (
    (
        "The bridge was opened in 1932 by the mayor.",
        "When was the bridge opened?",
        "1932",
        "correct",
    ),
    ("Lena has 3 boxes of 4 pears.", "How many pears does Lena have?", "7", "incorrect"),
    (
        "Only the north gate is open on Sundays.",
        "Which gate is closed on Mondays?",
        "north",
        "incorrect",
    ),
    (
        "Iron melts at 1538 degrees.",
        "At how many degrees does iron melt?",
        "1538 degrees",
        "correct",
    ),
)
_VERDICT = re.compile(r"\b(incorrect|not correct|wrong|correct|right|no|yes)\b", re.IGNORECASE)
_GOOD = frozenset({"correct", "right", "yes"})


def verification_prompt(question: str, answer: str, context: str = "") -> str:
    """The few-shot prompt that asks whether `answer` is correct."""
    shown = [
        f"Context: {c}\nQuestion: {q}\nAnswer: {a}\nThe answer is {verdict}."
        for c, q, a, verdict in _EXAMPLES
    ]
    ahead = f"Context: {context}\n" if context else ""
    asked = f"{ahead}Question: {question}\nAnswer: {answer}\nThe answer is"
    head = "Say of each answer whether it is correct or incorrect."
    return "\n\n".join([head, *shown, asked])


def verdict_of(text: str) -> bool:
    """Whether the first verdict in `text` is that the answer is correct; False where there is none.

    Example:
        >>> verdict_of("correct."), verdict_of("Not correct, since 3 * 4 = 12"), verdict_of("hm")
        (True, False, False)
    """
    found = _VERDICT.search(text)
    return found is not None and found[1].lower() in _GOOD


@dataclass(frozen=True)
class Verification:
    """What the small model says of its own answer.

    Attributes:
        value: v, share of the K verdicts that are `correct`.
        cost_usd: of all K; NaN where a price is unknown.
    """

    value: float
    cost_usd: float


def verify_answer(
    model: ChatModel,
    question: str,
    answer: str,
    *,
    context: str = "",
    k: int = 8,
    temperature: float = 0.7,
    seed: int = 0,
) -> Verification:
    """Ask `model` K times whether `answer` is correct.

    Args:
        model: usually the one that answered.
        context: that the answer should follow from.
        k: how often; verdict i is drawn with seed + i.
        temperature: of the verdicts.

    Raises:
        RouterError: k below 1.
        ChatModelError: the model cannot answer.
    """
    if k < 1:
        raise RouterError(f"k={k}, expected at least 1 verification")
    messages = [{"role": "user", "content": verification_prompt(question, answer, context)}]
    made = [
        model.generate(messages, max_tokens=16, temperature=temperature, seed=seed + i)
        for i in range(k)
    ]
    value = sum(verdict_of(m.text) for m in made) / k
    return Verification(value, float(sum(m.cost_usd for m in made)))


class AutoMix(StoredSystem):
    """Self-verification and the meta-verifier that lifts most.

    Args:
        k: verifications of an answer.
        temperature: of the verdicts.
        meta_verifiers: kinds to choose among.
        cost_range: mean cost (USD) between which the policy must lie, the upper end None where
            there is none; None for any.
        seed: of the verdicts.

    Attributes:
        table_: `[k + 1]` which values of v escalate.
        meta_verifier_: the kind that won.
        lift_: its IBC lift on the training queries.

    Raises:
        RouterError: a parameter out of range.
    """

    def __init__(
        self,
        *,
        k: int = 8,
        temperature: float = 0.7,
        meta_verifiers: Sequence[MetaVerifier] = get_args(MetaVerifier),
        cost_range: tuple[float, float | None] | None = None,
        seed: int = 0,
    ) -> None:
        unknown = [m for m in meta_verifiers if m not in get_args(MetaVerifier)]
        if k < 1 or unknown or not meta_verifiers:
            raise RouterError(
                f"k={k}, meta_verifiers={list(meta_verifiers)}; expected at least 1, and some of "
                f"{list(get_args(MetaVerifier))}"
            )
        self.k = k
        self.temperature = temperature
        self.meta_verifiers = tuple(meta_verifiers)
        self.cost_range = None if cost_range is None else _cost_range(*cost_range)
        self.seed = seed

    def fit(self, outcomes: TwoModelOutcomes) -> Self:
        """Choose the policy of the highest IBC lift; equal ones by the order of the kinds.

        Raises:
            RouterError: a value of v that K verifications cannot give, a large model that is not
                worth its cost, or no policy within `cost_range` that gains anything.
        """
        bins = self._bins(outcomes.value)
        best: tuple[float, MetaVerifier, BoolArray] | None = None
        for kind, tables in self.tables(outcomes).items():
            for table in tables:
                escalate = table[bins]
                if not self._within_range(outcomes.run(escalate)[1]):
                    continue
                lift = outcomes.lift(escalate)
                if lift > -1.0 and (best is None or lift > best[0]):
                    best = lift, kind, table
        if best is None:
            raise RouterError(
                "no policy gains anything over the small model"
                + (f" within cost_range={self.cost_range}" if self.cost_range else "")
            )
        self.lift_, self.meta_verifier_, self.table_ = best
        return self

    def tables(self, outcomes: TwoModelOutcomes) -> Mapping[MetaVerifier, NDArray[np.bool_]]:
        """All policies of each kind, `[P, k + 1]`."""
        bins = self._bins(outcomes.value)
        found: dict[MetaVerifier, NDArray[np.bool_]] = {}
        for kind in self.meta_verifiers:
            if kind == "threshold":
                found[kind] = threshold_tables(self.k)
            elif kind == "double threshold":
                found[kind] = double_threshold_tables(self.k)
            elif kind == "greedy":
                found[kind] = greedy_tables(bins, outcomes.large - outcomes.small, self.k)
            else:
                shares = category_shares(bins, outcomes.small, outcomes.large, self.k)
                found[kind] = pomdp_tables(shares)
        return found

    def escalate(self, value: FloatArray) -> BoolArray:
        """`[Q]` whether queries of verification `value` `[Q]` go on to the large model.

        Raises:
            NotFittedError: before `fit`.
        """
        self._require_fitted()
        return np.asarray(self.table_[self._bins(value)], np.bool_)

    def answer(
        self, question: str, small: ChatModel, large: ChatModel, *, context: str = ""
    ) -> tuple[Generation, Verification]:
        """The answer that is kept, and what the small model said of its own.

        Raises:
            NotFittedError: before `fit`.
            ChatModelError: a model cannot answer.
        """
        content = f"{context}\n\n{question}" if context else question
        messages = [{"role": "user", "content": content}]
        first = small.generate(messages)
        found = verify_answer(
            small,
            question,
            first.text,
            context=context,
            k=self.k,
            temperature=self.temperature,
            seed=self.seed,
        )
        escalates = bool(self.escalate(np.array([found.value]))[0])
        return (large.generate(messages) if escalates else first), found

    def get_state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """The table that won.

        Raises:
            NotFittedError: before `fit`.
        """
        self._require_fitted()
        return {"table": self.table_}, {"meta_verifier": self.meta_verifier_, "lift": self.lift_}

    def set_state(self, arrays: Mapping[str, NDArray[Any]], values: Mapping[str, Any]) -> None:
        """Restore what `get_state` returned."""
        self.table_ = arrays["table"]
        self.meta_verifier_, self.lift_ = values["meta_verifier"], values["lift"]

    def _require_fitted(self) -> None:
        if not hasattr(self, "table_"):
            raise NotFittedError("AutoMix is not fitted; call fit first")

    def _within_range(self, cost: float) -> bool:
        if self.cost_range is None:
            return True
        low, high = self.cost_range
        return low <= cost and (high is None or cost <= high)

    def _bins(self, value: FloatArray) -> NDArray[np.intp]:
        bins = np.rint(np.asarray(value, np.float64) * self.k)
        if (
            not np.allclose(bins, np.asarray(value) * self.k)
            or not ((bins >= 0) & (bins <= self.k)).all()
        ):
            raise RouterError(
                f"verification values are not among 0, 1/{self.k}, ..., 1: give k as they were made"
            )
        return bins.astype(np.intp)


def _cost_range(low: float, high: float | None) -> tuple[float, float | None]:
    """Both ends as JSON can hold them, so that the system can be saved."""
    if high == math.inf:
        high = None
    if not math.isfinite(low) or (high is not None and not low <= high):
        raise RouterError(
            f"cost_range is ({low}, {high}); expected USD from low to high, or None for no high end"
        )
    return low, high
