"""Speculative decoding: a small model drafts tokens, the large one keeps what follows its law.

Routes a token to one of two language models, during the answer, on both next-token laws. Source:
Leviathan, Kalman and Matias, arXiv 2211.17192. With p the law of the large model, q that of the
small one and x drawn from q,

    accept x with probability min(1, p(x) / q(x)), else draw from (p - q)_+ normalised

so that the token follows p exactly. The first rejection ends a draft of gamma tokens; a draft kept
whole brings one more token of the large model for nothing. One pass of the large model gives
(1 - a^(gamma + 1)) / (1 - a) tokens on average, a the acceptance rate.

Speculative cascade (survey arXiv 2603.04445): the law to follow is not the large model's but a
deferral mix, that of the small one wherever max q >= max p - alpha. The same loop follows it
exactly.

Shape letters: V vocabulary, L tokens so far, G drafted tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wye.query.base import FloatArray, RouterError

IntArray = NDArray[np.int64]
Laws = Callable[[IntArray, int], FloatArray]
"""From tokens `[L]` and n to the laws `[n, V]` of the tokens after their last n prefixes, the whole
included: one pass of a model."""


def acceptance(large: FloatArray, small: FloatArray) -> FloatArray:
    """`[..., V]` probability with which each token is accepted when the small model drew it.

    Args:
        large: `[..., V]` p, the law to follow.
        small: `[..., V]` q, the law that drafts.

    Raises:
        RouterError: shapes differ, or a row is no law.

    Example:
        >>> acceptance(np.array([0.2, 0.8]), np.array([0.5, 0.5])).tolist()
        [0.4, 1.0]
    """
    p, q = _laws(large, small)
    # A token that q never draws is never asked about.
    return np.asarray(np.minimum(1.0, p / np.where(q > 0, q, 1.0)), np.float64)


def residual(large: FloatArray, small: FloatArray) -> FloatArray:
    """`[..., V]` law of the token that replaces a rejected one; p itself where p = q.

    Example:
        >>> residual(np.array([0.2, 0.8]), np.array([0.5, 0.5])).tolist()
        [0.0, 1.0]
    """
    p, q = _laws(large, small)
    over = np.maximum(p - q, 0.0)
    total = over.sum(axis=-1, keepdims=True)
    return np.asarray(np.where(total > 0, over / np.where(total > 0, total, 1.0), p), np.float64)


def deferral_mix(large: FloatArray, small: FloatArray, alpha: float) -> FloatArray:
    """`[..., V]` the small model's law wherever max q >= max p - alpha, else the large one's.

    Args:
        alpha: how much less sure the small model may be; -1 or less is speculative decoding of the
            large model, 1 the small model alone.

    Example:
        >>> p, q = np.array([0.1, 0.9]), np.array([0.3, 0.7])
        >>> deferral_mix(p, q, 0.1).tolist(), deferral_mix(p, q, 0.25).tolist()
        ([0.1, 0.9], [0.3, 0.7])
    """
    p, q = _laws(large, small)
    keeps = q.max(axis=-1, keepdims=True) >= p.max(axis=-1, keepdims=True) - alpha
    return np.where(keeps, q, p)


def acceptance_rate(large: FloatArray, small: FloatArray) -> FloatArray:
    """`[...]` probability that a drafted token is accepted: sum over tokens of min(p, q)."""
    p, q = _laws(large, small)
    return np.asarray(np.minimum(p, q).sum(axis=-1), np.float64)


def tokens_per_pass(rate: float, gamma: int) -> float:
    """Expected tokens of one pass of the large model at a constant acceptance rate.

    Example:
        >>> tokens_per_pass(0.5, 3), tokens_per_pass(1.0, 3)
        (1.875, 4.0)
    """
    if not 0.0 <= rate <= 1.0 or gamma < 0:
        raise RouterError(f"rate={rate}, gamma={gamma}; expected 0 to 1, and at least 0")
    return float(sum(rate**g for g in range(gamma + 1)))


@dataclass(frozen=True)
class Decoded:
    """What a loop wrote.

    Attributes:
        tokens: `[T]` written after the prompt.
        drafted, accepted: tokens of the small model that were judged, and those that were kept.
        expected: how many of the judged ones both laws let expect to be kept.
        large_passes, small_passes: calls of either model.
    """

    tokens: IntArray
    drafted: int
    accepted: int
    expected: float
    large_passes: int
    small_passes: int

    @property
    def acceptance_rate(self) -> float:
        """Share of the judged drafts that were kept; NaN where none was judged."""
        return self.accepted / self.drafted if self.drafted else float("nan")


def speculative_decode(
    small: Laws,
    large: Laws,
    prompt: IntArray,
    n_tokens: int,
    *,
    gamma: int = 4,
    alpha: float | None = None,
    end: int | None = None,
    generator: np.random.Generator,
) -> Decoded:
    """Write `n_tokens` by the law of the large model, in drafts of the small one.

    Args:
        small, large: next-token laws (`Laws`), at the temperature wanted.
        prompt: `[L]` tokens, L at least 1.
        n_tokens: to write; fewer where `end` comes before.
        gamma: tokens of one draft; 0 decodes with the large model alone.
        alpha: of the deferral mix to follow instead of the large model; None for that model.
        end: token after which nothing is written.
        generator: of all draws.

    Raises:
        RouterError: parameters out of range, or laws that are none.

    Example:
        >>> coin = lambda tokens, n: np.full((n, 2), 0.5)
        >>> found = speculative_decode(
        ...     coin, coin, np.array([0]), 9, gamma=2, generator=np.random.default_rng(0)
        ... )
        >>> found.tokens.size, found.acceptance_rate, found.large_passes
        (9, 1.0, 3)
    """
    if len(prompt) < 1 or n_tokens < 0 or gamma < 0:
        raise RouterError(
            f"{len(prompt)} tokens of prompt, n_tokens={n_tokens}, gamma={gamma}; expected at "
            "least 1, 0 and 0"
        )
    tokens = np.asarray(prompt, np.int64)
    wanted = len(tokens) + n_tokens
    drafted = accepted = large_passes = small_passes = 0
    expected = 0.0
    while len(tokens) < wanted and (end is None or len(tokens) == len(prompt) or tokens[-1] != end):
        room = min(gamma, wanted - len(tokens) - 1)
        text = tokens
        laws_q: list[FloatArray] = []
        for _ in range(room):
            law = small(text, 1)[0]
            small_passes += 1
            laws_q.append(law)
            text = np.append(text, _draw(law, generator))
            if text[-1] == end:
                break
        draft = text[len(tokens) :]
        laws_p = large(text, len(draft) + 1)
        large_passes += 1
        kept, chosen = 0, -1
        for place, token in enumerate(draft.tolist()):
            q = laws_q[place]
            p = laws_p[place] if alpha is None else deferral_mix(laws_p[place], q, alpha)
            drafted += 1
            expected += float(acceptance_rate(p, q))
            if generator.random() < acceptance(p, q)[token]:
                kept += 1
                continue
            chosen = _draw(residual(p, q), generator)
            break
        accepted += kept
        tokens = text[: len(tokens) + kept]
        if chosen >= 0:
            tokens = np.append(tokens, chosen)
        elif kept == 0 or tokens[-1] != end:
            p = laws_p[kept]
            if alpha is not None:
                # The mix needs the small model's law of this token too.
                p = deferral_mix(p, small(tokens, 1)[0], alpha)
                small_passes += 1
            tokens = np.append(tokens, _draw(p, generator))
    return Decoded(tokens[len(prompt) :], drafted, accepted, expected, large_passes, small_passes)


def _draw(law: FloatArray, generator: np.random.Generator) -> int:
    if law.ndim != 1 or not np.isfinite(law).all() or (law < 0).any() or not law.sum() > 0:
        raise RouterError(f"a law has shape {law.shape}, expected [V] of probabilities")
    heap = np.cumsum(law)
    at = int(np.searchsorted(heap, generator.random() * heap[-1], side="right"))
    # A draw rounded up to the total would fall behind the last token that can be drawn.
    return min(at, int(np.flatnonzero(law)[-1]))


def _laws(large: FloatArray, small: FloatArray) -> tuple[FloatArray, FloatArray]:
    p, q = np.asarray(large, np.float64), np.asarray(small, np.float64)
    if p.shape != q.shape or not p.ndim:
        raise RouterError(f"laws have shapes {p.shape} and {q.shape}, expected [..., V] alike")
    for name, law in (("large", p), ("small", q)):
        if not (law >= 0).all() or not (np.abs(law.sum(axis=-1) - 1.0) < 1e-4).all():
            raise RouterError(
                f"a law of the {name} model does not hold probabilities that sum to 1"
            )
    return p, q
