"""Conformance suites: what every system of a scale must do, third parties' included."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wye.testing.in_model import ContractError as ContractError
    from wye.testing.in_model import check_batch_invariant as check_batch_invariant
    from wye.testing.in_model import check_causal as check_causal
    from wye.testing.in_model import check_padding as check_padding
    from wye.testing.moe_system import MOE_SYSTEM_CHECKS as MOE_SYSTEM_CHECKS
    from wye.testing.moe_system import check_moe_system as check_moe_system
    from wye.testing.plans import PlanContractError as PlanContractError
    from wye.testing.plans import check_plan as check_plan
    from wye.testing.policy import check_policy as check_policy
    from wye.testing.query_data import made_outcomes as made_outcomes
    from wye.testing.query_router import QUERY_ROUTER_CHECKS as QUERY_ROUTER_CHECKS
    from wye.testing.query_router import check_query_router as check_query_router

_HOME = {
    "ContractError": "in_model",
    "MOE_SYSTEM_CHECKS": "moe_system",
    "PlanContractError": "plans",
    "QUERY_ROUTER_CHECKS": "query_router",
    "check_batch_invariant": "in_model",
    "check_causal": "in_model",
    "check_moe_system": "moe_system",
    "check_padding": "in_model",
    "check_plan": "plans",
    "check_policy": "policy",
    "check_query_router": "query_router",
    "made_outcomes": "query_data",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"wye.testing.{_HOME[name]}"), name)
    raise AttributeError(f"module 'wye.testing' has no attribute {name!r}; it has {__all__}")
