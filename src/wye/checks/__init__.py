"""One runnable claim per system, each against its own baseline.

Names are resolved on first use, so that importing this room loads nothing heavy.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wye.checks.base import CheckContext as CheckContext
    from wye.checks.base import CheckError as CheckError
    from wye.checks.base import CheckResult as CheckResult
    from wye.checks.base import Claim as Claim
    from wye.checks.runner import CheckRun as CheckRun
    from wye.checks.runner import CheckSummary as CheckSummary
    from wye.checks.runner import run_checks as run_checks

_HOME = {
    "CheckContext": "base",
    "CheckError": "base",
    "CheckResult": "base",
    "CheckRun": "runner",
    "CheckSummary": "runner",
    "Claim": "base",
    "run_checks": "runner",
}

__all__ = [
    "CheckContext",
    "CheckError",
    "CheckResult",
    "CheckRun",
    "CheckSummary",
    "Claim",
    "run_checks",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'wye.checks' has no attribute {name!r}; it has {__all__}")
    value = getattr(import_module(f"wye.checks.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return list(__all__)
