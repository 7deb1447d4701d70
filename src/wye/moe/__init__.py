"""The expert scale: token -> expert.

Names are resolved on first use, so that importing this room loads no PyTorch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wye.moe.balance import Balance as Balance
    from wye.moe.balance import DualPrices as DualPrices
    from wye.moe.balance import EntropyLoss as EntropyLoss
    from wye.moe.balance import LoadBalanceLoss as LoadBalanceLoss
    from wye.moe.balance import LossFreeBias as LossFreeBias
    from wye.moe.balance import ZLoss as ZLoss
    from wye.moe.balanced_selections import AssignmentSelection as AssignmentSelection
    from wye.moe.balanced_selections import SinkhornSelection as SinkhornSelection
    from wye.moe.base import Context as Context
    from wye.moe.base import Contracts as Contracts
    from wye.moe.base import MoEError as MoEError
    from wye.moe.base import RoutedModule as RoutedModule
    from wye.moe.base import Router as Router
    from wye.moe.base import Routing as Routing
    from wye.moe.base import after_step as after_step
    from wye.moe.base import routed_layers as routed_layers
    from wye.moe.base import track as track
    from wye.moe.build import Shape as Shape
    from wye.moe.consistency import two_draws as two_draws
    from wye.moe.dispatch import run_experts as run_experts
    from wye.moe.draws import UniformDraw as UniformDraw
    from wye.moe.draws import same_draws as same_draws
    from wye.moe.experts import ExpertBank as ExpertBank
    from wye.moe.experts import Experts as Experts
    from wye.moe.experts import FeedForward as FeedForward
    from wye.moe.fixed_selections import HashedSelection as HashedSelection
    from wye.moe.fixed_selections import UniformSelection as UniformSelection
    from wye.moe.gates import Gate as Gate
    from wye.moe.global_balance import GlobalBalanceLoss as GlobalBalanceLoss
    from wye.moe.global_balance import global_batch as global_batch
    from wye.moe.language_model import LanguageModel as LanguageModel
    from wye.moe.language_model import load_language_model as load_language_model
    from wye.moe.layer import MoELayer as MoELayer
    from wye.moe.losses import aux_loss as aux_loss
    from wye.moe.losses import carry as carry
    from wye.moe.losses import loss_scale as loss_scale
    from wye.moe.online_prices import OnlinePrices as OnlinePrices
    from wye.moe.open_targets import Opening as Opening
    from wye.moe.open_targets import OpenScores as OpenScores
    from wye.moe.recording import load_trace as load_trace
    from wye.moe.recording import override as override
    from wye.moe.recording import record as record
    from wye.moe.recording import replay as replay
    from wye.moe.recording import save_trace as save_trace
    from wye.moe.recurrent import DepthCell as DepthCell
    from wye.moe.recurrent import RecurrentScores as RecurrentScores
    from wye.moe.registry import build_layers as build_layers
    from wye.moe.registry import get_router as get_router
    from wye.moe.registry import router_names as router_names
    from wye.moe.registry import system_names as system_names
    from wye.moe.router import ComposedRouter as ComposedRouter
    from wye.moe.schedules import expert_schedule as expert_schedule
    from wye.moe.scores import CosineScores as CosineScores
    from wye.moe.scores import LinearScores as LinearScores
    from wye.moe.scores import NoisyScores as NoisyScores
    from wye.moe.selection import Capped as Capped
    from wye.moe.selection import TopK as TopK
    from wye.moe.selection import TopP as TopP
    from wye.moe.soft_moe import SoftMoE as SoftMoE
    from wye.moe.token_graph import GraphSmoothing as GraphSmoothing
    from wye.moe.training import evaluate as evaluate
    from wye.moe.training import train as train
    from wye.moe.training_log_file import load_log as load_log
    from wye.moe.training_log_file import save_log as save_log
    from wye.moe.vision import VisionTransformer as VisionTransformer
    from wye.moe.yolo_master import EsMoE as EsMoE
    from wye.moe.zero_cost import WithZeroCost as WithZeroCost

_HOME = {
    "AssignmentSelection": "balanced_selections",
    "Balance": "balance",
    "Capped": "selection",
    "ComposedRouter": "router",
    "Context": "base",
    "Contracts": "base",
    "CosineScores": "scores",
    "DepthCell": "recurrent",
    "DualPrices": "balance",
    "EntropyLoss": "balance",
    "EsMoE": "yolo_master",
    "ExpertBank": "experts",
    "Experts": "experts",
    "FeedForward": "experts",
    "Gate": "gates",
    "GlobalBalanceLoss": "global_balance",
    "GraphSmoothing": "token_graph",
    "HashedSelection": "fixed_selections",
    "LanguageModel": "language_model",
    "LinearScores": "scores",
    "LoadBalanceLoss": "balance",
    "LossFreeBias": "balance",
    "MoEError": "base",
    "MoELayer": "layer",
    "NoisyScores": "scores",
    "OnlinePrices": "online_prices",
    "OpenScores": "open_targets",
    "Opening": "open_targets",
    "RecurrentScores": "recurrent",
    "RoutedModule": "base",
    "Router": "base",
    "Routing": "base",
    "Shape": "build",
    "SinkhornSelection": "balanced_selections",
    "SoftMoE": "soft_moe",
    "TopK": "selection",
    "TopP": "selection",
    "UniformDraw": "draws",
    "UniformSelection": "fixed_selections",
    "VisionTransformer": "vision",
    "WithZeroCost": "zero_cost",
    "ZLoss": "balance",
    "after_step": "base",
    "aux_loss": "losses",
    "build_layers": "registry",
    "carry": "losses",
    "evaluate": "training",
    "expert_schedule": "schedules",
    "get_router": "registry",
    "global_batch": "global_balance",
    "load_language_model": "language_model",
    "load_log": "training_log_file",
    "load_trace": "recording",
    "loss_scale": "losses",
    "override": "recording",
    "record": "recording",
    "replay": "recording",
    "routed_layers": "base",
    "router_names": "registry",
    "run_experts": "dispatch",
    "same_draws": "draws",
    "save_log": "training_log_file",
    "save_trace": "recording",
    "system_names": "registry",
    "track": "base",
    "train": "training",
    "two_draws": "consistency",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"wye.moe.{_HOME[name]}"), name)
    raise AttributeError(f"module 'wye.moe' has no attribute {name!r}; it has {sorted(_HOME)}")
