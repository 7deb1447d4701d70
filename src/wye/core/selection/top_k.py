"""The k best targets of every source.

Shazeer et al. 2017 (arXiv 1701.06538), section 2.1; with `bias` the selection of loss-free
balancing (arXiv 2408.15664, equation 3) and of dual prices (`bias = -price`).

Shape letters: S sources, T targets, K choices, N = S K routed pairs.
"""

from __future__ import annotations

from typing import Any, Literal

from wye.core import arrays
from wye.core.arrays import Array, SelectionError, namespace
from wye.core.plan import Plan
from wye.core.selection.inputs import check_k, check_scores, masked, refuse_nan

Weighting = Literal["score", "softmax", "share", "one"]
Short = Literal["error", "zero", "drop"]


def top_k(
    scores: Array,
    k: int = 1,
    *,
    bias: Array | None = None,
    allowed: Array | None = None,
    weight: Weighting = "score",
    short: Short = "error",
    check: bool = True,
) -> Plan:
    """Send every source to its `k` targets of largest score.

    Pairs come source by source, best first, so `plan.target` reshapes to `[S, K]`. Shapes depend on
    S and k alone unless `short="drop"`.

    Ties: the lower target index first. With `check=False`, PyTorch arrays and k > 4, ties are
    broken as `torch.topk` does. NaN: an error; undefined with `check=False`. No sources: an empty
    plan.

    Args:
        scores: `[S, T]` floats; -inf forbids a pair.
        k: choices per source, 1 to T.
        bias: `[T]` or `[S, T]`, added for the choice alone and absent from the weights.
        allowed: `[T]` or `[S, T]` booleans; False forbids a pair.
        weight: "score", the chosen scores; "softmax", softmax over the chosen scores of a source
            (equal to renormalised softmax gates); "share", chosen scores divided by their sum per
            source; "one".
        short: what happens to a source with fewer than `k` allowed targets. "error" refuses;
            "zero" keeps static shapes by adding forbidden targets with weight 0; "drop" leaves
            those pairs out.
        check: read the values to refuse NaN and short sources. False traces under `torch.compile`
            in one graph.

    Raises:
        SelectionError: wrong shapes, k out of range, NaN, a short source under `short="error"`.

    Example:
        >>> import numpy as np
        >>> plan = top_k(np.array([[0.1, 0.7, 0.2]]), 2)
        >>> plan.target.tolist(), plan.weight.tolist()
        ([1, 2], [0.7, 0.2])
    """
    n_sources, n_targets = check_scores(scores)
    check_k(k, n_targets)
    if short not in ("error", "zero", "drop"):
        raise SelectionError(f"short={short!r}, expected 'error', 'zero' or 'drop'")
    open_scores = masked(scores, allowed)
    ranked = open_scores if bias is None else open_scores + bias
    xp = namespace(scores)
    if check and not (arrays.is_numpy(xp) or arrays.is_torch(xp)):
        refuse_nan(ranked)
    index = arrays.largest(ranked, k, distinct=short != "error", ordered=check)
    values = arrays.gather(open_scores, index)
    if check:
        _refuse(arrays.gather(arrays.detach(ranked), index), ranked, k, short)
    weights = weigh_rows(values, weight, xp)
    source = arrays.arange(n_sources, index)
    flat = (n_sources * k,)
    plan = Plan(
        source=xp.reshape(xp.broadcast_to(source[:, None], (n_sources, k)), flat),
        target=xp.reshape(index, flat),
        weight=xp.reshape(weights, flat),
        n_sources=n_sources,
        n_targets=n_targets,
    )
    if short != "drop":
        return plan
    keep = xp.reshape(values, flat) > -float("inf")
    return Plan(plan.source[keep], plan.target[keep], plan.weight[keep], n_sources, n_targets)


def weigh_rows(values: Array, weight: Weighting, xp: Any) -> Array:
    """Weights `[S, K]` of chosen scores `[S, K]`; forbidden entries (-inf) weigh 0."""
    if weight == "one":
        return xp.where(values > -float("inf"), xp.ones_like(values), xp.zeros_like(values))
    shut = values == -float("inf")
    finite = xp.where(shut, xp.zeros_like(values), values)
    if weight == "score":
        return finite
    if weight == "share":
        total = xp.sum(finite, axis=1, keepdims=True)
        return finite / xp.where(total == 0, xp.ones_like(total), total)
    if weight == "softmax":
        if values.shape[0] == 0:
            return finite
        peak = arrays.detach(xp.max(xp.where(shut, -xp.ones_like(values) * 3e38, values), axis=1))
        powers = xp.exp(finite - peak[:, None])
        powers = xp.where(shut, xp.zeros_like(powers), powers)
        total = xp.sum(powers, axis=1, keepdims=True)
        return powers / xp.where(total == 0, xp.ones_like(total), total)
    raise SelectionError(f"weight={weight!r}, expected 'score', 'softmax', 'share' or 'one'")


def _refuse(chosen: Array, ranked: Array, k: int, short: Short) -> None:
    xp = namespace(chosen)
    if short == "error":
        # One pass over [S, K]: NaN compares False as -inf does.
        if bool(xp.all(chosen > -float("inf"))):
            return
        refuse_nan(ranked)
        counts = xp.sum(xp.astype(ranked > -float("inf"), xp.int64), axis=1)
        first = int(xp.argmax(xp.astype(counts < k, xp.int64)))
        raise SelectionError(
            f"source {first} has {int(counts[first])} allowed targets but k={k}: allow more, "
            "lower k, or choose short='zero' (static shapes) or short='drop'"
        )
    if arrays.any_nan(chosen):
        refuse_nan(ranked)
