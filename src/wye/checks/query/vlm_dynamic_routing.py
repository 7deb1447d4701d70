"""Checks routing among modules learned one after another (arXiv 2511.01831) on a tiny VLM.

A causal transformer of 3 layers and width 96 reads 4 image tokens (a real 8x8 digit in 4x4 patches
through a linear projector), the bytes of a question, and answers with one byte. It is trained from
scratch on "which digit"; then four tasks come one after another: parity, at least five, how dark
the left half is (quartiles), and the successor of a letter, which has no image. Every task trains
a LoRA module of rank 8 on every linear layer of the transformer, on its own data only, and its gate
vectors for 100 steps. Everything goes by steps, so that runs repeat.

Against it, from the same base: one LoRA module fine-tuned over the tasks in turn, one trained on
all four tasks at once, the right module named by somebody who knows the task, and the mean of the
modules. Each gets as many steps a task as stage 1 and stage 2 together.

Shape letters: B batch, L length, D width.
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
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from wye.checks.base import CheckContext, CheckError, CheckResult, Claim
from wye.checks.moe.digits import digits
from wye.checks.moe.trials import run_trials

if TYPE_CHECKING:
    from wye.adapter.vlm_dynamic_routing import DynamicRouting

N_TRAIN = 1258  # 70% of 1,797
WIDTH, LAYERS, HEADS, HIDDEN, VOCABULARY = 96, 3, 4, 256, 128
RANK, K = 8, 2
BASE_STEPS, MODULE_STEPS, GATE_STEPS = 600, 200, 100
BATCH = 32
BASE_RATE, MODULE_RATE, GATE_RATE = 2e-3, 2e-3, 1e-3
BASE = "digit"
TASKS = ("parity", "five", "dark", "letter")
ARMS = ("routing", "routing without null", "sequential", "multi-task", "oracle", "uniform")
_QUESTIONS = {
    BASE: "which digit?",
    "parity": "odd or even?",
    "five": "at least five?",
    "dark": "how dark, left?",
    "letter": "next letter: ",
}


@dataclass(frozen=True)
class Examples:
    """Images `[n, 4, 16]` or None, question bytes `[n, L]` and answer bytes `[n]` of one task."""

    images: Tensor | None
    text: Tensor
    answer: Tensor

    def at(self, index: Tensor) -> Examples:
        """Some of them."""
        images = None if self.images is None else self.images[index]
        return Examples(images, self.text[index], self.answer[index])


class TinyVLM(nn.Module):
    """[image tokens; question] -> logits `[B, V]` of the answer."""

    def __init__(self) -> None:
        super().__init__()
        from transformers import LlamaConfig, LlamaForCausalLM

        config = LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=WIDTH,
            intermediate_size=HIDDEN,
            num_hidden_layers=LAYERS,
            num_attention_heads=HEADS,
            num_key_value_heads=HEADS,
            max_position_embeddings=64,
        )
        self.language: Any = LlamaForCausalLM(config)
        self.projector = nn.Linear(16, WIDTH)

    def forward(self, examples: Examples) -> Tensor:
        x = self.language.get_input_embeddings()(examples.text)
        if examples.images is not None:
            x = torch.cat([self.projector(examples.images), x], dim=1)
        mask = torch.ones(x.shape[:2], dtype=torch.int64)
        out = self.language(inputs_embeds=x, attention_mask=mask, use_cache=False)
        logits: Tensor = out.logits[:, -1]
        return logits


def task_examples(task: str, held_out: bool) -> Examples:
    """All examples of a task in one part of the images.

    The 26 letters are no sample of anything: the letter task is seen and measured on all of them.
    """
    if task == "letter":
        letters = torch.arange(26)
        return Examples(None, _asked(task, letters + ord("a")), (letters + 1) % 26 + ord("a"))
    data = digits(N_TRAIN)
    images = data.held_out if held_out else data.train
    labels = data.held_out_labels if held_out else data.train_labels
    if task == "parity":
        answer = torch.where(labels % 2 == 0, ord("e"), ord("o"))
    elif task == "five":
        answer = torch.where(labels >= 5, ord("y"), ord("n"))
    elif task == "dark":
        edges = torch.quantile(_left(data.train), torch.tensor([0.25, 0.5, 0.75]))
        answer = torch.bucketize(_left(images), edges) + ord("0")
    else:
        answer = labels + ord("0")
    patches = images[:, 0].reshape(-1, 2, 4, 2, 4).transpose(2, 3).reshape(-1, 4, 16)
    return Examples(patches, _asked(task, None, len(images)), answer)


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
            f"A VLM of {LAYERS} layers and width {WIDTH} learned to read digits in {BASE_STEPS} "
            f"steps, then {len(TASKS)} tasks in turn: {MODULE_STEPS} steps of a rank-{RANK} module "
            f"and {GATE_STEPS} of its vectors each, top-{K} with a null target; accuracies on held-"
            "out images (on all 26 letters) after the last task, mean over "
            f"{len(context.seeds)} seeds"
        ),
    )


def trial(arm: str, seed: int) -> dict[str, float]:
    """Accuracy of every arm on every task, after the last task, of one seed."""
    from wye.adapter.vlm_dynamic_routing import DynamicRouting

    base = TinyVLM()
    generator = torch.Generator().manual_seed(seed)
    _train_base(base, generator)
    figures = {"untouched base, digit": accuracy(base, BASE)}

    vlm = copy.deepcopy(base)
    routed = DynamicRouting(vlm.language, k=K)
    for task in TASKS:
        _learn(routed, vlm, task, [task], MODULE_STEPS, GATE_STEPS, generator)
    ways: dict[str, Callable[[str], AbstractContextManager[Any]]] = {
        "routing": lambda task: nullcontext(),
        "routing without null": lambda task: _no_null(routed),
        "oracle": lambda task: routed.without() if task == BASE else routed.alone(task),
        "uniform": lambda task: routed.mixed(),
    }
    for name, way in ways.items():
        figures |= _measured(name, vlm, way)
    figures |= _null_shares(routed, vlm)

    steps = MODULE_STEPS + GATE_STEPS
    vlm = copy.deepcopy(base)
    one = DynamicRouting(vlm.language)
    one.add("one", _config(vlm))
    for task in TASKS:
        _fit(one, vlm, "one", [task], steps, generator)
    figures |= _measured("sequential", vlm, lambda task: one.alone("one"))

    vlm = copy.deepcopy(base)
    every = DynamicRouting(vlm.language)
    every.add("every", _config(vlm))
    _fit(every, vlm, "every", TASKS, steps * len(TASKS), generator)
    return figures | _measured("multi-task", vlm, lambda task: every.alone("every"))


@torch.no_grad()
def accuracy(vlm: TinyVLM, task: str) -> float:
    """Share of held-out questions answered with the right byte of all bytes."""
    examples = task_examples(task, held_out=True)
    vlm.eval()
    return float((vlm(examples).argmax(dim=-1) == examples.answer).float().mean())


def _measured(
    arm: str, vlm: TinyVLM, way: Callable[[str], AbstractContextManager[Any]]
) -> dict[str, float]:
    found = {}
    for task in (BASE, *TASKS):
        with way(task):
            found[f"{arm}, {task}"] = accuracy(vlm, task)
    return {f"{arm}, average": float(np.mean(list(found.values()))), **found}


def _null_shares(routed: DynamicRouting, vlm: TinyVLM) -> dict[str, float]:
    """Mean over layers of the weight that goes to no module, on questions of each task."""
    shares = {}
    for task in (BASE, *TASKS):
        accuracy(vlm, task)
        shares[f"null share, {task}"] = float(np.mean(list(routed.null_share().values())))
    return shares


@contextmanager
def _no_null(routed: DynamicRouting) -> Iterator[None]:
    routed.routing.null = False
    try:
        yield
    finally:
        routed.routing.null = True


def _train_base(vlm: TinyVLM, generator: Generator) -> None:
    examples = task_examples(BASE, held_out=False)
    optimiser = torch.optim.AdamW(vlm.parameters(), lr=BASE_RATE)
    vlm.train()
    for _ in range(BASE_STEPS):
        loss = _loss(vlm, examples, generator)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(vlm.parameters(), 1.0)
        optimiser.step()
    vlm.requires_grad_(False)


def _learn(
    routed: DynamicRouting,
    vlm: TinyVLM,
    name: str,
    tasks: Sequence[str],
    module_steps: int,
    gate_steps: int,
    generator: Generator,
) -> None:
    routed.add(name, _config(vlm))
    _fit(routed, vlm, name, tasks, module_steps, generator)
    loss = _loss_of(vlm, tasks, generator)
    routed.train_gate(name, loss, steps=gate_steps, rate=GATE_RATE)


def _fit(
    routed: DynamicRouting,
    vlm: TinyVLM,
    name: str,
    tasks: Sequence[str],
    steps: int,
    generator: Generator,
) -> None:
    loss = _loss_of(vlm, tasks, generator)
    routed.train_module(name, loss, steps=steps, rate=MODULE_RATE)


def _loss_of(vlm: TinyVLM, tasks: Sequence[str], generator: Generator) -> Callable[[int], Tensor]:
    """Batches of the tasks in turn."""
    parts = [task_examples(task, held_out=False) for task in tasks]
    return lambda step: _loss(vlm, parts[step % len(parts)], generator)


def _loss(vlm: TinyVLM, examples: Examples, generator: Generator) -> Tensor:
    index = torch.randint(len(examples.answer), (BATCH,), generator=generator)
    some = examples.at(index)
    return F.cross_entropy(vlm(some), some.answer)


def _config(vlm: TinyVLM) -> Any:
    from wye.adapter.lora_modules import layer_config

    return layer_config(vlm.language, range(LAYERS), rank=RANK, alpha=2 * RANK)


def _asked(task: str, last: Tensor | None, n: int = 0) -> Tensor:
    question = torch.tensor(list(_QUESTIONS[task].encode()))
    if last is None:
        return question.expand(n, -1)
    return torch.cat([question.expand(len(last), -1), last[:, None]], dim=1)


def _left(images: Tensor) -> Tensor:
    """Mean ink of the left half, `[n]`."""
    return images[:, 0, :, :4].mean(dim=(1, 2))
