"""Binary features of preference instances (a prompt and two answers), for `hybrid_preferences`.

Real values fall into three bins of [0, 1] at 1/3 and 2/3, half-open, the last one closed, so that
every value is in exactly one bin. Lengths enter as percentile ranks in the data set, ranked once.
Similarity of the two answers is read from words (ROUGE-L: Lin, 2004) and from an embedding. Further
values (BERTScore, overlap of entities) and tags (subject, expertise, safety concern, ...) come from
the caller, who has the models for them.

Shape letters: N instances, J features, B bins.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from wye.query.base import BoolArray, FloatArray, RouterError

if TYPE_CHECKING:
    from wye.embed import Embedder

EDGES = (1.0 / 3.0, 2.0 / 3.0)
# The longest common subsequence is quadratic in length; the start tells answers apart well enough.
ROUGE_WORDS = 300


@dataclass(frozen=True)
class InstanceFeatures:
    """Which features each instance has.

    Attributes:
        ids: N different names.
        names: J names of features.
        active: `[N, J]`.

    Raises:
        RouterError: shapes that do not match, or an id or name that stands twice.
    """

    ids: tuple[str, ...]
    names: tuple[str, ...]
    active: BoolArray

    def __post_init__(self) -> None:
        if self.active.shape != (len(self.ids), len(self.names)) or self.active.dtype != np.bool_:
            raise RouterError(
                f"active is {self.active.dtype} of shape {self.active.shape}, expected booleans "
                f"[N, J] = {(len(self.ids), len(self.names))}"
            )
        for what, names in (("ids", self.ids), ("names", self.names)):
            if len(set(names)) < len(names):
                raise RouterError(f"{what} of instances must differ, and some stand twice")

    def __len__(self) -> int:
        return len(self.ids)

    def joined(self, other: InstanceFeatures) -> InstanceFeatures:
        """The features of both, of the same instances.

        Raises:
            RouterError: other instances, or a feature that both have.
        """
        if other.ids != self.ids:
            raise RouterError("features of other instances, or in another order, cannot be joined")
        active = np.concatenate([self.active, other.active], axis=1)
        return InstanceFeatures(self.ids, self.names + other.names, active)


def percentile_ranks(values: FloatArray) -> FloatArray:
    """Rank of each value among all, from 0 to 1; equal values share their mean rank.

    Example:
        >>> percentile_ranks(np.array([3.0, 1.0, 2.0, 2.0])).tolist()
        [1.0, 0.0, 0.5, 0.5]
    """
    from scipy.stats import rankdata

    if len(values) < 2:
        return np.zeros(len(values))
    return np.asarray((rankdata(values) - 1.0) / (len(values) - 1.0), np.float64)


def bins(values: FloatArray, edges: Sequence[float] = EDGES) -> BoolArray:
    """`[N, B]` which half-open bin each value falls into: exactly one.

    Raises:
        RouterError: NaN among the values.

    Example:
        >>> bins(np.array([0.0, 0.5, 1.0]), (0.5,)).tolist()
        [[True, False], [False, True], [False, True]]
    """
    if not np.isfinite(values).all():
        raise RouterError("a value to be binned is not finite; leave such instances out")
    index = np.searchsorted(np.asarray(edges, np.float64), values, side="right")
    return np.asarray(np.eye(len(edges) + 1, dtype=np.bool_)[index], np.bool_)


def binned_features(ids: Sequence[str], values: Mapping[str, FloatArray]) -> InstanceFeatures:
    """Three features for each of some real values in [0, 1], `[N]` each.

    Raises:
        RouterError: a value outside of [0, 1].
    """
    names: list[str] = []
    columns: list[BoolArray] = []
    for name, column in values.items():
        given = np.asarray(column, np.float64)
        if given.shape != (len(ids),) or not bool(((given >= 0) & (given <= 1)).all()):
            raise RouterError(f"{name} must hold {len(ids)} numbers from 0 to 1")
        names += [f"{name}: {part}" for part in ("low", "middle", "high")]
        columns.append(bins(given))
    active = np.concatenate(columns, axis=1) if columns else np.zeros((len(ids), 0), np.bool_)
    return InstanceFeatures(tuple(ids), tuple(names), active)


def tag_features(ids: Sequence[str], tags: Mapping[str, Sequence[str]]) -> InstanceFeatures:
    """One feature for every tag that occurs; `tags` names those of each id, none where missing."""
    known = sorted({tag for i in ids for tag in tags.get(i, ())})
    column = {tag: j for j, tag in enumerate(known)}
    active = np.zeros((len(ids), len(known)), np.bool_)
    for row, i in enumerate(ids):
        active[row, [column[tag] for tag in tags.get(i, ())]] = True
    return InstanceFeatures(tuple(ids), tuple(known), active)


def lexical_features(
    ids: Sequence[str],
    prompts: Sequence[str],
    answers: Sequence[tuple[str, str]],
    embedder: Embedder,
) -> InstanceFeatures:
    """Lengths and similarities of N instances, in bins: 18 features.

    Args:
        ids: N names.
        prompts: N texts.
        answers: the two answers to each prompt.
        embedder: for the cosine of the two answers.
    """
    first, second = [a for a, _ in answers], [b for _, b in answers]
    lengths = np.array([[len(a.split()), len(b.split())] for a, b in answers], np.float64)
    lengths = lengths.reshape(len(answers), 2)
    cosine = np.einsum("nd,nd->n", embedder.embed(first), embedder.embed(second))
    values = {
        "prompt length": percentile_ranks(np.array([len(p.split()) for p in prompts], np.float64)),
        "shorter answer": percentile_ranks(lengths.min(axis=1)),
        "longer answer": percentile_ranks(lengths.max(axis=1)),
        "length difference": percentile_ranks(np.abs(lengths[:, 0] - lengths[:, 1])),
        "ROUGE-L": np.array([rouge_l(a, b) for a, b in answers], np.float64),
        "cosine": np.clip(cosine.astype(np.float64), 0.0, 1.0),
    }
    return binned_features(ids, values)


def rouge_l(one: str, other: str) -> float:
    """F-measure of the longest common subsequence of the first 300 words of both, 0 to 1.

    Example:
        >>> round(rouge_l("the cat sat", "the cat ran fast"), 3)
        0.571
    """
    a, b = one.lower().split()[:ROUGE_WORDS], other.lower().split()[:ROUGE_WORDS]
    if not a or not b:
        return float(a == b)
    row = [0] * (len(b) + 1)
    for word in a:
        above = 0
        for j, against in enumerate(b, start=1):
            kept = row[j]
            row[j] = above + 1 if word == against else max(kept, row[j - 1])
            above = kept
    return 2.0 * row[-1] / (len(a) + len(b))
