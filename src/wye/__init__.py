"""wye decides, for every input, which computation handles it.

Importing this package defines names and does nothing else: every name below is resolved on first
use, so that `import wye` stays fast and opens no file, socket or accelerator.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wye.attachment import attach as attach
    from wye.attachment import detach as detach
    from wye.attachment import load_routers as load_routers
    from wye.attachment import save_routers as save_routers
    from wye.core import Plan as Plan
    from wye.data import RoutingData as RoutingData
    from wye.moe import aux_loss as aux_loss
    from wye.query import load as load

    __version__: str

_HOME = {
    "Plan": "wye.core",
    "RoutingData": "wye.data",
    "attach": "wye.attachment",
    "aux_loss": "wye.moe",
    "detach": "wye.attachment",
    "load": "wye.query",
    "load_routers": "wye.attachment",
    "save_routers": "wye.attachment",
}
_ROOMS = (
    "adapter",
    "attachment",
    "bench",
    "checks",
    "core",
    "data",
    "embed",
    "gateway",
    "moe",
    "query",
    "testing",
)

__all__ = [
    "Plan",
    "RoutingData",
    "__version__",
    "attach",
    "aux_loss",
    "detach",
    "load",
    "load_routers",
    "save_routers",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    if name == "__version__":
        return _version()
    if name in _ROOMS:
        return import_module(f"wye.{name}")
    raise AttributeError(f"module 'wye' has no attribute {name!r}; it has {sorted(__dir__())}")


def __dir__() -> list[str]:
    return [*__all__, *_ROOMS]


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("wye")
    except PackageNotFoundError:  # a source tree that was never installed
        return "0+unknown"
