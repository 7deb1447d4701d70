"""The words that probes are made of."""

from __future__ import annotations

import numpy as np

NOUNS = (
    "apple", "bridge", "candle", "desert", "engine", "forest", "garden", "harbor", "island",
    "jacket", "kettle", "ladder", "market", "needle", "orange", "pencil", "rabbit", "silver",
    "ticket", "valley", "window", "yellow", "anchor", "basket", "camera", "dragon", "falcon",
    "guitar", "hammer", "lemon", "mirror", "napkin", "oyster", "pillow", "rocket", "saddle",
    "tunnel", "violin", "wallet", "zebra",
)  # fmt: skip
NAMES = ("Anna", "Boris", "Clara", "David", "Elena", "Felix", "Greta", "Hugo", "Irene", "Jonas")
CITIES = ("Lisbon", "Oslo", "Vienna", "Dublin", "Prague", "Madrid", "Athens", "Warsaw", "Riga")
TEAMS = ("red", "blue", "green")


def some(draw: np.random.Generator, words: tuple[str, ...], n: int) -> list[str]:
    """`n` different words."""
    return [words[i] for i in draw.permutation(len(words))[:n]]


def integers(draw: np.random.Generator, low: int, high: int, n: int) -> list[int]:
    """`n` different integers from `low` to `high`, both included."""
    return [low + int(i) for i in draw.permutation(high - low + 1)[:n]]
