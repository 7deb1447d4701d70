"""What the array API standard lacks and routing needs: top-k, scatter, detach, random draws.

Every function works on the arrays of any namespace that `array_api_compat` knows and takes the
library's own fast path where NumPy or PyTorch has one. PyTorch is reached through the methods of
its tensors, so that nothing here imports it.

Shape letters: S sources, T targets, N routed pairs, K choices.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any, TypeAlias

import array_api_compat
import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = Any
"""An array of one namespace: NumPy, PyTorch, or any other that follows the standard."""

Generator: TypeAlias = Any
"""A source of random draws: an int seed, a `numpy.random.Generator`, or a `torch.Generator`."""

_SMALL_K = 4
_SMALL_T = 64
_MANY_S = 64
_NAMESPACES: dict[type, ModuleType] = {}


class SelectionError(ValueError):
    """Scores, costs or limits from which no plan can be made; the message says what to do."""


def namespace(*arrays: Array) -> Any:
    """The array namespace of `arrays`.

    Raises:
        SelectionError: they come from different libraries, or are no arrays.
    """
    first = type(arrays[0])
    if all(type(a) is first for a in arrays):
        known = _NAMESPACES.get(first)
        if known is not None:
            return known
    try:
        found = array_api_compat.array_namespace(*arrays)
    except TypeError as error:
        kinds = [f"{type(a).__module__}.{type(a).__qualname__}" for a in arrays]
        raise SelectionError(
            f"expected arrays of one array library, got {kinds}: convert them to one library first"
        ) from error
    for a in arrays:
        _NAMESPACES[type(a)] = found
    return found


def is_torch(xp: Any) -> bool:
    """Whether `xp` is PyTorch's namespace."""
    return bool(xp.__name__ == "array_api_compat.torch")


def is_numpy(xp: Any) -> bool:
    """Whether `xp` is NumPy's namespace."""
    return bool(xp.__name__ in ("array_api_compat.numpy", "numpy"))


def is_floating(x: Array) -> bool:
    """Whether `x` holds real floating-point numbers."""
    kind = getattr(x.dtype, "kind", None)
    if kind is not None:
        return bool(kind == "f")
    floating = getattr(x.dtype, "is_floating_point", None)
    if floating is not None:
        return bool(floating)
    return bool(namespace(x).isdtype(x.dtype, "real floating"))


def detach(x: Array) -> Array:
    """`x` without its gradient history; `x` itself where arrays have none."""
    return x.detach() if hasattr(x, "detach") else x


def to_numpy(x: Array) -> NDArray[Any]:
    """A NumPy copy or view of `x`, from any device, without gradient."""
    if isinstance(x, np.ndarray):
        return x
    if hasattr(x, "detach"):
        x = x.detach().cpu()
        # bfloat16 and other types that NumPy does not know
        return np.asarray(
            x.float().numpy() if x.dtype.itemsize < 4 and is_floating(x) else x.numpy()
        )
    return np.asarray(x)


def like(values: NDArray[Any], reference: Array, *, integer: bool = False) -> Array:
    """NumPy `values` in the namespace, on the device and (floats) in the dtype of `reference`."""
    xp = namespace(reference)
    if is_numpy(xp):
        return values.astype(np.int64 if integer else reference.dtype, copy=False)
    dtype = xp.int64 if integer else reference.dtype
    contiguous = np.ascontiguousarray(values)
    made = xp.asarray(contiguous, device=array_api_compat.device(reference))
    return xp.astype(made, dtype)


def arange(n: int, reference: Array) -> Array:
    """Integers 0 to n-1 (int64) beside `reference`."""
    if isinstance(reference, np.ndarray):
        return np.arange(n)
    xp = namespace(reference)
    return xp.arange(n, dtype=xp.int64, device=array_api_compat.device(reference))


def repeated(n: int, k: int, reference: Array) -> Array:
    """Integers 0 to n-1, each `k` times in a row (int64), beside `reference`."""
    if isinstance(reference, np.ndarray):
        return np.arange(n).repeat(k)
    xp = namespace(reference)
    if n == 1 and is_torch(xp):
        return reference.new_zeros(k, dtype=xp.int64)
    return xp.reshape(xp.broadcast_to(arange(n, reference)[:, None], (n, k)), (-1,))


def gather(x: Array, indices: Array) -> Array:
    """`x[s, indices[s, k]]` as `[S, K]`; gradients flow to `x`."""
    if isinstance(x, np.ndarray):
        return x[np.arange(x.shape[0])[:, None], indices]
    if hasattr(x, "gather"):
        return x.gather(1, indices)
    return namespace(x).take_along_axis(x, indices, axis=1)


def largest(x: Array, k: int, *, distinct: bool = False, ordered: bool = True) -> Array:
    """Indices `[S, k]` of the `k` largest entries of each row of `x`, largest first.

    Equal entries come in order of their index. NaN counts as the largest value under NumPy and
    PyTorch, so that a chosen NaN betrays every NaN of the row.

    Args:
        x: `[S, T]`.
        k: 1 to T.
        distinct: rows may hold fewer than `k` entries above -inf, and the indices must differ
            all the same.
        ordered: look for ties beyond `k = 4` (reads the data, so `torch.compile` cannot trace it);
            without it PyTorch breaks those as `torch.topk` does.
    """
    xp = namespace(x)
    x = detach(x)
    if k == 1:
        return xp.argmax(x, axis=1, keepdims=True)
    if is_numpy(xp):
        if k <= _SMALL_K and x.shape[0] >= _MANY_S and not distinct:
            return _rounds_numpy(x, k)
        return _largest_numpy(x, k)
    if not is_torch(xp):
        return xp.argsort(x, axis=1, descending=True, stable=True)[:, :k]
    few = x.shape[0] < _MANY_S or (ordered and _waits_for_threads(x))
    if k <= _SMALL_K and not distinct and not few:
        return _largest_by_rounds(x, k, xp)
    return _largest_torch(x, k, ordered)


def wide(indices: Array) -> Array:
    """`indices` as int64, in which products of S and T do not overflow; itself if it is that."""
    xp = namespace(indices)
    return indices if indices.dtype == xp.int64 else xp.astype(indices, xp.int64)


def count(indices: Array, n: int) -> Array:
    """How often each of 0 to n-1 occurs in `indices` `[N]`, as int64 `[n]`."""
    indices = wide(indices)
    if isinstance(indices, np.ndarray):
        return np.bincount(indices, minlength=n)
    if hasattr(indices, "new_zeros"):
        zeros = indices.new_zeros(n)
        return zeros.scatter_add(0, indices, indices.new_ones(indices.shape))
    xp = namespace(indices)
    hits = indices[:, None] == arange(n, indices)[None, :]
    return xp.sum(xp.astype(hits, xp.int64), axis=0)


def segment_sum(values: Array, indices: Array, n: int) -> Array:
    """Sum of `values` `[N]` over equal `indices` `[N]`, as `[n]`; gradients flow to `values`."""
    indices = wide(indices)
    if isinstance(values, np.ndarray):
        return np.bincount(indices, weights=values, minlength=n).astype(values.dtype, copy=False)
    if hasattr(values, "new_zeros"):
        return values.new_zeros(n).index_add(0, indices, values)
    xp = namespace(values)
    hits = indices[:, None] == arange(n, indices)[None, :]
    return xp.sum(xp.where(hits, values[:, None], xp.zeros_like(values[:, None])), axis=0)


def segment_max(values: Array, indices: Array, n: int) -> Array:
    """Largest of `values` `[N]` over equal `indices` `[N]`, as `[n]`; -inf where there is none."""
    indices = wide(indices)
    values = detach(values)
    if isinstance(values, np.ndarray):
        out = np.full(n, -np.inf, dtype=values.dtype)
        np.maximum.at(out, indices, values)
        return out
    if hasattr(values, "new_full"):
        return values.new_full((n,), -float("inf")).scatter_reduce(0, indices, values, "amax")
    xp = namespace(values)
    hits = indices[:, None] == arange(n, indices)[None, :]
    low = xp.full((values.shape[0], n), -float("inf"), dtype=values.dtype)
    if values.shape[0] == 0:
        return xp.full((n,), -float("inf"), dtype=values.dtype)
    return xp.max(xp.where(hits, values[:, None], low), axis=0)


def uniform_draws(shape: Sequence[int], reference: Array, generator: Generator) -> Array:
    """Draws from the open interval (0, 1), in the namespace and dtype of `reference`.

    Args:
        shape: of the result.
        reference: floating array that gives namespace, device and dtype.
        generator: int seed, `numpy.random.Generator`, or for PyTorch arrays a `torch.Generator` on
            their device; None, for PyTorch arrays alone, uses PyTorch's own global generator
            (`torch.manual_seed`).

    Raises:
        SelectionError: None with arrays that have no global generator, or an unknown kind.
    """
    tuple_shape = tuple(shape)
    torch_like = hasattr(reference, "new_empty")
    if torch_like and (generator is None or type(generator).__module__.startswith("torch")):
        tiny = 1e-7
        draws = reference.new_empty(tuple_shape).detach().uniform_(generator=generator)
        return draws.clamp(tiny, 1.0 - tiny)
    if generator is None:
        raise SelectionError(
            "generator is None: pass an int seed or a numpy.random.Generator (only PyTorch arrays "
            "may fall back on their library's global generator)"
        )
    if isinstance(generator, (int, np.integer)) and not isinstance(generator, bool):
        generator = np.random.default_rng(int(generator))
    if not isinstance(generator, np.random.Generator):
        raise SelectionError(
            f"generator is {generator!r}: expected an int seed or a numpy.random.Generator"
            + (" or a torch.Generator" if "torch" in sys.modules else "")
        )
    tiny = float(np.finfo(np.float32).eps)
    return like(np.clip(generator.random(tuple_shape), tiny, 1.0 - tiny), reference)


def log_sum_exp(x: Array, *, axis: int) -> Array:
    """log(sum(exp(x))) over `axis`, kept as a dimension of 1; -inf where all entries are -inf."""
    xp = namespace(x)
    peak = detach(xp.max(x, axis=axis, keepdims=True))
    peak = xp.where(xp.isfinite(peak), peak, xp.zeros_like(peak))
    total = xp.sum(xp.exp(x - peak), axis=axis, keepdims=True)
    safe = xp.where(total > 0, total, xp.ones_like(total))
    return xp.where(total > 0, xp.log(safe) + peak, xp.full_like(total, -float("inf")))


def kth_largest(x: Array, k: int, *, axis: int) -> Array:
    """The `k`-th largest entry (1 is the largest) along `axis` of a matrix, as `[S]` or `[T]`."""
    x = detach(x)
    n = x.shape[axis]
    if isinstance(x, np.ndarray):
        return np.take(np.partition(x, n - k, axis=axis), n - k, axis=axis)
    if hasattr(x, "kthvalue"):
        return x.kthvalue(n - k + 1, dim=axis).values
    xp = namespace(x)
    return xp.take(xp.sort(x, axis=axis), xp.asarray([n - k]), axis=axis)[
        (0, slice(None)) if axis == 0 else (slice(None), 0)
    ]


def every(x: Array) -> bool:
    """Whether all booleans of `x` are True."""
    # Methods cost a fraction of the standard's functions, which one query's choice would feel.
    return bool(x.all() if hasattr(x, "all") else namespace(x).all(x))


def any_nan(x: Array) -> bool:
    """Whether `x` holds a NaN."""
    xp = namespace(x)
    return bool(xp.any(xp.isnan(x)))


def _largest_numpy(x: NDArray[Any], k: int) -> NDArray[np.int64]:
    width = x.shape[1]
    if width <= _SMALL_T or k * 4 >= width:
        return _last_of_stable_sort(x, k)
    part = np.argpartition(x, width - k - 1, axis=1)[:, width - k - 1 :]
    part.sort(axis=1)
    values = gather(x, part)
    order = np.argsort(values[:, ::-1], axis=1, kind="stable")[:, ::-1]
    indices = gather(part, k - order)
    chosen = gather(x, indices)
    tied = (chosen[:, k] == chosen[:, k - 1]) & (chosen[:, k] > -np.inf)
    indices = indices[:, :k]
    if tied.any():
        indices[tied] = _last_of_stable_sort(x[tied], k)
    return np.asarray(indices, dtype=np.int64)


def _last_of_stable_sort(x: NDArray[Any], k: int) -> NDArray[np.int64]:
    # Reversed columns and an ascending stable sort give "largest first, lower index first" and,
    # unlike negation, leave NaN at the end that is taken.
    order = np.argsort(x[:, ::-1], axis=1, kind="stable")[:, : -k - 1 : -1]
    return np.asarray(x.shape[1] - 1 - order, dtype=np.int64)


def _rounds_numpy(x: NDArray[Any], k: int) -> NDArray[np.int64]:
    x = x.copy()
    rows = np.arange(x.shape[0])
    chosen = np.empty((x.shape[0], k), dtype=np.int64)
    for step in range(k):
        chosen[:, step] = np.argmax(x, axis=1)
        x[rows, chosen[:, step]] = -np.inf
    return chosen


def _largest_by_rounds(x: Array, k: int, xp: Any) -> Array:
    columns = []
    for step in range(k):
        best = x.argmax(dim=1, keepdim=True)
        columns.append(best)
        if step + 1 < k:
            x = x.scatter(1, best, -float("inf"))
    return xp.concat(columns, axis=1)


def _waits_for_threads(x: Array) -> bool:
    # Rounds are about twice as fast as topk, but each starts a parallel region: on a busy machine
    # waiting for its threads costs more than the whole selection, and topk starts one region only.
    return bool(x.device.type == "cpu" and sys.modules["torch"].get_num_threads() > 1)


def _largest_torch(x: Array, k: int, ordered: bool) -> Array:
    width = x.shape[1]
    if not ordered:
        return x.topk(k, dim=1).indices
    values, indices = x.topk(min(k + 1, width), dim=1)
    tied = (values[:, :-1] == values[:, 1:]) & (values[:, 1:] > -float("inf"))
    if bool(tied.any()):
        return x.sort(dim=1, descending=True, stable=True).indices[:, :k]
    return indices[:, :k]
