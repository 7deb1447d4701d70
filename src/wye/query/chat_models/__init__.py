"""Chat models of three kinds: a served endpoint, a model in this process, a program."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wye.query.chat_models.endpoint import EndpointChatModel as EndpointChatModel
    from wye.query.chat_models.program import ProgramChatModel as ProgramChatModel
    from wye.query.chat_models.transformers_model import (
        TransformersChatModel as TransformersChatModel,
    )

_HOME = {
    "EndpointChatModel": "endpoint",
    "ProgramChatModel": "program",
    "TransformersChatModel": "transformers_model",
}

__all__ = ["EndpointChatModel", "ProgramChatModel", "TransformersChatModel"]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"wye.query.chat_models.{_HOME[name]}"), name)
    raise AttributeError(
        f"module 'wye.query.chat_models' has no attribute {name!r}; it has {__all__}"
    )
