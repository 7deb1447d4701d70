"""Targets fixed by an identity: the same id goes to the same place, always and everywhere.

Hash layers (Roller et al. 2021, arXiv 2106.04426) with rendezvous hashing (Thaler and Ravishankar
1998): every target draws a pseudo-random number from (id, target, seed) and the largest win. So k
targets differ, and removing a target moves only the sources it had. `balanced_table` is the paper's
balanced variant for ids of known frequency.

Shape letters: S sources, T targets, V ids, K choices.
"""

from __future__ import annotations

import heapq

import numpy as np
from numpy.typing import NDArray

from wye.core import arrays
from wye.core.arrays import Array, SelectionError, namespace
from wye.core.plan import Plan
from wye.core.selection.inputs import masked
from wye.core.selection.top_k import Short, choose

# splitmix64's constants (Steele, Lea and Flood 2014), as signed 64-bit integers.
_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)
_MIX_1 = 0xBF58476D1CE4E5B9 - (1 << 64)
_MIX_2 = 0x94D049BB133111EB - (1 << 64)


def hashed(
    ids: Array,
    n_targets: int,
    k: int = 1,
    *,
    seed: int = 0,
    allowed: Array | None = None,
    short: Short = "error",
    check: bool = True,
) -> Plan:
    """Send every source to `k` different targets that its id alone decides; all weights are 1.

    The same ids give the same plan under NumPy, PyTorch and any other array library. Pairs come
    source by source. Shapes depend on S and k alone unless `short="drop"`. Costs O(S T).

    Ties: none to speak of (53-bit hashes), the lower target index first. NaN: ids are integers. No
    sources: an empty plan.

    Args:
        ids: `[S]` integers of any sign.
        n_targets: T.
        k: choices per source, 1 to T.
        seed: another seed, another independent map.
        allowed: `[T]` or `[S, T]` booleans; forbidding a target moves only its own sources.
        short: as in `top_k`.
        check: as in `top_k`.

    Raises:
        SelectionError: ids that are not a flat integer array, k out of range, a short source.

    Example:
        >>> import numpy as np
        >>> plan = hashed(np.array([7, 7, 8]), 4)
        >>> bool(plan.target[0] == plan.target[1])
        True
    """
    xp = namespace(ids)
    if len(ids.shape) != 1 or not xp.isdtype(ids.dtype, "integral"):
        raise SelectionError(
            f"ids are {ids.dtype} of shape {tuple(ids.shape)}, expected integers [S]"
        )
    ids = xp.astype(ids, xp.int64)
    offset = _mixed(seed)
    targets = _mix(arrays.arange(n_targets, ids) + offset)
    bits = _mix(_mix(ids)[:, None] + targets[None, :])
    draws = xp.astype(_shift(bits, 11), xp.float64) / float(1 << 53)
    ranked = masked(draws, allowed)
    return choose(ranked, ranked, k, weight="one", short=short, check=check)


def balanced_table(frequency: Array, n_targets: int) -> NDArray[np.int64]:
    """A map id -> target `[V]` whose targets get nearly equal shares of the traffic.

    Ids in order of falling frequency each go to the least loaded target (Roller et al. 2021,
    "balanced assignment"). Use it as `Plan.from_rows(table[ids][:, None], ones, n_targets)`.

    Ties: the lower id first, the lower target index first.

    Args:
        frequency: `[V]` counts >= 0.
        n_targets: T >= 1.

    Raises:
        SelectionError: a frequency that is negative or NaN, no targets.

    Example:
        >>> balanced_table(np.array([5, 3, 2]), 2).tolist()
        [0, 1, 1]
    """
    counts = np.asarray(arrays.to_numpy(frequency), dtype=np.float64)
    if counts.ndim != 1 or not np.all(counts >= 0):
        raise SelectionError("frequency must be a flat array of counts >= 0")
    if n_targets < 1:
        raise SelectionError(f"n_targets={n_targets}, expected at least 1")
    loads = [(0.0, t) for t in range(n_targets)]
    table = np.zeros(counts.shape[0], dtype=np.int64)
    for identity in np.argsort(-counts, kind="stable"):
        load, target = loads[0]
        table[identity] = target
        heapq.heapreplace(loads, (load + float(counts[identity]), target))
    return table


def _mix(x: Array) -> Array:
    """The finaliser of splitmix64 on int64, whose products wrap in every array library."""
    x = x + _GOLDEN
    x = (x ^ _shift(x, 30)) * _MIX_1
    x = (x ^ _shift(x, 27)) * _MIX_2
    return x ^ _shift(x, 31)


def _mixed(seed: int) -> int:
    """`_mix` of one Python number, which `torch.compile` folds into a constant."""
    bits = (1 << 64) - 1
    x = (seed + _GOLDEN) & bits
    x = ((x ^ (x >> 30)) * _MIX_1) & bits
    x = ((x ^ (x >> 27)) * _MIX_2) & bits
    x ^= x >> 31
    return x - (1 << 64) if x >> 63 else x


def _shift(x: Array, n: int) -> Array:
    """Logical right shift of int64."""
    return (x >> n) & ((1 << (64 - n)) - 1)
