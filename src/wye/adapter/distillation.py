"""A model learns to answer without a persona as it answers with one.

Teacher: the model on (persona, query). Student: the model with the adapter on the query alone.
Loss: mean over the tokens of an answer of KL(teacher || student), teacher forced (arXiv 2603.18507,
stage 5, which says "KL"; this direction is our reading, the other is a flag).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from wye.adapter.base import AdapterError
from wye.adapter.gated_adapter import BASE, GatedAdapter
from wye.adapter.prompts import answer_logits
from wye.adapter.training import train_tensors

Direction = Literal["forward", "reverse"]


@dataclass(frozen=True)
class Distilled:
    """One answer to learn: ids of the prompt without and with the persona, and of the answer."""

    student: tuple[int, ...]
    teacher: tuple[int, ...]
    answer: tuple[int, ...]


def token_divergence(teacher: Tensor, student: Tensor, direction: Direction = "forward") -> Tensor:
    """Mean over tokens of the divergence in nats between two sets of logits `[..., V]`.

    Args:
        teacher: logits of P.
        student: logits of Q.
        direction: "forward", KL(P || Q); "reverse", KL(Q || P).

    Raises:
        AdapterError: another direction.

    Example:
        >>> import torch
        >>> p, q = torch.log(torch.tensor([[0.5, 0.5]])), torch.log(torch.tensor([[0.25, 0.75]]))
        >>> round(float(token_divergence(p, q)), 4)
        0.1438
    """
    if direction not in ("forward", "reverse"):
        raise AdapterError(f"direction={direction!r}, expected 'forward' or 'reverse'")
    p = torch.log_softmax(teacher.float(), dim=-1)
    q = torch.log_softmax(student.float(), dim=-1)
    if direction == "reverse":
        p, q = q, p
    return (p.exp() * (p - q)).sum(dim=-1).mean()


def distil(
    gated: GatedAdapter,
    adapter: str,
    items: Sequence[Distilled],
    *,
    steps: int | None = None,
    epochs: int = 3,
    batch: int = 8,
    rate: float = 1e-4,
    direction: Direction = "forward",
    seed: int = 0,
    progress: Callable[[int, float], None] | None = None,
) -> list[float]:
    """Train one adapter on the answers of its persona; the gate and the base stay as they are.

    Args:
        gated: the model.
        adapter: which of its adapters learns.
        items: answers to learn.
        steps: of AdamW; `epochs` over the items when None.
        epochs: passes over the items.
        batch: answers of a step; their losses are averaged.
        rate: learning rate.
        direction: of the divergence.
        seed: of the order.
        progress: gets the steps done and the loss.

    Returns:
        The loss of every step.

    Raises:
        AdapterError: no items, an item without answer, or a loss that is not finite.
    """
    if not items or not all(item.answer for item in items):
        raise AdapterError("there is nothing to distil: expected items with answers")
    order = _order(len(items), seed)
    n_steps = steps if steps is not None else max(1, epochs * len(items) // batch)

    def loss(step: int) -> Tensor:
        total = torch.zeros((), device=gated.device)
        for _ in range(batch):
            item = items[next(order)]
            with torch.no_grad(), gated.forced(BASE):
                teacher = _logits(gated.inner, item.teacher, item.answer)
            with gated.forced(adapter):
                student = _logits(gated.inner, item.student, item.answer)
                total = total + token_divergence(teacher, student, direction)
        return total / batch

    tensors: list[nn.Parameter] = []
    for layer in _layers(gated, adapter):
        tensors += [layer.lora_A[adapter].weight, layer.lora_B[adapter].weight]
    return train_tensors(gated.inner, tensors, loss, steps=n_steps, rate=rate, progress=progress)


def _layers(gated: GatedAdapter, adapter: str) -> list[Any]:
    from wye.adapter.lora_modules import lora_layers

    return list(lora_layers(gated.inner, adapter).values())


def _logits(model: nn.Module, prompt: tuple[int, ...], answer: tuple[int, ...]) -> Tensor:
    device = next(model.parameters()).device
    ids = torch.tensor([[*prompt, *answer]], device=device)
    return answer_logits(model, ids, len(prompt))


def _order(n: int, seed: int) -> Any:
    """Indices in an order drawn anew for every pass."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield from torch.randperm(n, generator=generator).tolist()
