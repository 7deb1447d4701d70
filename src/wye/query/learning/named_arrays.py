"""What was learned, as arrays by name: parts of a whole side by side, and the embedder among them.

A whole names the arrays of its parts `<part>/<name>`, so that all lie flat in one safetensors file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from wye.embed import Embedder, get_embedder
from wye.query.base import RouterError

Arrays = Mapping[str, NDArray[Any]]


class KeptArrays:
    """What was learned is what the attributes hold that `kept` names: `theta_` for `theta`.

    Class attributes of a part:
        kept: names without the `_` at the end.
    """

    kept: ClassVar[tuple[str, ...]]

    def get_state(self) -> dict[str, NDArray[Any]]:
        """What was learned, as arrays."""
        return {name: np.asarray(getattr(self, f"{name}_")) for name in self.kept}

    def set_state(self, arrays: Arrays) -> None:
        """Restore what `get_state` returned."""
        for name in self.kept:
            setattr(self, f"{name}_", arrays[name])
        self._derive()

    def _derive(self) -> None:
        """What a prediction reads that follows from the kept arrays; called when those change.

        Vectors stand as rows in it: against one query's row, NumPy is done twice as fast with a row
        as with a vector that it has to spread.
        """


def together(parts: Mapping[str, Arrays]) -> dict[str, NDArray[Any]]:
    """The arrays of all parts, each named `<part>/<name>`.

    Example:
        >>> import numpy as np
        >>> sorted(together({"a": {"x": np.zeros(1)}, "b": {"x": np.zeros(1)}}))
        ['a/x', 'b/x']
    """
    return {f"{part}/{name}": array for part, held in parts.items() for name, array in held.items()}


def prefixed(prefix: str, arrays: Arrays) -> dict[str, NDArray[Any]]:
    """The arrays, each named with `prefix` before its name; `under` takes it off again."""
    return {f"{prefix}{name}": array for name, array in arrays.items()}


def under(prefix: str, arrays: Arrays) -> dict[str, NDArray[Any]]:
    """The arrays whose names begin with `prefix`, by the rest of their names.

    Example:
        >>> import numpy as np
        >>> sorted(under("a/", {"a/x": np.zeros(1), "b/x": np.zeros(1)}))
        ['x']
    """
    return {name.removeprefix(prefix): a for name, a in arrays.items() if name.startswith(prefix)}


def restored_embedder(embedder: str | Embedder, name: str, arrays: Arrays) -> Embedder:
    """The embedder with what it had learned.

    Args:
        embedder: a spec of `wye.embed.get_embedder`, or an `Embedder`.
        name: of the embedder that was learned with.
        arrays: its state.

    Raises:
        RouterError: it gives other vectors here.
    """
    made = get_embedder(embedder)
    made.set_state(arrays)
    if made.name != name:
        raise RouterError(
            f"the router was learned on the vectors of {name!r}, but here {embedder!r} is "
            f"{made.name!r}; install that version or train again"
        )
    return made
