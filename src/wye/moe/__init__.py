"""The expert scale: token -> expert.

`base` holds the contract; every file beside it is a system, or a layer that carries them.
`parts` are what routers are composed of, `dispatch` runs plans, `models` and `learning` are small
models and their training, `surgery` turns dense networks into experts, `diagnostics` reads what was
routed, and `serving` schedules experts whose use is known ahead.

Names are resolved on first use, so that importing this room loads no PyTorch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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
    from wye.moe.dispatch import run_experts as run_experts
    from wye.moe.experts import ExpertBank as ExpertBank
    from wye.moe.experts import Experts as Experts
    from wye.moe.experts import FeedForward as FeedForward
    from wye.moe.layer import MoELayer as MoELayer
    from wye.moe.learning.consistency import two_draws as two_draws
    from wye.moe.learning.training import evaluate as evaluate
    from wye.moe.learning.training import train as train
    from wye.moe.learning.training_log_file import load_log as load_log
    from wye.moe.learning.training_log_file import save_log as save_log
    from wye.moe.losses import aux_loss as aux_loss
    from wye.moe.losses import carry as carry
    from wye.moe.losses import loss_scale as loss_scale
    from wye.moe.models.language_model import LanguageModel as LanguageModel
    from wye.moe.models.language_model import load_language_model as load_language_model
    from wye.moe.models.vision import VisionTransformer as VisionTransformer
    from wye.moe.parts.balance import Balance as Balance
    from wye.moe.parts.balance import DualPrices as DualPrices
    from wye.moe.parts.balance import EntropyLoss as EntropyLoss
    from wye.moe.parts.balance import LoadBalanceLoss as LoadBalanceLoss
    from wye.moe.parts.balance import LossFreeBias as LossFreeBias
    from wye.moe.parts.balance import ZLoss as ZLoss
    from wye.moe.parts.balanced_selections import AssignmentSelection as AssignmentSelection
    from wye.moe.parts.balanced_selections import SinkhornSelection as SinkhornSelection
    from wye.moe.parts.draws import UniformDraw as UniformDraw
    from wye.moe.parts.draws import same_draws as same_draws
    from wye.moe.parts.fixed_selections import HashedSelection as HashedSelection
    from wye.moe.parts.fixed_selections import UniformSelection as UniformSelection
    from wye.moe.parts.gates import Gate as Gate
    from wye.moe.parts.global_balance import GlobalBalanceLoss as GlobalBalanceLoss
    from wye.moe.parts.global_balance import global_batch as global_batch
    from wye.moe.parts.online_prices import OnlinePrices as OnlinePrices
    from wye.moe.parts.open_targets import Opening as Opening
    from wye.moe.parts.open_targets import OpenScores as OpenScores
    from wye.moe.parts.recurrent import DepthCell as DepthCell
    from wye.moe.parts.recurrent import RecurrentScores as RecurrentScores
    from wye.moe.parts.schedules import expert_schedule as expert_schedule
    from wye.moe.parts.scores import CosineScores as CosineScores
    from wye.moe.parts.scores import LinearScores as LinearScores
    from wye.moe.parts.scores import NoisyScores as NoisyScores
    from wye.moe.parts.selection import Capped as Capped
    from wye.moe.parts.selection import TopK as TopK
    from wye.moe.parts.selection import TopP as TopP
    from wye.moe.parts.token_graph import GraphSmoothing as GraphSmoothing
    from wye.moe.parts.zero_cost import WithZeroCost as WithZeroCost
    from wye.moe.recording import load_trace as load_trace
    from wye.moe.recording import override as override
    from wye.moe.recording import record as record
    from wye.moe.recording import replay as replay
    from wye.moe.recording import save_trace as save_trace
    from wye.moe.registry import build_layers as build_layers
    from wye.moe.registry import get_router as get_router
    from wye.moe.registry import router_names as router_names
    from wye.moe.registry import system_names as system_names
    from wye.moe.router import ComposedRouter as ComposedRouter
    from wye.moe.soft_moe import SoftMoE as SoftMoE
    from wye.moe.yolo_master import EsMoE as EsMoE

_HOME = {
    "AssignmentSelection": "parts.balanced_selections",
    "Balance": "parts.balance",
    "Capped": "parts.selection",
    "ComposedRouter": "router",
    "Context": "base",
    "Contracts": "base",
    "CosineScores": "parts.scores",
    "DepthCell": "parts.recurrent",
    "DualPrices": "parts.balance",
    "EntropyLoss": "parts.balance",
    "EsMoE": "yolo_master",
    "ExpertBank": "experts",
    "Experts": "experts",
    "FeedForward": "experts",
    "Gate": "parts.gates",
    "GlobalBalanceLoss": "parts.global_balance",
    "GraphSmoothing": "parts.token_graph",
    "HashedSelection": "parts.fixed_selections",
    "LanguageModel": "models.language_model",
    "LinearScores": "parts.scores",
    "LoadBalanceLoss": "parts.balance",
    "LossFreeBias": "parts.balance",
    "MoEError": "base",
    "MoELayer": "layer",
    "NoisyScores": "parts.scores",
    "OnlinePrices": "parts.online_prices",
    "OpenScores": "parts.open_targets",
    "Opening": "parts.open_targets",
    "RecurrentScores": "parts.recurrent",
    "RoutedModule": "base",
    "Router": "base",
    "Routing": "base",
    "Shape": "build",
    "SinkhornSelection": "parts.balanced_selections",
    "SoftMoE": "soft_moe",
    "TopK": "parts.selection",
    "TopP": "parts.selection",
    "UniformDraw": "parts.draws",
    "UniformSelection": "parts.fixed_selections",
    "VisionTransformer": "models.vision",
    "WithZeroCost": "parts.zero_cost",
    "ZLoss": "parts.balance",
    "after_step": "base",
    "aux_loss": "losses",
    "build_layers": "registry",
    "carry": "losses",
    "evaluate": "learning.training",
    "expert_schedule": "parts.schedules",
    "get_router": "registry",
    "global_batch": "parts.global_balance",
    "load_language_model": "models.language_model",
    "load_log": "learning.training_log_file",
    "load_trace": "recording",
    "loss_scale": "losses",
    "override": "recording",
    "record": "recording",
    "replay": "recording",
    "routed_layers": "base",
    "router_names": "registry",
    "run_experts": "dispatch",
    "same_draws": "parts.draws",
    "save_log": "learning.training_log_file",
    "save_trace": "recording",
    "system_names": "registry",
    "track": "base",
    "train": "learning.training",
    "two_draws": "learning.consistency",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"wye.moe.{_HOME[name]}"), name)
    raise AttributeError(f"module 'wye.moe' has no attribute {name!r}; it has {sorted(_HOME)}")
