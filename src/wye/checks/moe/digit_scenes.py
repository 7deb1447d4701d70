"""Scenes of real digits: 1 to 6 of scikit-learn's, at three sizes, on canvases of 32 x 32.

Boxes never overlap; an object that finds no place in `_TRIES` draws is left out. Training and test
scenes are made of different digits.

Shape letters: B scenes, K classes (10), G cells along an edge of the heat map (8).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

CANVAS, STRIDE, CLASSES = 32, 4, 10
EDGES = (8, 12, 16)
MOST_OBJECTS = 6
_TRIES = 50
_HELD_OUT_IN = 4


@dataclass(frozen=True)
class Scenes:
    """B scenes and what is in them.

    Attributes:
        images: `[B, 1, 32, 32]` in [0, 1].
        centres: `[B, K, G, G]` 1 where a digit of the class has its centre.
        sizes: `[B, 3]` objects of each size, of 8, 12 and 16 pixels.
    """

    images: Tensor
    centres: Tensor
    sizes: Tensor

    @property
    def count(self) -> Tensor:
        """`[B]` objects."""
        return self.sizes.sum(dim=1)


def scenes(number: int, *, held_out: bool, seed: int) -> Scenes:
    """Draw scenes from the digits of one part.

    Args:
        number: B.
        held_out: of the quarter of digits that training scenes never show.
        seed: of numbers, digits, sizes and places.
    """
    glyphs, labels = _glyphs(held_out)
    draw = np.random.default_rng(seed)
    cells = CANVAS // STRIDE
    images = np.zeros((number, 1, CANVAS, CANVAS), dtype=np.float32)
    centres = np.zeros((number, CLASSES, cells, cells), dtype=np.float32)
    sizes = np.zeros((number, len(EDGES)), dtype=np.int64)
    for scene in range(number):
        wanted = int(draw.integers(1, MOST_OBJECTS + 1))
        taken = np.zeros((CANVAS, CANVAS), dtype=bool)
        # The largest first: small ones still find a place beside them.
        for size in -np.sort(-draw.integers(0, len(EDGES), wanted)):
            place = _place(taken, EDGES[size], draw)
            if place is None:
                continue
            digit = int(draw.integers(len(labels)))
            top, left = place
            box = (slice(top, top + EDGES[size]), slice(left, left + EDGES[size]))
            taken[box] = True
            images[(scene, 0, *box)] = glyphs[size][digit]
            middle = ((top + EDGES[size] // 2) // STRIDE, (left + EDGES[size] // 2) // STRIDE)
            centres[(scene, labels[digit], *middle)] = 1.0
            sizes[scene, size] += 1
    return Scenes(torch.from_numpy(images), torch.from_numpy(centres), torch.from_numpy(sizes))


def _place(
    taken: NDArray[np.bool_], edge: int, draw: np.random.Generator
) -> tuple[int, int] | None:
    for top, left in draw.integers(0, CANVAS - edge + 1, (_TRIES, 2)):
        if not taken[top : top + edge, left : left + edge].any():
            return int(top), int(left)
    return None


@lru_cache(maxsize=2)
def _glyphs(held_out: bool) -> tuple[list[NDArray[np.float32]], NDArray[np.int64]]:
    """Images `[n, edge, edge]` by size, and labels, of one part of the digits."""
    from sklearn.datasets import load_digits

    loaded = load_digits()
    order = np.random.default_rng(0).permutation(len(loaded.target))
    cut = len(order) // _HELD_OUT_IN
    chosen = order[:cut] if held_out else order[cut:]
    small = torch.tensor(loaded.images[chosen] / 16.0, dtype=torch.float32)[:, None]
    scaled = [
        F.interpolate(small, size=(edge, edge), mode="bilinear", align_corners=False)[:, 0].numpy()
        for edge in EDGES
    ]
    return scaled, loaded.target[chosen].astype(np.int64)
