"""Policies of the query scale: one file each, found by name or by a short spec."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from wye.query.policies.registry import get_policy, parse_policy, policy_names

if TYPE_CHECKING:
    from wye.query.policies.abstain import Abstain
    from wye.query.policies.budget import Budget
    from wye.query.policies.budget_stream import BudgetRun, run_budget
    from wye.query.policies.cascade import Cascade, CascadeRun, Step
    from wye.query.policies.cascade_run import CascadeOutcome, run_cascade
    from wye.query.policies.explore import Explore
    from wye.query.policies.judging import Answer, ConfidenceJudge, Judge, JudgeModel
    from wye.query.policies.match import CheapestMatch
    from wye.query.policies.optimal_routing import OptimalRouting
    from wye.query.policies.quality import Quality
    from wye.query.policies.threshold import Threshold
    from wye.query.policies.utility import Utility

_HOME = {
    "Abstain": "abstain",
    "Answer": "judging",
    "Budget": "budget",
    "BudgetRun": "budget_stream",
    "Cascade": "cascade",
    "CascadeOutcome": "cascade_run",
    "CascadeRun": "cascade",
    "CheapestMatch": "match",
    "ConfidenceJudge": "judging",
    "Explore": "explore",
    "Judge": "judging",
    "JudgeModel": "judging",
    "OptimalRouting": "optimal_routing",
    "Quality": "quality",
    "Step": "cascade",
    "Threshold": "threshold",
    "Utility": "utility",
    "run_budget": "budget_stream",
    "run_cascade": "cascade_run",
}

__all__ = [
    "Abstain",
    "Answer",
    "Budget",
    "BudgetRun",
    "Cascade",
    "CascadeOutcome",
    "CascadeRun",
    "CheapestMatch",
    "ConfidenceJudge",
    "Explore",
    "Judge",
    "JudgeModel",
    "OptimalRouting",
    "Quality",
    "Step",
    "Threshold",
    "Utility",
    "get_policy",
    "parse_policy",
    "policy_names",
    "run_budget",
    "run_cascade",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
