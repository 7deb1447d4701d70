"""Targets drawn at random, in proportion to their scores, without replacement.

Gumbel top-k (Kool, van Hoof and Welling 2019, arXiv 1903.06059, section 3): the k largest of
logits + Gumbel noise are a draw without replacement from softmax(logits), in order.

Shape letters: S sources, T targets, K choices.
"""

from __future__ import annotations

import math

from wye.core import arrays
from wye.core.arrays import Array, Generator, SelectionError, namespace
from wye.core.estimators import gumbel_noise
from wye.core.plan import Plan
from wye.core.selection.inputs import check_scores, masked
from wye.core.selection.top_k import Short, choose
from wye.core.weights import Weighting


def sample(
    scores: Array,
    k: int = 1,
    *,
    generator: Generator,
    temperature: float = 1.0,
    allowed: Array | None = None,
    weight: Weighting = "score",
    short: Short = "error",
    check: bool = True,
) -> Plan:
    """Draw `k` different targets for every source from softmax(scores / temperature).

    Pairs come source by source, in the order of the draw. Shapes depend on S and k alone unless
    `short="drop"`.

    Ties: none to speak of, the noise is continuous. NaN: an error; undefined with `check=False`. No
    sources: an empty plan.

    Args:
        scores: `[S, T]` logits (log-probabilities); -inf forbids a pair.
        k: choices per source, 1 to T.
        generator: int seed, `numpy.random.Generator`, or for PyTorch arrays a `torch.Generator` or
            None (PyTorch's global generator).
        temperature: > 0; towards 0 this becomes `top_k`.
        allowed: `[T]` or `[S, T]` booleans; False forbids a pair.
        weight: as in `top_k`, of the scores without noise.
        short: as in `top_k`.
        check: as in `top_k`.

    Raises:
        SelectionError: as `top_k`; a temperature that is not positive; no generator.

    Example:
        >>> import numpy as np
        >>> sample(np.log(np.array([[0.1, 0.9]])), generator=0).n_targets
        2
    """
    check_scores(scores)
    if not (math.isfinite(temperature) and temperature > 0):
        raise SelectionError(f"temperature={temperature}, expected a finite number > 0")
    open_scores = masked(scores, allowed)
    plain = arrays.detach(open_scores)
    noisy = plain / temperature + gumbel_noise(tuple(scores.shape), plain, generator)
    return choose(noisy, open_scores, k, weight=weight, short=short, check=check)


def log_probability(scores: Array, target: Array, *, temperature: float = 1.0) -> Array:
    """Log-probability `[S]` that `sample` draws the targets `[S, K]`, in this order.

    Plackett-Luce: the product over the draws of softmax over what was not drawn before (Kool et al.
    2019, equation 9). Gradients flow to `scores`.

    Args:
        scores: `[S, T]` logits.
        target: `[S, K]` different targets per row.
        temperature: the one of the draw.

    Raises:
        SelectionError: shapes that do not match.
    """
    n_sources, n_targets = check_scores(scores)
    if len(target.shape) != 2 or int(target.shape[0]) != n_sources:
        raise SelectionError(f"target has shape {tuple(target.shape)}, expected [S={n_sources}, K]")
    xp = namespace(scores)
    logits = scores / temperature
    columns = arrays.arange(n_targets, target)[None, :]
    total = xp.zeros_like(logits[:, 0])
    for draw in range(int(target.shape[1])):
        index = target[:, draw : draw + 1]
        picked = arrays.gather(logits, index)
        total = total + (picked - arrays.log_sum_exp(logits, axis=1))[:, 0]
        logits = xp.where(columns == index, xp.full_like(logits, -float("inf")), logits)
    return total
