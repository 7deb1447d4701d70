"""Checks routing among modules learned one after another (arXiv 2511.01831) on a tiny VLM.

A causal transformer of 3 layers and width 96 (`tiny_vlm`) is trained from scratch on "which digit"
and eight other questions about digits and letters; then four tasks come one after another: parity,
at least five, how dark the left half is (quartiles), and the successor of a letter, which has no
image. Every task trains a LoRA module of rank 8 on every linear layer of the transformer, on its
own data only, and its gate vectors for 100 steps. Everything goes by steps, so that runs repeat.

Against it, from the same base: one LoRA module fine-tuned over the tasks in turn, one trained on
all four tasks at once, the right module named by somebody who knows the task, and the mean of the
modules. Each gets as many steps a task as stage 1 and stage 2 together.

The base answers several questions so that the method's premise holds: activations must tell tasks
apart. Trained on "which digit" alone it has no reason to read the question: at the answering
position the nearest mean activation then named the task of 2 to 5 questions about images in 10, and
routing came to 0.21 on average (one seed). What the premise is worth with this base is among the
figures ("told apart by the base").

Two claims do not hold, that routing comes close to naming the task and that it keeps the base
skill, and the reason is the method at this scale. Stage 2 sees one task and moves v_i towards what
its own activations have in common; nothing tells it what sets them apart from another task's. It
does there what it should (seed 0: the gates opened from 0.5 to 0.7 at the answering position, and
with them the loss came back to about that of the module at full strength), and yet the best of the
four vectors was the right one at 0.38 of the adapted layers where no module acted below, and at
0.57 where right ones did: a wrong module changes what later layers are routed by. With rates from
3e-4 to 1e-2 and 20 to 1000 steps of stage 2 these shares stayed within 0.33 to 0.40 and 0.56 to
0.63. One module a token, or weights that sum to 1, do no better (both among the figures). The null
target of score 0 comes first only where all four modules score below 0; of four scores that scatter
around 0 or above, the best seldom does, so that questions of the base skill meet foreign modules.

What the tiny model adds of its own: the image comes first and is the same for three tasks, so that
its tokens cannot tell them apart, and neither can the first layer's inputs, which are single bytes.

Shape letters: B batch, L length.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Generator, Tensor

from wye.checks.base import CheckContext, CheckError, CheckResult, Claim
from wye.checks.moe.trials import run_trials
from wye.checks.query.tiny_vlm import (
    BASE,
    GENERAL,
    LAYERS,
    TASKS,
    WIDTH,
    TinyVLM,
    accuracy,
    batches_of,
    task_examples,
    train_base,
)

if TYPE_CHECKING:
    from wye.adapter.vlm_dynamic_routing import DynamicRouting

RANK, K = 8, 2
MODULE_RATE, GATE_RATE = 2e-3, 1e-3


@dataclass(frozen=True, kw_only=True)
class Steps:
    """Optimiser steps of the base, of a module and of its vectors."""

    base: int = 2700
    module: int = 200
    gate: int = 100


def check(context: CheckContext) -> CheckResult:
    """Train and measure every arm, on every seed.

    Raises:
        CheckError: transformers or peft is not installed.
    """
    for name in ("transformers", "peft"):
        if find_spec(name) is None:
            raise CheckError(
                f'{name} is not installed; install it with: pip install "wye[adapters]"'
            )
    runs = run_trials(trial, ("all arms",), context.seeds, context)
    found = [runs["all arms", seed] for seed in context.seeds]
    mean = {name: float(np.mean([run[name] for run in found])) for name in found[0]}
    routing = mean["routing, average"]
    steps = Steps()
    named = mean["right module at the answer, average"]
    return CheckResult(
        claims=(
            Claim(
                "average of routing - sequential", routing - mean["sequential, average"], ">=", 0.15
            ),
            Claim("average of routing - uniform", routing - mean["uniform, average"], ">=", 0.0),
            Claim("average of routing - oracle", routing - mean["oracle, average"], ">=", -0.10),
            Claim(
                "base skill lost by routing",
                mean["untouched base, digit"] - mean["routing, digit"],
                "<=",
                0.05,
            ),
        ),
        figures=mean,
        seeds=context.seeds,
        text=(
            f"A VLM of {LAYERS} layers and width {WIDTH} learned to read digits and letters, "
            f"{1 + len(GENERAL)} questions in {steps.base} steps, then {len(TASKS)} tasks in turn: "
            f"{steps.module} steps of a rank-{RANK} module and {steps.gate} of its vectors each, "
            f"top-{K} with a null target; accuracies on held-out images (on all 26 letters) after "
            f"the last task, mean over {len(context.seeds)} seeds. At the answering position the "
            f"right module comes first at {named:.0%} of the layers, where the nearest mean "
            f"activation of the base would name the task of "
            f"{mean['told apart by the base, average']:.0%} of the questions."
        ),
    )


def trial(arm: str, seed: int, steps: Steps | None = None) -> dict[str, float]:
    """Accuracy of every arm on every task, after the last task, of one seed."""
    from wye.adapter.vlm_dynamic_routing import DynamicRouting

    steps = steps or Steps()
    base = TinyVLM()
    generator = torch.Generator().manual_seed(seed)
    train_base(base, steps.base, generator)
    figures = {f"untouched base, {task}": accuracy(base, task) for task in (BASE, *GENERAL)}

    vlm = copy.deepcopy(base)
    routed = DynamicRouting(vlm.language, k=K)
    for task in TASKS:
        _fit(routed, vlm, task, [task], steps.module, generator)
        loss = batches_of(vlm, [task], generator)
        routed.train_gate(task, loss, steps=steps.gate, rate=GATE_RATE)
    ways: dict[str, Callable[[str], AbstractContextManager[Any]]] = {
        "routing": lambda task: nullcontext(),
        "routing without null": lambda task: _routing(routed, null=False),
        "routing to one": lambda task: _routing(routed, k=1),
        "routing, weights sum to 1": lambda task: _routing(routed, renormalise=True),
        "oracle": lambda task: routed.without() if task == BASE else routed.alone(task),
        "uniform": lambda task: routed.mixed(),
    }
    for name, way in ways.items():
        figures |= _measured(name, vlm, way)
    figures |= _choices(routed, vlm)
    figures |= _told_apart(routed, vlm)

    every = steps.module + steps.gate
    vlm = copy.deepcopy(base)
    one = DynamicRouting(vlm.language)
    for task in TASKS:
        _fit(one, vlm, "one", [task], every, generator)
    figures |= _measured("sequential", vlm, lambda task: one.alone("one"))

    vlm = copy.deepcopy(base)
    all_tasks = DynamicRouting(vlm.language)
    _fit(all_tasks, vlm, "every", TASKS, every * len(TASKS), generator)
    return figures | _measured("multi-task", vlm, lambda task: all_tasks.alone("every"))


def _measured(
    arm: str, vlm: TinyVLM, way: Callable[[str], AbstractContextManager[Any]]
) -> dict[str, float]:
    found = {}
    for task in (BASE, *TASKS):
        with way(task):
            found[task] = accuracy(vlm, task)
    return _averaged(arm, found)


def _averaged(label: str, found: dict[str, float]) -> dict[str, float]:
    each = {f"{label}, {task}": value for task, value in found.items()}
    return {f"{label}, average": float(np.mean(list(found.values()))), **each}


def _choices(routed: DynamicRouting, vlm: TinyVLM) -> dict[str, float]:
    """Weight that goes to no module, and how often the right target comes first, over layers.

    The right target of the base skill is the null.
    """
    nulls, at_answer, in_question = {}, {}, {}
    for number, task in enumerate((*TASKS, BASE)):
        examples = task_examples(task, held_out=True)
        accuracy(vlm, task)
        nulls[task] = float(np.mean(list(routed.null_share().values())))
        # The pairs of a token stand together, the one of largest weight first.
        first = torch.stack(
            [plan.target.view(plan.n_sources, -1)[:, 0] for plan in routed.trace.values()]
        )
        right = (first == number).float().view(len(first), len(examples.answer), -1)
        at_answer[task] = float(right[:, :, -1].mean())
        in_question[task] = float(right[:, :, examples.n_images :].mean())
    return (
        _averaged("null share", nulls)
        | _averaged("right module at the answer", at_answer)
        | _averaged("right module in the question", in_question)
    )


def _told_apart(routed: DynamicRouting, vlm: TinyVLM) -> dict[str, float]:
    """Share of held-out questions whose task the nearest mean activation of the base names.

    At the answering position, standardised as in the scores, mean over the adapted layers; the
    means are those of training questions.
    """
    from wye.adapter.routed_linear import standardised

    tasks = (BASE, *TASKS)
    seen, new = (
        {task: _activations(routed, vlm, task, held_out) for task in tasks}
        for held_out in (False, True)
    )
    found = {}
    for number, task in enumerate(tasks):
        named = []
        for place, u in new[task].items():
            means = torch.stack([standardised(seen[t][place]).mean(dim=0) for t in tasks])
            nearest = torch.cdist(standardised(u), means).argmin(dim=1)
            named.append(float((nearest == number).float().mean()))
        found[task] = float(np.mean(named))
    return _averaged("told apart by the base", found)


@torch.no_grad()
def _activations(
    routed: DynamicRouting, vlm: TinyVLM, task: str, held_out: bool
) -> dict[str, Tensor]:
    """What every adapted layer of the base reads at the answering position, `[B, n]`."""
    from wye.adapter.lora_modules import lora_layers

    found: dict[str, Tensor] = {}
    hooks = [
        layer.register_forward_pre_hook(
            lambda module, given, place=place: found.__setitem__(place, given[0][:, -1])
        )
        for place, layer in lora_layers(routed.inner).items()
    ]
    try:
        with routed.without():
            vlm.eval()(task_examples(task, held_out))
    finally:
        for hook in hooks:
            hook.remove()
    return found


@contextmanager
def _routing(
    routed: DynamicRouting, *, k: int = K, null: bool = True, renormalise: bool = False
) -> Iterator[None]:
    """Another rule of choice inside."""
    rule = routed.routing
    before = rule.k, rule.null, rule.renormalise
    rule.k, rule.null, rule.renormalise = k, null, renormalise
    try:
        yield
    finally:
        rule.k, rule.null, rule.renormalise = before


def _fit(
    routed: DynamicRouting,
    vlm: TinyVLM,
    name: str,
    tasks: Sequence[str],
    steps: int,
    generator: Generator,
) -> None:
    from wye.adapter.lora_modules import layer_config

    if name not in routed.modules_present:
        config = layer_config(vlm.language, range(LAYERS), rank=RANK, alpha=2 * RANK)
        routed.add(name, config)
    loss = batches_of(vlm, tasks, generator)
    routed.train_module(name, loss, steps=steps, rate=MODULE_RATE)
