"""Conformance suites: what every system of a scale must do, third parties' included."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wye.testing.policy import check_policy as check_policy
    from wye.testing.query_data import made_outcomes as made_outcomes
    from wye.testing.query_router import QUERY_ROUTER_CHECKS as QUERY_ROUTER_CHECKS
    from wye.testing.query_router import check_query_router as check_query_router

_HOME = {
    "check_policy": "policy",
    "QUERY_ROUTER_CHECKS": "query_router",
    "check_query_router": "query_router",
    "made_outcomes": "query_data",
}

__all__ = ["QUERY_ROUTER_CHECKS", "check_policy", "check_query_router", "made_outcomes"]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"wye.testing.{_HOME[name]}"), name)
    raise AttributeError(f"module 'wye.testing' has no attribute {name!r}; it has {__all__}")
