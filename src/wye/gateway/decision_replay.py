"""One logged decision under another policy: what it would have chosen, on what was known then.

The policy sees the candidates as they are stored (expected quality, cost, latency) and the targets
that could be chosen at that moment. What the other choice would really have cost and reached nobody
knows; over many decisions `wye replay` estimates it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from wye.gateway.logged_traffic import sight_of
from wye.query.base import BoolArray, Estimate
from wye.query.off_policy import OffPolicyError
from wye.query.policies.choosing import targets_of
from wye.query.policy import Choice, Policy, PolicyError, chances


def replay_decision(found: Mapping[str, Any], policy: Policy) -> dict[str, Any]:
    """What `policy` chooses for a decision as `reports.decision` gives it.

    Args:
        found: the decision.
        policy: may keep account of this choice: give a copy.

    Raises:
        OffPolicyError: the decision holds no candidates, or none could be chosen.
        PolicyError: the policy cannot choose from them.
    """
    sight = sight_of([(f"decision {found['id']}", found)])
    if not sight.allowed.any():
        raise OffPolicyError("every target was left out when it was made")
    choice = _choose(policy, sight.estimate, sight.allowed)
    column = int(targets_of(choice)[0])
    models = sight.estimate.models
    chosen = models[column] if column >= 0 else None
    law = chances(choice, 0, column)
    order = sorted(range(len(models)), key=lambda m: -float(choice.score[0, m]))
    return {
        "policy": policy.describe(),
        "stateful": policy.stateful,
        "drawn": bool(choice.propensity[0] != 1.0),
        "target": chosen,
        "logged_target": found["target"],
        "same": chosen == found["target"],
        "propensity": float(choice.propensity[0]),
        "reasons": list(choice.reasons[0]),
        "candidates": [
            {
                "target": models[m],
                "allowed": bool(sight.allowed[0, m]),
                "quality": _finite(sight.estimate.quality[0, m]),
                "cost_usd": _finite(sight.estimate.cost[0, m]),
                "latency_s": _finite(sight.estimate.latency[0, m]),
                "score": _finite(choice.score[0, m]),
                "probability": None if law is None else float(law[m]),
            }
            for m in order
        ],
    }


def _choose(policy: Policy, estimate: Estimate, allowed: BoolArray) -> Choice:
    """Where a figure that the policy needs is unknown, it chooses among the others."""
    failed: PolicyError | None = None
    for unknown in (None, "cost", "latency"):
        if unknown is not None:
            allowed = allowed & np.isfinite(getattr(estimate, unknown))
        try:
            return policy.choose(estimate, allowed=allowed, generator=np.random.default_rng(0))
        except PolicyError as error:
            failed = failed or error
    assert failed is not None
    raise failed


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
