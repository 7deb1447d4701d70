"""A record of plans: what was routed where, layer by layer, to compare and to replay.

Recorded plans are kept without gradient. A replay takes the recorded pairs and weighs them with the
gates of the moment (routing replay), so that gradients flow and the choice stays.

Shape letters: S sources, T targets, N routed pairs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from wye.core import arrays
from wye.core.arrays import Array, SelectionError
from wye.core.plan import Plan
from wye.core.weights import weigh

_FIELDS = ("source", "target", "weight", "size")
_SEPARATOR = "/"


class PlanTrace(Mapping[str, tuple[Plan, ...]]):
    """Plans in the order in which they were made, under the name of the place that made them.

    Example:
        >>> import numpy as np
        >>> from wye.core import top_k
        >>> trace = PlanTrace()
        >>> _ = trace.record("layer 0", top_k(np.array([[0.1, 0.9]])))
        >>> trace["layer 0"][0].target.tolist()
        [1]
    """

    def __init__(self) -> None:
        self._plans: dict[str, list[Plan]] = {}

    def __getitem__(self, place: str) -> tuple[Plan, ...]:
        return tuple(self._plans[place])

    def __iter__(self) -> Iterator[str]:
        return iter(self._plans)

    def __len__(self) -> int:
        return len(self._plans)

    def record(self, place: str, plan: Plan) -> Plan:
        """Append `plan` under `place` and return it unchanged.

        Raises:
            SelectionError: a place whose name contains "/", which `arrays` needs.
        """
        if _SEPARATOR in place:
            raise SelectionError(f"place {place!r} contains {_SEPARATOR!r}: name it without")
        kept = plan.with_weight(arrays.detach(plan.weight))
        self._plans.setdefault(place, []).append(kept)
        return plan

    def replay(self, place: str, step: int, gates: Array) -> Plan:
        """The pairs recorded at `place` in its `step`-th plan, weighted by `gates` `[S, T]`.

        Raises:
            SelectionError: nothing was recorded there, or gates of another shape.
        """
        plans = self._plans.get(place, [])
        if not -len(plans) <= step < len(plans):
            raise SelectionError(
                f"nothing recorded at {place!r}, step {step}: it has {len(plans)} plans; "
                f"places are {list(self._plans)}"
            )
        return weigh(plans[step], gates)

    def load(self, place: str) -> NDArray[np.int64]:
        """Pairs per target over all plans of `place`, `[T]`.

        Raises:
            SelectionError: nothing was recorded there, or for different numbers of targets.
        """
        plans = self._plans.get(place, [])
        widths = {p.n_targets for p in plans}
        if len(widths) != 1:
            raise SelectionError(
                f"plans of {place!r} have {sorted(widths)} targets, expected one number"
            )
        total = np.zeros(widths.pop(), dtype=np.int64)
        for plan in plans:
            total += arrays.to_numpy(plan.load())
        return total

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """Everything as named NumPy arrays, for any file format that holds such."""
        flat: dict[str, NDArray[np.generic]] = {}
        for place, plans in self._plans.items():
            for step, plan in enumerate(plans):
                host = plan.host()
                key = f"{place}{_SEPARATOR}{step}{_SEPARATOR}"
                flat[key + "source"] = host.source
                flat[key + "target"] = host.target
                flat[key + "weight"] = host.weight
                flat[key + "size"] = np.array([plan.n_sources, plan.n_targets], dtype=np.int64)
        return flat

    @classmethod
    def from_arrays(cls, flat: Mapping[str, NDArray[np.generic]]) -> PlanTrace:
        """The trace that `arrays` wrote.

        Raises:
            SelectionError: a name that `arrays` does not write, or a plan with a part missing.
        """
        parts: dict[tuple[str, int], dict[str, NDArray[np.generic]]] = {}
        for name, value in flat.items():
            pieces = name.split(_SEPARATOR)
            if len(pieces) != 3 or not pieces[1].isdigit() or pieces[2] not in _FIELDS:
                raise SelectionError(f"array {name!r} is no part of a plan trace")
            parts.setdefault((pieces[0], int(pieces[1])), {})[pieces[2]] = value
        trace = cls()
        for (place, step), fields in sorted(parts.items(), key=lambda item: item[0][1]):
            missing = [f for f in _FIELDS if f not in fields]
            if missing or step != len(trace._plans.get(place, [])):
                raise SelectionError(
                    f"plan {step} of {place!r} lacks {missing or 'the plans before it'}"
                )
            sources, targets = (int(n) for n in fields["size"].astype(np.int64))
            plan = Plan(fields["source"], fields["target"], fields["weight"], sources, targets)
            trace.record(place, plan.validate())
        return trace
