"""Do experts specialise in domains (languages, subjects, kinds of files)?

Shape letters: S tokens, E experts, G domains.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wye.core import Plan
from wye.moe.base import MoEError
from wye.moe.diagnostics.choices import first_choice, joined
from wye.moe.diagnostics.information import Information, mutual_information

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Specialisation:
    """How the tokens of each domain spread over the experts.

    Attributes:
        domains: `[G]` names.
        histogram: `[G, E]` share of each domain's pairs that each expert got; rows sum to 1.
        top_share: `[G]` share of the largest expert of each domain.
        information: of domain and first expert, every domain weighted equally per token drawn.
    """

    domains: tuple[str, ...]
    histogram: Floats
    top_share: Floats
    information: Information


def domain_specialisation(
    plans: Mapping[str, Plan | Sequence[Plan]], *, shuffles: int = 5, seed: int = 0
) -> Specialisation:
    """Compare the routing of several domains in one layer.

    Args:
        plans: by domain, plans of one layer. For the information the same number of tokens is drawn
            from each domain, so that a large one does not decide it.
        shuffles: of the information's control.
        seed: of draws and shuffles.

    Raises:
        MoEError: fewer than two domains, different numbers of experts, or a domain without routed
            tokens.
    """
    if len(plans) < 2:
        raise MoEError(f"{len(plans)} domains, expected at least two to compare")
    whole = {
        name: joined([given] if isinstance(given, Plan) else given) for name, given in plans.items()
    }
    widths = {plan.n_targets for plan in whole.values()}
    empty = [name for name, plan in whole.items() if len(plan) == 0]
    if len(widths) != 1 or empty:
        raise MoEError(
            f"domains with {sorted(widths)} experts, {empty} without routed tokens: expected "
            "one layer and at least one routed token in each"
        )
    load = np.stack([np.asarray(plan.load(), np.float64) for plan in whole.values()])
    histogram = load / load.sum(axis=1, keepdims=True)
    rng = np.random.default_rng(seed)
    chosen = [first_choice(plan) for plan in whole.values()]
    chosen = [choice[choice >= 0] for choice in chosen]
    n = min(choice.shape[0] for choice in chosen)
    drawn = np.concatenate([rng.choice(choice, n, replace=False) for choice in chosen])
    domain = np.repeat(np.arange(len(whole)), n)
    return Specialisation(
        tuple(whole),
        histogram,
        histogram.max(axis=1),
        mutual_information(domain, drawn, shuffles=shuffles, seed=seed),
    )
