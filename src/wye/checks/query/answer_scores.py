"""How far recorded answers are to be trusted, from what was really observed of them.

A cascade needs a score of each answer that is known only once the answer is there. Where the
outcomes have a column `confidence` (0 to 1, for instance the mean token probability), that is it.
Where they have not, the length of the answer in tokens is: how often this model was right in
training with an answer of that length. Both are observations; nothing is simulated.

Shape letters: Q queries, M models, B bins.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from wye.checks.base import CheckError

if TYPE_CHECKING:
    from wye.data import RoutingData

Floats = NDArray[np.float64]
BINS = 10
COLUMN = "confidence"
# A bin starts from this many answers of the model's mean, so that a small one is not believed.
PRIOR = 5.0


def score_kind(data: RoutingData) -> str:
    """`confidence` or `answer length`, whichever `data` can give.

    Raises:
        CheckError: it can give neither.
    """
    if COLUMN in data.outcomes.columns and np.isfinite(data.matrix(COLUMN)).mean() > 0.9:
        return COLUMN
    if np.isfinite(data.matrix("output_tokens")).mean() > 0.9:
        return "answer length"
    raise CheckError(
        f"{data.name} has neither a confidence nor the output tokens of its answers, so nothing "
        "can judge them after they are given; add a column `confidence` to its outcomes"
    )


def answer_scores(train: RoutingData, data: RoutingData, kind: str) -> Floats:
    """`[Q, M]` score of each recorded answer of `data`, 0 to 1; NaN where nothing was observed."""
    if kind == COLUMN:
        return np.clip(data.matrix(COLUMN), 0.0, 1.0)
    length, quality, observed = (
        train.matrix("output_tokens"),
        train.quality,
        data.matrix("output_tokens"),
    )
    columns = [
        _right_at_length(length[:, m], quality[:, m], observed[:, m])
        for m in range(length.shape[1])
    ]
    return np.column_stack(columns)


def _right_at_length(length: Floats, quality: Floats, observed: Floats) -> Floats:
    """Share of right answers in the decile of length that each observed answer falls into."""
    known = np.isfinite(length) & np.isfinite(quality)
    edges = np.unique(np.quantile(length[known], np.linspace(0, 1, BINS + 1)[1:-1]))
    place = np.searchsorted(edges, length[known], side="right")
    mean = float(quality[known].mean())
    total = np.bincount(place, quality[known], edges.size + 1) + PRIOR * mean
    share = total / (np.bincount(place, minlength=edges.size + 1) + PRIOR)
    score = share[np.searchsorted(edges, observed, side="right")]
    return np.where(np.isfinite(observed), score, np.nan)
