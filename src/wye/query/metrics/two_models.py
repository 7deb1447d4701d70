"""RouteLLM's figures for a strong and a weak model: PGR, APGR and CPT.

Ong et al. 2024, arXiv 2406.18665, section 3.2. With w(q) the score for the strong model and a share
s of queries sent to it, those of highest w,
    PGR(s) = (quality(s) - quality_weak) / (quality_strong - quality_weak),
    APGR = integral of PGR over s from 0 to 1,  CPT(x) = least s with PGR(s) >= x.
Both ends, 0% and 100%, belong to the curve. Queries of equal w are sent in random order, so the
curve is straight between the ends of a tie.

Shape letters: Q queries, B draws.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from wye.query.base import FloatArray
    from wye.query.metrics.resample import Resample


@dataclass(frozen=True)
class TwoModelCurve:
    """Figures on every draw, `[B]`; NaN where the strong model is not better than the weak one."""

    apgr: FloatArray
    cpt50: FloatArray
    cpt80: FloatArray


def two_model_curve(
    score: FloatArray, weak: FloatArray, strong: FloatArray, draws: Resample
) -> TwoModelCurve:
    """APGR and CPT of a score for the strong model.

    Args:
        score: `[Q]` w(q), higher for the strong model.
        weak, strong: `[Q]` quality of the two models.
        draws: bootstrap draws.
    """
    order = np.argsort(-score, kind="stable")
    ordered = score[order]
    ends = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True))
    gain = (strong - weak)[order]
    parts = [_figures(w[:, order], gain, ends) for w in draws.weights()]
    apgr, cpt50, cpt80 = (np.concatenate(column) for column in zip(*parts, strict=True))
    return TwoModelCurve(apgr, cpt50, cpt80)


def _figures(
    weight: FloatArray, gain: FloatArray, ends: np.ndarray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    share = np.cumsum(weight, axis=1)[:, ends]
    got = np.cumsum(weight * gain, axis=1)[:, ends]
    total, whole = share[:, -1:], got[:, -1:]
    zero = np.zeros_like(total)
    s = np.concatenate([zero, share / total], axis=1)
    pgr = np.concatenate([zero, got / np.where(whole > 0, whole, np.nan)], axis=1)
    area = (np.diff(s, axis=1) * (pgr[:, 1:] + pgr[:, :-1]) / 2).sum(axis=1)
    return area, _least_share(s, pgr, 0.5), _least_share(s, pgr, 0.8)


def _least_share(s: FloatArray, pgr: FloatArray, level: float) -> FloatArray:
    rows = np.arange(s.shape[0])
    # Shares that should be equal to the level may lie a rounding below it.
    reached = pgr >= level - 1e-12
    at = reached.argmax(axis=1)
    before = np.maximum(at - 1, 0)
    rise = pgr[rows, at] - pgr[rows, before]
    part = np.where(rise > 0, (level - pgr[rows, before]) / np.where(rise > 0, rise, 1.0), 1.0)
    found = s[rows, before] + part * (s[rows, at] - s[rows, before])
    return np.where(reached.any(axis=1), found, np.nan)
