"""One process of a distributed test: `python parallel_worker.py SCENARIOS RANK SIZE STORE`.

Every scenario builds a whole model in each process from one seed, spreads or shards it, trains on
this process's share of a batch, and compares with a single process that saw the whole batch.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from wye.moe import (
    ComposedRouter,
    Experts,
    Gate,
    LinearScores,
    LoadBalanceLoss,
    LossFreeBias,
    MoELayer,
    TopK,
    after_step,
)

WIDTH, EXPERTS, TOKENS = 8, 8, 24


class Net(nn.Module):
    def __init__(self, *, balance: list[nn.Module] | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.before = nn.Linear(WIDTH, WIDTH)
        router = ComposedRouter(
            WIDTH,
            LinearScores(WIDTH, EXPERTS, init_std=1.0),
            gate=Gate(normalise=True),
            selection=TopK(2),
            balance=balance or [],
        )
        self.moe = MoELayer(router, Experts(EXPERTS, WIDTH, 16))
        self.after = nn.Linear(WIDTH, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.before(x)
        return self.after(h + self.moe(h))


def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return (
        torch.randn(TOKENS, WIDTH, generator=generator),
        torch.randn(TOKENS, 1, generator=generator),
    )


def share(x: Tensor) -> Tensor:
    return x.chunk(dist.get_world_size())[dist.get_rank()]


def gradients(net: nn.Module, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    ((net(x) - y) ** 2).mean().backward()
    return {n: p.grad for n, p in net.named_parameters() if p.grad is not None}


def whole(value: Tensor) -> Tensor:
    return value.full_tensor() if hasattr(value, "full_tensor") else value


def compare(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    names = {n.removeprefix("module."): n for n in found}
    assert set(names) == set(expected), set(names) ^ set(expected)
    for name, value in expected.items():
        torch.testing.assert_close(whole(found[names[name]]), value, rtol=1e-5, atol=1e-6)


def experts(mesh: DeviceMesh) -> None:
    from wye.moe.parallel import leave_to_experts, parallelise_experts

    x, y = batch()
    single = Net()
    expected = gradients(single, x, y)
    net = Net()
    names = parallelise_experts(net, mesh)
    leave_to_experts(net, names)
    wrapped = nn.parallel.DistributedDataParallel(net)
    torch.testing.assert_close(wrapped(share(x)), share(single(x)), rtol=1e-6, atol=1e-6)
    compare(gradients(wrapped, share(x), share(y)), expected)
    state = {n: whole(v) for n, v in net.state_dict().items()}
    for name, value in single.state_dict().items():
        torch.testing.assert_close(state[name], value, rtol=0, atol=0)


def no_tokens(mesh: DeviceMesh) -> None:
    """One process has no token at all, and one expert gets none from anybody."""
    from wye.moe.parallel import parallelise_experts

    x, y = batch()
    mine = slice(0, TOKENS if dist.get_rank() == 0 else 0)
    single, net = Net(), Net()
    for one in (single, net):
        with torch.no_grad():
            one.moe.router.scores.weight[3] = 0
            one.moe.router.scores.weight[3, 0] = -1e3
            one.before.weight[0] = 0
            one.before.bias[0] = 1
    expected = ((single(x) - y) ** 2).sum()
    expected.backward()
    parallelise_experts(net, mesh, average_gradients=False)
    ((net(x[mine]) - y[mine]) ** 2).sum().backward()
    for name in ("up", "down"):
        found = getattr(net.moe.experts, name).grad.full_tensor()
        torch.testing.assert_close(
            found, getattr(single.moe.experts, name).grad, rtol=1e-5, atol=1e-5
        )
        assert float(found[3].abs().max()) == 0


def fully_sharded(mesh: DeviceMesh) -> None:
    from torch.distributed.fsdp import fully_shard

    x, y = batch()
    expected = gradients(Net(), x, y)
    net = Net()
    fully_shard(net.moe, mesh=mesh)
    fully_shard(net, mesh=mesh)
    compare(gradients(net, share(x), share(y)), expected)


def experts_and_fully_sharded(mesh: DeviceMesh) -> None:
    """Experts spread over the processes, everything else sharded over the same ones."""
    from torch.distributed.fsdp import fully_shard

    from wye.moe.parallel import parallelise_experts

    x, y = batch()
    expected = gradients(Net(), x, y)
    net = Net()
    names = set(parallelise_experts(net, mesh))
    kept = {p for n, p in net.named_parameters() if n in names}
    fully_shard(net, mesh=mesh, ignored_params=kept)
    compare(gradients(net, share(x), share(y)), expected)


def balance(mesh: DeviceMesh) -> None:
    """The bias counts the load of all processes, the loss is averaged over them."""

    def made() -> list[nn.Module]:
        return [LossFreeBias(EXPERTS, rate=0.1)]

    x, _ = batch()
    single, net = Net(balance=made()), Net(balance=made())
    group, dist_is_on = dist.is_initialized, True
    dist.is_initialized = lambda: not dist_is_on
    single(x)
    after_step(single)
    dist.is_initialized = group
    net(share(x))
    after_step(net)
    bias = net.moe.router.balance[0].bias_E
    torch.testing.assert_close(bias, single.moe.router.balance[0].bias_E)
    assert float(bias.abs().max()) > 0
    lossy = nn.parallel.DistributedDataParallel(Net(balance=[LoadBalanceLoss(1.0)]))
    lossy(share(x)).sum().backward()
    local = [torch.zeros_like(lossy.module.moe.router.scores.weight) for _ in range(mesh.size())]
    dist.all_gather(local, lossy.module.moe.router.scores.weight.grad)
    for other in local[1:]:
        torch.testing.assert_close(other, local[0])
    alone = Net(balance=[LoadBalanceLoss(1.0)])
    parts = []
    for part in x.chunk(mesh.size()):
        alone.zero_grad()
        alone(part).sum().backward()
        parts.append(alone.moe.router.scores.weight.grad.clone())
    torch.testing.assert_close(local[0], torch.stack(parts).mean(dim=0), rtol=1e-5, atol=1e-6)


SCENARIOS: dict[str, Callable[[DeviceMesh], None]] = {
    "experts": experts,
    "no_tokens": no_tokens,
    "fully_sharded": fully_sharded,
    "experts_and_fully_sharded": experts_and_fully_sharded,
    "balance": balance,
}


def main(scenarios: str, rank: str, size: str, store: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{store}", rank=int(rank), world_size=int(size)
    )
    try:
        mesh = init_device_mesh("cpu", (int(size),))
        for scenario in scenarios.split(","):
            SCENARIOS[scenario](mesh)
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
