"""Outcomes of many models on many queries: tidy tables, readers, splits, the embedded set.

Names are resolved on first use, so that importing this room loads no pandas.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wye.data.errors import DataError
    from wye.data.questions import normalise, split_by_question
    from wye.data.routing_data import RoutingData

_HOME = {
    "DataError": "wye.data.errors",
    "RoutingData": "wye.data.routing_data",
    "normalise": "wye.data.questions",
    "split_by_question": "wye.data.questions",
}

__all__ = ["DataError", "RoutingData", "normalise", "split_by_question"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
