"""Labels that overlap neither each other nor the points of a plot, in pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

_RADII = (9.0, 14.0, 20.0, 28.0, 38.0, 50.0, 64.0, 80.0, 98.0, 118.0, 140.0)
_ANGLES = (0, 180, 30, 330, 150, 210, 90, 270, 60, 120, 240, 300)
_LEADER_FROM = 16.0


@dataclass(frozen=True)
class Box:
    """A rectangle with its sides along the axes."""

    left: float
    low: float
    right: float
    high: float

    def overlaps(self, other: Box) -> bool:
        """Whether the two share any area."""
        return (
            self.left < other.right
            and other.left < self.right
            and self.low < other.high
            and other.low < self.high
        )

    def inside(self, other: Box) -> bool:
        """Whether this lies wholly in `other`."""
        return (
            self.left >= other.left
            and self.right <= other.right
            and self.low >= other.low
            and self.high <= other.high
        )


@dataclass(frozen=True)
class Placed:
    """Where a label went: its box, and whether it needs a line back to its point."""

    box: Box
    leader: bool


def place_labels(
    anchors: Sequence[tuple[float, float]],
    sizes: Sequence[tuple[float, float]],
    area: Box,
    obstacles: Sequence[Box] = (),
) -> list[Placed | None]:
    """A place for each label near its anchor, the first ones served first.

    Args:
        anchors: points, in pixels.
        sizes: width and height of each label, in pixels.
        area: labels stay inside it.
        obstacles: what no label may cover; the points themselves are obstacles anyway.

    Returns:
        For each label its place, or None where there is none left.
    """
    taken = [*obstacles, *(Box(x - 5, y - 5, x + 5, y + 5) for x, y in anchors)]
    placed: list[Placed | None] = []
    for (x, y), (width, height) in zip(anchors, sizes, strict=True):
        found = next(
            (
                Placed(box, radius > _LEADER_FROM)
                for radius in _RADII
                for angle in _ANGLES
                if (box := _box(x, y, width, height, radius, angle)).inside(area)
                and not any(box.overlaps(other) for other in taken)
            ),
            None,
        )
        placed.append(found)
        if found is not None:
            taken.append(found.box)
    return placed


def path_obstacles(points: Sequence[tuple[float, float]], *, every: float = 6.0) -> list[Box]:
    """Small boxes along a line through `points`, so that labels keep off it."""
    boxes: list[Box] = []
    for (x0, y0), (x1, y1) in pairwise(points):
        steps = max(1, math.ceil(math.hypot(x1 - x0, y1 - y0) / every))
        for k in range(steps + 1):
            x, y = x0 + (x1 - x0) * k / steps, y0 + (y1 - y0) * k / steps
            boxes.append(Box(x - 2, y - 2, x + 2, y + 2))
    return boxes


def _box(x: float, y: float, width: float, height: float, radius: float, angle: float) -> Box:
    dx, dy = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    # The side or corner that faces the point lies at the radius, not the middle of the label.
    cx = x + dx * radius + (width / 2 if dx > 0.2 else -width / 2 if dx < -0.2 else 0.0)
    cy = y + dy * radius + (height / 2 if dy > 0.7 else -height / 2 if dy < -0.7 else 0.0)
    return Box(cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2)
