"""Gradients through a choice: Gumbel noise, Gumbel softmax, straight-through.

Jang, Gu and Poole 2016 (arXiv 1611.01144); Maddison, Mnih and Teh 2016 (arXiv 1611.00712);
straight-through after Bengio, Leonard and Courville 2013 (arXiv 1308.3432).

Shape letters: S sources, T targets.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from wye.core import arrays
from wye.core.arrays import Array, Generator, SelectionError, namespace


def gumbel_noise(shape: Sequence[int], reference: Array, generator: Generator) -> Array:
    """Draws from the standard Gumbel distribution, -log(-log U).

    Args:
        shape: of the result.
        reference: floating array that gives namespace, device and dtype.
        generator: int seed, `numpy.random.Generator`, or for PyTorch arrays a `torch.Generator` or
            None (PyTorch's global generator).

    Raises:
        SelectionError: no generator.
    """
    draws = arrays.uniform_draws(shape, reference, generator)
    xp = namespace(draws)
    return -xp.log(-xp.log(draws))


def straight_through(hard: Array, soft: Array) -> Array:
    """The value of `hard` with the gradient of `soft`; equal shapes.

    Raises:
        SelectionError: shapes that differ.
    """
    if tuple(hard.shape) != tuple(soft.shape):
        raise SelectionError(
            f"hard and soft have shapes {tuple(hard.shape)} and {tuple(soft.shape)}, expected equal"
        )
    # In this order the value is `hard` exactly: soft minus itself is zero for finite numbers.
    return arrays.detach(hard) + (soft - arrays.detach(soft))


def gumbel_softmax(
    logits: Array, *, generator: Generator, temperature: float = 1.0, hard: bool = False
) -> Array:
    """A relaxed draw from softmax(logits), `[S, T]` rows that sum to 1.

    Args:
        logits: `[S, T]`; -inf forbids a pair.
        generator: as in `gumbel_noise`.
        temperature: > 0; towards 0 the rows become one-hot.
        hard: one-hot rows with the gradient of the relaxed ones.

    Raises:
        SelectionError: a temperature that is not positive, no generator.
    """
    if not (math.isfinite(temperature) and temperature > 0):
        raise SelectionError(f"temperature={temperature}, expected a finite number > 0")
    xp = namespace(logits)
    noise = gumbel_noise(tuple(logits.shape), arrays.detach(logits), generator)
    noisy = (logits + noise) / temperature
    soft = xp.exp(noisy - arrays.log_sum_exp(noisy, axis=1))
    if not hard:
        return soft
    best = xp.argmax(arrays.detach(soft), axis=1, keepdims=True)
    columns = arrays.arange(int(logits.shape[1]), best)[None, :]
    return straight_through(xp.astype(columns == best, soft.dtype), soft)
