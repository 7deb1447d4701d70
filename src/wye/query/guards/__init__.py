"""Refusing queries that no target is for: domain classifiers, and guards that read them.

A `DomainClassifier` says how a query looks among known domains, a `Guard` whether it belongs to any
of them. `wye.query.guarded_query_routing` puts both together.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wye.query.guards.bags import FastText as FastText
    from wye.query.guards.bags import WideMLP as WideMLP
    from wye.query.guards.base import AnyGuard as AnyGuard
    from wye.query.guards.base import DomainClassifier as DomainClassifier
    from wye.query.guards.base import Guard as Guard
    from wye.query.guards.base import Reading as Reading
    from wye.query.guards.base import ThresholdGuard as ThresholdGuard
    from wye.query.guards.confidence import EnergyGuard as EnergyGuard
    from wye.query.guards.confidence import ScoreGuard as ScoreGuard
    from wye.query.guards.confidence import SigmoidGuard as SigmoidGuard
    from wye.query.guards.confidence import SoftmaxGuard as SoftmaxGuard
    from wye.query.guards.distance import MahalanobisGuard as MahalanobisGuard
    from wye.query.guards.distance import NearestGuard as NearestGuard
    from wye.query.guards.drift import RejectionWatch as RejectionWatch
    from wye.query.guards.known_tokens import KnownTokenGuard as KnownTokenGuard
    from wye.query.guards.semantic_router import SemanticRouter as SemanticRouter
    from wye.query.guards.vectors import VectorClassifier as VectorClassifier

_HOME = {
    "AnyGuard": "base",
    "DomainClassifier": "base",
    "EnergyGuard": "confidence",
    "FastText": "bags",
    "Guard": "base",
    "KnownTokenGuard": "known_tokens",
    "MahalanobisGuard": "distance",
    "NearestGuard": "distance",
    "Reading": "base",
    "RejectionWatch": "drift",
    "ScoreGuard": "confidence",
    "SemanticRouter": "semantic_router",
    "SigmoidGuard": "confidence",
    "SoftmaxGuard": "confidence",
    "ThresholdGuard": "base",
    "VectorClassifier": "vectors",
    "WideMLP": "bags",
}

__all__ = [
    "AnyGuard",
    "DomainClassifier",
    "EnergyGuard",
    "FastText",
    "Guard",
    "KnownTokenGuard",
    "MahalanobisGuard",
    "NearestGuard",
    "Reading",
    "RejectionWatch",
    "ScoreGuard",
    "SemanticRouter",
    "SigmoidGuard",
    "SoftmaxGuard",
    "ThresholdGuard",
    "VectorClassifier",
    "WideMLP",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"wye.query.guards.{_HOME[name]}"), name)
    raise AttributeError(f"module 'wye.query.guards' has no attribute {name!r}; it has {__all__}")
