"""Does a router look at context, or at the token alone?

For every token id v that occurs often, r_v is the histogram of its experts. If routing depends on
the id alone, every r_v sits on few experts and knowing the id tells the expert.

Source: context-independent specialisation, OpenMoE (arXiv 2402.01739, section 4), in the scalar
form I(id; first expert) / H(first expert). An untrained router depends on the id as well in the
first layer, whose input is nearly the embedding: compare with it.

Shape letters: S tokens, E experts, V ids.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wye.core import Plan
from wye.moe.base import MoEError
from wye.moe.diagnostics.choices import Indices, first_choice, labels_of
from wye.moe.diagnostics.information import Information, mutual_information

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class TokenIdentity:
    """How far the id of a token decides its expert.

    Attributes:
        information: of id and first expert; `share` is the figure between 0 (context alone) and 1
            (the id alone), `chance_share` that of shuffled ids.
        relative_entropy: mean entropy of r_v, weighted by count, over that of the whole load.
        spread: mean over ids, weighted by count, of the standard deviation of r_v over experts.
        ids: `[V]` ids that occurred often enough.
        histograms: `[V, E]` rows r_v, which sum to 1.
        covered: share of the tokens whose id is among them.
    """

    information: Information
    relative_entropy: float
    spread: float
    ids: Indices
    histograms: Floats
    covered: float


def token_identity(
    plan: Plan, token_ids: Any, *, least: int = 50, shuffles: int = 5, seed: int = 0
) -> TokenIdentity:
    """Measure how far ids decide experts.

    Args:
        plan: of S tokens.
        token_ids: `[S]` integers, in the order of the plan's tokens.
        least: ids that occur less often are left out.
        shuffles, seed: of the control.

    Raises:
        MoEError: another number of ids, or no id occurs often enough.
    """
    ids = labels_of(token_ids, plan.n_sources, "token ids")
    choice = first_choice(plan)
    routed = choice >= 0
    values, index, counts = np.unique(ids[routed], return_inverse=True, return_counts=True)
    often = counts >= least
    if not often.any():
        raise MoEError(
            f"no token id occurs {least} times among {int(routed.sum())} routed tokens: give more "
            "text, or a smaller `least`"
        )
    kept = often[index]
    chosen = choice[routed][kept]
    number = (np.cumsum(often) - 1)[index[kept]]
    shape = (int(often.sum()), plan.n_targets)
    table = np.bincount(number * shape[1] + chosen, minlength=shape[0] * shape[1]).reshape(shape)
    size = table.sum(axis=1)
    rows = table / size[:, None]
    weight = size / size.sum()
    whole = _entropy(table.sum(axis=0)[None] / size.sum())[0]
    return TokenIdentity(
        mutual_information(number, chosen, shuffles=shuffles, seed=seed),
        float((weight * _entropy(rows)).sum() / whole) if whole > 0 else 1.0,
        float((weight * rows.std(axis=1)).sum()),
        values[often],
        rows,
        float(kept.sum() / ids.shape[0]),
    )


def histograms(plan: Plan, token_ids: Any, ids: Indices) -> Floats:
    """r_v of given ids, `[V, E]`; rows of ids that do not occur are zero."""
    given = labels_of(token_ids, plan.n_sources, "token ids")
    choice = first_choice(plan)
    place = np.searchsorted(ids, given)
    found = (choice >= 0) & (place < ids.shape[0])
    found[found] = ids[place[found]] == given[found]
    shape = (ids.shape[0], plan.n_targets)
    cells = place[found] * shape[1] + choice[found]
    table = np.bincount(cells, minlength=shape[0] * shape[1]).reshape(shape)
    return np.asarray(table / np.maximum(table.sum(axis=1, keepdims=True), 1))


def _entropy(rows: Floats) -> Floats:
    safe = np.where(rows > 0, rows, 1.0)
    return np.asarray(-(safe * np.log(safe)).sum(axis=1))
