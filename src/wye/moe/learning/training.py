"""Training a language model with routed layers on text, and measuring it.

Everything random follows from one seed: the order of the data, and the draws of routers, which
take them from PyTorch's global generator. The state of that generator is put back afterwards.

Optimiser: AdamW (betas 0.9 and 0.95, weight decay 0.01) with a linear warm-up over the first tenth
of the steps, 20 at most; then a constant rate, or a cosine down to a tenth of it. The default is
constant, so that a run of 100 steps is the beginning of one of 300.

Shape letters: B batch, L length, E experts.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from wye.core import max_violation
from wye.moe.base import MoEError, RoutedModule, Router, after_step, routed_layers
from wye.moe.learning.text_windows import WindowReader, cut_windows, ids_of
from wye.moe.learning.text_windows import windows as windows
from wye.moe.losses import aux_loss, loss_scale
from wye.moe.parts.global_balance import GlobalBatch, needs_counting

Floats = NDArray[np.float64]
Objective = Callable[[nn.Module, Tensor, Generator], Tensor]
"""(model, ids [B, L + 1], generator) -> scalar loss in nats per predicted token."""
Schedule = Literal["constant", "cosine"]


@dataclass(frozen=True)
class Step:
    """One optimiser step, as a progress callback gets it.

    Attributes:
        number: from 1 to `steps`.
        steps: of the whole run.
        loss: training loss in nats, without auxiliary losses.
        max_violation: MaxVio of the layer where it is largest; 0 without routed layers.
        tokens_per_second: of this step.
    """

    number: int
    steps: int
    loss: float
    max_violation: float
    tokens_per_second: float


@dataclass(frozen=True)
class TrainingLog:
    """What happened, step by step.

    Attributes:
        layers: names of the routed layers.
        loss: `[steps]` nats per predicted token, without auxiliary losses.
        auxiliary: `[steps]` sum of the weighted auxiliary losses of all layers.
        loads: by layer, `[steps, E]` pairs of each expert.
        tokens: `[steps, layers]` tokens that were routed.
        drop_share: `[steps, layers]` share of the S k pairs that found no place; NaN where the
            number of experts per token is not fixed.
        seconds: `[steps]`.
        tokens_per_step: B L times the micro-batches.
    """

    layers: tuple[str, ...]
    loss: Floats
    auxiliary: Floats
    loads: Mapping[str, Floats]
    tokens: Floats
    drop_share: Floats
    seconds: Floats
    tokens_per_step: int

    @property
    def load(self) -> Floats:
        """`[steps, layers, E]`, for layers of one E.

        Raises:
            MoEError: layers with different numbers of experts; take `loads` by layer.
        """
        return _stacked(self.loads)

    @property
    def max_violation(self) -> Floats:
        """`[steps, layers]` MaxVio: largest load over mean load less 1."""
        rows = [[max_violation(row) for row in self.loads[name]] for name in self.layers]
        return np.array(rows, dtype=np.float64).reshape(len(self.layers), len(self.loss)).T

    @property
    def fan_out(self) -> Floats:
        """`[steps, layers]` mean experts per token."""
        pairs = [self.loads[name].sum(axis=1) for name in self.layers]
        columns = np.array(pairs, dtype=np.float64).reshape(len(self.layers), len(self.loss)).T
        return columns / np.maximum(self.tokens, 1)

    @property
    def tokens_per_second(self) -> float:
        """Median over the steps, which a pause of the machine does not move."""
        return float(self.tokens_per_step / np.median(self.seconds))


@dataclass(frozen=True)
class Evaluation:
    """A model in evaluation mode on held-out text.

    Attributes:
        loss: nats per predicted token.
        loads: by layer, `[E]` pairs of each expert over all batches.
        tokens: by layer, tokens that were routed.
    """

    loss: float
    loads: Mapping[str, Floats]
    tokens: Mapping[str, int] = field(default_factory=dict)

    @property
    def load(self) -> Floats:
        """`[layers, E]`, for layers of one E; else MoEError."""
        return _stacked(self.loads)

    @property
    def max_violation(self) -> dict[str, float]:
        """MaxVio by layer."""
        return {name: max_violation(load) for name, load in self.loads.items()}

    @property
    def fan_out(self) -> dict[str, float]:
        """Mean experts per token by layer."""
        return {n: float(load.sum()) / max(self.tokens[n], 1) for n, load in self.loads.items()}


def next_token_loss(model: nn.Module, ids: Tensor, generator: Generator) -> Tensor:
    """Mean cross-entropy of each token given those before it."""
    logits = model(ids[:, :-1])
    return F.cross_entropy(logits.flatten(0, 1).float(), ids[:, 1:].flatten())


def train(
    model: nn.Module,
    text: bytes | Tensor | Sequence[bytes | Tensor],
    *,
    steps: int,
    batch: int = 16,
    length: int = 64,
    rate: float = 3e-3,
    schedule: Schedule = "constant",
    seed: int = 0,
    micro_batches: int = 1,
    clip: float = 1.0,
    objective: Objective = next_token_loss,
    progress: bool | Callable[[Step], None] = False,
) -> TrainingLog:
    """Train on random windows of `text`.

    Args:
        model: maps ids `[B, L]` to logits `[B, L, V]`; `wye.moe.LanguageModel`, for instance.
        text: bytes, or integer ids `[n]` with more than `length` of them; or several such texts, of
            which every micro-batch reads one, all in turn and in an order drawn anew each round.
        steps: optimiser steps.
        batch: B, windows per micro-batch.
        length: L, predicted tokens per window.
        rate: learning rate after the warm-up.
        schedule: "constant", or "cosine" down to a tenth of the rate.
        seed: of data order and of the draws of routers.
        micro_batches: forward and backward passes per optimiser step.
        clip: largest norm of the gradient.
        objective: what is minimised; gets windows of L + 1 ids.
        progress: True shows a bar; a function is called after every step.

    Raises:
        MoEError: sizes that make no sense, too little text, a loss that is not finite.

    Warns:
        UserWarning: next tokens are predicted through a router that sees them.
    """
    for name, value in {"steps": steps, "batch": batch, "micro_batches": micro_batches}.items():
        if value < 1:
            raise MoEError(f"{name}={value}, expected at least 1")
    if schedule not in ("constant", "cosine"):
        raise MoEError(f"schedule={schedule!r}, expected 'constant' or 'cosine'")
    if objective is next_token_loss:
        _warn_of_later_tokens(model)
    device = _device(model)
    read = WindowReader(text, batch, length)
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=rate, betas=(0.9, 0.95), weight_decay=0.01, fused=_fusable(model)
    )
    book = _Book(routed_layers(model), steps)
    was_training = model.training
    model.train()
    try:
        with _seeded(seed, device) as generator, _reporter(progress, steps) as report:
            for step in range(steps):
                started = time.perf_counter()
                for group in optimiser.param_groups:
                    group["lr"] = rate * share_of_rate(step, steps, schedule)
                drawn = [read.windows(generator).to(device) for _ in range(micro_batches)]
                _count(model, drawn, objective, generator)
                for window in drawn:
                    _learn(model, window, objective, generator, micro_batches, book, step)
                nn.utils.clip_grad_norm_(model.parameters(), clip)
                optimiser.step()
                optimiser.zero_grad(set_to_none=True)
                after_step(model)
                book.seconds[step] = time.perf_counter() - started
                if report is not None:
                    report(book.step(step, batch * length * micro_batches))
    finally:
        model.train(was_training)
    return book.log(batch * length * micro_batches)


def _warn_of_later_tokens(model: nn.Module) -> None:
    seeing = [
        name
        for name, module in model.named_modules()
        if isinstance(module, Router) and not module.contracts.causal
    ]
    if seeing:
        warnings.warn(
            f"{seeing} route a token by later ones, so that the loss of predicting the next token "
            "flatters: train on a masked objective, or measure by generation",
            stacklevel=3,
        )


@torch.no_grad()
def evaluate(
    model: nn.Module,
    text: bytes | Tensor,
    *,
    batches: int = 8,
    batch: int = 16,
    length: int = 64,
    seed: int = 0,
    objective: Objective = next_token_loss,
) -> Evaluation:
    """Measure on windows at even distances over the whole of `text`.

    Args:
        model, text, batch, length, objective: as in `train`.
        batches: batches of `batch` windows; fewer where the text ends before.
        seed: of the draws of the objective.

    Raises:
        MoEError: less text than one window.
    """
    if batches < 1 or batch < 1:
        raise MoEError(f"batches={batches} and batch={batch}, expected at least 1")
    device = _device(model)
    ids = ids_of(text, length)
    count = min(batches * batch, ids.shape[0] // (length + 1))
    starts = torch.linspace(0, ids.shape[0] - length - 1, count, dtype=torch.float64).long()
    layers = routed_layers(model)
    loads = {name: np.zeros(layer.router.n_experts) for name, layer in layers.items()}
    tokens = dict.fromkeys(layers, 0)
    total = 0.0
    was_training = model.training
    model.eval()
    try:
        with _seeded(seed, device) as generator:
            for some in torch.split(starts, batch):
                window = cut_windows(ids, some, length).to(device)
                total += float(objective(model, window, generator)) * some.shape[0]
                for name, layer in layers.items():
                    plan = _routing(layer).plan
                    loads[name] += plan.load().cpu().numpy()
                    tokens[name] += plan.n_sources
    finally:
        model.train(was_training)
    return Evaluation(total / count, loads, tokens)


def _count(
    model: nn.Module, drawn: list[Tensor], objective: Objective, generator: Generator
) -> None:
    """Show the windows of a step beforehand to layers that balance over all of them."""
    if not needs_counting(model):
        return
    # The same draws as in the passes that follow.
    twin = Generator().manual_seed(0)
    twin.set_state(generator.get_state())
    step = GlobalBatch(model)
    for window in drawn:
        step.count(model, window, twin, run=objective)


class _Book:
    """What is written down while a model trains."""

    def __init__(self, layers: Mapping[str, RoutedModule], steps: int) -> None:
        self.layers, self.steps = layers, steps
        self.loss, self.auxiliary, self.seconds = (np.zeros(steps) for _ in range(3))
        self.loads = {n: np.zeros((steps, x.router.n_experts)) for n, x in layers.items()}
        self.tokens = np.zeros((steps, len(layers)))

    def write(self, step: int, loss: float, share: float) -> None:
        if not math.isfinite(loss):
            raise MoEError(
                f"the loss is {loss} in step {step + 1}: lower the rate, or look for what made it "
                "in the layers' logits"
            )
        self.loss[step] += loss * share
        for place, (name, layer) in enumerate(self.layers.items()):
            routing = _routing(layer)
            self.loads[name][step] += routing.plan.load().cpu().numpy()
            self.tokens[step, place] += routing.plan.n_sources
            self.auxiliary[step] += sum(float(v.detach()) for v in routing.losses.values()) * share

    def step(self, step: int, tokens: int) -> Step:
        worst = max((max_violation(load[step]) for load in self.loads.values()), default=0.0)
        rate = tokens / self.seconds[step]
        return Step(step + 1, self.steps, float(self.loss[step]), worst, float(rate))

    def log(self, tokens_per_step: int) -> TrainingLog:
        dropped = np.full(self.tokens.shape, np.nan)
        for place, (name, layer) in enumerate(self.layers.items()):
            k = fixed_fan_out(layer)
            if k is not None:
                wanted = np.maximum(self.tokens[:, place] * k, 1)
                dropped[:, place] = 1.0 - self.loads[name].sum(axis=1) / wanted
        return TrainingLog(
            tuple(self.layers),
            self.loss,
            self.auxiliary,
            self.loads,
            self.tokens,
            dropped,
            self.seconds,
            tokens_per_step,
        )


def fixed_fan_out(layer: RoutedModule) -> int | None:
    """Experts that every token of `layer` asks for; None where the number varies."""
    selection = getattr(layer.router, "selection", None)
    k = getattr(selection, "k", None)
    return k if isinstance(k, int) else getattr(selection, "fan_out", None)


def _learn(
    model: nn.Module,
    window: Tensor,
    objective: Objective,
    generator: Generator,
    micro_batches: int,
    book: _Book,
    step: int,
) -> None:
    loss = objective(model, window, generator)
    share = 1.0 / micro_batches
    book.write(step, float(loss.detach()), share)
    if any(not layer.carries_losses for layer in book.layers.values()):
        loss = loss + aux_loss(model)
    with loss_scale(share):
        torch.autograd.backward(loss * share if micro_batches > 1 else loss)


def share_of_rate(step: int, steps: int, schedule: Schedule) -> float:
    """What part of the learning rate step `step` (from 0) of `steps` uses, in (0, 1]."""
    warm = max(1, min(20, steps // 10))
    if step < warm:
        return (step + 1) / warm
    if schedule == "constant":
        return 1.0
    done = (step - warm) / max(1, steps - warm)
    return 0.1 + 0.45 * (1 + math.cos(math.pi * done))


def _routing(layer: RoutedModule) -> Any:
    if layer._last is None:
        raise MoEError("a routed layer of the model took no part in its forward pass")
    return layer._last


def _device(model: nn.Module) -> torch.device:
    first = next(model.parameters(), None)
    if first is None:
        raise MoEError(f"{type(model).__name__} has no parameters to train")
    return first.device


def _fusable(model: nn.Module) -> bool:
    return all(p.device.type in ("cpu", "cuda") for p in model.parameters())


def _stacked(loads: Mapping[str, Floats]) -> Floats:
    widths = {load.shape[-1] for load in loads.values()}
    if len(widths) != 1:
        raise MoEError(f"the layers have {sorted(widths)} experts: take loads[name] of each")
    return np.stack(list(loads.values()), axis=-2)


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[Generator]:
    """A generator for the data; the global ones are seeded inside and put back after."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield Generator().manual_seed(seed)


@contextmanager
def _reporter(
    progress: bool | Callable[[Step], None], steps: int
) -> Iterator[Callable[[Step], None] | None]:
    if progress is False:
        yield None
    elif progress is True:
        from wye.moe.learning.training_bar import training_bar

        with training_bar(steps) as report:
            yield report
    else:
        with nullcontext():
            yield progress
