"""Leave-one-out policy gradient: several draws per source, each judged against the others.

RLOO (Kool, van Hoof and Welling 2019, "Buy 4 REINFORCE samples, get a baseline for free"; Ahmadian
et al. 2024, arXiv 2402.14740, equation 8).

Shape letters: R draws per source, S sources.
"""

from __future__ import annotations

from wye.core import arrays
from wye.core.arrays import Array, SelectionError, namespace


def leave_one_out_advantage(reward: Array) -> Array:
    """Reward of each draw minus the mean reward of the other draws of its source, `[R, S]`.

    Args:
        reward: `[R, S]`, R >= 2.

    Raises:
        SelectionError: fewer than two draws, or no matrix.

    Example:
        >>> import numpy as np
        >>> leave_one_out_advantage(np.array([[1.0], [0.0], [0.5]]))[:, 0].tolist()
        [0.75, -0.75, 0.0]
    """
    if len(reward.shape) != 2 or reward.shape[0] < 2:
        raise SelectionError(
            f"reward has shape {tuple(reward.shape)}, expected [R, S] with at least 2 draws R"
        )
    n = int(reward.shape[0])
    total = namespace(reward).sum(reward, axis=0, keepdims=True)
    return reward - (total - reward) / (n - 1)


def leave_one_out_loss(log_probability: Array, reward: Array) -> Array:
    """Minus the mean over draws and sources of log-probability times advantage, a scalar.

    Its gradient is an unbiased estimate of minus the gradient of the expected reward.

    Args:
        log_probability: `[R, S]` of the draws; gradients flow to it.
        reward: `[R, S]`; no gradient flows to it.

    Raises:
        SelectionError: shapes that differ, or fewer than two draws.
    """
    if tuple(log_probability.shape) != tuple(reward.shape):
        raise SelectionError(
            f"log_probability has shape {tuple(log_probability.shape)} and reward "
            f"{tuple(reward.shape)}, expected one shape [R, S]"
        )
    advantage = leave_one_out_advantage(arrays.detach(reward))
    return -namespace(log_probability).mean(log_probability * advantage)
