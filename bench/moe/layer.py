"""The expert layer against its matmuls alone and against transformers: `python bench/moe/layer.py`.

All contenders run interleaved in the same rounds, so that other load on the machine falls on all of
them, and figures are medians of per-round ratios. `ideal` is the layer's matmuls alone: tokens
already gathered in balanced groups, one bmm per projection, no router, no activation, no combine;
with autograd where a backward pass is timed. `transformers` is its OLMoE block (router, experts,
renormalised gates) on each of its experts implementations. Ours is `MoELayer` with the same router.
Everything in float32. Exits with 1 if a target is missed.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from wye.core import balanced, top_k
from wye.moe import ComposedRouter, Experts, Gate, LinearScores, MoELayer, TopK


@dataclass(frozen=True)
class Case:
    name: str
    tokens: int
    width: int
    hidden: int
    experts: int
    k: int


CASE_A = Case("A", 2048, 512, 1024, 16, 2)
CASE_B = Case("B", 4096, 512, 256, 64, 6)
PEERS = ("grouped_mm", "batched_mm", "eager")


def ours(case: Case) -> nn.Module:
    torch.manual_seed(0)
    router = ComposedRouter(
        case.width,
        LinearScores(case.width, case.experts),
        gate=Gate(normalise=True),
        selection=TopK(case.k),
    )
    return MoELayer(router, Experts(case.experts, case.width, case.hidden))


def peer(case: Case, implementation: str, like: nn.Module) -> nn.Module:
    """OLMoE's block of transformers with the weights of our layer."""
    from transformers import OlmoeConfig
    from transformers.models.olmoe.modeling_olmoe import OlmoeSparseMoeBlock

    config = OlmoeConfig(
        hidden_size=case.width,
        intermediate_size=case.hidden,
        num_experts=case.experts,
        num_experts_per_tok=case.k,
        norm_topk_prob=True,
        experts_implementation=implementation,
    )
    config._experts_implementation = implementation
    block = OlmoeSparseMoeBlock(config)
    weights: Any = like
    with torch.no_grad():
        block.gate.weight.copy_(weights.router.scores.weight)
        block.experts.gate_up_proj.copy_(weights.experts.up)
        block.experts.down_proj.copy_(weights.experts.down)
    return block


def ideal(case: Case, like: nn.Module, tokens: int) -> Callable[[], Tensor]:
    """The matmuls of `tokens` tokens in balanced groups, gathered beforehand."""
    weights: Any = like
    pairs = tokens * case.k
    groups = min(case.experts, pairs)
    x = torch.randn(groups, pairs // groups, case.width, requires_grad=True)
    # The peers' parameters are parameters here too, so that their gradients are computed.
    up = nn.Parameter(weights.experts.up.detach()[:groups].clone())
    down = nn.Parameter(weights.experts.down.detach()[:groups].clone())

    def run() -> Tensor:
        h = torch.bmm(x, up.transpose(1, 2))
        return torch.bmm(h[:, :, : case.hidden], down.transpose(1, 2))

    run.inputs = [x, up, down]  # type: ignore[attr-defined]
    return run


def forward(layer: nn.Module, x: Tensor) -> Callable[[], Any]:
    return lambda: layer(x)


def seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def interleaved(calls: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    for call in calls.values():
        call()
        call()
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            times[name].append(seconds(call))
    return times


def ratio(times: dict[str, list[float]], name: str, base: str) -> float:
    return statistics.median(a / b for a, b in zip(times[name], times[base], strict=True))


def report(name: str, figure: float, target: float | None, note: str = "") -> bool:
    held = target is None or figure <= target
    verdict = "    " if target is None else "pass" if held else "FAIL"
    goal = "" if target is None else f"(target <= {target:g})"
    print(f"{verdict}  {name:<58} {figure:7.3f}  {goal:<18} {note}", flush=True)
    return held


def contenders(case: Case, x: Tensor, peers: tuple[str, ...]) -> dict[str, nn.Module]:
    mine = ours(case)
    found = {"wye": mine} | {f"transformers {p}": peer(case, p, mine) for p in peers}
    with torch.no_grad():
        expected = mine(x)
        for name, layer in found.items():
            worst = float((layer(x[None])[0] - expected).abs().max())
            if worst > 1e-4:
                raise SystemExit(f"{name} differs from wye by {worst}: the timings mean nothing")
    return found


def throughput(case: Case, rounds: int, targets: tuple[float, float]) -> bool:
    x = torch.randn(case.tokens, case.width)
    layers = contenders(case, x, ("grouped_mm", "eager"))
    base = ideal(case, layers["wye"], case.tokens)
    with torch.no_grad():
        calls = {"ideal": base} | {n: forward(m, x[None]) for n, m in layers.items()}
        times = interleaved(calls, rounds)
    held = True
    for name in layers:
        goal = targets[0] if name == "wye" else None
        held &= report(
            f"case {case.name} forward, {name} / ideal", ratio(times, name, "ideal"), goal
        )
    for layer in layers.values():
        layer.train()
    x3 = x[None].clone().requires_grad_()
    calls = {"ideal": trained(base, base.inputs)}  # type: ignore[attr-defined]
    calls |= {n: trained(forward(m, x3), [x3, *m.parameters()]) for n, m in layers.items()}
    times = interleaved(calls, max(rounds // 2, 3))
    for name in layers:
        goal = targets[1] if name == "wye" else None
        figure = ratio(times, name, "ideal")
        held &= report(f"case {case.name} forward + backward, {name} / ideal", figure, goal)
    return held


def trained(call: Callable[[], Tensor], tensors: list[Tensor]) -> Callable[[], None]:
    """Forward and backward, with fresh gradients as after `zero_grad(set_to_none=True)`."""
    gradient = torch.randn_like(call().detach())

    def run() -> None:
        for tensor in tensors:
            tensor.grad = None
        call().backward(gradient)

    return run


def few_tokens(case: Case, rounds: int) -> bool:
    held = True
    for tokens in (1, 8):
        x = torch.randn(tokens, case.width)
        layers = contenders(case, x, PEERS)
        for layer in layers.values():
            layer.eval()
        base = ideal(case, layers["wye"], tokens)
        with torch.no_grad():
            calls = {"ideal": base} | {n: forward(m, x[None]) for n, m in layers.items()}
            times = interleaved(calls, rounds * 20)
        for name in layers:
            goal = 1.5 if name == "wye" and tokens == 1 else None
            figure = ratio(times, name, "ideal")
            held &= report(f"case {case.name} {tokens} token(s), {name} / ideal", figure, goal)
        best = min((n for n in layers if n != "wye"), key=lambda n: statistics.median(times[n]))
        goal = 1.0 if tokens == 8 else None
        held &= report(
            f"case {case.name} {tokens} token(s), wye / {best}", ratio(times, "wye", best), goal
        )
    return held


def route_share(case: Case, rounds: int) -> bool:
    """Gate, selection and plan as a share of the whole layer's forward pass."""
    layer: Any = ours(case).eval()
    x = torch.randn(case.tokens, case.width)
    weight = layer.router.scores.weight.detach()
    held = True
    for name, target in (("top-k", 0.06), ("balanced, 4 rounds", 0.20)):

        def route(name: str = name) -> Any:
            p = torch.softmax(nn.functional.linear(x, weight), dim=-1)
            if name == "top-k":
                plan = top_k(p, case.k, weight="share")
            else:
                plan = balanced(p, case.k, rounds=4, weight="share")
            return plan

        def whole(route: Callable[[], Any] = route) -> Any:
            return layer.experts(x, route())

        with torch.no_grad():
            times = interleaved({"route": route, "layer": whole}, rounds)
        figure = ratio(times, "route", "layer")
        held &= report(f"case {case.name} route / layer, {name}", figure, target)
    return held


def peak_bytes(case: Case, name: str) -> int:
    """Peak memory of training steps above what stood before them, in a process of its own."""
    command = [sys.executable, __file__, "--memory-of", name, "--case", case.name]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def measure_peak(case: Case, name: str) -> int:
    mine = ours(case)
    layer = mine if name == "wye" else peer(case, name, mine)
    del mine
    # A small step first: what libraries set up on first use is no part of a step.
    trained(forward(layer, torch.randn(1, 64, case.width)), list(layer.parameters()))()
    for parameter in layer.parameters():
        parameter.grad = None
    x = torch.randn(1, case.tokens, case.width, requires_grad=True)
    gradient = torch.randn(1, case.tokens, case.width)
    before = resident()
    # The peak so far is forgotten, so that what follows sets the new one.
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    for _ in range(3):
        for tensor in (x, *layer.parameters()):
            tensor.grad = None
        layer(x).backward(gradient)
    return resident("VmHWM") - before


def resident(entry: str = "VmRSS") -> int:
    with open("/proc/self/status") as file:
        line = next(line for line in file if line.startswith(entry))
    return int(line.split()[1]) * 1024


def memory(case: Case) -> bool:
    wye, grouped = peak_bytes(case, "wye"), peak_bytes(case, "grouped_mm")
    note = f"{wye / 2**20:.0f} MiB against {grouped / 2**20:.0f} MiB"
    name = f"case {case.name} peak memory of a training step, wye / transformers"
    return report(name, wye / grouped, 1.0, note)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", choices=("throughput", "few", "route", "memory"))
    parser.add_argument("--case", choices=("A", "B"))
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    torch.manual_seed(0)
    if chosen.memory_of:
        print(measure_peak(CASE_A if chosen.case == "A" else CASE_B, chosen.memory_of))
        return 0
    cases = [c for c in (CASE_A, CASE_B) if chosen.case in (None, c.name)]
    held = True
    for case in cases:
        targets = (1.15, 1.00) if case is CASE_A else (1.45, 1.05)
        if chosen.only in (None, "throughput"):
            held &= throughput(case, chosen.rounds, targets)
        if chosen.only in (None, "few"):
            held &= few_tokens(case, chosen.rounds)
    if chosen.only in (None, "route"):
        held &= route_share(CASE_B, chosen.rounds)
    if chosen.only in (None, "memory"):
        held &= memory(CASE_B)
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
