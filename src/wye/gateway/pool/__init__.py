"""The embedded pool: one small real model under six strategies, each a target of the gateway.

SmolLM2-135M-Instruct answers a query directly, after worked examples, step by step, by majority of
samples, with retrieved facts, or through an evaluator. The strategies differ in tokens and in skill
by kind of question, so routing between them is a real decision with no key and no hub.
"""

from wye.gateway.pool.answer import AnswerParams, Strategy, StrategyAnswer, StrategyError
from wye.gateway.pool.client import ModelClient, ModelClientError
from wye.gateway.pool.model import EmbeddedModel, EmbeddedModelError
from wye.gateway.pool.strategies import STRATEGIES
from wye.gateway.pool.weights import WeightsError

__all__ = [
    "STRATEGIES",
    "AnswerParams",
    "EmbeddedModel",
    "EmbeddedModelError",
    "ModelClient",
    "ModelClientError",
    "Strategy",
    "StrategyAnswer",
    "StrategyError",
    "WeightsError",
]
