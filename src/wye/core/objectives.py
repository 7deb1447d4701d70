"""What a router is trained on besides its task, on arrays of any library.

Each function returns a scalar array through which gradients flow. None is weighted or averaged over
layers: the caller does that.

Shape letters: S sources, T targets, D width.
"""

from __future__ import annotations

from wye.core import arrays
from wye.core.arrays import Array, SelectionError, namespace
from wye.core.plan import Plan


def load_balance(probabilities: Array, plan: Plan, *, counted: Array | None = None) -> Array:
    """T sum_t phi_t P_t: 1 where the load or the probabilities are uniform.

    phi_t is the share of the plan's pairs that target t got (no gradient), P_t the mean probability
    of t. Switch (arXiv 2101.03961, equations 4 to 6), for k choices as in GShard with phi divided
    by the number of pairs, so that the uniform value is 1 for every k.

    Args:
        probabilities: `[S, T]`, rows that sum to 1.
        plan: of the same S sources and T targets.
        counted: `[S]` booleans; sources that are False (padding) count neither here nor there.

    Raises:
        SelectionError: shapes that do not match.

    Example:
        >>> import numpy as np
        >>> from wye.core import top_k
        >>> p = np.array([[0.9, 0.1], [0.8, 0.2]])
        >>> round(float(load_balance(p, top_k(p))), 3)
        1.7
    """
    expected = (plan.n_sources, plan.n_targets)
    if tuple(probabilities.shape) != expected:
        raise SelectionError(
            f"probabilities have shape {tuple(probabilities.shape)}, expected {expected}"
        )
    xp = namespace(probabilities)
    pairs = xp.ones_like(arrays.detach(plan.weight))
    if counted is not None:
        kept = xp.astype(counted, pairs.dtype)
        pairs = xp.take(kept, plan.source, axis=0)
    load = arrays.segment_sum(pairs, plan.target, plan.n_targets)
    share = load / _at_least_one(xp.sum(load))
    mean = _mean(probabilities, counted)
    return plan.n_targets * xp.sum(xp.astype(share, mean.dtype) * mean)


def z_loss(logits: Array, *, counted: Array | None = None) -> Array:
    """Mean squared log-sum-exp of the router's logits (ST-MoE, arXiv 2202.08906, equation 5).

    Args:
        logits: `[S, T]`; -inf forbids a pair.
        counted: `[S]` booleans; sources that are False do not count.
    """
    total = arrays.log_sum_exp(logits, axis=1)
    return _mean(total**2, counted)[0]


def entropy(probabilities: Array, *, order: float = 1.0, counted: Array | None = None) -> Array:
    """Mean entropy of the rows, in nats: Shannon for order 1, Tsallis otherwise.

    -sum p ln p, or (1 - sum p^q) / (q - 1) (Tsallis 1988), which tends to it as q tends to 1.
    Order 2 is the Gini impurity. Add it to sharpen the router, subtract it to spread it.

    Args:
        probabilities: `[S, T]`, rows that sum to 1.
        order: q > 0.
        counted: `[S]` booleans; sources that are False do not count.

    Raises:
        SelectionError: order not positive.

    Example:
        >>> import numpy as np
        >>> round(float(entropy(np.array([[0.5, 0.5]]))), 4)
        0.6931
        >>> float(entropy(np.array([[0.5, 0.5]]), order=2.0))
        0.5
    """
    return _mean(row_entropy(probabilities, order=order)[:, None], counted)[0]


def row_entropy(probabilities: Array, *, order: float = 1.0) -> Array:
    """Entropy `[S]` of every row, as in `entropy`.

    Raises:
        SelectionError: order not positive.
    """
    if not order > 0:
        raise SelectionError(f"order={order}, expected a number > 0")
    xp = namespace(probabilities)
    # p ln p tends to 0 with p, but its gradient does not exist there: keep zeros out of the log.
    some = probabilities > 0
    safe = xp.where(some, probabilities, xp.ones_like(probabilities))
    if abs(order - 1.0) < 1e-9:
        return -xp.sum(safe * xp.log(safe), axis=1)
    powers = xp.where(some, safe**order, xp.zeros_like(safe))
    return (1.0 - xp.sum(powers, axis=1)) / (order - 1.0)


def squared_variation(values: Array) -> Array:
    """Squared coefficient of variation, variance over squared mean (Shazeer et al. 2017, eq. 6).

    Args:
        values: `[T]` importance (sum of gates) or smooth load of every target.
    """
    xp = namespace(values)
    mean = xp.mean(values)
    return xp.mean((values - mean) ** 2) / (mean**2 + 1e-10)


def contrastive(
    anchor: Array, positive: Array, *, temperature: float = 0.1, normalised: bool = False
) -> Array:
    """InfoNCE over a batch: every anchor must find its own positive among all.

    Mean of -log softmax(anchor positive^T / temperature) on the diagonal (van den Oord et al. 2018,
    arXiv 1807.03748, equation 4).

    Args:
        anchor: `[S, D]`.
        positive: `[S, D]`; row s belongs to anchor s, the other rows are its negatives.
        temperature: > 0.
        normalised: the rows have length 1 already; otherwise they are brought to it.

    Raises:
        SelectionError: shapes that differ, a temperature that is not positive.
    """
    if len(anchor.shape) != 2 or tuple(anchor.shape) != tuple(positive.shape):
        raise SelectionError(
            f"anchor and positive have shapes {tuple(anchor.shape)} and {tuple(positive.shape)}, "
            "expected one shape [S, D]"
        )
    if not temperature > 0:
        raise SelectionError(f"temperature={temperature}, expected a number > 0")
    xp = namespace(anchor, positive)
    if not normalised:
        anchor, positive = _unit(anchor), _unit(positive)
    logits = xp.matmul(anchor, xp.matrix_transpose(positive)) / temperature
    own = xp.sum(anchor * positive, axis=1) / temperature
    return xp.mean(arrays.log_sum_exp(logits, axis=1)[:, 0] - own)


def symmetric_divergence(first: Array, second: Array, *, counted: Array | None = None) -> Array:
    """Mean over rows of 1/2 [KL(p||q) + KL(q||p)], in nats, of p and q given by their logits.

    1/2 sum (p - q)(ln p - ln q), from log-softmax on both sides, so that nothing underflows into
    the logarithm of 0. Gradients flow to both. THOR (arXiv 2110.04260, equation 5) ties two random
    routings of one input with it; R-Drop (arXiv 2106.14448) two draws of dropout.

    Args:
        first, second: `[S, T]` logits; an entry that is -inf in both counts 0, in one infinity.
        counted: `[S]` booleans; rows that are False (padding) do not count.

    Raises:
        SelectionError: shapes that differ or are not `[S, T]`.

    Example:
        >>> import numpy as np
        >>> round(float(symmetric_divergence(np.array([[0.0, 1.0]]), np.array([[1.0, 0.0]]))), 4)
        0.4621
    """
    if len(first.shape) != 2 or tuple(first.shape) != tuple(second.shape):
        raise SelectionError(
            f"logits have shapes {tuple(first.shape)} and {tuple(second.shape)}, expected one "
            "shape [S, T]"
        )
    xp = namespace(first, second)
    shut = (first == -float("inf")) & (second == -float("inf"))
    log_p = first - arrays.log_sum_exp(first, axis=1)
    log_q = second - arrays.log_sum_exp(second, axis=1)
    log_p = xp.where(shut, xp.zeros_like(log_p), log_p)
    log_q = xp.where(shut, xp.zeros_like(log_q), log_q)
    each = 0.5 * xp.sum((xp.exp(log_p) - xp.exp(log_q)) * (log_p - log_q), axis=1)
    return _mean(each[:, None], counted)[0]


def _mean(x: Array, counted: Array | None) -> Array:
    """Mean over the counted rows of `[S, ...]`; 0 where there are none."""
    xp = namespace(x)
    if counted is None:
        return xp.sum(x, axis=0) / max(int(x.shape[0]), 1)
    weight = xp.astype(counted, x.dtype)
    return xp.sum(x * weight[:, None], axis=0) / _at_least_one(xp.sum(weight))


def _at_least_one(total: Array) -> Array:
    xp = namespace(total)
    return xp.where(total > 0, total, xp.ones_like(total))


def _unit(x: Array) -> Array:
    xp = namespace(x)
    squared = xp.sum(x * x, axis=1, keepdims=True)
    some = squared > 0
    return x / xp.sqrt(xp.where(some, squared, xp.ones_like(squared)))
