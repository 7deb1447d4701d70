"""One way to put an in-model router into a Hugging Face model, and to save, load and remove it.

The room is called attachment because `wye.attach` is its function: a module of that name would take
the function's place as soon as it is imported. Names are resolved on first use, so that importing
this room loads no PyTorch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wye.attachment.adapters import ADAPTERS as ADAPTERS
    from wye.attachment.adapters import MoEAdapter as MoEAdapter
    from wye.attachment.adapters import register as register
    from wye.attachment.blocks import AttachedLayer as AttachedLayer
    from wye.attachment.errors import AttachError as AttachError
    from wye.attachment.install import attach as attach
    from wye.attachment.install import detach as detach
    from wye.attachment.storage import load_routers as load_routers
    from wye.attachment.storage import save_routers as save_routers

_HOME = {
    "ADAPTERS": "adapters",
    "AttachError": "errors",
    "AttachedLayer": "blocks",
    "MoEAdapter": "adapters",
    "attach": "install",
    "detach": "install",
    "load_routers": "storage",
    "register": "adapters",
    "save_routers": "storage",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"wye.attachment.{_HOME[name]}"), name)
    raise AttributeError(
        f"module 'wye.attachment' has no attribute {name!r}; it has {sorted(_HOME)}"
    )
