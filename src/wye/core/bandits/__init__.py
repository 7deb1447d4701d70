"""Bandits: which of M arms to try next, when only the arm that was tried shows its reward."""

from wye.core.bandits.base import Bandit, BanditError, Pick
from wye.core.bandits.linear import LinearEpsilonGreedy, LinearThompson, LinUCB
from wye.core.bandits.ridge_arms import RidgeArms
from wye.core.bandits.rounding import dependent_rounding, rounding_law
from wye.core.bandits.stateless import GradientBandit, ValueLearning
from wye.core.bandits.tables import ContextualEpsilonGreedy, EpsilonGreedy

__all__ = [
    "Bandit",
    "BanditError",
    "ContextualEpsilonGreedy",
    "EpsilonGreedy",
    "GradientBandit",
    "LinUCB",
    "LinearEpsilonGreedy",
    "LinearThompson",
    "Pick",
    "RidgeArms",
    "ValueLearning",
    "dependent_rounding",
    "rounding_law",
]
