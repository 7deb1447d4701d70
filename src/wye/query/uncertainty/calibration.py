"""What a score of trust is worth: its calibration, its ranking, and a threshold for a target.

Any score of an answer (`wye.query.uncertainty`) becomes a probability of being right by one
increasing map learned on held-out answers: a temperature, Platt's or isotonic regression
(`wye.query.learning.calibration`). A threshold is chosen on other held-out answers than those, or
it is as optimistic as the map.

Shape letters: n answers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from wye.query.base import FloatArray
from wye.query.learning.calibration import Calibrator, Reliability, fit_calibrator
from wye.query.policies.judging import Answer, Judge
from wye.query.policy import PolicyError


class CalibratedJudge(Judge):
    """Another judge's score as a probability of being right.

    Args:
        judge: whose score it is.
        calibrator: from `calibrate`.
    """

    def __init__(self, judge: Judge, calibrator: Calibrator) -> None:
        self.judge, self.calibrator = judge, calibrator
        self.name, self.cost, self.seconds = f"calibrated-{judge.name}", judge.cost, judge.seconds

    def score(self, text: str, answer: Answer) -> float | None:
        """The calibrated score; None where the judge has none."""
        raw = self.judge.score(text, answer)
        return None if raw is None else float(self.calibrator.apply(np.array([raw]))[0])


def calibrate(
    scores: FloatArray, right: FloatArray, method: str = "isotonic", *, seed: int = 0
) -> Calibrator:
    """The increasing map from scores `[n]`, 0 to 1, to the probability of being right.

    Args:
        scores: NaN where there is none.
        right: `[n]` 0 to 1, NaN where unknown.
        method: `temperature`, `platt`, `isotonic` or `none`.
        seed: of the draw where there are more than 100,000 answers.

    Raises:
        PolicyError: shapes differ, scores outside 0 to 1, or nothing known.
        RouterError: an unknown method.
    """
    x, y = _known(scores, right)
    return fit_calibrator(method, x, y, seed)


def auroc(scores: FloatArray, right: FloatArray) -> float:
    """Probability that a right answer scores above a wrong one, ties half.

    Raises:
        PolicyError: as `calibrate`, or answers all right or all wrong.

    Example:
        >>> auroc(np.array([0.9, 0.2, 0.2]), np.array([1.0, 1.0, 0.0]))
        0.75
    """
    from scipy.stats import rankdata

    x, y = _known(scores, right)
    positive = y >= 0.5
    n_right = int(positive.sum())
    n_wrong = len(y) - n_right
    if not n_right or not n_wrong:
        raise PolicyError(f"{n_right} right and {n_wrong} wrong answers, expected some of each")
    ranks = rankdata(x)
    return float((ranks[positive].sum() - n_right * (n_right + 1) / 2) / (n_right * n_wrong))


def calibration_error(scores: FloatArray, right: FloatArray) -> float:
    """ECE of scores as probabilities, over at most 15 bins of equal count (`Reliability`)."""
    x, y = _known(scores, right)
    return Reliability.of(x, y).ece


@dataclass(frozen=True)
class TrustThreshold:
    """From which score on an answer is kept.

    Attributes:
        score: answers with at least this are kept; infinity keeps none.
        kept: share of the held-out answers that were.
        accuracy: of those, NaN where none was kept.
    """

    score: float
    kept: float
    accuracy: float


def threshold_for_accuracy(scores: FloatArray, right: FloatArray, target: float) -> TrustThreshold:
    """The lowest threshold whose kept answers are right with at least `target` on average.

    Raises:
        PolicyError: as `calibrate`, or a target outside 0 to 1.
    """
    wanted = _share("target", target)
    x, y = _known(scores, right)
    order = np.argsort(-x, kind="stable")
    x, y = x[order], y[order]
    # Equal scores stand or fall together.
    last = np.append(x[1:] != x[:-1], True)
    kept = np.arange(1, len(y) + 1)
    accuracy = np.cumsum(y) / kept
    good = np.flatnonzero(last & (accuracy >= wanted))
    if not good.size:
        return TrustThreshold(float("inf"), 0.0, float("nan"))
    at = good[-1]
    return TrustThreshold(float(x[at]), float(kept[at] / len(y)), float(accuracy[at]))


def threshold_for_share(scores: FloatArray, right: FloatArray, kept: float) -> TrustThreshold:
    """The highest threshold that keeps at least the share `kept`; the others escalate.

    At a cost c of every answer and C of an escalation, a mean cost of B needs
    `kept >= 1 - (B - c) / C`.

    Raises:
        PolicyError: as `calibrate`, or a share outside 0 to 1.
    """
    wanted = _share("kept", kept)
    x, y = _known(scores, right)
    if wanted == 0.0:
        return TrustThreshold(float("inf"), 0.0, float("nan"))
    value = float(np.sort(x)[::-1][int(np.ceil(round(wanted * len(x), 9))) - 1])
    return TrustThreshold(value, float((x >= value).mean()), float(y[x >= value].mean()))


def threshold_for_cost(
    scores: FloatArray, right: FloatArray, *, cost: float, escalation: float, budget: float
) -> TrustThreshold:
    """The threshold that escalates as many answers as a mean cost of `budget` pays for.

    Args:
        scores, right: of held-out answers.
        cost: USD of every answer and of judging it.
        escalation: USD of what answers instead.
        budget: mean USD of a query, escalations included.

    Raises:
        PolicyError: as `calibrate`, or a budget that does not pay for the first answers.
    """
    if not 0.0 <= cost <= budget or not escalation > 0.0:
        raise PolicyError(
            f"cost={cost!r}, escalation={escalation!r}, budget={budget!r}; expected 0 <= cost <= "
            "budget and a price of escalating above 0"
        )
    return threshold_for_share(scores, right, max(0.0, 1.0 - (budget - cost) / escalation))


def _share(name: str, value: float) -> float:
    if not 0.0 <= value <= 1.0:
        raise PolicyError(f"{name}={value!r}, expected a share from 0 to 1")
    return value


def _known(scores: FloatArray, right: FloatArray) -> tuple[FloatArray, FloatArray]:
    x, y = np.asarray(scores, np.float64), np.asarray(right, np.float64)
    if x.shape != y.shape or x.ndim != 1:
        raise PolicyError(f"scores have shape {x.shape} and right {y.shape}, expected [n] both")
    known = np.isfinite(x) & np.isfinite(y)
    x, y = x[known], y[known]
    if not x.size or x.min() < 0 or x.max() > 1 or y.min() < 0 or y.max() > 1:
        raise PolicyError("scores and outcomes must lie from 0 to 1, at least one pair known")
    return x, y
