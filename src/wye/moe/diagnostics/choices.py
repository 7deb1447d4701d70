"""Plans as tables of choices: what the other diagnostics read.

Shape letters: S tokens, E experts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wye.core import Plan, arrays
from wye.moe.base import MoEError

Indices = NDArray[np.int64]


def joined(plans: Sequence[Plan]) -> Plan:
    """The plans of several passes as one plan over all their tokens, in NumPy arrays.

    Args:
        plans: of one layer, as `trace[name]` gives them.

    Raises:
        MoEError: none, or with different numbers of experts.

    Example:
        >>> import numpy as np
        >>> from wye.core import top_k
        >>> joined([top_k(np.eye(2)), top_k(np.eye(2))]).target.tolist()
        [0, 1, 0, 1]
    """
    widths = {plan.n_targets for plan in plans}
    if len(widths) != 1:
        raise MoEError(
            f"{len(plans)} plans with {sorted(widths)} experts, expected at least one plan and one "
            "number of experts: join the passes of one layer"
        )
    hosts = [plan.host() for plan in plans]
    starts = np.cumsum([0, *(plan.n_sources for plan in plans)])
    sources = [p.source.astype(np.int64) + a for p, a in zip(hosts, starts, strict=False)]
    return Plan(
        np.concatenate(sources),
        np.concatenate([p.target.astype(np.int64) for p in hosts]),
        np.concatenate([p.weight.astype(np.float64) for p in hosts]),
        int(starts[-1]),
        widths.pop(),
    )


def first_choice(plan: Plan) -> Indices:
    """The expert of largest weight of every token, `[S]`; -1 where it has none.

    Equal weights: the expert of the lower index.
    """
    host = plan.host()
    order = np.lexsort((host.target, -host.weight.astype(np.float64), host.source))
    source, target = host.source[order], host.target[order]
    first = np.ones(source.shape[0], dtype=bool)
    first[1:] = source[1:] != source[:-1]
    found = np.full(plan.n_sources, -1, dtype=np.int64)
    found[source[first]] = target[first]
    return found


def labels_of(values: Any, n_sources: int, name: str) -> Indices:
    """One integer label per token, `[S]`, from arrays, nested lists or a list of arrays.

    Raises:
        MoEError: another number of them, or values that are no integers.
    """
    parts = values if isinstance(values, (list, tuple)) else [values]
    flat = np.concatenate([np.asarray(arrays.to_numpy(part)).reshape(-1) for part in parts])
    if flat.shape[0] != n_sources:
        raise MoEError(
            f"{flat.shape[0]} {name} were given for {n_sources} tokens, expected one each, in the "
            "order in which they were routed (padding included)"
        )
    if flat.size and not np.issubdtype(flat.dtype, np.integer):
        raise MoEError(f"{name} are {flat.dtype}, expected integers")
    return flat.astype(np.int64)
