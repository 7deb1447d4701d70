"""The query scale: query -> model, prompt, persona or annotator.

Names are resolved on first use, so that importing this room loads no scikit-learn.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wye.query.acar import Acar as Acar
    from wye.query.adaptive_rag import AdaptiveRAGRouter as AdaptiveRAGRouter
    from wye.query.answers.completion_cache import CachedChatModel as CachedChatModel
    from wye.query.arch_router import ArchRouter as ArchRouter
    from wye.query.audit.decisions import record_decisions as record_decisions
    from wye.query.audit.decisions import replay_decisions as replay_decisions
    from wye.query.audit.file import AuditFile as AuditFile
    from wye.query.auto import AutoRouter as AutoRouter
    from wye.query.automix import AutoMix as AutoMix
    from wye.query.avengers import AvengersRouter as AvengersRouter
    from wye.query.avengers_pro import AvengersProRouter as AvengersProRouter
    from wye.query.base import Candidate as Candidate
    from wye.query.base import Decision as Decision
    from wye.query.base import Estimate as Estimate
    from wye.query.base import NotFittedError as NotFittedError
    from wye.query.base import QueryRouter as QueryRouter
    from wye.query.base import RouterError as RouterError
    from wye.query.base import Routing as Routing
    from wye.query.best_route import BestRouteRouter as BestRouteRouter
    from wye.query.c2mab_v import C2MABVRouter as C2MABVRouter
    from wye.query.cluster import ClusterRouter as ClusterRouter
    from wye.query.composition_of_experts import (
        CompositionOfExpertsRouter as CompositionOfExpertsRouter,
    )
    from wye.query.constant import ConstantRouter as ConstantRouter
    from wye.query.eagle import EagleRouter as EagleRouter
    from wye.query.factorisation import FactorisationRouter as FactorisationRouter
    from wye.query.frugalgpt import FrugalGPT as FrugalGPT
    from wye.query.fusionfactory import FusionFactoryRouter as FusionFactoryRouter
    from wye.query.graphrouter import GraphRouter as GraphRouter
    from wye.query.greenserv import GreenServRouter as GreenServRouter
    from wye.query.guarded_query_routing import GuardedRouter as GuardedRouter
    from wye.query.hybrid_preferences import AnnotatorRouter as AnnotatorRouter
    from wye.query.hybridllm import HybridLLMRouter as HybridLLMRouter
    from wye.query.instruction_adherence.router import CapabilityRouter as CapabilityRouter
    from wye.query.irt import IRTRouter as IRTRouter
    from wye.query.knn import KNNRouter as KNNRouter
    from wye.query.linear import LinearRouter as LinearRouter
    from wye.query.llm_blender import LLMBlender as LLMBlender
    from wye.query.metallm import MetaLLMRouter as MetaLLMRouter
    from wye.query.mixllm import MixLLMRouter as MixLLMRouter
    from wye.query.mlp import MLPRouter as MLPRouter
    from wye.query.online.base import OnlineRouter as OnlineRouter
    from wye.query.online.feedback import Outcome as Outcome
    from wye.query.online.feedback import Ticket as Ticket
    from wye.query.pair_ranker import PairRanker as PairRanker
    from wye.query.persistence import load_router as load
    from wye.query.pickllm import PickLLMRouter as PickLLMRouter
    from wye.query.policy import Choice as Choice
    from wye.query.policy import Policy as Policy
    from wye.query.policy import PolicyError as PolicyError
    from wye.query.prompt_router import DescriptionRouter as DescriptionRouter
    from wye.query.registry import get_router as get_router
    from wye.query.registry import router_names as router_names
    from wye.query.routellm_bert import RouteLLMBERTRouter as RouteLLMBERTRouter
    from wye.query.routellm_causal import RouteLLMCausalRouter as RouteLLMCausalRouter
    from wye.query.routellm_mf import RouteLLMMFRouter as RouteLLMMFRouter
    from wye.query.routellm_sw import RouteLLMSWRouter as RouteLLMSWRouter
    from wye.query.router_r1.router import MultiRoundRouter as MultiRoundRouter
    from wye.query.routerdc import RouterDCRouter as RouterDCRouter
    from wye.query.routinggen import PromptRouter as PromptRouter
    from wye.query.shnitzer import ShnitzerRouter as ShnitzerRouter
    from wye.query.speculative_decoding import speculative_decode as speculative_decode
    from wye.query.tryage import TryageRouter as TryageRouter
    from wye.query.uniroute import UniRouteRouter as UniRouteRouter
    from wye.query.zooter import ZooterRouter as ZooterRouter

_HOME = {
    "Acar": "acar",
    "AdaptiveRAGRouter": "adaptive_rag",
    "AnnotatorRouter": "hybrid_preferences",
    "ArchRouter": "arch_router",
    "AuditFile": "audit.file",
    "AutoMix": "automix",
    "AutoRouter": "auto",
    "AvengersProRouter": "avengers_pro",
    "AvengersRouter": "avengers",
    "BestRouteRouter": "best_route",
    "C2MABVRouter": "c2mab_v",
    "CachedChatModel": "answers.completion_cache",
    "Candidate": "base",
    "CapabilityRouter": "instruction_adherence.router",
    "Choice": "policy",
    "ClusterRouter": "cluster",
    "CompositionOfExpertsRouter": "composition_of_experts",
    "ConstantRouter": "constant",
    "Decision": "base",
    "DescriptionRouter": "prompt_router",
    "EagleRouter": "eagle",
    "Estimate": "base",
    "FactorisationRouter": "factorisation",
    "FrugalGPT": "frugalgpt",
    "FusionFactoryRouter": "fusionfactory",
    "GraphRouter": "graphrouter",
    "GreenServRouter": "greenserv",
    "GuardedRouter": "guarded_query_routing",
    "HybridLLMRouter": "hybridllm",
    "IRTRouter": "irt",
    "KNNRouter": "knn",
    "LLMBlender": "llm_blender",
    "LinearRouter": "linear",
    "MLPRouter": "mlp",
    "MetaLLMRouter": "metallm",
    "MixLLMRouter": "mixllm",
    "MultiRoundRouter": "router_r1.router",
    "NotFittedError": "base",
    "OnlineRouter": "online.base",
    "Outcome": "online.feedback",
    "PairRanker": "pair_ranker",
    "PickLLMRouter": "pickllm",
    "Policy": "policy",
    "PolicyError": "policy",
    "PromptRouter": "routinggen",
    "QueryRouter": "base",
    "RouteLLMBERTRouter": "routellm_bert",
    "RouteLLMCausalRouter": "routellm_causal",
    "RouteLLMMFRouter": "routellm_mf",
    "RouteLLMSWRouter": "routellm_sw",
    "RouterDCRouter": "routerdc",
    "RouterError": "base",
    "Routing": "base",
    "ShnitzerRouter": "shnitzer",
    "Ticket": "online.feedback",
    "TryageRouter": "tryage",
    "UniRouteRouter": "uniroute",
    "ZooterRouter": "zooter",
    "get_router": "registry",
    "record_decisions": "audit.decisions",
    "replay_decisions": "audit.decisions",
    "router_names": "registry",
    "speculative_decode": "speculative_decoding",
}

__all__ = [
    "Acar",
    "AdaptiveRAGRouter",
    "AnnotatorRouter",
    "ArchRouter",
    "AuditFile",
    "AutoMix",
    "AutoRouter",
    "AvengersProRouter",
    "AvengersRouter",
    "BestRouteRouter",
    "C2MABVRouter",
    "CachedChatModel",
    "Candidate",
    "CapabilityRouter",
    "Choice",
    "ClusterRouter",
    "CompositionOfExpertsRouter",
    "ConstantRouter",
    "Decision",
    "DescriptionRouter",
    "EagleRouter",
    "Estimate",
    "FactorisationRouter",
    "FrugalGPT",
    "FusionFactoryRouter",
    "GraphRouter",
    "GreenServRouter",
    "GuardedRouter",
    "HybridLLMRouter",
    "IRTRouter",
    "KNNRouter",
    "LLMBlender",
    "LinearRouter",
    "MLPRouter",
    "MetaLLMRouter",
    "MixLLMRouter",
    "MultiRoundRouter",
    "NotFittedError",
    "OnlineRouter",
    "Outcome",
    "PairRanker",
    "PickLLMRouter",
    "Policy",
    "PolicyError",
    "PromptRouter",
    "QueryRouter",
    "RouteLLMBERTRouter",
    "RouteLLMCausalRouter",
    "RouteLLMMFRouter",
    "RouteLLMSWRouter",
    "RouterDCRouter",
    "RouterError",
    "Routing",
    "ShnitzerRouter",
    "Ticket",
    "TryageRouter",
    "UniRouteRouter",
    "ZooterRouter",
    "get_router",
    "load",
    "record_decisions",
    "replay_decisions",
    "router_names",
    "speculative_decode",
]


def __getattr__(name: str) -> Any:
    if name == "load":
        return import_module("wye.query.persistence").load_router
    if name in _HOME:
        return getattr(import_module(f"wye.query.{_HOME[name]}"), name)
    raise AttributeError(f"module 'wye.query' has no attribute {name!r}; it has {__all__}")
