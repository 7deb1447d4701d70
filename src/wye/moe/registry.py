"""Systems of the expert scale by the names users type.

The module of a system defines `build(shape, ...)`, and `router(width, n_experts, ...)` where the
system is a router that any expert layer can hold.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from importlib import import_module
from typing import Any

from torch import nn

from wye.moe.base import MoEError, Router
from wye.moe.build import Shape

SYSTEMS: dict[str, str] = {
    "balance_loss": "balance_loss",
    "base": "base_layers",
    "bip-balancing": "bip_balancing",
    "blockffn": "blockffn",
    "deepseek_v3": "deepseek_v3",
    "duo-llm": "duo_llm",
    "dynamic-moe": "dynamic_moe",
    "dynamoe": "dynamoe",
    "expert-choice-dlm": "expert_choice_dlm",
    "expert_choice": "expert_choice",
    "global-batch-lbl": "global_batch_lbl",
    "gshard": "gshard",
    "hash": "hash_layers",
    "graph-of-tokens": "graph_of_tokens",
    "layerwise-recurrent-router": "layerwise_recurrent_router",
    "loss_free": "loss_free",
    "noisy_top_k": "noisy_top_k",
    "openmoe": "openmoe",
    "promoe": "promoe",
    "random": "random_routing",
    "read-me": "read_me",
    "rexmoe": "rexmoe",
    "selective-sinkhorn": "selective_sinkhorn",
    "shared_experts": "shared_experts",
    "sinkhorn": "sinkhorn",
    "soft_moe": "soft_moe",
    "switch": "switch",
    "thor": "thor",
    "top_k": "top_k",
    "union-of-experts": "union_of_experts",
    "yolo-master": "yolo_master",
}
"""Name -> module of `wye.moe`."""


def system_names() -> tuple[str, ...]:
    """Every name that `build_layers` knows, sorted."""
    return tuple(sorted(SYSTEMS))


def router_names() -> tuple[str, ...]:
    """Every name that `get_router` knows, sorted."""
    return tuple(name for name in system_names() if hasattr(_module(name), "router"))


def get_router(name: str, width: int, n_experts: int, **parameters: Any) -> Router:
    """The router called `name`.

    Args:
        name: one of `router_names()`; hyphens and underscores are the same.
        width: D of the hidden states.
        n_experts: E.
        **parameters: of that router; the error for an unknown one lists those there are.

    Raises:
        MoEError: an unknown name or parameter, or a system that is no plain router.

    Example:
        >>> get_router("top_k", 16, 4, k=2).n_experts
        4
    """
    module = _module(name)
    factory = getattr(module, "router", None)
    if factory is None:
        raise MoEError(
            f"{name} is more than a router: build its layers with build_layers({name!r}, shape)"
        )
    made: Router = _call(factory, name, (width, n_experts), parameters)
    return made


def build_layers(name: str, shape: Shape, **options: Any) -> list[nn.Module]:
    """One feed-forward module per layer, routed as the system `name` does.

    Args:
        name: one of `system_names()`.
        shape: sizes.
        **options: of that system; the error for an unknown one lists those there are.

    Raises:
        MoEError: an unknown name or option.
    """
    made: list[nn.Module] = _call(_module(name).build, name, (shape,), options)
    return made


def parameters_of(name: str) -> tuple[str, ...]:
    """Names of the options of `build_layers(name, ...)`."""
    return tuple(_keywords(_module(name).build))


def router_parameters(name: str) -> tuple[str, ...] | None:
    """Names of the parameters of `get_router(name, ...)`; None where that system is no router."""
    factory = getattr(_module(name), "router", None)
    return None if factory is None else tuple(_keywords(factory))


def _module(name: str) -> Any:
    key = name.replace("-", "_")
    known = {n.replace("-", "_"): m for n, m in SYSTEMS.items()}
    if key not in known:
        close = difflib.get_close_matches(key, known, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise MoEError(f"no system is called {name!r}{hint}; there are {list(system_names())}")
    return import_module(f"wye.moe.{known[key]}")


def _call(
    factory: Callable[..., Any], name: str, given: tuple[Any, ...], options: dict[str, Any]
) -> Any:
    known = _keywords(factory)
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise MoEError(f"{name} has no parameters {unknown}; it has {known}")
    return factory(*given, **options)


def _keywords(factory: Callable[..., Any]) -> list[str]:
    parameters = inspect.signature(factory).parameters.values()
    return [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
