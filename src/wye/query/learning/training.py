"""Train a router by name: what the command line and the gateway call."""

from __future__ import annotations

import inspect
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np

from wye.query.arguments import check_data, check_seed
from wye.query.learning.seen import remember
from wye.query.registry import get_router, router_class

if TYPE_CHECKING:
    from rich.console import Console

    from wye.data import RoutingData
    from wye.embed import Embedder
    from wye.query.base import QueryRouter


def train(
    data: RoutingData,
    router: str = "auto",
    *,
    embedder: str | Embedder = "static",
    seed: int = 0,
    console: Console | None = None,
) -> QueryRouter:
    """Fit the router called `router` on all of `data`.

    Args:
        data: outcomes; `data.part("train")` where there is a split.
        router: a name of `wye.query.router_names()`.
        embedder: a spec or an embedder; routers that read no embedding do without.
        seed: of every random choice.
        console: where to show that it is working; nowhere when None.

    Raises:
        RouterError: an unknown name, or data that the router cannot learn from.
        EmbedError: the embedder is unknown or cannot work.
    """
    check_data(data)
    check_seed(seed)
    wanted: dict[str, Any] = {"embedder": embedder, "seed": seed}
    takes = inspect.signature(router_class(router)).parameters
    unfitted = get_router(router, **{k: v for k, v in wanted.items() if k in takes})
    known = np.isfinite(data.quality)
    doing = f"training {router} on {int(known.sum())} outcomes of {len(data.model_names)} models"
    with nullcontext() if console is None else console.status(doing):
        fitted = unfitted.fit(data)
    texts = data.texts
    remember(fitted, [texts[i] for i in np.flatnonzero(known.sum(axis=1))])
    return fitted
