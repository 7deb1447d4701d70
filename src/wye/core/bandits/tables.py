"""Epsilon-greedy bandits on mean rewards: one mean per arm, or one per context and arm.

An arm never tried counts as the best, so that every arm is tried (ours; the published ones rely on
starting at epsilon = 1, which an arm that joins later never sees).

Shape letters: M arms, D context width, C contexts met.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wye.core.bandits.base import (
    Bandit,
    BanditError,
    Booleans,
    Epsilon,
    Floats,
    Pick,
    allowed_arms,
    check_arms,
    check_observations,
    check_removal,
    epsilon_pick,
)


class EpsilonGreedy(Bandit):
    """The arm with the highest mean reward, whatever the context, or a random one.

    Args:
        n_arms: M.
        width: D, not read.
        epsilon: share of random picks at first; `decay` per pick, down to `floor`.
    """

    def __init__(
        self,
        n_arms: int,
        width: int = 1,
        *,
        epsilon: float = 1.0,
        decay: float = 0.98,
        floor: float = 0.01,
    ) -> None:
        check_arms(n_arms)
        self.width = width
        self.epsilon = Epsilon(epsilon, decay, floor)
        self.total = np.zeros(n_arms)
        self.count = np.zeros(n_arms, np.int64)

    @property
    def n_arms(self) -> int:
        """M."""
        return int(self.count.size)

    def values(self, x: Floats) -> Floats:
        """Mean reward of each arm `[M]` as the choice in context `x` sees it; +inf if untried."""
        del x
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(self.count > 0, self.total / self.count, np.inf)

    def pick(
        self, x: Floats, generator: np.random.Generator, allowed: Booleans | None = None
    ) -> Pick:
        """The best allowed arm, or a random one."""
        mask = allowed_arms(self.n_arms, allowed)
        return epsilon_pick(self.values(x), mask, self.epsilon.step(), generator)

    def learn(self, arm: int, x: Floats, rewards: Floats) -> None:
        """Learn `rewards` `[N]` of `arm`; contexts `[N, D]` are not read."""
        if not 0 <= arm < self.n_arms:
            raise BanditError(f"arm {arm} does not exist; there are {self.n_arms}")
        _, values = check_observations(x, rewards, None)
        self.total[arm] += values.sum()
        self.count[arm] += values.size

    def skip(self, picks: int) -> None:
        """Count `picks` picks that others made."""
        self.epsilon.skip(picks)

    def add_arm(self) -> int:
        """Append an arm that nothing is known of, and return its position."""
        self.total, self.count = np.append(self.total, 0.0), np.append(self.count, 0)
        return self.n_arms - 1

    def remove_arm(self, arm: int) -> None:
        """Forget an arm; the later ones move up."""
        check_removal(self.n_arms, arm)
        self.total, self.count = np.delete(self.total, arm), np.delete(self.count, arm)

    def get_state(self) -> dict[str, NDArray[Any]]:
        """Everything learned, as arrays."""
        return {
            "total": self.total.copy(),
            "count": self.count.copy(),
            "epsilon": np.array([self.epsilon.value]),
        }

    def set_state(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Restore what `get_state` returned."""
        self.total, self.count = np.array(arrays["total"]), np.array(arrays["count"])
        self.epsilon.value = float(arrays["epsilon"][0])


class ContextualEpsilonGreedy(EpsilonGreedy):
    """The arm with the highest mean reward in this very context, else over all contexts.

    Contexts are told apart by their values, so they should be discrete.

    Args:
        n_arms: M.
        width: D.
        epsilon: share of random picks at first; `decay` per pick, down to `floor`.
    """

    def __init__(
        self,
        n_arms: int,
        width: int,
        *,
        epsilon: float = 1.0,
        decay: float = 0.985,
        floor: float = 0.01,
    ) -> None:
        super().__init__(n_arms, width, epsilon=epsilon, decay=decay, floor=floor)
        self.keys = np.zeros((0, width))
        self.cell_total = np.zeros((0, n_arms))
        self.cell_count = np.zeros((0, n_arms), np.int64)
        self._cells: dict[bytes, int] = {}

    def values(self, x: Floats) -> Floats:
        """Mean reward of each arm `[M]` in context `x`; its overall mean where it was not tried."""
        overall = super().values(x)
        cell = self._cells.get(_key(x))
        if cell is None:
            return overall
        count = self.cell_count[cell]
        return np.where(count > 0, self.cell_total[cell] / np.maximum(count, 1), overall)

    def learn(self, arm: int, x: Floats, rewards: Floats) -> None:
        """Learn `rewards` `[N]` of `arm` in contexts `[N, D]`."""
        contexts, values = check_observations(x, rewards, self.width)
        super().learn(arm, contexts, values)
        for row, value in zip(contexts, values, strict=True):
            cell = self._cell(row)
            self.cell_total[cell, arm] += value
            self.cell_count[cell, arm] += 1

    def add_arm(self) -> int:
        """Append an arm that nothing is known of, and return its position."""
        empty = np.zeros((len(self.keys), 1))
        self.cell_total = np.concatenate([self.cell_total, empty], axis=1)
        self.cell_count = np.concatenate([self.cell_count, empty.astype(np.int64)], axis=1)
        return super().add_arm()

    def remove_arm(self, arm: int) -> None:
        """Forget an arm; the later ones move up."""
        super().remove_arm(arm)
        self.cell_total = np.delete(self.cell_total, arm, axis=1)
        self.cell_count = np.delete(self.cell_count, arm, axis=1)

    def get_state(self) -> dict[str, NDArray[Any]]:
        """Everything learned, as arrays."""
        return super().get_state() | {
            "keys": self.keys.copy(),
            "cell_total": self.cell_total.copy(),
            "cell_count": self.cell_count.copy(),
        }

    def set_state(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Restore what `get_state` returned."""
        super().set_state(arrays)
        self.keys = np.array(arrays["keys"])
        self.cell_total = np.array(arrays["cell_total"])
        self.cell_count = np.array(arrays["cell_count"])
        self._cells = {_key(row): i for i, row in enumerate(self.keys)}

    def _cell(self, row: Floats) -> int:
        key = _key(row)
        if key not in self._cells:
            self._cells[key] = len(self.keys)
            self.keys = np.concatenate([self.keys, row[None]])
            empty = np.zeros((1, self.n_arms))
            self.cell_total = np.concatenate([self.cell_total, empty])
            self.cell_count = np.concatenate([self.cell_count, empty.astype(np.int64)])
        return self._cells[key]


def _key(x: Floats) -> bytes:
    return np.ascontiguousarray(x, np.float64).tobytes()
