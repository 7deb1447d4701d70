"""Targets drawn at random, all equally likely: the router that learns nothing.

Shape letters: S sources, T targets, K choices.
"""

from __future__ import annotations

from wye.core import arrays
from wye.core.arrays import Array, Generator, namespace
from wye.core.plan import Plan
from wye.core.selection.inputs import check_scores, masked
from wye.core.selection.top_k import Short, choose
from wye.core.weights import Weighting


def uniform(
    scores: Array,
    k: int = 1,
    *,
    generator: Generator,
    allowed: Array | None = None,
    weight: Weighting = "one",
    short: Short = "error",
    check: bool = True,
) -> Plan:
    """Draw `k` different targets for every source, each allowed target equally likely.

    Pairs come source by source, in the order of the draw. Shapes depend on S and k alone unless
    `short="drop"`.

    Ties: none to speak of, the draws are continuous. NaN: an error; undefined with `check=False`.
    No sources: an empty plan.

    Args:
        scores: `[S, T]`, read for its shape, for what -inf forbids, and for the weights.
        k: choices per source, 1 to T.
        generator: as in `sample`.
        allowed: `[T]` or `[S, T]` booleans; False forbids a pair.
        weight: as in `top_k`; 1 each when not given.
        short: as in `top_k`.
        check: as in `top_k`.

    Raises:
        SelectionError: as `top_k`; no generator.

    Example:
        >>> import numpy as np
        >>> uniform(np.zeros((3, 4)), 2, generator=0).load().sum()
        np.int64(6)
    """
    check_scores(scores)
    xp = namespace(scores)
    open_scores = masked(scores, allowed)
    plain = arrays.detach(open_scores)
    draws = arrays.uniform_draws(tuple(scores.shape), plain, generator)
    readable = xp.isfinite(plain) | (plain == float("inf"))
    ranked = xp.where(readable, draws, plain)
    return choose(ranked, open_scores, k, weight=weight, short=short, check=check)
