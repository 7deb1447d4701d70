"""Outcomes as users of other projects have them on disk: RouteLLM, LLMRouter, RouterBench.

Each format is a module of its own; all give a `RoutingData` whose errors name file and row.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from wye.data.errors import DataError
from wye.data.foreign.llmrouter import read_llmrouter
from wye.data.foreign.routellm import read_routellm
from wye.data.foreign.routerbench import read_routerbench
from wye.data.registry import load_embedded
from wye.data.routing_data import RoutingData

FORMATS = ("wye", "routellm", "llmrouter", "routerbench")


def read_foreign(
    source: str | Path, source_format: str = "wye", *, trust_pickle: bool = False
) -> RoutingData:
    """The outcomes at `source`, in the layout of another project.

    Args:
        source: file or folder; `embedded` with the format `wye` is the set in the package.
        source_format: `wye`, `routellm`, `llmrouter` or `routerbench`.
        trust_pickle: unpickle a RouterBench pickle. A pickle can run any code when it is opened.

    Raises:
        DataError: unknown format, or the source is not as the format says.
    """
    if source_format == "wye":
        return load_embedded() if str(source) == "embedded" else RoutingData.read(source)
    readers: dict[str, Callable[[Path], RoutingData]] = {
        "routellm": read_routellm,
        "llmrouter": read_llmrouter,
        "routerbench": lambda path: read_routerbench(path, trust_pickle=trust_pickle),
    }
    if source_format not in readers:
        raise DataError(f"the source format is {source_format!r}, expected one of {list(FORMATS)}")
    path = Path(source)
    if not path.exists():
        raise DataError(f"{path} does not exist; give the file or folder to read")
    return readers[source_format](path)


__all__ = ["FORMATS", "read_foreign", "read_llmrouter", "read_routellm", "read_routerbench"]
