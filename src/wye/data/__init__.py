"""Outcomes of many models on many queries: tidy tables, readers, splits, the embedded set.

Names are resolved on first use, so that importing this room loads no pandas.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wye.data.artefacts import Artefact as Artefact
    from wye.data.artefacts import find_artefacts as find_artefacts
    from wye.data.errors import DataError as DataError
    from wye.data.foreign import read_foreign as read_foreign
    from wye.data.questions import normalise as normalise
    from wye.data.questions import split_by_question as split_by_question
    from wye.data.registry import DataListing as DataListing
    from wye.data.registry import list_data as list_data
    from wye.data.registry import load_embedded as load_embedded
    from wye.data.routing_data import RoutingData as RoutingData
    from wye.data.summary import DataSummary as DataSummary
    from wye.data.summary import summarise as summarise

_HOME = {
    "Artefact": "artefacts",
    "DataError": "errors",
    "DataListing": "registry",
    "DataSummary": "summary",
    "RoutingData": "routing_data",
    "find_artefacts": "artefacts",
    "list_data": "registry",
    "load_embedded": "registry",
    "normalise": "questions",
    "read_foreign": "foreign",
    "split_by_question": "questions",
    "summarise": "summary",
}

__all__ = [
    "Artefact",
    "DataError",
    "DataListing",
    "DataSummary",
    "RoutingData",
    "find_artefacts",
    "list_data",
    "load_embedded",
    "normalise",
    "read_foreign",
    "split_by_question",
    "summarise",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'wye.data' has no attribute {name!r}; it has {__all__}")
    value = getattr(import_module(f"wye.data.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return list(__all__)
