"""A decision as it is stored: every candidate with its figures, the reasons, what was read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from wye.gateway.estimates import Expected
from wye.gateway.openai_api import ChatRequest
from wye.gateway.surfaces import surface_of
from wye.query.base import Candidate


def candidates_of(
    expected: Expected,
    scores: np.ndarray | None,
    law: np.ndarray | None,
    excluded: Mapping[str, str],
) -> tuple[dict[str, Any], ...]:
    """Every target with its figures, best score first, those without a score last."""
    estimate, followed = expected.estimate, expected.conversation
    rows = [
        Candidate(
            target=name,
            quality=float(estimate.quality[0, i]),
            quality_std=float(estimate.quality_std[0, i]),
            cost_usd=finite(estimate.cost[0, i]),
            latency_s=finite(estimate.latency[0, i]),
            score=float(scores[i]) if scores is not None else -math.inf,
            allowed=name not in excluded,
            probability=float(law[i]) if law is not None else None,
        )
        for i, name in enumerate(estimate.models)
    ]
    rows.sort(key=lambda c: (-c.score, -c.quality))
    return tuple(
        {
            **asdict(row),
            "score": finite(row.score),
            "note": expected.notes.get(row.target),
            **(followed.figures(row.target) if followed is not None else {}),
        }
        for row in rows
    )


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
