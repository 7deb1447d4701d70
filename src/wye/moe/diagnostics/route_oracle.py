"""How good a route per item could be: the best of many routes in hindsight, and what chance gives.

A route says which target every layer (or every step of any pipeline) uses. The oracle takes, for
every item, the route of least loss; it reads the label, so it bounds policies and is none. A
minimum over many noisy losses falls with their number even where routes tell nothing: the null
oracle, the same minimum over passes that differ by noise of matched size, says how much of the
gain is that.

The beam adds layers one by one with the rest at the cheap target, and gives an upper bound on the
oracle's loss.

Source: Duo-LLM (arXiv 2410.10846); the null oracle is ours. Shape letters: R routes, L layers,
N items, T targets.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wye.moe.base import MoEError

Floats = NDArray[np.float64]
Routes = NDArray[np.int64]
Loss = Callable[[Routes], Floats]
"""One route `[L]` -> loss of every item `[N]`, the whole of each sequence on that route."""

_MOST = 1 << 16


@dataclass(frozen=True)
class Oracle:
    """Losses of every item on many routes.

    Attributes:
        routes: `[R, L]` targets.
        losses: `[R, N]`.
        cost: `[R]` what each route takes; for big and small networks, layers that are big.
        exact: all routes are there; else the oracle's losses are upper bounds.
    """

    routes: Routes
    losses: Floats
    cost: Floats
    exact: bool

    def of(self, budget: float, *, within: bool = False) -> Oracle:
        """The routes whose cost is `budget`, or at most that with `within`.

        Raises:
            MoEError: there is none.
        """
        kept = self.cost <= budget if within else self.cost == budget
        if not kept.any():
            raise MoEError(f"no route costs {budget}; costs are {sorted(set(self.cost.tolist()))}")
        return Oracle(self.routes[kept], self.losses[kept], self.cost[kept], self.exact)

    @property
    def best(self) -> Floats:
        """`[N]` least loss of every item."""
        return np.asarray(self.losses.min(axis=0))

    @property
    def best_routes(self) -> Routes:
        """`[N, L]` route of least loss of every item; the first of equal ones."""
        return np.asarray(self.routes[self.losses.argmin(axis=0)])

    @property
    def oracle_loss(self) -> float:
        """Mean over items of the least loss."""
        return float(self.best.mean())

    @property
    def random_loss(self) -> float:
        """Mean loss of a route drawn at random."""
        return float(self.losses.mean())

    @property
    def fixed_loss(self) -> float:
        """Mean loss of the best route that all items share."""
        return float(self.losses.mean(axis=1).min())

    @property
    def fixed_route(self) -> Routes:
        """`[L]` that route."""
        return np.asarray(self.routes[int(self.losses.mean(axis=1).argmin())])

    def share(self, target: int) -> Floats:
        """`[L]` share of items whose best route uses `target` in each layer."""
        return np.asarray((self.best_routes == target).mean(axis=0))


@dataclass(frozen=True)
class Regret:
    """How far a router is from the oracle at its budget, in units of the loss.

    Attributes:
        router: mean loss of the router.
        oracle: mean loss of the oracle.
        null: mean loss of the null oracle.
        fixed: mean loss of the best fixed route.
    """

    router: float
    oracle: float
    null: float
    fixed: float

    @property
    def regret(self) -> float:
        """Router less oracle."""
        return self.router - self.oracle

    @property
    def headroom(self) -> float:
        """What the oracle gains beyond what chance alone would: null oracle less oracle."""
        return self.null - self.oracle


def all_routes(n_layers: int, n_targets: int = 2) -> Routes:
    """Every route, `[T^L, L]`, in the order of counting.

    Raises:
        MoEError: more than 65,536 of them: use `beam_oracle`.
    """
    if n_layers < 1 or n_targets < 1 or n_targets**n_layers > _MOST:
        raise MoEError(
            f"{n_targets}^{n_layers} routes, expected 1 to {_MOST}: use beam_oracle for more"
        )
    return np.array(list(itertools.product(range(n_targets), repeat=n_layers)), dtype=np.int64)


def oracle(routes: Routes, loss: Loss, *, cost: Floats, exact: bool = True) -> Oracle:
    """Run every route once.

    Args:
        routes: `[R, L]`.
        loss: of one route, `[N]`.
        cost: `[R]`.
        exact: `routes` are all that there are.

    Raises:
        MoEError: shapes that do not match, or a loss that is not finite.
    """
    routes, cost = np.asarray(routes, np.int64), np.asarray(cost, np.float64)
    if routes.ndim != 2 or routes.shape[0] == 0 or cost.shape != (routes.shape[0],):
        raise MoEError(
            f"routes and cost have shapes {routes.shape} and {cost.shape}, expected [R, L] and [R]"
        )
    losses = np.stack([np.asarray(loss(route), np.float64).reshape(-1) for route in routes])
    if not np.isfinite(losses).all():
        raise MoEError("a route gives losses that are NaN or infinite, expected finite ones")
    return Oracle(routes, losses, cost, exact)


def beam_oracle(
    n_layers: int, n_targets: int, loss: Loss, *, cheap: int, width: int = 64
) -> Oracle:
    """Search routes layer by layer, the layers to come at the target `cheap`.

    After each layer the `width` routes stay that are best for most items: those of least loss of
    some item first, in the order of how many, then those of least mean loss. Cost counts the layers
    that are not at the cheap target. Marked as not exact unless the beam held every route.

    Args:
        n_layers: L.
        n_targets: T.
        loss: of one route, `[N]`.
        cheap: target of the layers that are not decided yet.
        width: routes that are kept.

    Raises:
        MoEError: a width below 1, or no such target.
    """
    if width < 1 or not 0 <= cheap < n_targets:
        raise MoEError(
            f"width={width} and cheap={cheap}, expected at least 1 and 0..{n_targets - 1}"
        )
    seen: dict[tuple[int, ...], Floats] = {}

    def losses_of(route: tuple[int, ...]) -> Floats:
        if route not in seen:
            seen[route] = np.asarray(loss(np.array(route, np.int64)), np.float64).reshape(-1)
        return seen[route]

    beam = [(cheap,) * n_layers]
    for layer in range(n_layers):
        grown = [
            (*route[:layer], target, *route[layer + 1 :])
            for route in beam
            for target in range(n_targets)
        ]
        table = np.stack([losses_of(route) for route in grown])
        wins = np.bincount(table.argmin(axis=0), minlength=len(grown))
        ranked = np.lexsort((table.mean(axis=1), -wins))
        beam = [grown[i] for i in ranked[:width]]
    routes = np.array(list(seen), dtype=np.int64)
    cost = (routes != cheap).sum(axis=1).astype(np.float64)
    return Oracle(routes, np.stack(list(seen.values())), cost, len(seen) == n_targets**n_layers)


def null_oracle(losses: Callable[[float], Floats], variance: float, *, rounds: int = 12) -> Floats:
    """Least loss of every item over passes that differ by noise alone, `[N]`.

    The size of the noise is found by bisection on its logarithm, such that the mean over items of
    the variance across passes is `variance`.

    Args:
        losses: size of the noise -> `[R, N]` losses of R passes with the same draws at every size.
        variance: mean over items of the variance across the routes of the budget; 0 where there is
            one route alone.
        rounds: of the bisection, between sizes of 1e-4 and 10.

    Raises:
        MoEError: no size gives that variance.
    """
    if variance <= 0:
        return np.asarray(losses(0.0).min(axis=0))

    def spread(size: float) -> float:
        return float(losses(size).var(axis=0).mean())

    low, high = 1e-4, 10.0
    if not spread(low) <= variance <= spread(high):
        raise MoEError(
            f"noise of sizes {low} to {high} gives variances {spread(low):.3g} to "
            f"{spread(high):.3g}, expected {variance:.3g} among them"
        )
    for _ in range(rounds):
        middle = float(np.sqrt(low * high))
        low, high = (middle, high) if spread(middle) < variance else (low, middle)
    return np.asarray(losses(float(np.sqrt(low * high))).min(axis=0))
