"""A classifier and its guards as arrays and JSON, in one safetensors file and back.

Only parts of wye are stored: reading a file must run no code that it names.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wye.files import write_whole
from wye.query.base import RouterError
from wye.query.guards.bags import FastText, WideMLP
from wye.query.guards.base import AnyGuard, DomainClassifier, Guard
from wye.query.guards.confidence import EnergyGuard, ScoreGuard, SigmoidGuard, SoftmaxGuard
from wye.query.guards.distance import MahalanobisGuard, NearestGuard
from wye.query.guards.known_tokens import KnownTokenGuard
from wye.query.guards.semantic_router import SemanticRouter
from wye.query.guards.vectors import VectorClassifier
from wye.query.learning.named_arrays import together, under
from wye.query.persistence import plain_params

CLASSIFIERS: tuple[type[DomainClassifier], ...] = (
    WideMLP,
    FastText,
    VectorClassifier,
    SemanticRouter,
)
GUARDS: tuple[type[Guard], ...] = (
    SigmoidGuard,
    SoftmaxGuard,
    EnergyGuard,
    ScoreGuard,
    MahalanobisGuard,
    NearestGuard,
    KnownTokenGuard,
)


def stored_parts(
    router: DomainClassifier, guard: Guard
) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Arrays and JSON values of a fitted classifier and a fitted guard.

    Raises:
        RouterError: a part is none of `CLASSIFIERS` and `GUARDS`, or has a parameter that is no
            JSON.
    """
    guards = guard.guards if isinstance(guard, AnyGuard) else (guard,)
    for part, known in [(router, CLASSIFIERS), *((g, GUARDS) for g in guards)]:
        if type(part) not in known:
            raise RouterError(f"{part.kind} is not of wye, and cannot be saved with the rest")
    arrays = together({"router": router.get_state(), "guard": AnyGuard(guards=guards).get_state()})
    values = {
        "router": [router.kind, plain_params(router.kind, router.get_params())],
        "guards": [[g.kind, plain_params(g.kind, g.get_params())] for g in guards],
        "domains": list(router.domains_),
    }
    return arrays, values


def restored_parts(
    arrays: Mapping[str, NDArray[Any]], values: Mapping[str, Any]
) -> tuple[DomainClassifier, Guard]:
    """What `stored_parts` was given."""
    kinds = {c.kind: c for c in CLASSIFIERS}
    rules = {g.kind: g for g in GUARDS}
    router = kinds[values["router"][0]](**values["router"][1])
    guards = [rules[kind](**params) for kind, params in values["guards"]]
    whole = AnyGuard(guards=guards)
    whole.set_state(under("guard/", arrays))
    router.set_state(under("router/", arrays))
    router.domains_ = tuple(values["domains"])
    return router, guards[0] if len(guards) == 1 else whole


def write_file(
    path: str | Path, arrays: Mapping[str, NDArray[Any]], values: Mapping[str, Any]
) -> Path:
    """Write arrays and JSON values to one safetensors file, whole or not at all."""
    from safetensors.numpy import save

    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    return write_whole(Path(path), save(contiguous, {"wye": json.dumps(values)}))


def read_file(path: str | Path) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """What `write_file` wrote.

    Raises:
        RouterError: there is no such file, or it is none of ours.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), "np") as file:
            values = json.loads((file.metadata() or {})["wye"])
            return {k: file.get_tensor(k) for k in file.keys()}, values  # noqa: SIM118
    except (OSError, KeyError, ValueError, SafetensorError) as error:
        raise RouterError(f"{path} holds no guarded router: {error!r}") from error
