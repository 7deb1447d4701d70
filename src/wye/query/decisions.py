"""Decisions: from texts to a plan in one go, with an id, the candidates and the reasons of each.

The plan is made at once; a decision's candidates and reasons are built when somebody reads them.

Shape letters: Q queries, M models.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import lru_cache
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from wye.query.arguments import check_policy, check_seed, checked_texts
from wye.query.base import Candidate, Decision, Routing
from wye.query.policies.choosing import targets_of
from wye.query.policies.quality import Quality
from wye.query.policy import chances
from wye.query.wording import listed, seconds, usd

if TYPE_CHECKING:
    from wye.query.base import BoolArray, Estimate, QueryRouter
    from wye.query.policy import Choice, Policy

# The system is asked for random bits of many ids at once: a call of it costs as much as ten ids.
_RANDOM_BYTES, _IDS_AT_ONCE = 8, 256
_random_bits: list[int] = []
if hasattr(os, "register_at_fork"):
    # Processes that share their beginning must not share ids.
    os.register_at_fork(after_in_child=_random_bits.clear)


def decide(
    router: QueryRouter,
    texts: Sequence[str],
    policy: Policy | None = None,
    *,
    allowed: BoolArray | None = None,
    seed: int | None = None,
) -> Routing:
    """Choose a model for each of Q texts and say why.

    Args:
        router: fitted.
        texts: Q queries.
        policy: the rule; `Quality()` when not given.
        allowed: `[Q, M]` or `[M]`, which models may be chosen; all when not given.
        seed: for policies that randomise; drawn from the system when not given.

    Raises:
        RouterError: `texts` is one string, or holds something else than strings; `policy` is no
            policy; `seed` is no whole number of 0 or more.
        PolicyError: the policy cannot choose from this estimate.
    """
    texts = checked_texts(texts)
    if policy is not None:
        check_policy(policy)
    if seed is not None:
        check_seed(seed)
    rule = Quality() if policy is None else policy
    started = time.perf_counter()
    estimate = router.estimate(texts)
    choice = rule.choose(estimate, allowed=allowed, generator=_generator(seed))
    took = (time.perf_counter() - started) / max(len(texts), 1)
    decisions = Decisions(router.name, rule.describe(), texts, estimate, choice, took)
    return Routing(plan=choice.plan, decisions=decisions, models=estimate.models)


class Decisions(Sequence[Decision]):
    """The decisions of one batch, each built on first sight and kept."""

    def __init__(
        self,
        router: str,
        policy: str,
        texts: Sequence[str],
        estimate: Estimate,
        choice: Choice,
        took: float,
    ) -> None:
        self._router = router
        self._policy = policy
        self._texts = texts
        self._estimate = estimate
        self._choice = choice
        self._took = took
        self._target = targets_of(choice)
        self._first_id = first_id()
        self._built: dict[int, Decision] = {}

    def __len__(self) -> int:
        return len(self._texts)

    @overload
    def __getitem__(self, index: int) -> Decision: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Decision, ...]: ...
    def __getitem__(self, index: int | slice) -> Decision | tuple[Decision, ...]:
        if isinstance(index, slice):
            return tuple(self[i] for i in range(*index.indices(len(self))))
        position = index + len(self) if index < 0 else index
        if not 0 <= position < len(self):
            raise IndexError(f"decision {index} of {len(self)}")
        if position not in self._built:
            self._built[position] = self._build(position)
        return self._built[position]

    def _build(self, i: int) -> Decision:
        estimate, choice = self._estimate, self._choice
        target = int(self._target[i])
        return Decision(
            id=format_id(self._first_id + i),
            target=None if target < 0 else estimate.models[target],
            candidates=_candidates(estimate, choice, i, target),
            policy=self._policy,
            router=self._router,
            propensity=float(choice.propensity[i]),
            reasons=tuple(choice.reasons[i]),
            features=_features(self._texts[i], float(estimate.novelty[i])),
            router_cost_usd=estimate.router_cost,
            router_seconds=self._took,
        )


def first_id() -> int:
    """The 128 bits of an id for this moment; the next ids of the same batch count up from it.

    UUID version 7 (RFC 9562, method 3): 48 bits of milliseconds, 12 bits of the fraction of the
    millisecond, 62 random bits, of which the topmost is 0 to leave room for counting.
    """
    nanoseconds = time.time_ns()
    milliseconds, rest = divmod(nanoseconds, 1_000_000)
    fraction = rest * 4096 // 1_000_000
    return milliseconds << 80 | 7 << 76 | fraction << 64 | 0b10 << 62 | _random()


def _random() -> int:
    """61 random bits of the system, never given before; safe in any thread."""
    while True:
        try:
            return _random_bits.pop()
        except IndexError:
            drawn = np.frombuffer(os.urandom(_RANDOM_BYTES * _IDS_AT_ONCE), np.uint64)
            _random_bits.extend((drawn >> np.uint64(3)).tolist())


def format_id(value: int) -> str:
    """128 bits as the hexadecimal form of a UUID; sorts as text by time.

    Example:
        >>> format_id(0x0123456789ABCDEF0123456789ABCDEF)
        '01234567-89ab-cdef-0123-456789abcdef'
    """
    digits = f"{value:032x}"
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def explain(decision: Decision) -> str:
    """A decision in words: what was chosen, why, and what the other candidates were.

    Example:
        >>> from wye.query.base import Candidate, Decision
        >>> one = Candidate("small", 0.8, 0.05, 0.0001, None, 0.8, True)
        >>> print(explain(Decision("0", "small", (one,), "quality()", "knn", 1.0, ("it is best",))))
        small, because it is best.
        Policy quality(), router knn, propensity 1.000.
        Candidates, best first:
          > small: score 0.800, quality 0.800 +- 0.050, $0.000100, unknown latency
    """
    head = decision.target if decision.target is not None else "No model"
    because = f"{head}, because {decision.reasons[0]}." if decision.reasons else f"{head}."
    lines = [because, *(f"{_capital(r)}." for r in decision.reasons[1:])]
    lines.append(
        f"Policy {decision.policy}, router {decision.router}, "
        f"propensity {decision.propensity:.3f}{_router_effort(decision)}."
    )
    if decision.features:
        read = [f"{name} {_figure(value)}" for name, value in decision.features.items()]
        lines.append(f"Read of the text: {listed(read, 12)}.")
    lines.append("Candidates, best first:")
    lines.extend(_candidate_line(c, decision.target) for c in decision.candidates)
    return "\n".join(lines)


def as_dict(decision: Decision) -> dict[str, Any]:
    """A decision for JSON: unknown figures and the scores of excluded models are None."""
    value = asdict(decision)
    value["features"] = dict(decision.features)
    finite: dict[str, Any] = _finite(value)
    return finite


def _generator(seed: int | None) -> np.random.Generator:
    # An unseeded generator costs system calls; one for the process serves all unseeded choices.
    return _system_generator() if seed is None else np.random.default_rng(seed)


@lru_cache(maxsize=1)
def _system_generator() -> np.random.Generator:
    return np.random.default_rng()


def _candidates(estimate: Estimate, choice: Choice, i: int, target: int) -> tuple[Candidate, ...]:
    score = choice.score[i]
    law = chances(choice, i, target)
    told = [None] * score.shape[0] if law is None else law.tolist()
    order = np.lexsort((np.nan_to_num(estimate.cost[i], nan=np.inf), -score)).tolist()
    figures = np.stack(
        [
            estimate.quality[i],
            estimate.quality_std[i],
            estimate.cost[i],
            estimate.latency[i],
            score,
        ],
        axis=1,
    ).tolist()
    return tuple(
        Candidate(
            target=estimate.models[m],
            quality=figures[m][0],
            quality_std=figures[m][1],
            cost_usd=_known(figures[m][2]),
            latency_s=_known(figures[m][3]),
            score=figures[m][4],
            allowed=figures[m][4] != -math.inf,
            probability=told[m],
        )
        for m in order
    )


def _features(text: str, novelty: float) -> dict[str, float | str]:
    from wye.query.learning.features import describe_text

    return {**describe_text(text), "novelty": novelty}


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return value


def _capital(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]


def _figure(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:g}"


def _router_effort(decision: Decision) -> str:
    took = decision.router_seconds
    effort = "" if math.isnan(took) else f", decided in {seconds(took)}"
    return effort + (f" for {usd(decision.router_cost_usd)}" if decision.router_cost_usd else "")


def _candidate_line(candidate: Candidate, target: str | None) -> str:
    nan = float("nan")
    cost = nan if candidate.cost_usd is None else candidate.cost_usd
    latency = nan if candidate.latency_s is None else candidate.latency_s
    score = f"score {candidate.score:.3f}" if candidate.allowed else "not possible"
    return (
        f"  {'>' if candidate.target == target else ' '} {candidate.target}: {score}, "
        f"quality {candidate.quality:.3f} +- {candidate.quality_std:.3f}, {usd(cost)}, "
        f"{seconds(latency)}"
    )
