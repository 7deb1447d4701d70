"""Proximal policy optimisation on sequences of which some tokens are not the policy's own.

PPO (Schulman et al. 2017, arXiv 1707.06347, equation 7) with generalised advantage estimation
(Schulman et al. 2016, arXiv 1506.02438, equation 16). A mask says which tokens the policy chose;
the others (a prompt, what an environment wrote, padding) count nowhere: no loss, no gradient, and
the advantage runs from one chosen token to the next as if nothing stood between them.

Shape letters: B sequences, L tokens.
"""

from __future__ import annotations

from wye.core.arrays import Array, SelectionError, detach, namespace


def generalised_advantage(
    reward: Array, value: Array, mask: Array, *, discount: float = 1.0, trace: float = 1.0
) -> Array:
    """A_t = sum_i (discount trace)^i (r_{t+i} + discount V_{t+i+1} - V_{t+i}), `[B, L]`.

    Args:
        reward: `[B, L]`, read where the mask is true.
        value: `[B, L]` expected return at each token.
        mask: `[B, L]` booleans, the tokens that the policy chose; the sum runs over these alone.
        discount, trace: gamma and lambda, 0 to 1.

    Returns:
        `[B, L]`, zero outside the mask. Advantage plus value is the target of the value.

    Raises:
        SelectionError: shapes differ.

    Example:
        >>> import numpy as np
        >>> chosen = np.array([[True, False, True]])
        >>> generalised_advantage(np.array([[0., 9., 1.]]), np.full((1, 3), 0.5), chosen).tolist()
        [[0.5, 0.0, 0.5]]
    """
    _same_shape(reward=reward, value=value, mask=mask)
    xp = namespace(reward, value)
    nothing = xp.zeros_like(value[:, 0])
    following_value, following, columns = nothing, nothing, []
    for t in range(int(reward.shape[1]) - 1, -1, -1):
        chosen = mask[:, t]
        delta = reward[:, t] + discount * following_value - value[:, t]
        advantage = delta + discount * trace * following
        columns.append(xp.where(chosen, advantage, nothing))
        following = xp.where(chosen, advantage, following)
        following_value = xp.where(chosen, value[:, t], following_value)
    return xp.stack(columns[::-1], axis=1)


def clipped_policy_loss(
    log_probability: Array,
    old_log_probability: Array,
    advantage: Array,
    mask: Array,
    *,
    clip: float = 0.2,
) -> Array:
    """- mean over the mask of min(r A, clip(r, 1 - clip, 1 + clip) A), r = p / p_old, a scalar.

    Args:
        log_probability: `[B, L]`; gradients flow to it where the mask is true.
        old_log_probability, advantage: `[B, L]`; no gradient flows to them.
        mask: `[B, L]` booleans.
        clip: above 0.

    Raises:
        SelectionError: shapes differ, or nothing is chosen.
    """
    _same_shape(
        log_probability=log_probability,
        old_log_probability=old_log_probability,
        advantage=advantage,
        mask=mask,
    )
    xp = namespace(log_probability)
    gap = log_probability - detach(old_log_probability)
    # Masked before the exponential: an infinite ratio would make its zero gradient NaN.
    ratio = xp.exp(xp.where(mask, gap, xp.zeros_like(gap)))
    advantage = detach(advantage)
    bounded = xp.clip(ratio, 1.0 - clip, 1.0 + clip)
    return -masked_mean(xp.minimum(ratio * advantage, bounded * advantage), mask)


def clipped_value_loss(
    value: Array, old_value: Array, target: Array, mask: Array, *, clip: float = 0.5
) -> Array:
    """1/2 mean over the mask of max((V - R)^2, (V_old + clip(V - V_old) - R)^2), a scalar.

    Args:
        value: `[B, L]`; gradients flow to it where the mask is true.
        old_value, target: `[B, L]`; no gradient flows to them.
        mask: `[B, L]` booleans.
        clip: how far the value may move from the old one and still gain.

    Raises:
        SelectionError: shapes differ, or nothing is chosen.
    """
    _same_shape(value=value, old_value=old_value, target=target, mask=mask)
    xp = namespace(value)
    old_value, target = detach(old_value), detach(target)
    bounded = old_value + xp.clip(value - old_value, -clip, clip)
    return 0.5 * masked_mean(xp.maximum((value - target) ** 2, (bounded - target) ** 2), mask)


def masked_mean(x: Array, mask: Array) -> Array:
    """Mean of `x` where the mask is true, a scalar; what stands elsewhere is never read.

    Raises:
        SelectionError: shapes differ, or nothing is chosen.
    """
    _same_shape(x=x, mask=mask)
    xp = namespace(x)
    count = int(xp.sum(xp.astype(mask, xp.int64)))
    if not count:
        raise SelectionError("the mask is false everywhere; expected one chosen token at least")
    return xp.sum(xp.where(mask, x, xp.zeros_like(x))) / count


def whitened(x: Array, mask: Array, *, least: float = 1e-8) -> Array:
    """`x` less its mean and over its standard deviation where the mask is true, zero elsewhere.

    Raises:
        SelectionError: shapes differ, or nothing is chosen.
    """
    xp = namespace(x)
    centred = x - masked_mean(x, mask)
    scaled = centred / xp.sqrt(masked_mean(centred**2, mask) + least)
    return xp.where(mask, scaled, xp.zeros_like(scaled))


def _same_shape(**given: Array) -> None:
    shapes = {name: tuple(array.shape) for name, array in given.items()}
    if len(set(shapes.values())) > 1:
        raise SelectionError(f"shapes differ: {shapes}; expected one shape [B, L]")
