"""What every selection accepts: a matrix of scores, a mask, and the rule for NaN and -inf.

A score of -inf forbids its pair, as a False in `allowed` does. NaN is an error. Checks read the
data, which `torch.compile` cannot trace in one graph: selections take `check=False` for that, and
the caller then vouches for the values.

Shape letters: S sources, T targets.
"""

from __future__ import annotations

from wye.core.arrays import Array, SelectionError, is_floating, namespace


def check_scores(scores: Array) -> tuple[int, int]:
    """S and T of a score matrix.

    Raises:
        SelectionError: `scores` is no matrix of floats.
    """
    shape = getattr(scores, "shape", None)
    if shape is None:
        raise SelectionError(
            f"scores are a {type(scores).__name__}, expected an array of one array library"
        )
    if len(shape) != 2:
        raise SelectionError(
            f"scores have shape {tuple(shape)}, expected [S, T]; one query alone is [1, T]"
        )
    if not is_floating(scores):
        raise SelectionError(f"scores are {scores.dtype}, expected floats: convert them first")
    return shape[0], shape[1]


def check_k(k: int, width: int, *, what: str = "targets") -> None:
    """Raise unless 1 <= k <= width."""
    if not isinstance(k, int) or isinstance(k, bool) or k < 1 or k > width:
        raise SelectionError(f"k={k!r} with {width} {what}, expected an integer from 1 to {width}")


def masked(scores: Array, allowed: Array | None) -> Array:
    """`scores` with -inf wherever `allowed` (`[T]` or `[S, T]` booleans) says no.

    Raises:
        SelectionError: `allowed` has another shape or is not boolean.
    """
    if allowed is None:
        return scores
    xp = namespace(scores, allowed)
    shape = tuple(scores.shape)
    if tuple(allowed.shape) not in (shape, shape[1:]):
        raise SelectionError(
            f"allowed has shape {tuple(allowed.shape)}, expected {shape} or {shape[1:]}"
        )
    if allowed.dtype != xp.bool:
        raise SelectionError(f"allowed is {allowed.dtype}, expected booleans")
    return xp.where(allowed, scores, xp.full_like(scores, -float("inf")))


def refuse_nan(scores: Array, *, name: str = "scores") -> None:
    """Raise if `scores` hold a NaN, naming the first row that has one."""
    xp = namespace(scores)
    bad = xp.isnan(scores)
    if not bool(xp.any(bad)):
        return
    rows = xp.any(bad, axis=1) if len(scores.shape) == 2 else bad
    first = int(xp.argmax(xp.astype(rows, xp.int64)))
    raise SelectionError(
        f"{name} hold NaN, first in row {first} ({int(xp.sum(xp.astype(rows, xp.int64)))} rows in "
        "all): a selection never guesses; impute the values or forbid the pairs with `allowed`"
    )
