"""Auxiliary losses and counts are right under accumulation, checkpointing, autocast and DDP."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from wye.moe import (
    ComposedRouter,
    Context,
    DualPrices,
    Experts,
    LoadBalanceLoss,
    LossFreeBias,
    MoELayer,
    TopK,
    ZLoss,
    after_step,
    aux_loss,
    carry,
    loss_scale,
    track,
)
from wye.moe.losses import aux_losses
from wye.moe.parts.balance import Balance
from wye.moe.parts.gates import Gate
from wye.moe.parts.scores import LinearScores

pytestmark = pytest.mark.torch
D, E = 6, 4


def _layer(*balance: Balance, carries: bool = True) -> MoELayer:
    torch.manual_seed(0)
    router = ComposedRouter(
        D,
        LinearScores(D, E, init_std=1.0),
        gate=Gate(normalise=True),
        selection=TopK(2),
        balance=balance,
    )
    return MoELayer(router, Experts(E, D, 4), carries_losses=carries).train()


def _x(n: int = 12) -> Tensor:
    return torch.randn(n, D, generator=torch.Generator().manual_seed(5))


def _gradients(module: nn.Module) -> dict[str, Tensor]:
    return {n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None}


def _same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, gradient in one.items():
        torch.testing.assert_close(gradient, other[name], atol=1e-6, rtol=1e-4, msg=name)


def test_carrying_a_loss_is_adding_it() -> None:
    carried = _layer(LoadBalanceLoss(0.3), ZLoss(0.2))
    carried(_x()).square().mean().backward()
    added = _layer(LoadBalanceLoss(0.3), ZLoss(0.2), carries=False)
    (added(_x()).square().mean() + aux_loss(added)).backward()
    _same(_gradients(carried), _gradients(added))
    assert not aux_loss(carried).requires_grad
    torch.testing.assert_close(aux_loss(carried), aux_loss(added).detach())
    assert set(aux_losses(added)[""]) == {"balance", "z"}
    without = _layer()
    without(_x()).square().mean().backward()
    assert not torch.equal(without.router.scores.weight.grad, carried.router.scores.weight.grad)


def test_a_carried_loss_needs_a_graph_and_leaves_values_alone() -> None:
    w = torch.tensor(2.0, requires_grad=True)
    x = torch.ones(3)
    with torch.no_grad():
        assert carry(x, w * w) is x
    assert carry(x, torch.tensor(1.0)) is x
    with loss_scale(0.25):
        carry(x, w * w).sum().backward()
    assert float(w.grad) == 1.0


def test_accumulated_micro_batches_are_one_big_batch() -> None:
    whole = _layer(ZLoss(0.2), LossFreeBias(E, rate=0.1))
    whole(_x()).square().mean().backward()
    parts = _layer(ZLoss(0.2), LossFreeBias(E, rate=0.1))
    for part in _x().split(4):
        with loss_scale(1 / 3):
            (parts(part).square().mean() / 3).backward()
    _same(_gradients(whole), _gradients(parts))
    for layer in (whole, parts):
        after_step(layer)
    torch.testing.assert_close(whole.router.balance[1].bias_E, parts.router.balance[1].bias_E)
    assert bool(whole.router.balance[1].bias_E.any())


def test_accumulated_balance_losses_are_the_mean_of_those_of_the_micro_batches() -> None:
    layer = _layer(LoadBalanceLoss(0.3))
    for part in _x().split(6):
        with loss_scale(0.5):
            (layer(part).square().mean() / 2).backward()
    by_hand = _layer(LoadBalanceLoss(0.3), carries=False)
    total = torch.zeros(())
    for part in _x().split(6):
        total = total + (by_hand(part).square().mean() + aux_loss(by_hand)) / 2
    total.backward()
    _same(_gradients(layer), _gradients(by_hand))


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing_changes_neither_gradients_nor_counts(reentrant: bool) -> None:
    def parts() -> tuple[Balance, ...]:
        return LoadBalanceLoss(0.3), ZLoss(0.2), LossFreeBias(E, rate=0.1), DualPrices(E, 2)

    plain, saving = _layer(*parts()), _layer(*parts())
    for _ in range(2):
        x = _x().requires_grad_()
        plain(x).square().mean().backward()
        checkpoint(saving, x, use_reentrant=reentrant).square().mean().backward()
    _same(_gradients(plain), _gradients(saving))
    assert torch.equal(plain.router.balance[2].load, saving.router.balance[2].load)
    assert int(plain.router.balance[2].load.sum()) == 2 * 2 * 12
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(value, saving.state_dict()[name])


def test_under_autocast_routing_stays_float32_and_the_output_is_finite() -> None:
    layer = _layer(LoadBalanceLoss(0.3), ZLoss(0.2))
    exact = layer(_x())
    before = layer.last
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = layer(_x())
        out.float().square().mean().backward()
    after = layer.last
    assert torch.equal(before.logits, after.logits)
    assert torch.equal(before.plan.cells(), after.plan.cells())
    assert after.plan.weight.dtype == torch.float32
    torch.testing.assert_close(out.float(), exact, atol=0.05, rtol=0.05)
    assert all(bool(torch.isfinite(g).all()) for g in _gradients(layer).values())


def test_the_hook_of_an_optimiser_steps_routers_until_it_is_removed() -> None:
    layer = _layer(LossFreeBias(E, rate=0.1))
    optimiser = torch.optim.SGD(layer.parameters(), lr=0.0)
    handle = track(layer, optimiser)
    layer(_x()).sum().backward()
    optimiser.step()
    once = layer.router.balance[0].bias_E.clone()
    assert bool(once.any())
    handle.remove()
    layer(_x()).sum().backward()
    optimiser.step()
    assert torch.equal(layer.router.balance[0].bias_E, once)


def test_evaluation_neither_counts_nor_adds() -> None:
    layer = _layer(LoadBalanceLoss(0.3), LossFreeBias(E)).eval()
    layer(_x())
    assert float(aux_loss(layer)) == 0.0
    assert not layer.router.balance[1].load.any()


def test_two_processes_average_gradients_and_count_the_load_of_both(tmp_path: Path) -> None:
    worker = Path(__file__).with_name("ddp_worker.py")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, str(worker), str(rank), "2", str(tmp_path)],
            env=environment,
            stderr=subprocess.PIPE,
        )
        for rank in range(2)
    ]
    errors = [process.communicate(timeout=120)[1].decode() for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
    found = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]

    import importlib.util

    spec = importlib.util.spec_from_file_location("ddp_worker", worker)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    alone = module.make_layer().train()
    load = []
    for rank in range(2):
        for micro in range(module.MICRO):
            # Carried losses have scale 1 in every micro-batch; DDP takes the mean over processes.
            with loss_scale(0.5):
                out = alone(module.batch(rank, micro)).square().mean()
                (out / (2 * module.MICRO)).backward()
        load.append(alone.router.balance[2].load - sum(load, torch.zeros(4, dtype=torch.int64)))
    after_step(alone)
    for rank, (gradients, own, bias) in enumerate(found):
        assert torch.equal(own, load[rank])
        torch.testing.assert_close(bias, alone.router.balance[2].bias_E)
        for name, p in alone.named_parameters():
            torch.testing.assert_close(gradients[name], p.grad, atol=1e-5, rtol=1e-4, msg=name)


def test_a_compiled_router_is_one_graph_and_counts_as_the_plain_one() -> None:
    plain, other = (_layer(LoadBalanceLoss(0.1), LossFreeBias(E, rate=0.1)) for _ in range(2))
    compiled = torch.compile(other.router, backend="eager", fullgraph=True)
    context = Context(batch=1, length=12)
    for _ in range(2):
        expected, found = plain.router(_x(), context), compiled(_x(), context)
        assert torch.equal(expected.plan.target, found.plan.target)
        torch.testing.assert_close(expected.losses["balance"], found.losses["balance"])
    for layer in (plain, other):
        assert int(layer.router.balance[1].load.sum()) == 48
        after_step(layer)
    assert torch.equal(plain.router.balance[1].bias_E, other.router.balance[1].bias_E)
