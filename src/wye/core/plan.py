"""Who goes where, with what weight: the one result of every selection.

Shape letters: S sources, T targets, N routed pairs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from wye.core import arrays
from wye.core.arrays import Array, namespace


class PlanError(ValueError):
    """A plan whose arrays contradict each other; the message says which and how."""


class Groups(NamedTuple):
    """The pairs of a plan in groups, as grouped execution needs them.

    Attributes:
        order: `[N]` positions in the plan, sorted by group; stable, so the plan's own order holds
            inside a group.
        offsets: `[G + 1]` where each group starts in `order`; the last entry is N.
    """

    order: Array
    offsets: Array


@dataclass(frozen=True, eq=False)
class Plan:
    """N routed pairs between S sources and T targets.

    The constructor checks shapes and dtypes, which costs nothing; `validate` reads the values.

    Attributes:
        source: `[N]` integers in [0, S).
        target: `[N]` integers in [0, T), same dtype as `source`.
        weight: `[N]` how much each pair counts when results are combined; gradients flow through
            it where the array has them.
        n_sources: S.
        n_targets: T.

    Raises:
        PlanError: arrays that are not flat or differ in length, `source` and `target` of different
            dtypes, or a negative count.

    Example:
        >>> import numpy as np
        >>> plan = Plan(np.array([0, 1]), np.array([2, 0]), np.array([0.9, 0.8]), 2, 3)
        >>> plan.load().tolist()
        [1, 0, 1]
    """

    source: Array
    target: Array
    weight: Array
    n_sources: int
    n_targets: int

    def __post_init__(self) -> None:
        shape = getattr(self.source, "shape", ())
        if (
            len(shape) != 1
            or getattr(self.target, "shape", None) != shape
            or getattr(self.weight, "shape", None) != shape
        ):
            given = [
                tuple(a.shape) if hasattr(a, "shape") else type(a).__name__
                for a in (self.source, self.target, self.weight)
            ]
            raise PlanError(
                f"source, target and weight have shapes {given}, expected arrays of one flat shape "
                "[N]"
            )
        if self.source.dtype != self.target.dtype:
            raise PlanError(
                f"source is {self.source.dtype} and target is {self.target.dtype}, expected one "
                "integer dtype for both"
            )
        if self.n_sources < 0 or self.n_targets < 0:
            raise PlanError(
                f"n_sources={self.n_sources} and n_targets={self.n_targets}, expected counts >= 0"
            )

    @classmethod
    def from_rows(
        cls, target: Array, weight: Array, n_targets: int, *, keep: Array | None = None
    ) -> Plan:
        """A plan from choices laid out by source, which is how a recorded choice comes back.

        Args:
            target: `[S, K]` integers (int64) in [0, n_targets).
            weight: `[S, K]`.
            n_targets: T.
            keep: `[S, K]` booleans; the pairs that are False are left out, which makes the length
                of the plan depend on the data.

        Raises:
            PlanError: shapes that differ or are not `[S, K]`.

        Example:
            >>> import numpy as np
            >>> plan = Plan.from_rows(np.array([[2, 0]]), np.array([[0.6, 0.4]]), 3)
            >>> plan.source.tolist(), plan.target.tolist()
            ([0, 0], [2, 0])
        """
        shape = tuple(target.shape)
        if len(shape) != 2 or tuple(weight.shape) != shape:
            raise PlanError(
                f"target and weight have shapes {shape} and {tuple(weight.shape)}, expected one "
                "shape [S, K] for both"
            )
        xp = namespace(target)
        source = arrays.repeated(shape[0], shape[1], target)
        target, weight = xp.reshape(target, (-1,)), xp.reshape(weight, (-1,))
        if keep is not None:
            flat = xp.reshape(keep, (-1,))
            source, target, weight = source[flat], target[flat], weight[flat]
        return cls(source, target, weight, shape[0], n_targets)

    def __len__(self) -> int:
        return int(self.source.shape[0])

    def __repr__(self) -> str:
        return (
            f"Plan({self.source.shape[0]} pairs, {self.n_sources} sources -> "
            f"{self.n_targets} targets)"
        )

    def validate(self, *, distinct: bool = False) -> Plan:
        """Read every value and return the plan itself when all are in order.

        Args:
            distinct: also refuse a pair that occurs twice.

        Raises:
            PlanError: an index out of range or not an integer, a weight that is NaN or infinite,
                arrays of different libraries, a repeated pair.
        """
        xp = namespace(self.source, self.target, self.weight)
        for name, index, n in (
            ("source", self.source, self.n_sources),
            ("target", self.target, self.n_targets),
        ):
            if not xp.isdtype(index.dtype, "integral"):
                raise PlanError(f"{name} is {index.dtype}, expected an integer dtype")
            if len(self) and (int(xp.min(index)) < 0 or int(xp.max(index)) >= n):
                raise PlanError(
                    f"{name} runs from {int(xp.min(index))} to {int(xp.max(index))}, expected "
                    f"0 to {n - 1} (n_{name}s={n})"
                )
        if not bool(xp.all(xp.isfinite(self.weight))):
            raise PlanError("weight holds NaN or infinite values, expected finite ones")
        if distinct and len(self):
            pairs = xp.sort(self.cells())
            if bool(xp.any(pairs[1:] == pairs[:-1])):
                raise PlanError("a pair of source and target occurs more than once")
        return self

    def by_target(self) -> Groups:
        """The pairs grouped by target: what grouped execution walks through.

        Example:
            >>> import numpy as np
            >>> plan = Plan(np.array([0, 1, 2]), np.array([1, 0, 1]), np.ones(3), 3, 2)
            >>> order, offsets = plan.by_target()
            >>> [plan.source[order[a:b]].tolist() for a, b in zip(offsets, offsets[1:])]
            [[1], [0, 2]]
        """
        return _grouped(self.target, self.n_targets)

    def by_source(self) -> Groups:
        """The pairs grouped by source."""
        return _grouped(self.source, self.n_sources)

    def dense(self) -> Array:
        """The weights as a matrix `[S, T]`, zero where no pair is; repeated pairs add up."""
        flat = arrays.segment_sum(
            self.weight,
            self.cells(),
            self.n_sources * self.n_targets,
        )
        return namespace(flat).reshape(flat, (self.n_sources, self.n_targets))

    def cells(self) -> Array:
        """The place of every pair in the flattened `[S, T]` matrix, int64 `[N]`."""
        return arrays.wide(self.source) * self.n_targets + arrays.wide(self.target)

    def load(self) -> Array:
        """How many pairs each target has, integers `[T]`."""
        return arrays.count(self.target, self.n_targets)

    def fan_out(self) -> Array:
        """How many pairs each source has, integers `[S]`."""
        return arrays.count(self.source, self.n_sources)

    def with_weight(self, weight: Array) -> Plan:
        """The same pairs with another weight `[N]`."""
        return Plan(self.source, self.target, weight, self.n_sources, self.n_targets)

    def where(self, keep: Array) -> Plan:
        """The pairs for which `keep` `[N]` (booleans) is True."""
        return Plan(
            self.source[keep],
            self.target[keep],
            self.weight[keep],
            self.n_sources,
            self.n_targets,
        )

    def host(self) -> Plan:
        """The same plan in NumPy arrays, from any device, without gradient."""
        return Plan(
            arrays.to_numpy(self.source),
            arrays.to_numpy(self.target),
            arrays.to_numpy(self.weight),
            self.n_sources,
            self.n_targets,
        )


def _grouped(index: Array, n: int) -> Groups:
    xp = namespace(index)
    # NumPy sorts 16-bit integers by radix, several times faster than 64-bit ones.
    narrow = arrays.is_numpy(xp) and n <= 1 << 15
    keys = index.astype("int16") if narrow else index
    order = xp.argsort(keys, stable=True)
    ends = xp.cumulative_sum(arrays.count(index, n), include_initial=True)
    return Groups(order, ends)
