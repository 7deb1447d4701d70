"""Experts drawn at random instead of scored: per batch, per sentence, or per token.

In training the draws come from PyTorch's global generator, whose state activation checkpointing
puts back, so that a recomputed block runs the experts that it ran. In evaluation they are a hash of
what is being read, so that results repeat, and depend neither on later tokens nor on batch mates:
a sentence is known by its first token (give `same_draws` better names where you have them).

Shape letters: S tokens, E experts, B batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from wye.core import Plan, hashed
from wye.moe.base import Context, MoEError
from wye.moe.losses import recomputing
from wye.moe.parts.selection import Candidates, Selection

Unit = Literal["batch", "sentence", "token"]
Inference = Literal["batch", "sentence", "token", "ensemble", "fixed"]
_PRIME = 1_000_003


@dataclass
class _Named:
    """What draws are a function of while `same_draws` lasts."""

    seed: int
    sentences: Tensor | None
    passes: int = 0


class UniformDraw(Selection):
    """One expert, all equally likely; or all of them with equal weight.

    Args:
        draw: what shares a draw in training: the whole batch, a sentence, or nothing.
        inference: the same in evaluation; or "ensemble", the mean of all experts at E times the
            cost; or "fixed", expert 0.
        layer: index of the layer, so that layers draw independently.
        seed: of the hash in evaluation.

    Attributes:
        generator: where evaluation draws from instead of the hash, when set.

    Raises:
        MoEError: an unknown unit.
    """

    weighs = True

    def __init__(
        self,
        *,
        draw: Unit = "batch",
        inference: Inference = "sentence",
        layer: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if draw not in get_args(Unit):
            raise MoEError(f"draw={draw!r}, expected one of {get_args(Unit)}")
        self.draw: Unit = draw
        self.inference: Inference = _known(inference)
        self.layer, self.seed = layer, seed
        self.generator: torch.Generator | None = None
        self._named: _Named | None = None

    def forward(self, candidates: Candidates) -> Plan:
        n, n_experts = candidates.affinity.shape
        mode = self.draw if self.training else self.inference
        source = torch.arange(n, device=candidates.affinity.device)
        if mode == "ensemble":
            pairs = source.repeat_interleave(n_experts)
            target = torch.arange(n_experts, device=source.device).repeat(n)
            weight = candidates.affinity.new_full((n * n_experts,), 1.0 / n_experts)
            return Plan(pairs, target, weight, n, n_experts)
        if mode == "fixed" or n == 0:
            target = torch.zeros_like(source)
        elif self._named is not None or (not self.training and self.generator is None):
            target = self._hashed(source, candidates.context, mode, n_experts)
        else:
            target = self._drawn(source, candidates.context, mode, n_experts)
        return Plan(source, target, candidates.affinity.new_ones(n), n, n_experts)

    def _drawn(self, source: Tensor, context: Context, unit: str, n_experts: int) -> Tensor:
        size = {"batch": 1, "sentence": context.batch, "token": source.shape[0]}[unit]
        generator = None if self.training else self.generator
        device = source.device if generator is None else generator.device
        drawn = torch.randint(n_experts, (size,), generator=generator, device=device)
        return _spread(drawn.to(source.device), source, context, unit)

    def _hashed(self, source: Tensor, context: Context, unit: str, n_experts: int) -> Tensor:
        key, number, sentence = self.seed, 0, None
        if self._named is not None:
            key, sentence = self._named.seed, self._named.sentences
            number = self._pass(self._named)
        seed = ((key * _PRIME + self.layer) * _PRIME + number) % (1 << 62)
        if unit == "batch":
            ids = source.new_zeros(1)
        else:
            sequence = context.sequence(source.device)
            first = source.new_full((context.batch,), source.shape[0] - 1)
            first = first.scatter_reduce(0, sequence, source, "amin")
            ids = self._sentences(first, context, sentence)
            if unit == "token":
                ids = ids[sequence] * _PRIME + (source - first[sequence])
                if context.token_ids is not None:
                    ids = ids * _PRIME + context.token_ids
        found = hashed(ids, n_experts, seed=seed, check=False).target
        return _spread(found, source, context, unit)

    def _sentences(self, first: Tensor, context: Context, given: Tensor | None) -> Tensor:
        """What each sentence of the batch is called, int64 `[B]`."""
        if given is not None:
            if tuple(given.shape) != (context.batch,):
                raise MoEError(
                    f"sentences have shape {tuple(given.shape)}, expected one number for each of "
                    f"the {context.batch} sequences of the batch"
                )
            return given.to(first.device, torch.int64)
        if context.token_ids is None:
            return torch.zeros_like(first)
        return context.token_ids[first].to(torch.int64)

    def _pass(self, named: _Named) -> int:
        if not self.training:
            return 0
        if recomputing():
            if named.passes > 1:
                raise MoEError(
                    "activation checkpointing runs a block again, and under same_draws it cannot "
                    f"tell which of {named.passes} forward passes that repeats: run the backward "
                    "pass of each before the next, each in a same_draws of its own"
                )
            return 0
        named.passes += 1
        return named.passes - 1

    def extra_repr(self) -> str:
        return f"draw={self.draw}, inference={self.inference}, layer={self.layer}"


def drawing_layers(model: nn.Module) -> list[UniformDraw]:
    """Every selection of `model` that draws.

    Raises:
        MoEError: there is none.
    """
    found = [module for module in model.modules() if isinstance(module, UniformDraw)]
    if not found:
        raise MoEError(f"{type(model).__name__} has no layer that draws its experts")
    return found


@contextmanager
def inference(
    model: nn.Module, mode: Inference, *, generator: torch.Generator | None = None
) -> Iterator[None]:
    """Let all drawing layers of `model` infer in another way while it lasts.

    Args:
        model: in evaluation mode.
        mode: as in `UniformDraw`.
        generator: where draws come from; the hash when not given.
    """
    layers = drawing_layers(model)
    before = [(layer.inference, layer.generator) for layer in layers]
    for layer in layers:
        layer.inference, layer.generator = _known(mode), generator
    try:
        yield
    finally:
        for layer, (old, source) in zip(layers, before, strict=True):
            layer.inference, layer.generator = old, source


@contextmanager
def same_draws(model: nn.Module, seed: int, *, sentences: Tensor | None = None) -> Iterator[None]:
    """Make draws a function of (seed, layer, forward pass inside, unit) while it lasts.

    Micro-batches that are accumulated into one step draw the same experts when each runs under the
    same seed. Beams of one sentence share a draw when they are given the same number. Under
    activation checkpointing keep the backward pass inside.

    Args:
        model: holds layers that draw.
        seed: of the hash.
        sentences: `[B]` integers that name the sequences; by default their first tokens do.
    """
    layers = drawing_layers(model)
    before = [layer._named for layer in layers]
    for layer in layers:
        layer._named = _Named(seed, sentences)
    try:
        yield
    finally:
        for layer, old in zip(layers, before, strict=True):
            layer._named = old


def _spread(drawn: Tensor, source: Tensor, context: Context, unit: str) -> Tensor:
    """The draws of all units as one expert `[S]` per token."""
    if unit == "token":
        return drawn
    if unit == "batch":
        return drawn.expand(source.shape[0])
    return drawn[context.sequence(source.device)]


def _known(mode: Inference) -> Inference:
    if mode not in get_args(Inference):
        raise MoEError(f"inference={mode!r}, expected one of {get_args(Inference)}")
    return mode
