"""One process of a distributed test: `python ranks_worker.py RANK SIZE STORE`.

Loads are counted over all processes: the mean of the losses of the processes, each on its share of
the tokens, is the loss of one process on all of them, and so are the gradients.
"""

from __future__ import annotations

import sys

import torch
import torch.distributed as dist

from wye.moe import get_router
from wye.moe.base import make_context

WIDTH, EXPERTS, TOKENS, BATCHES = 8, 4, 24, 3


def losses(scope: str, batches: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean loss of the micro-batches of one step, and its gradient."""
    torch.manual_seed(0)
    router = get_router("global-batch-lbl", WIDTH, EXPERTS, scope=scope, weight=1.0).train()
    torch.nn.init.normal_(router.scores.weight, std=0.5)
    for x in batches:
        router.balance[0].note(router.eval()(x, make_context(x)).plan)
    router.train()
    each = [router(x, make_context(x)).losses["balance"] for x in batches]
    total = torch.stack(each).mean()
    total.backward()
    return total.detach(), router.scores.weight.grad


def main(rank: int, size: int, store: str) -> None:
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(1)
    whole = [torch.randn(TOKENS, WIDTH, generator=generator) + 0.4 * b for b in range(BATCHES)]
    reference = {
        "ranks": losses("micro", whole),
        "buffer": losses("buffer", whole),
        "exact": losses("exact", whole),
    }
    dist.init_process_group("gloo", store=dist.FileStore(store, size), rank=rank, world_size=size)
    try:
        mine = [x.chunk(size)[rank] for x in whole]
        for scope, (value, gradient) in reference.items():
            own, own_gradient = losses(scope, mine)
            for tensor, expected in ((own, value), (own_gradient, gradient)):
                dist.all_reduce(tensor)
                torch.testing.assert_close(tensor / size, expected, atol=1e-6, rtol=1e-5)
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
