"""What is expected of each configured target on a request: the router's estimate, or a prior.

The router knows models by the names in its training data. A target with such a name (or whose
`model` is such a name) gets the router's figures; any other gets a prior: its configured `quality`,
else the mean of the targets that are known, else 0.5, and a cost by its prices.

Shape letters: Q queries (here 1), M targets.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from wye.gateway.config import Target
from wye.gateway.money.prices import CONFIGURED
from wye.gateway.money.usage import Usage
from wye.gateway.openai_api import ChatRequest
from wye.query.base import Estimate, QueryRouter

if TYPE_CHECKING:
    from wye.gateway.conversation.switching import Followed
    from wye.gateway.learning.course import Course

_PRIOR_STD = 0.25
_PRIOR_QUALITY = 0.5
_PRIOR_OUTPUT_TOKENS = 300


@dataclass(frozen=True)
class Expected:
    """An estimate over the configured targets.

    Attributes:
        estimate: one query, M targets in configured order.
        notes: where each target's figures come from when not from the router and `wye.toml`, by
            its name.
        seconds: what estimating took.
        conversation: what is cached of the conversation, where that is followed.
        course: which policies decide, in which experiment; None where nothing but one set does.
    """

    estimate: Estimate
    notes: Mapping[str, str]
    seconds: float
    conversation: Followed | None = None
    course: Course | None = None


def known_columns(router: QueryRouter | None, targets: Sequence[Target]) -> dict[str, str]:
    """The router's model behind each target that it knows, by the target's name."""
    models = set(router.models_) if router is not None else set()
    columns = {}
    for target in targets:
        for name in (target.name, target.upstream_model):
            if name in models:
                columns[target.name] = name
                break
    return columns


def expect(
    router: QueryRouter | None,
    targets: Sequence[Target],
    columns: Mapping[str, str],
    chat: ChatRequest,
) -> Expected:
    """Expected quality, cost and latency of every target on `chat`.

    Args:
        router: None when there is none: every figure is a prior then.
        columns: see `known_columns`.
    """
    started = time.perf_counter()
    learned = router.estimate([chat.text]) if router is not None and columns else None
    width = len(targets)
    quality, std = np.full((1, width), np.nan), np.full((1, width), _PRIOR_STD)
    cost, latency = np.full((1, width), np.nan), np.full((1, width), np.nan)
    notes = {}
    for column, target in enumerate(targets):
        if learned is not None and target.name in columns:
            source = learned.models.index(columns[target.name])
            quality[0, column] = learned.quality[0, source]
            std[0, column] = learned.quality_std[0, source]
            cost[0, column] = learned.cost[0, source] + _history_cost(target, chat)
            latency[0, column] = learned.latency[0, source]
        if not math.isfinite(cost[0, column]):
            cost[0, column] = _prior_cost(target, chat)
    for column, target in enumerate(targets):
        if target.name not in columns:
            quality[0, column], notes[target.name] = _prior_quality(target, quality)
        if target.prices is not None and target.prices.origin != CONFIGURED:
            said = f"{target.name}: prices are from {target.prices.origin}"
            notes[target.name] = "; ".join(filter(None, (notes.get(target.name), said)))
    estimate = Estimate(
        models=tuple(t.name for t in targets),
        quality=quality,
        quality_std=std,
        cost=cost,
        latency=latency,
        novelty=learned.novelty if learned is not None else np.ones(1),
        router_cost=learned.router_cost if learned is not None else 0.0,
        router_seconds=learned.router_seconds if learned is not None else float("nan"),
    )
    return Expected(estimate, notes, time.perf_counter() - started)


def _prior_quality(target: Target, quality: np.ndarray) -> tuple[float, str]:
    if target.quality is not None:
        return target.quality, (
            f"{target.name}: the router has no outcomes of it; quality {target.quality:.2f} is "
            "from wye.toml"
        )
    known = quality[np.isfinite(quality)]
    if known.size:
        mean = float(known.mean())
        return mean, (
            f"{target.name}: the router has no outcomes of it; quality {mean:.2f} is the mean of "
            "the targets known so far"
        )
    return _PRIOR_QUALITY, (
        f"{target.name}: nothing is known of its quality; {_PRIOR_QUALITY} is assumed. Set "
        "quality in wye.toml, or train a router"
    )


def _prior_cost(target: Target, chat: ChatRequest) -> float:
    """USD by the target's prices, with as many output tokens as a usual answer has."""
    output = min(chat.max_output or _PRIOR_OUTPUT_TOKENS, _PRIOR_OUTPUT_TOKENS)
    cost = target.price(Usage(chat.input_tokens_estimate, output))
    return float("nan") if cost is None else cost


def _history_cost(target: Target, chat: ChatRequest) -> float:
    """USD of the messages that the router's estimate, made on the last text alone, leaves out."""
    extra = max(0, chat.input_tokens_estimate - math.ceil(len(chat.text) / 4))
    return target.price(Usage(extra)) or 0.0
