"""Routing is recorded, replayed, overridden and saved, with padding and without."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from wye.core import Plan, PlanTrace, top_k
from wye.moe import (
    Context,
    MoEError,
    Routing,
    Shape,
    build_layers,
    load_trace,
    override,
    record,
    replay,
    save_trace,
)

pytestmark = pytest.mark.torch
SHAPE = Shape(n_layers=12, width=8, hidden=4, n_experts=4)


class Stack(nn.Module):
    """Layers around residuals, under checkpointing or not."""

    def __init__(self, shape: Shape = SHAPE, *, reentrant: bool | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(build_layers("top_k", shape))
        self.reentrant = reentrant
        for p in self.parameters():
            nn.init.normal_(p, std=0.2)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        for layer in self.layers:
            if self.reentrant is None:
                x = x + layer(x, mask=mask)
            else:
                x = x + checkpoint(_run, layer, x, mask, use_reentrant=self.reentrant)
        return x


def _run(layer: nn.Module, x: Tensor, mask: Tensor | None) -> Tensor:
    y: Tensor = layer(x, mask=mask)
    return y


def _x(batch: int = 2, length: int = 5) -> Tensor:
    return torch.randn(batch, length, 8, generator=torch.Generator().manual_seed(2))


def _mask() -> Tensor:
    return torch.tensor([[1, 1, 1, 0, 0], [0, 1, 1, 1, 1]], dtype=torch.bool)


def test_a_trace_names_tokens_by_their_place_in_the_grid() -> None:
    model = Stack()
    with record(model) as trace:
        model(_x())
        model(_x(), _mask())
    assert list(trace) == [f"layers.{i}" for i in range(12)]
    whole, padded = trace["layers.0"]
    assert whole.n_sources == padded.n_sources == 10
    fan = padded.fan_out().reshape(2, 5)
    assert torch.equal(fan, 2 * _mask().long())


def test_nothing_is_recorded_outside_the_context() -> None:
    model = Stack()
    with record(model) as trace:
        pass
    model(_x())
    assert len(trace) == 0


@pytest.mark.parametrize("mask", [None, _mask()], ids=["whole", "padded"])
def test_a_replay_chooses_as_recorded_and_weighs_as_of_now(mask: Tensor | None) -> None:
    model = Stack()
    with record(model) as trace:
        before = model(_x(), mask)
    with replay(model, trace):
        torch.testing.assert_close(model(_x(), mask), before)
    first = model.layers[0].router.scores.weight
    with torch.no_grad():
        first.mul_(-1.0)
    with replay(model, trace), record(model) as again:
        out = model(_x(), mask)
    assert all(torch.equal(a[0].cells(), trace[n][0].cells()) for n, a in again.items())
    assert not torch.equal(again["layers.0"][0].weight, trace["layers.0"][0].weight)
    out.sum().backward()
    assert first.grad is not None
    assert bool(first.grad.any())


@pytest.mark.parametrize("reentrant", [True, False])
def test_recomputation_is_neither_recorded_nor_counted_as_a_pass(reentrant: bool) -> None:
    model = Stack(reentrant=reentrant)
    with record(model) as trace:
        for _ in range(2):
            model(_x().requires_grad_()).sum().backward()
    assert {len(plans) for plans in trace.values()} == {2}
    plain = Stack()
    with replay(plain, trace):
        expected = torch.autograd.grad(plain(_x().requires_grad_()).sum(), list(plain.parameters()))
    model.zero_grad()
    with replay(model, trace):
        model(_x().requires_grad_()).sum().backward()
    for p, gradient in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(p.grad, gradient, atol=1e-5, rtol=1e-4)


def test_an_override_holds_for_the_layers_named_and_ends_with_its_context() -> None:
    model = Stack()

    def last(routing: Routing, x_SD: Tensor, context: Context) -> Plan:
        n, e = routing.plan.n_sources, routing.plan.n_targets
        return Plan(torch.arange(n), torch.full((n,), e - 1), torch.ones(n), n, e)

    before = model(_x())
    with override(model, {"layers.3": last}), record(model) as trace:
        model(_x())
    assert trace["layers.3"][0].load().tolist() == [0, 0, 0, 10]
    assert trace["layers.2"][0].load().sum() == 20
    torch.testing.assert_close(model(_x()), before)
    with override(model, last):
        assert all(layer(_x()) is not None for layer in model.layers)
    with pytest.raises(MoEError, match="no routed layers"), override(model, {"layers.99": last}):
        pass


def test_a_saved_trace_comes_back_with_its_layers_in_order_and_small(tmp_path: Path) -> None:
    model = Stack()
    with record(model) as trace:
        for _ in range(3):
            model(_x(4, 60))
    path = save_trace(trace, tmp_path / "t.safetensors")
    again = load_trace(path)
    assert list(again) == list(trace)
    pairs = 0
    for name, plans in trace.items():
        for plan, found in zip(plans, again[name], strict=True):
            pairs += len(plan)
            host = plan.host()
            assert np.array_equal(found.source, host.source)
            assert np.array_equal(found.target, host.target)
            np.testing.assert_allclose(found.weight, host.weight, atol=5e-4)
    assert path.stat().st_size < 5 * pairs + 40_000
    with replay(model, again):
        torch.testing.assert_close(model(_x(4, 60)), model(_x(4, 60)))
    assert [p.name for p in tmp_path.iterdir()] == ["t.safetensors"]


def test_gates_beyond_half_precision_are_kept_whole(tmp_path: Path) -> None:
    trace = PlanTrace()
    trace.record("a", Plan(np.array([0]), np.array([0]), np.array([1e6]), 70_000, 300))
    found = load_trace(save_trace(trace, tmp_path / "t.safetensors"))["a"][0]
    assert found.weight.tolist() == [1e6]
    assert (found.n_sources, found.n_targets) == (70_000, 300)


def test_traces_that_do_not_fit_are_refused_in_words(tmp_path: Path) -> None:
    model = Stack()
    with record(model) as trace:
        model(_x())
    for bad, words in (
        (lambda: model(_x(3, 5)), "holds 10 tokens and 4 experts, this pass has 15"),
        (lambda: (model(_x()), model(_x())), "runs for the 2. time"),
    ):
        with pytest.raises(MoEError, match=words), replay(model, trace):
            bad()
    with pytest.raises(MoEError, match="no plans of"), replay(model, PlanTrace()):
        pass
    other = Stack(Shape(n_layers=12, width=8, hidden=4, n_experts=5))
    with pytest.raises(MoEError, match="4 experts, this pass has 10 and 5"), replay(other, trace):
        other(_x())
    with pytest.raises(MoEError, match="no routed layer"), record(nn.Linear(2, 2)):
        pass
    with pytest.raises(MoEError, match=r"\.safetensors"):
        save_trace(trace, tmp_path / "t.npz")
    with pytest.raises(MoEError, match="cannot be read"):
        load_trace(tmp_path / "missing.safetensors")
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"\x00" * 20)
    with pytest.raises(MoEError, match="cannot be read"):
        load_trace(broken)
    from safetensors.numpy import save_file

    save_file({"w": np.zeros(3)}, broken)
    with pytest.raises(MoEError, match="no trace"):
        load_trace(broken)


def test_a_trace_of_numpy_plans_replays() -> None:
    model = Stack(Shape(n_layers=1, width=8, hidden=4, n_experts=4))
    trace = PlanTrace()
    trace.record("layers.0", top_k(np.eye(10, 4) + np.arange(4) / 10, 1))
    with replay(model, trace), record(model) as again:
        model(_x())
    assert np.array_equal(again["layers.0"][0].target.numpy(), trace["layers.0"][0].target)
