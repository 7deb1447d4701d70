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

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

import numpy as np
from numpy.typing import NDArray

from wye.query.base import BoolArray, FloatArray, NotFittedError, RouterError
from wye.query.chat_models.base import ChatModel, Generation
from wye.query.stored_system import StoredSystem

MetaVerifier = Literal["threshold", "double threshold", "greedy", "pomdp"]
SMOOTHING = 2.0
REWARDS = 5000
ESCALATION = 100.0

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


@dataclass(frozen=True)
class TwoModelOutcomes:
    """Recorded answers of a small and a large model to Q queries, verified.

    Attributes:
        value: `[Q]` v, in {0, 1/k, ..., 1}.
        small, large: `[Q]` quality, 0 to 1.
        small_cost: `[Q]` USD of the small model's answer and of its verification.
        large_cost: `[Q]` USD.
        bare_cost: `[Q]` USD of the small model's answer alone, for the baseline.
    """

    value: FloatArray
    small: FloatArray
    large: FloatArray
    small_cost: FloatArray
    large_cost: FloatArray
    bare_cost: FloatArray

    def __post_init__(self) -> None:
        shapes = {f.shape for f in vars(self).values()}
        if len(shapes) > 1 or len(self.value.shape) != 1 or not self.value.size:
            raise RouterError(f"outcomes have shapes {sorted(shapes)}, expected [Q] alike, Q >= 1")
        if not all(np.isfinite(f).all() for f in vars(self).values()):
            raise RouterError("outcomes must be finite; leave out queries with unknown ones")

    @property
    def base(self) -> float:
        """IBC of sending everything to the large model instead of the small one."""
        return ibc(
            float(self.large.mean() - self.small.mean()),
            float(self.large_cost.mean() - self.bare_cost.mean()),
        )

    def run(self, escalate: BoolArray) -> tuple[float, float]:
        """Mean quality and cost where the queries `escalate` `[Q]` go on to the large model."""
        quality = np.where(escalate, self.large, self.small)
        cost = self.small_cost + np.where(escalate, self.large_cost, 0.0)
        return float(quality.mean()), float(cost.mean())

    def lift(self, escalate: BoolArray) -> float:
        """IBC lift of that; -1 where nothing is gained over the small model, less for a loss."""
        quality, cost = self.run(escalate)
        return ibc_lift(
            quality - float(self.small.mean()), cost - float(self.bare_cost.mean()), self.base
        )


def ibc(quality_gain: float, extra_cost: float) -> float:
    """Incremental benefit per cost; NaN where nothing more is paid."""
    return quality_gain / extra_cost if extra_cost > 0 else float("nan")


def ibc_lift(quality_gain: float, extra_cost: float, base: float) -> float:
    """By how much a policy's IBC exceeds `base`, as a share of it: -1 where nothing is gained, -inf
    where nothing is paid either.

    Raises:
        RouterError: `base` is not above 0, so that the large model is not worth its cost at all.

    Example:
        >>> round(ibc_lift(0.1, 1.0, base=0.05), 9)
        1.0
    """
    if not base > 0:
        raise RouterError(
            f"the IBC of the large model is {base}, expected above 0: it is not better than the "
            "small one, or not dearer, so there is nothing to escalate for"
        )
    if extra_cost <= 0:
        return float("-inf")
    return quality_gain / extra_cost / base - 1.0


# Tables: which values of v escalate.


def threshold_tables(k: int) -> NDArray[np.bool_]:
    """`[K + 1, B]` escalate where v <= t, for every t; the last escalates all.

    Example:
        >>> threshold_tables(2).astype(int).tolist()
        [[1, 0, 0], [1, 1, 0], [1, 1, 1]]
    """
    return np.tri(k + 1, dtype=np.bool_)


def double_threshold_tables(k: int) -> NDArray[np.bool_]:
    """`[(K + 1) K / 2, B]` escalate where t1 <= v <= t2, for every t1 < t2."""
    bins = np.arange(k + 1)
    low, high = np.triu_indices(k + 1, 1)
    table: NDArray[np.bool_] = (bins >= low[:, None]) & (bins <= high[:, None])
    return table


def greedy_tables(bins: NDArray[np.intp], gain: FloatArray, k: int) -> NDArray[np.bool_]:
    """`[B, B]` the first 1, 2, ... bins in order of smoothed mean gain escalate.

    Args:
        bins: `[Q]` bin of each training query.
        gain: `[Q]` quality of the large model less that of the small one.
        k: number of verifications.
    """
    from scipy.ndimage import gaussian_filter1d

    counts = np.bincount(bins, minlength=k + 1)
    mean = np.bincount(bins, gain, k + 1) / np.maximum(counts, 1)
    order = np.argsort(-gaussian_filter1d(mean, SMOOTHING), kind="stable")
    rank = np.empty(k + 1, np.intp)
    rank[order] = np.arange(k + 1)
    table: NDArray[np.bool_] = rank <= np.arange(k + 1)[:, None]
    return table


def category_shares(
    bins: NDArray[np.intp], small: FloatArray, large: FloatArray, k: int
) -> FloatArray:
    """`[B, 3]` shares of NEEDY (only the large model right), GOOD (the small one right) and
    HOPELESS (neither) in each bin; zeros in a bin that no query fell into.
    """
    category = np.where(small >= 0.5, 1, np.where(large >= 0.5, 0, 2))
    counts = np.bincount(3 * bins + category, minlength=3 * (k + 1)).reshape(k + 1, 3)
    return np.asarray(counts / np.maximum(counts.sum(axis=1, keepdims=True), 1), np.float64)


def pomdp_tables(shares: FloatArray, rewards: int = REWARDS) -> NDArray[np.bool_]:
    """`[P, B]` the distinct policies of all rewards R = 0, ..., `rewards`.

    Args:
        shares: `[B, 3]` P(NEEDY | v), P(GOOD | v), P(HOPELESS | v).
    """
    needy, _, hopeless = shares.T
    # Escalating is better where R P(NEEDY) + P(HOPELESS) exceeds its price, in every term of which
    # the R of HOPELESS cancels.
    price = ESCALATION * shares.sum(axis=1) - hopeless
    reward = np.arange(rewards + 1.0)[:, None]
    return np.unique(reward * needy > price, axis=0)


class AutoMix(StoredSystem):
    """Self-verification and the meta-verifier that lifts most.

    Args:
        k: verifications of an answer.
        temperature: of the verdicts.
        meta_verifiers: kinds to choose among.
        cost_range: mean cost (USD) between which the policy must lie; None for any.
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
        cost_range: tuple[float, float] | None = None,
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
        self.cost_range = None if cost_range is None else (cost_range[0], cost_range[1])
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
        return self.cost_range is None or self.cost_range[0] <= cost <= self.cost_range[1]

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
