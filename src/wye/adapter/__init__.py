"""The adapter scale: input -> LoRA, on top of PEFT.

`base` holds the contract; `prism` and `vlm_dynamic_routing` are systems, the other files are what
systems are composed of. Adapters are PEFT's own layers and files.

Names are resolved on first use, so that importing this room loads neither PyTorch nor PEFT.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wye.adapter.base import AdapterError as AdapterError
    from wye.adapter.base import RoutedAdapters as RoutedAdapters
    from wye.adapter.gated_adapter import GatedAdapter as GatedAdapter
    from wye.adapter.gated_adapter import GateDecision as GateDecision
    from wye.adapter.judging import RuleJudge as RuleJudge
    from wye.adapter.judging import SelfJudge as SelfJudge
    from wye.adapter.prism import BootstrapSettings as BootstrapSettings
    from wye.adapter.prism import PersonaRouter as PersonaRouter
    from wye.adapter.prompts import ChatFormat as ChatFormat
    from wye.adapter.prompts import PromptFormat as PromptFormat
    from wye.adapter.vlm_dynamic_routing import DynamicRouting as DynamicRouting

_HOME = {
    "AdapterError": "base",
    "BootstrapSettings": "prism",
    "ChatFormat": "prompts",
    "DynamicRouting": "vlm_dynamic_routing",
    "GateDecision": "gated_adapter",
    "GatedAdapter": "gated_adapter",
    "PersonaRouter": "prism",
    "PromptFormat": "prompts",
    "RoutedAdapters": "base",
    "RuleJudge": "judging",
    "SelfJudge": "judging",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"wye.adapter.{_HOME[name]}"), name)
    raise AttributeError(f"module 'wye.adapter' has no attribute {name!r}; it has {__all__}")


def __dir__() -> list[str]:
    return __all__
