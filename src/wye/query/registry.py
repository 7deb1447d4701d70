"""Routers by name: the built-in ones, and third parties' by the entry points `wye.routers`."""

from __future__ import annotations

import inspect
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from wye.query.base import QueryRouter, RouterError

ENTRY_POINTS = "wye.routers"

BUILT_IN = {
    "adaptive-rag": "wye.query.adaptive_rag:AdaptiveRAGRouter",
    "auto": "wye.query.auto:AutoRouter",
    "avengers": "wye.query.avengers:AvengersRouter",
    "avengers-pro": "wye.query.avengers_pro:AvengersProRouter",
    "best-route": "wye.query.best_route:BestRouteRouter",
    "c2mab-v": "wye.query.c2mab_v:C2MABVRouter",
    "cluster": "wye.query.cluster:ClusterRouter",
    "composition-of-experts": "wye.query.composition_of_experts:CompositionOfExpertsRouter",
    "constant": "wye.query.constant:ConstantRouter",
    "eagle": "wye.query.eagle:EagleRouter",
    "factorisation": "wye.query.factorisation:FactorisationRouter",
    "greenserv": "wye.query.greenserv:GreenServRouter",
    "fusionfactory": "wye.query.fusionfactory:FusionFactoryRouter",
    "graphrouter": "wye.query.graphrouter:GraphRouter",
    "hybridllm": "wye.query.hybridllm:HybridLLMRouter",
    "instruction-adherence": "wye.query.instruction_adherence.router:CapabilityRouter",
    "irt": "wye.query.irt:IRTRouter",
    "knn": "wye.query.knn:KNNRouter",
    "linear": "wye.query.linear:LinearRouter",
    "linear-sums": "wye.query.linear_sums:LinearSumsRouter",
    "metallm": "wye.query.metallm:MetaLLMRouter",
    "mixllm": "wye.query.mixllm:MixLLMRouter",
    "mlp": "wye.query.mlp:MLPRouter",
    "pickllm": "wye.query.pickllm:PickLLMRouter",
    "routellm-bert": "wye.query.routellm_bert:RouteLLMBERTRouter",
    "routellm-causal": "wye.query.routellm_causal:RouteLLMCausalRouter",
    "routellm-mf": "wye.query.routellm_mf:RouteLLMMFRouter",
    "routellm-sw": "wye.query.routellm_sw:RouteLLMSWRouter",
    "routerdc": "wye.query.routerdc:RouterDCRouter",
    "shnitzer": "wye.query.shnitzer:ShnitzerRouter",
    "uniroute": "wye.query.uniroute:UniRouteRouter",
    "words": "wye.query.words:WordsRouter",
    "zooter": "wye.query.zooter:ZooterRouter",
    "tryage": "wye.query.tryage:TryageRouter",
}


def router_names() -> list[str]:
    """Names of all routers that are installed, sorted."""
    return sorted({*BUILT_IN, *(e.name for e in entry_points(group=ENTRY_POINTS))})


def router_class(name: str) -> type[QueryRouter]:
    """The class of the router `name`.

    Raises:
        RouterError: no router has that name, or its plug-in cannot be loaded.
    """
    if name in BUILT_IN:
        module, _, attribute = BUILT_IN[name].partition(":")
        found = getattr(import_module(module), attribute)
    else:
        found = _third_party(name)
    if not (isinstance(found, type) and issubclass(found, QueryRouter)):
        raise RouterError(f"router {name!r} is {found!r}, expected a subclass of QueryRouter")
    return found


def get_router(name: str, **params: Any) -> QueryRouter:
    """A router that has learned nothing yet.

    Args:
        name: a built-in router, or one that a plug-in adds.
        params: parameters of its constructor.

    Raises:
        RouterError: no router has that name, or it has no such parameter.

    Example:
        >>> get_router("knn", k=32).get_params()["k"]
        32
    """
    router = router_class(name)
    known = [n for n in inspect.signature(router.__init__).parameters if n != "self"]
    unknown = sorted(set(params) - set(known))
    if unknown:
        raise RouterError(f"router {name!r} has no parameters {unknown}; it has {known}")
    return router(**params)


def _third_party(name: str) -> Any:
    for entry in entry_points(group=ENTRY_POINTS):
        if entry.name == name:
            try:
                return entry.load()
            except Exception as error:
                raise RouterError(
                    f"the plug-in of router {name!r} ({entry.value}) cannot be loaded: {error}"
                ) from error
    raise RouterError(f"no router is named {name!r}; there are {router_names()}")
