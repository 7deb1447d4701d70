"""Expert by expert, forward and backward, in memory that stays in cache.

For every expert e with tokens, n of them, in the order of the plan:

    x_e = x[source]          h = x_e up_e^T + b        a = act(h_gate) * h_up
    y[source] += (w a) down_e^T + w c

and backwards, with z = dL/dy[source]:

    q = z down_e             dw = sum_F q a (+ z c)     da = w q
    d down_e = z^T (w a)     dh = da * (act'(h_gate) h_up, act(h_gate))
    d up_e = dh^T x_e        dx[source] += dh up_e

One expert's rows are gathered, computed and added before the next one's, in buffers that all
experts share: nothing of size [N, D] exists, forwards or backwards. Only h is kept for the
backward pass. The weights are taken apart once (`unbind`), never indexed by expert under autograd,
where each index would cost a gradient of the full stack.

Shape letters: S tokens, E experts, N routed pairs, D width, P rows of `up`, F hidden width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from wye.core import Plan
from wye.moe.dispatch.order import Segments, segments_of
from wye.moe.dispatch.precision import accumulator
from wye.moe.dispatch.weights import ExpertWeights


def run(x_SD: Tensor, plan: Plan, weights: ExpertWeights) -> Tensor:
    """The combined output `[S, D]`, in the dtype that sums are kept in."""
    segments = segments_of(plan)
    if torch.is_grad_enabled() and any(
        t.requires_grad for t in (x_SD, plan.weight, *weights.tensors())
    ):
        y_SD: Tensor = _Segments.apply(  # type: ignore[no-untyped-call]
            x_SD,
            plan.weight,
            weights.up,
            weights.down,
            weights.up_bias,
            weights.down_bias,
            weights,
            segments,
        )
        return y_SD
    return forward(x_SD, plan.weight, weights, segments, None)


def forward(
    x_SD: Tensor, weight_N: Tensor, weights: ExpertWeights, segments: Segments, kept: Tensor | None
) -> Tensor:
    """Output `[S, D]`; projections go to `kept` `[N, P]` where it is given."""
    hidden = weights.hidden
    y_SD = x_SD.new_zeros(x_SD.shape, dtype=accumulator(x_SD.dtype))
    most = segments.largest
    x_buffer = x_SD.new_empty(most, x_SD.shape[1])
    y_buffer = torch.empty_like(x_buffer)
    a_buffer = x_SD.new_empty(most, hidden)
    h_buffer = x_SD.new_empty(most, weights.up.shape[1]) if kept is None else kept
    weight_N1 = weight_N.index_select(0, segments.order).unsqueeze(1)
    ups, downs = weights.up.unbind(0), weights.down.unbind(0)
    for expert, start, stop in segments.spans:
        n = stop - start
        source = segments.source[start:stop]
        x = torch.index_select(x_SD, 0, source, out=x_buffer[:n])
        h = h_buffer[:n] if kept is None else h_buffer[start:stop]
        _project(x, ups[expert], weights.up_bias, expert, h)
        a = _activate(h, weights, a_buffer[:n]).mul_(weight_N1[start:stop])
        y = torch.mm(a, downs[expert].t(), out=y_buffer[:n])
        if weights.down_bias is not None:
            y.addcmul_(weight_N1[start:stop].to(y.dtype), weights.down_bias[expert])
        y_SD.index_add_(0, source, y.to(y_SD.dtype))
    return y_SD


def _project(x: Tensor, up: Tensor, bias: Tensor | None, expert: int, out: Tensor) -> None:
    if bias is None:
        torch.mm(x, up.t(), out=out)
    else:
        torch.addmm(bias[expert], x, up.t(), out=out)


def _activate(h: Tensor, weights: ExpertWeights, out: Tensor) -> Tensor:
    if not weights.gated:
        return weights.activation.into(h, out)
    hidden = weights.hidden
    return weights.activation.into(h[:, :hidden], out).mul_(h[:, hidden:])


class _Segments(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x_SD: Tensor,
        weight_N: Tensor,
        up: Tensor,
        down: Tensor,
        up_bias: Tensor | None,
        down_bias: Tensor | None,
        weights: ExpertWeights,
        segments: Segments,
    ) -> Tensor:
        kept = x_SD.new_empty(len(segments), up.shape[1])
        with torch.autocast(x_SD.device.type, enabled=False):
            y_SD = forward(x_SD, weight_N, weights, segments, kept)
        ctx.save_for_backward(x_SD, weight_N, up, down, up_bias, down_bias, kept)
        ctx.activation, ctx.gated, ctx.segments = weights.activation, weights.gated, segments
        return y_SD

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x_SD, weight_N, up, down, up_bias, down_bias, kept = ctx.saved_tensors
        weights = ExpertWeights(up, down, up_bias, down_bias, ctx.activation, ctx.gated)
        with torch.autocast(x_SD.device.type, enabled=False):
            found = backward(
                gradient, x_SD, weight_N, weights, ctx.segments, kept, ctx.needs_input_grad[:6]
            )
        return (*found, None, None)


def backward(
    gradient: Tensor,
    x_SD: Tensor,
    weight_N: Tensor,
    weights: ExpertWeights,
    segments: Segments,
    kept: Tensor,
    needs: tuple[bool, ...],
) -> tuple[Tensor | None, ...]:
    needs_x, needs_weight, needs_up, needs_down, needs_up_bias, needs_down_bias = needs
    through = needs_x or needs_up or needs_up_bias
    hidden, most = weights.hidden, segments.largest
    dx_SD = x_SD.new_zeros(x_SD.shape, dtype=accumulator(x_SD.dtype)) if needs_x else None
    dweight_N = weight_N.new_empty(weight_N.shape) if needs_weight else None
    dup = _gradient_of(weights.up, segments) if needs_up else None
    ddown = _gradient_of(weights.down, segments) if needs_down else None
    dup_bias = _zeros_like(weights.up_bias) if needs_up_bias else None
    ddown_bias = _zeros_like(weights.down_bias) if needs_down_bias else None
    z_SD = gradient.to(x_SD.dtype)
    weight_N1 = weight_N.index_select(0, segments.order).unsqueeze(1)
    found_N1 = weight_N1.new_empty(weight_N1.shape)
    x_buffer = x_SD.new_empty(most, x_SD.shape[1])
    z_buffer = torch.empty_like(x_buffer)
    dh_buffer = x_SD.new_empty(most, kept.shape[1])
    q_buffer, f_buffer, a_buffer = x_SD.new_empty(3, most, hidden).unbind(0)
    ups, downs = weights.up.unbind(0), weights.down.unbind(0)
    for expert, start, stop in segments.spans:
        n = stop - start
        source, w, h = segments.source[start:stop], weight_N1[start:stop], kept[start:stop]
        z = torch.index_select(z_SD, 0, source, out=z_buffer[:n])
        q = torch.mm(z, downs[expert], out=q_buffer[:n])
        g = h[:, :hidden]
        f = weights.activation.into(g, f_buffer[:n])
        a = torch.mul(f, h[:, hidden:], out=a_buffer[:n]) if weights.gated else f
        if dweight_N is not None:
            found_N1[start:stop] = torch.linalg.vecdot(q, a).unsqueeze(1)
            if weights.down_bias is not None:
                found_N1[start:stop] += (z @ weights.down_bias[expert]).unsqueeze(1)
        q.mul_(w)
        if through:
            dh = dh_buffer[:n]
            if weights.gated:
                torch.mul(q, f, out=dh[:, hidden:])
                q.mul_(h[:, hidden:])
            weights.activation.gradient_into(q, g, dh[:, :hidden])
            if dup_bias is not None:
                torch.sum(dh, 0, out=dup_bias[expert])
            if dup is not None:
                x = torch.index_select(x_SD, 0, source, out=x_buffer[:n])
                torch.mm(dh.t(), x, out=dup[expert])
        if ddown is not None:
            torch.mm(z.t(), a.mul_(w), out=ddown[expert])
        if ddown_bias is not None:
            torch.mv(z.t(), w.squeeze(1).to(z.dtype), out=ddown_bias[expert])
        if dx_SD is not None:
            dx = torch.mm(dh, ups[expert], out=z_buffer[:n])
            dx_SD.index_add_(0, source, dx.to(dx_SD.dtype))
    if dweight_N is not None:
        dweight_N[segments.order] = found_N1.squeeze(1)
    return (
        None if dx_SD is None else dx_SD.to(x_SD.dtype),
        dweight_N,
        dup,
        ddown,
        dup_bias,
        ddown_bias,
    )


def _gradient_of(weight: Tensor, segments: Segments) -> Tensor:
    """Memory for the gradient of stacked weights, zero at the experts that have no tokens."""
    found = torch.empty_like(weight, memory_format=torch.contiguous_format)
    for expert in segments.empty:
        found[expert].zero_()
    return found


def _zeros_like(bias: Tensor | None) -> Tensor | None:
    return None if bias is None else torch.zeros_like(bias)
