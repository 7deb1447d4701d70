"""Six ways of using one small model, by name, from the least tokens to the most."""

from wye.gateway.pool.answer import Strategy
from wye.gateway.pool.strategies.direct import Direct
from wye.gateway.pool.strategies.few_shot import FewShot
from wye.gateway.pool.strategies.majority import Majority
from wye.gateway.pool.strategies.retrieval import Retrieval
from wye.gateway.pool.strategies.step_by_step import StepByStep
from wye.gateway.pool.strategies.tool import Tool

STRATEGIES: dict[str, Strategy] = {
    strategy.name: strategy
    for strategy in (Direct(), FewShot(), Retrieval(), StepByStep(), Majority(), Tool())
}

__all__ = ["STRATEGIES", "Direct", "FewShot", "Majority", "Retrieval", "StepByStep", "Tool"]
