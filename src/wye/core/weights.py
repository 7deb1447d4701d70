"""How much each routed pair counts: gates read off a matrix, shares, softmax.

A selection decides who goes where; these functions decide with what weight, on the `[S, K]` layout
of a fixed k and on any plan. Gradients flow from the weights to the gates, never to the choice.

Shape letters: S sources, T targets, N routed pairs, K choices.
"""

from __future__ import annotations

from typing import Literal

from wye.core import arrays
from wye.core.arrays import Array, SelectionError, namespace
from wye.core.plan import Plan

Weighting = Literal["score", "softmax", "share", "one"]
WEIGHTINGS = ("score", "softmax", "share", "one")


def weigh_rows(values: Array, weight: Weighting) -> Array:
    """Weights `[S, K]` of chosen scores `[S, K]`; forbidden entries (-inf) weigh 0.

    Args:
        values: chosen scores.
        weight: "score", as they are; "softmax" over each row; "share", divided by the sum of the
            row (a row that sums to 0 stays 0); "one".

    Raises:
        SelectionError: an unknown `weight`.
    """
    if weight not in WEIGHTINGS:
        raise SelectionError(f"weight={weight!r}, expected one of {WEIGHTINGS}")
    xp = namespace(values)
    shut = values == -float("inf")
    zero = xp.zeros_like(values)
    if weight == "one":
        return xp.where(shut, zero, xp.ones_like(values))
    finite = xp.where(shut, zero, values)
    if weight == "score" or values.shape[0] == 0 or values.shape[1] == 0:
        return finite
    if weight == "softmax":
        peak = arrays.detach(xp.max(values, axis=1, keepdims=True))
        peak = xp.where(peak == -float("inf"), xp.zeros_like(peak), peak)
        finite = xp.where(shut, zero, xp.exp(finite - peak))
    total = xp.sum(finite, axis=1, keepdims=True)
    return finite / xp.where(total == 0, xp.ones_like(total), total)


def weigh(plan: Plan, gates: Array) -> Plan:
    """The same pairs, weighted by `gates[source, target]`; this is how a recorded plan is replayed.

    Args:
        plan: N pairs between S sources and T targets.
        gates: `[S, T]`; gradients flow to it.

    Raises:
        SelectionError: `gates` has another shape.
    """
    expected = (plan.n_sources, plan.n_targets)
    if tuple(gates.shape) != expected:
        raise SelectionError(f"gates have shape {tuple(gates.shape)}, expected {expected}")
    xp = namespace(gates)
    flat = xp.reshape(gates, (-1,))
    return plan.with_weight(xp.take(flat, plan.cells(), axis=0))


def shared(plan: Plan) -> Plan:
    """The weights of each source divided by their sum; a source that sums to 0 keeps zeros."""
    xp = namespace(plan.weight)
    total = arrays.segment_sum(plan.weight, plan.source, plan.n_sources)
    total = xp.where(total == 0, xp.ones_like(total), total)
    return plan.with_weight(plan.weight / xp.take(total, plan.source, axis=0))


def softmaxed(plan: Plan) -> Plan:
    """Softmax of the weights over the pairs of each source (finite weights)."""
    xp = namespace(plan.weight)
    peak = arrays.segment_max(plan.weight, plan.source, plan.n_sources)
    return shared(plan.with_weight(xp.exp(plan.weight - xp.take(peak, plan.source, axis=0))))
