"""Expert parallelism: every process holds some of the experts, tokens travel to them and back.

With R processes and E experts, process r holds experts r E/R to (r + 1) E/R - 1. A layer routes its
own tokens, sends every pair's row to the process of its expert, runs what it received, and sends
the rows back, where they are weighted and added (GShard, arXiv 2006.16668, section 3.2):
    counts   all-to-all of [R, E/R] integers
    rows     all-to-all of [N, D] with those splits, sorted by expert
    experts  on the received rows
    rows     all-to-all back, with the splits swapped
The transpose of an all-to-all is the all-to-all with swapped splits, which is its backward pass.

The weights become `DTensor`s sharded over their first dimension, so that state dicts, gradient
clipping and distributed checkpoints see whole tensors.

Shape letters: S tokens, E experts, N routed pairs, D width, R processes.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from wye.core import Plan
from wye.moe.base import MoEError
from wye.moe.dispatch import run_experts
from wye.moe.experts import Experts
from wye.moe.layer import MoELayer


class ParallelExperts(nn.Module):
    """The experts of one layer, spread over the processes of a mesh.

    Args:
        experts: all E of them, with equal values in every process.
        mesh: one-dimensional mesh of R processes; R divides E.
        average_gradients: divide the gradients of the experts by R. Every process trains on its own
            tokens, and an expert sees those of all: this gives it the mean over processes, which is
            what data parallelism gives every other parameter.

    Raises:
        MoEError: a mesh of more dimensions, or R does not divide E.
    """

    def __init__(
        self, experts: Experts, mesh: DeviceMesh, *, average_gradients: bool = True
    ) -> None:
        super().__init__()
        if mesh.ndim != 1:
            raise MoEError(f"mesh has {mesh.ndim} dimensions, expected 1: pass one of its parts")
        if experts.n_experts % mesh.size():
            raise MoEError(
                f"{experts.n_experts} experts do not split evenly over {mesh.size()} processes: "
                "choose a number of processes that divides them"
            )
        self.n_experts = experts.n_experts
        self.activation, self.gated = experts.activation, experts.gated
        self.mesh = mesh
        self.average_gradients = average_gradients
        for name, parameter in experts.named_parameters():
            sharded = distribute_tensor(parameter.detach(), mesh, [Shard(0)])
            self.register_parameter(
                name, nn.Parameter(sharded, requires_grad=parameter.requires_grad)
            )

    def forward(self, x_SD: Tensor, plan: Plan) -> Tensor:
        """The weighted sum of the chosen experts' outputs, `[S, D]`.

        Every process of the mesh must call it, with or without tokens.
        """
        size = self.mesh.size()
        order, _ = plan.by_target()
        source = plan.source[order]
        sent = plan.load().reshape(size, -1)
        received = torch.empty_like(sent)
        dist.all_to_all_single(received, sent.contiguous(), group=self.mesh.get_group())
        to_splits, from_splits = sent.sum(dim=1).tolist(), received.sum(dim=1).tolist()
        rows = _exchange(x_SD[source], from_splits, to_splits, self.mesh.get_group())
        done = self._run(rows, received)
        back = _exchange(done, to_splits, from_splits, self.mesh.get_group())
        weighted = back * plan.weight[order][:, None]
        return torch.zeros_like(x_SD).index_add(0, source, weighted.to(x_SD.dtype))

    def _run(self, rows: Tensor, received: Tensor) -> Tensor:
        # Rows come process by process, and expert by expert within a process.
        local = received.shape[1]
        expert = torch.arange(local, device=rows.device).repeat(received.shape[0])
        target = expert.repeat_interleave(received.reshape(-1).to(rows.device))
        n = rows.shape[0]
        plan = Plan(
            torch.arange(n, device=rows.device),
            target,
            torch.ones(n, device=rows.device),
            n,
            local,
        )
        return run_experts(
            rows,
            plan,
            self._local("up"),
            self._local("down"),
            activation=self.activation,
            gated=self.gated,
            up_bias=self._local("up_bias") if hasattr(self, "up_bias") else None,
            down_bias=self._local("down_bias") if hasattr(self, "down_bias") else None,
        )

    def _local(self, name: str) -> Tensor:
        parameter: DTensor = getattr(self, name)
        local = parameter.to_local()
        if self.average_gradients:
            scaled: Tensor = _ScaledGradient.apply(local, 1.0 / self.mesh.size())  # type: ignore[no-untyped-call]
            return scaled
        return local

    def extra_repr(self) -> str:
        return f"n_experts={self.n_experts}, processes={self.mesh.size()}"


def parallelise_experts(
    model: nn.Module, mesh: DeviceMesh, *, average_gradients: bool = True
) -> list[str]:
    """Spread the experts of every `MoELayer` of `model` over `mesh`, in place.

    Args:
        model: with equal values in every process.
        mesh, average_gradients: as in `ParallelExperts`.

    Returns:
        Names of the parameters that are spread, for `fully_shard(ignored_params=...)` or for
        `leave_to_experts`, which keeps `DistributedDataParallel` off them.

    Raises:
        MoEError: there is no `MoELayer` with `Experts`, or R does not divide E.
    """
    layers = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, MoELayer) and isinstance(module.experts, Experts)
    }
    if not layers:
        raise MoEError(f"{type(model).__name__} has no MoELayer with Experts to spread")
    names: list[str] = []
    for layer_name, layer in layers.items():
        assert isinstance(layer.experts, Experts)
        layer.experts = ParallelExperts(layer.experts, mesh, average_gradients=average_gradients)
        prefix = f"{layer_name}.experts." if layer_name else "experts."
        names += [prefix + name for name, _ in layer.experts.named_parameters()]
    return names


def leave_to_experts(model: nn.Module, names: list[str]) -> None:
    """Keep `DistributedDataParallel`, wrapped around `model` after this, off the named parameters.

    Args:
        model: with spread experts.
        names: as `parallelise_experts` returned them.
    """
    wrapper = nn.parallel.DistributedDataParallel
    wrapper._set_params_and_buffers_to_ignore_for_model(model, names)  # type: ignore[no-untyped-call]


class _Exchange(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, to_receive: list[int], to_send: list[int], group: Any
    ) -> Tensor:
        ctx.splits, ctx.group = (to_receive, to_send), group
        return _all_to_all(rows, to_receive, to_send, group)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        to_receive, to_send = ctx.splits
        return _all_to_all(gradient, to_send, to_receive, ctx.group), None, None, None


class _ScaledGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * ctx.scale, None


def _exchange(rows: Tensor, to_receive: list[int], to_send: list[int], group: Any) -> Tensor:
    out: Tensor = _Exchange.apply(rows, to_receive, to_send, group)  # type: ignore[no-untyped-call]
    return out


def _all_to_all(rows: Tensor, to_receive: list[int], to_send: list[int], group: Any) -> Tensor:
    out = rows.new_empty((sum(to_receive), *rows.shape[1:]))
    dist.all_to_all_single(out, rows.contiguous(), to_receive, to_send, group=group)
    return out
