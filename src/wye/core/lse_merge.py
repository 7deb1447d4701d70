"""Merging partial attentions over disjoint keys, exactly.

With o_a the output over keys A and l_a the log-sum-exp of its scores,
    l = log(e^{l_a} + e^{l_b}),  o = e^{l_a - l} o_a + e^{l_b - l} o_b
(Milakov and Gimelshein 2018, arXiv 1805.02867; ring attention, arXiv 2310.01889). A part that saw
no key has l = -inf and counts for nothing. Keep both in float32 or wider.

Shape letters: L queries, D width, P parts; any leading dimensions.
"""

from __future__ import annotations

from wye.core import arrays
from wye.core.arrays import Array, SelectionError, namespace


def merge_partial(out_a: Array, lse_a: Array, out_b: Array, lse_b: Array) -> tuple[Array, Array]:
    """Attention over the keys of both parts.

    Args:
        out_a: `[..., L, D]` output over the keys of part a.
        lse_a: `[..., L]` log-sum-exp of its scores, -inf where it saw no key.
        out_b, lse_b: the same of part b.

    Returns:
        output `[..., L, D]` (zero where neither saw a key) and log-sum-exp `[..., L]`.

    Raises:
        SelectionError: shapes that do not match.
    """
    xp = namespace(out_a, lse_a, out_b, lse_b)
    return merge_partials(xp.stack([out_a, out_b]), xp.stack([lse_a, lse_b]))


def merge_partials(out: Array, lse: Array) -> tuple[Array, Array]:
    """Attention over the keys of all parts.

    Args:
        out: `[P, ..., L, D]`, P >= 1.
        lse: `[P, ..., L]`, -inf where a part saw no key.

    Returns:
        output `[..., L, D]` and log-sum-exp `[..., L]`.

    Raises:
        SelectionError: shapes that do not match.

    Example:
        >>> import numpy as np
        >>> out, lse = merge_partials(np.array([[[1.0]], [[3.0]]]), np.zeros((2, 1)))
        >>> float(out[0, 0])
        2.0
    """
    if tuple(out.shape[:-1]) != tuple(lse.shape) or len(lse.shape) < 1 or out.shape[0] < 1:
        raise SelectionError(
            f"out has shape {tuple(out.shape)} and lse {tuple(lse.shape)}, expected [P, ..., L, D] "
            "and [P, ..., L] with at least one part"
        )
    xp = namespace(out, lse)
    peak = arrays.detach(xp.max(lse, axis=0, keepdims=True))
    peak = xp.where(peak == -float("inf"), xp.zeros_like(peak), peak)
    powers = xp.exp(lse - peak)
    mass = xp.sum(powers, axis=0)
    nothing = mass == 0
    mass = xp.where(nothing, xp.ones_like(mass), mass)
    # A part without keys may carry anything, NaN too: a product with 0 would let it through.
    seen = xp.where(powers[..., None] > 0, out, xp.zeros_like(out))
    # Dividing by the mass, not subtracting its logarithm, keeps a large l from costing digits.
    merged = xp.sum(powers[..., None] * seen, axis=0) / mass[..., None]
    total = xp.where(nothing, xp.full_like(mass, -float("inf")), xp.log(mass) + peak[0, ...])
    return merged, total
