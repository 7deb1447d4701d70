"""One process of the distributed test: trains one step and writes what it ends up with."""

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from wye.moe import (
    ComposedRouter,
    Experts,
    LoadBalanceLoss,
    LossFreeBias,
    MoELayer,
    TopK,
    ZLoss,
    after_step,
)
from wye.moe.parts.gates import Gate
from wye.moe.parts.scores import LinearScores

WIDTH, EXPERTS, MICRO = 6, 4, 3


def make_layer() -> MoELayer:
    torch.manual_seed(0)
    router = ComposedRouter(
        WIDTH,
        LinearScores(WIDTH, EXPERTS, init_std=1.0),
        gate=Gate(normalise=True),
        selection=TopK(2),
        balance=[LoadBalanceLoss(0.1), ZLoss(0.1), LossFreeBias(EXPERTS, rate=0.01)],
    )
    return MoELayer(router, Experts(EXPERTS, WIDTH, 4))


def batch(rank: int, micro: int) -> Tensor:
    generator = torch.Generator().manual_seed(10 * rank + micro)
    return torch.randn(7, WIDTH, generator=generator) + rank


def run(rank: int, world: int, folder: Path) -> None:
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world
    )
    try:
        layer = make_layer().train()
        model: nn.Module = DistributedDataParallel(layer)
        # Every micro-batch is reduced, so that buffers are broadcast in between.
        for micro in range(MICRO):
            (model(batch(rank, micro)).square().mean() / MICRO).backward()
        gradients = {name: p.grad for name, p in layer.named_parameters()}
        load = layer.router.balance[2].load.clone()
        after_step(model)
        bias = layer.router.balance[2].bias_E
        torch.save((gradients, load, bias), folder / f"{rank}.pt")
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    run(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
