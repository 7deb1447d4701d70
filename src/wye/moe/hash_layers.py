"""Hash layers: the token's id decides, by a table that never changes.

Token -> one expert, always the same for the same id, whatever stands around it and wherever it
stands; needs token ids. Paper: Roller et al. 2021, arXiv 2106.04426.

    a(t) = table[id_t],  gate 1
The table is random and uniform, or balanced: ids by falling frequency each go to the least loaded
expert. Ids that it does not know go to id mod E. No router, no loss.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from wye.moe.build import Shape, routed_stack
from wye.moe.parts.fixed_selections import HashedSelection, UnscoredRouter


def router(
    width: int,
    n_experts: int,
    *,
    vocabulary: int = 256,
    frequency: Sequence[float] | None = None,
    seed: int = 0,
) -> UnscoredRouter:
    """A table from ids to experts.

    Args:
        width: D.
        n_experts: E.
        vocabulary: V, ids in the table.
        frequency: `[V]` counts of the ids, for the balanced table; random without them.
        seed: of the random table.
    """
    table = HashedSelection(n_experts, vocabulary=vocabulary, frequency=frequency, seed=seed)
    return UnscoredRouter(width, n_experts, table)


def build(
    shape: Shape,
    *,
    vocabulary: int = 256,
    frequency: Sequence[float] | None = None,
    seed: int = 0,
    gated: bool = True,
) -> list[nn.Module]:
    """One hash layer per layer of `shape`, each with a table of its own; k does not count: k = 1.

    The balanced table is the same in every layer.
    """
    return routed_stack(
        shape,
        lambda index: router(
            shape.width,
            shape.n_experts,
            vocabulary=vocabulary,
            frequency=frequency,
            seed=seed + index,
        ),
        gated=gated,
    )
