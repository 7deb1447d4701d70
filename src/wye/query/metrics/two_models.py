"""RouteLLM's figures for a strong and a weak model: PGR, APGR and CPT.

Ong et al. 2024, arXiv 2406.18665, section 3.2. With w(q) the score for the strong model and a share
s of queries sent to it, those of highest w,
    PGR(s) = (quality(s) - quality_weak) / (quality_strong - quality_weak),
    APGR = integral of PGR over s from 0 to 1,  CPT(x) = least s with PGR(s) >= x.
Both ends, 0% and 100%, belong to the curve. Queries of equal w are sent in random order, so the
curve is straight between the ends of a tie. The threshold for a share s of strong calls is the
(1 - s) quantile of w on a sample of traffic; later traffic keeps the share as far as it is alike.

Shape letters: Q queries, B draws.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from wye.query.base import RouterError

if TYPE_CHECKING:
    from wye.query.base import FloatArray
    from wye.query.metrics.resample import Resample


@dataclass(frozen=True)
class TwoModelCurve:
    """Figures on every draw, `[B]`; NaN where the strong model is not better than the weak one."""

    apgr: FloatArray
    cpt20: FloatArray
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
    return TwoModelCurve(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def apgr(score: FloatArray, weak: FloatArray, strong: FloatArray) -> float:
    """APGR of a score for the strong model on the queries as they are.

    Args:
        score: `[Q]` w(q), higher for the strong model.
        weak, strong: `[Q]` quality of the two models.

    Example:
        >>> apgr(np.array([0.9, 0.1]), weak=np.array([0.0, 1.0]), strong=np.array([1.0, 1.0]))
        0.75
    """
    from wye.query.metrics.resample import Resample

    return float(two_model_curve(score, weak, strong, Resample(score.size, 0)).apgr[0])


def share_threshold(score: FloatArray, share: float) -> float:
    """The threshold t for which a share of the queries has score >= t, up to ties.

    Args:
        score: `[Q]` w(q) on a sample of traffic.
        share: of strong calls, 0 to 1; 0 gives infinity.

    Raises:
        RouterError: no scores, one of them NaN, or a share out of range.

    Example:
        >>> share_threshold(np.array([0.1, 0.2, 0.3, 0.4]), 0.5)
        0.3
    """
    if not score.size or np.isnan(score).any():
        raise RouterError("a threshold needs scores of traffic, none of them NaN")
    if not 0.0 <= share <= 1.0:
        raise RouterError(f"share is {share}, expected a number from 0 to 1")
    strong = round(share * score.size)
    return float(np.sort(score)[score.size - strong]) if strong else float("inf")


def _figures(weight: FloatArray, gain: FloatArray, ends: np.ndarray) -> tuple[FloatArray, ...]:
    share = np.cumsum(weight, axis=1)[:, ends]
    got = np.cumsum(weight * gain, axis=1)[:, ends]
    total, whole = share[:, -1:], got[:, -1:]
    zero = np.zeros_like(total)
    s = np.concatenate([zero, share / total], axis=1)
    pgr = np.concatenate([zero, got / np.where(whole > 0, whole, np.nan)], axis=1)
    area = (np.diff(s, axis=1) * (pgr[:, 1:] + pgr[:, :-1]) / 2).sum(axis=1)
    return area, *(_least_share(s, pgr, level) for level in (0.2, 0.5, 0.8))


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
