"""PPO with a mask: against sums written out, and exactly nothing at masked places."""

from __future__ import annotations

from typing import Any

import array_api_strict
import numpy as np
import pytest

from wye.core.arrays import SelectionError
from wye.core.proximal_policy import (
    clipped_policy_loss,
    clipped_value_loss,
    generalised_advantage,
    masked_mean,
    whitened,
)


def drawn(seed: int = 0) -> tuple[np.ndarray[Any, Any], ...]:
    generator = np.random.default_rng(seed)
    mask = generator.random((4, 9)) < 0.6
    mask[:, 3] = True
    return (*generator.normal(size=(4, 4, 9)), mask)


def test_the_advantage_is_the_sum_over_chosen_tokens_alone() -> None:
    reward, value, _, _, mask = drawn()
    made = generalised_advantage(reward, value, mask, discount=0.9, trace=0.8)
    for row in range(4):
        places = np.flatnonzero(mask[row])
        r, v = reward[row, places], np.append(value[row, places], 0.0)
        delta = r + 0.9 * v[1:] - v[:-1]
        expected = np.zeros(9)
        for i, place in enumerate(places):
            expected[place] = sum((0.9 * 0.8) ** k * d for k, d in enumerate(delta[i:]))
        np.testing.assert_allclose(made[row], expected, atol=1e-12)


def test_undiscounted_it_is_the_return_less_the_value() -> None:
    reward, value, _, _, mask = drawn(1)
    made = generalised_advantage(reward, value, mask)
    later = np.cumsum(np.where(mask, reward, 0)[:, ::-1], axis=1)[:, ::-1]
    np.testing.assert_allclose(made, np.where(mask, later - value, 0), atol=1e-12)


def test_the_losses_are_those_of_the_papers() -> None:
    new, old, advantage, target, mask = drawn(2)
    ratio = np.exp(new - old)
    surrogate = np.minimum(ratio * advantage, np.clip(ratio, 0.8, 1.2) * advantage)
    loss = clipped_policy_loss(new, old, advantage, mask)
    np.testing.assert_allclose(loss, -surrogate[mask].mean())
    near = old + np.clip(new - old, -0.5, 0.5)
    square = np.maximum((new - target) ** 2, (near - target) ** 2)
    np.testing.assert_allclose(
        clipped_value_loss(new, old, target, mask), 0.5 * square[mask].mean()
    )


def test_the_same_under_the_strict_standard() -> None:
    arrays = drawn(3)
    xp = array_api_strict
    one, two, three, _, mask = (xp.asarray(a) for a in arrays)
    made = generalised_advantage(one, two, mask, discount=0.9, trace=0.5)
    expected = generalised_advantage(*arrays[:2], arrays[4], discount=0.9, trace=0.5)
    np.testing.assert_allclose(np.asarray(made), expected)
    loss = clipped_policy_loss(one, two, three, mask)
    np.testing.assert_allclose(float(loss), clipped_policy_loss(*arrays[:3], arrays[4]))
    white = np.asarray(whitened(one, mask))[arrays[4]]
    np.testing.assert_allclose([white.mean(), white.std()], [0.0, 1.0], atol=1e-6)


def test_what_is_masked_is_never_read() -> None:
    new, old, advantage, _, mask = drawn(4)
    expected = clipped_policy_loss(new, old, advantage, mask)
    new, old = np.where(mask, new, 1e9), np.where(mask, old, -1e9)
    assert clipped_policy_loss(new, old, advantage, mask) == expected


def test_nothing_chosen_and_other_shapes_are_refused() -> None:
    x = np.zeros((2, 3))
    with pytest.raises(SelectionError, match="false everywhere"):
        masked_mean(x, np.zeros((2, 3), bool))
    with pytest.raises(SelectionError, match="shapes differ"):
        generalised_advantage(x, x[:, :2], np.ones((2, 3), bool))
    with pytest.raises(SelectionError, match="shapes differ"):
        clipped_policy_loss(x, x, x[:1], np.ones((2, 3), bool))


@pytest.mark.torch
def test_the_gradient_at_masked_tokens_is_exactly_zero() -> None:
    import torch

    new, old, advantage, target, mask = (torch.tensor(a) for a in drawn(5))
    # A ratio that overflows where the mask is false must not turn the zeros into NaN.
    new = torch.where(mask, new, 1e6).requires_grad_(True)
    loss = clipped_policy_loss(new, old, advantage, mask) + clipped_value_loss(
        new, old, target, mask
    )
    loss.backward()
    assert new.grad is not None
    assert (new.grad[~mask] == 0).all()
    assert (new.grad[mask] != 0).any()
