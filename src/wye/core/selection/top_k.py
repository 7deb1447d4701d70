"""The k best targets of every source.

Shazeer et al. 2017 (arXiv 1701.06538), section 2.1; with `bias` the selection of loss-free
balancing (arXiv 2408.15664, equation 3) and of dual prices (`bias = -price`).

Shape letters: S sources, T targets, K choices, N = S K routed pairs.
"""

from __future__ import annotations

from typing import Literal

from wye.core import arrays
from wye.core.arrays import Array, SelectionError, namespace
from wye.core.plan import Plan
from wye.core.selection.inputs import check_k, check_scores, masked, refuse_nan
from wye.core.weights import Weighting, weigh_rows

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
    check_scores(scores)
    open_scores = masked(scores, allowed)
    ranked = open_scores if bias is None else open_scores + bias
    return choose(ranked, open_scores, k, weight=weight, short=short, check=check)


def choose(
    ranked: Array,
    scores: Array,
    k: int,
    *,
    weight: Weighting = "score",
    short: Short = "error",
    check: bool = True,
) -> Plan:
    """Rank by one matrix and weigh by another: what the selections with a fixed k share.

    Args:
        ranked: `[S, T]` decides who is chosen; -inf forbids a pair.
        scores: `[S, T]` gives the weights; -inf where `ranked` is.
        k: choices per source, 1 to T.
        weight: as in `top_k`.
        short: as in `top_k`.
        check: as in `top_k`.

    Raises:
        SelectionError: as `top_k`.
    """
    _, n_targets = check_scores(ranked)
    check_k(k, n_targets)
    if short not in ("error", "zero", "drop"):
        raise SelectionError(f"short={short!r}, expected 'error', 'zero' or 'drop'")
    xp = namespace(ranked)
    if check and not (arrays.is_numpy(xp) or arrays.is_torch(xp)):
        refuse_nan(ranked)
    index = arrays.largest(ranked, k, distinct=short != "error", ordered=check)
    values = arrays.gather(scores, index)
    if check:
        chosen = values if ranked is scores else arrays.gather(ranked, index)
        _refuse(arrays.detach(chosen), ranked, k, short)
    if weight == "score" and short == "error":
        # Whoever is chosen has a score, so there is nothing to blank out.
        return Plan.from_rows(index, values, n_targets)
    keep = values > -float("inf") if short == "drop" else None
    return Plan.from_rows(index, weigh_rows(values, weight), n_targets, keep=keep)


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
