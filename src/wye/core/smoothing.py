"""Scores smoothed over a graph of the sources: who resembles whom decides together.

    R' = (1 - share) R + share S R,    S row-stochastic

so that a source is scored as the sources it resembles are. Graph of Tokens (arXiv 2505.00792) does
it to tokens; with `neighbours`, a query is scored as past queries were.

Shape letters: S sources, P neighbours (P = S unless other sources are given), T targets; leading
dimensions (`...`) are batches of separate graphs.
"""

from __future__ import annotations

from wye.core import arrays
from wye.core.arrays import Array, SelectionError, namespace
from wye.core.objectives import row_entropy


def row_stochastic(weights: Array, *, allowed: Array | None = None, check: bool = True) -> Array:
    """Rows divided by their sum over the allowed columns; a row without mass stays zero.

    Args:
        weights: `[..., S, P]` numbers >= 0.
        allowed: booleans that broadcast to `[..., S, P]`; False closes an edge.
        check: read the values, to refuse negative ones and NaN.

    Raises:
        SelectionError: a weight that is negative or NaN.

    Example:
        >>> import numpy as np
        >>> row_stochastic(np.array([[1.0, 3.0], [0.0, 0.0]])).tolist()
        [[0.25, 0.75], [0.0, 0.0]]
    """
    xp = namespace(weights)
    if check and not bool(xp.all(weights >= 0)):
        raise SelectionError("weights of a graph are negative or NaN, expected numbers >= 0")
    if allowed is not None:
        weights = xp.where(allowed, weights, xp.zeros_like(weights))
    total = xp.sum(weights, axis=-1, keepdims=True)
    return weights / xp.where(total > 0, total, xp.ones_like(total))


def smoothed(
    scores: Array,
    mixing: Array,
    *,
    share: Array | float = 0.5,
    neighbours: Array | None = None,
) -> Array:
    """(1 - share) scores + share (mixing @ neighbours), `[..., S, T]`; gradients flow to all.

    A source whose row of `mixing` is zero keeps its own scores. Where mixing a row gives the row
    itself the result is that row bit for bit, whatever the share.

    Args:
        scores: `[..., S, T]`.
        mixing: `[..., S, P]`, rows that sum to 1 or to 0, as `row_stochastic` gives them.
        share: in [0, 1], a number or an array that broadcasts to `[..., S, 1]`.
        neighbours: `[..., P, T]` scores of other sources; `scores` themselves when not given.

    Raises:
        SelectionError: shapes that do not match, a share outside [0, 1].

    Source: Graph of Tokens (arXiv 2505.00792), as its abstract describes it; the equation and the
        share are this library's.

    Example:
        >>> import numpy as np
        >>> smoothed(np.array([[1.0, 0.0], [0.0, 1.0]]), np.full((2, 2), 0.5)).tolist()
        [[0.75, 0.25], [0.25, 0.75]]
    """
    others = scores if neighbours is None else neighbours
    if len(scores.shape) < 2 or len(mixing.shape) < 2 or len(others.shape) < 2:
        raise SelectionError(
            f"scores, mixing and neighbours have shapes {tuple(scores.shape)}, "
            f"{tuple(mixing.shape)} and {tuple(others.shape)}, expected at least two dimensions"
        )
    expected = (scores.shape[-2], others.shape[-2])
    if tuple(mixing.shape[-2:]) != expected or others.shape[-1] != scores.shape[-1]:
        raise SelectionError(
            f"mixing has shape {tuple(mixing.shape)} for scores {tuple(scores.shape)} and "
            f"neighbours {tuple(others.shape)}, expected [..., {expected[0]}, {expected[1]}] and "
            "the same targets"
        )
    if isinstance(share, (int, float)) and not 0 <= share <= 1:
        raise SelectionError(f"share={share}, expected a number in [0, 1]")
    xp = namespace(scores, mixing, others)
    alone = xp.sum(arrays.detach(mixing), axis=-1, keepdims=True) == 0
    mixed = xp.where(alone, scores, xp.matmul(mixing, others))
    if isinstance(share, (int, float)) and share == 1:
        return mixed
    return scores + share * (mixed - scores)


def entropy_bounds(probabilities: Array, mixing: Array) -> tuple[Array, Array]:
    """Bounds on the entropy of mixed rows, each `[..., S]` in nats.

    With r_j the rows of `probabilities` and S = `mixing`:
        sum_j S_ij H(r_j)  <=  H(sum_j S_ij r_j)  <=  H(S_i) + sum_j S_ij H(r_j)
    Mixing lowers the entropy of a row only where the rows it mixes are surer than it is, and agree.

    Args:
        probabilities: `[..., P, T]`, rows that sum to 1.
        mixing: `[..., S, P]`, rows that sum to 1.

    Example:
        >>> import numpy as np
        >>> low, high = entropy_bounds(np.eye(2), np.full((2, 2), 0.5))
        >>> low.tolist(), [round(float(h), 4) for h in high]
        ([0.0, 0.0], [0.6931, 0.6931])
    """
    xp = namespace(probabilities, mixing)
    low = xp.matmul(mixing, _entropies(probabilities)[..., None])[..., 0]
    return low, low + _entropies(mixing)


def _entropies(rows: Array) -> Array:
    xp = namespace(rows)
    shape = tuple(rows.shape)
    return xp.reshape(row_entropy(xp.reshape(rows, (-1, shape[-1]))), shape[:-1])
