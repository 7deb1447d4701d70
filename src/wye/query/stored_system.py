"""`StoredSystem`: a system outside of the registry that keeps what it learned in a folder.

The systems of the registry are `QueryRouter`s and are read with `wye.load`. The others have methods
of their own, so that the class that saved is the class that loads. What they ask (chat models) and
what is code (a function) is not stored and is given again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

from wye.query.base import RouterError, Stateful
from wye.query.persistence import SYSTEM_FORMAT, plain_params, read_folder, write_folder


class StoredSystem(Stateful):
    """Saves parameters and state to a folder, and reads them again.

    A subclass stores the parameters of `__init__` under the same names, keeps what it learned in
    attributes that end in `_`, and implements `get_state` and `set_state`. What `not_stored` names
    is given again to `load`.
    """

    def save(self, directory: str | Path) -> Path:
        """Write to `directory` (JSON + safetensors), whole or not at all; returns the directory.

        Args:
            directory: a folder that does not exist, is empty, or holds a state, which is replaced.

        Raises:
            NotFittedError: nothing was learned.
            RouterError: the folder holds other things, or something cannot be stored.
        """
        arrays, values = self.get_state()
        name = type(self).__name__
        told = {
            "system": name,
            "params": plain_params(name, self.get_params()),
            "values": values,
        }
        return write_folder(directory, SYSTEM_FORMAT, told, arrays)

    @classmethod
    def load(cls, directory: str | Path) -> Self:
        """Read what `save` wrote to `directory`.

        Raises:
            RouterError: there is nothing, something of another kind, something written by a newer
                version, or the files are damaged.
        """
        return cls._loaded(directory)

    @classmethod
    def _loaded(cls, directory: str | Path, **given: Any) -> Self:
        """`load`, with the parameters `not_stored`."""
        told, arrays = read_folder(directory, SYSTEM_FORMAT, {"system": str})
        if told["system"] != cls.__name__:
            raise RouterError(
                f"{directory} holds {told['system']!r}, expected {cls.__name__!r}; read it with "
                f"{told['system']}.load"
            )
        try:
            made = cls._built({**told["params"], **given})
            made.set_state(arrays, told["values"])
        except (KeyError, IndexError, TypeError) as error:
            raise RouterError(
                f"{directory} does not hold what {cls.__name__!r} needs: {error!r}"
            ) from error
        return made

    @classmethod
    def _built(cls, params: dict[str, Any]) -> Self:
        """A system that has learned nothing, from its parameters."""
        return cls(**params)
