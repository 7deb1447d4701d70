"""A decision as it is stored: every candidate with its figures, the reasons, what was read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from wye.gateway.estimates import Expected
from wye.gateway.openai_api import ChatRequest
from wye.gateway.surfaces import surface_of


def candidates_of(
    expected: Expected,
    scores: np.ndarray | None,
    law: np.ndarray | None,
    excluded: Mapping[str, str],
) -> tuple[dict[str, Any], ...]:
    """Every target with its figures (`wye.query.base.Candidate`), best score first."""
    estimate, followed = expected.estimate, expected.conversation
    n, isfinite = len(estimate.models), math.isfinite
    figures = zip(
        scores.tolist() if scores is not None else [-math.inf] * n,
        estimate.quality[0].tolist(),
        # Equal ones stay in configured order.
        range(0, -n, -1),
        estimate.models,
        estimate.quality_std[0].tolist(),
        estimate.cost[0].tolist(),
        estimate.latency[0].tolist(),
        law.tolist() if law is not None else [None] * n,
        strict=True,
    )
    note_of = expected.notes.get
    found: list[dict[str, Any]] = [
        {
            "target": name,
            "quality": quality,
            "quality_std": std,
            "cost_usd": cost if isfinite(cost) else None,
            "latency_s": latency if isfinite(latency) else None,
            "score": score if isfinite(score) else None,
            "allowed": name not in excluded,
            "probability": probability,
            "note": note_of(name),
        }
        for score, quality, _, name, std, cost, latency, probability in sorted(
            figures, reverse=True
        )
    ]
    if followed is not None:
        for candidate in found:
            candidate |= followed.figures(candidate["target"])
    return tuple(found)


def context_of(
    target: str | None, expected: Expected, excluded: Mapping[str, str]
) -> tuple[str, ...]:
    """What a policy cannot know: what is cached, where figures are from, who was left out."""
    note, followed = expected.notes.get(target or ""), expected.conversation
    others = [name for name in expected.estimate.models if name not in excluded]
    cached = followed.reasons(target, others) if followed is not None else ()
    left_out = (f"{name} was left out: {reason}" for name, reason in excluded.items())
    return (*cached, *([note] if note else ()), *left_out)


def features_of(chat: ChatRequest, expected: Expected) -> dict[str, Any]:
    """What was read of a request."""
    return {
        **expected.described,
        "novelty": finite(expected.estimate.novelty[0]),
        "messages": chat.turns,
        "surface": surface_of(chat.body).name,
        "input_tokens_estimate": chat.input_tokens_estimate,
        "needs": sorted(chat.needs),
    }


def finite(value: float) -> float | None:
    """A figure as JSON has it: None where it is unknown or infinite."""
    return float(value) if math.isfinite(value) else None
