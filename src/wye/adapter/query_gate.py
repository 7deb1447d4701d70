"""A small network that says, from one hidden state of a query, which adapters would help it.

g = MLP D -> 128 -> 64 -> T with GELU on the standardised state; R = sigmoid(g(h)). Trained by
binary cross-entropy on 0/1 targets, each step drawing as many queries of the rarer answer as of the
other. Standardising h by the training queries' mean and deviation is ours: states of an early layer
have a few coordinates far larger than the rest.

Shape letters: Q queries, T adapters, D width.
"""

from __future__ import annotations

import copy
import math
import warnings
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from wye.adapter.base import AdapterError


class QueryGate(nn.Module):
    """Hidden states `[Q, D]` -> `[Q, T]` in [0, 1], in float32.

    Args:
        width: D.
        n_adapters: T.
        hidden: widths of the two hidden layers.
    """

    def __init__(self, width: int, n_adapters: int, hidden: tuple[int, int] = (128, 64)) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(width, hidden[0]),
            nn.GELU(),
            nn.Linear(hidden[0], hidden[1]),
            nn.GELU(),
            nn.Linear(hidden[1], n_adapters),
        )
        self.mean: Tensor
        self.scale: Tensor
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("scale", torch.ones(width))

    def logits(self, states: Tensor) -> Tensor:
        """g(h), `[Q, T]`."""
        logits: Tensor = self.layers((states.float() - self.mean) / self.scale)
        return logits

    def forward(self, states: Tensor) -> Tensor:
        return torch.sigmoid(self.logits(states))

    @torch.no_grad()
    def standardise(self, states: Tensor) -> None:
        """Take mean and deviation from `states` `[Q, D]`."""
        self.mean.copy_(states.float().mean(dim=0))
        spread = states.float().std(dim=0, correction=0)
        self.scale.copy_(spread.clamp_min(1e-3 * float(spread.max()) + 1e-6))

    @torch.no_grad()
    def make_constant(self, adapter: int, value: bool) -> None:
        """Answer `value` for every query in one column, whatever its state."""
        last = self.layers[-1]
        assert isinstance(last, nn.Linear)
        last.weight[adapter] = 0.0
        last.bias[adapter] = 30.0 if value else -30.0


@dataclass(frozen=True)
class GateFit:
    """How a gate was trained.

    Attributes:
        epochs: that ran.
        loss: of the epoch whose weights were kept, on the held-out queries.
        constant: columns whose targets were all the same, so that there was nothing to learn.
    """

    epochs: int
    loss: float
    constant: tuple[int, ...]


def train_query_gate(
    gate: QueryGate,
    states: Tensor,
    targets: Tensor,
    *,
    epochs: int = 50,
    batch: int = 32,
    rate: float = 1e-3,
    held_out: float = 0.2,
    patience: int = 10,
    seed: int = 0,
) -> GateFit:
    """Train a gate on targets, with both answers drawn equally often.

    Args:
        gate: trained in place.
        states: `[Q, D]`.
        targets: `[Q, T]` of 0 and 1; NaN where unknown.
        epochs: passes over the training queries; fewer where the held-out loss stops falling for
            `patience` of them. The weights of the best epoch are kept.
        batch: queries of a step.
        rate: of AdamW.
        held_out: share of the queries that choose the epoch.
        patience: epochs.
        seed: of the split, the draws and the initial weights' order.

    Raises:
        AdapterError: shapes that do not fit, targets that are not 0 or 1, states that are not
            finite.

    Warns:
        UserWarning: a column whose targets are all the same gets a constant gate.
    """
    known = _check(gate, states, targets)
    generator = torch.Generator().manual_seed(seed)
    states, targets = states.detach().float().cpu(), targets.float().cpu()
    constant = []
    for column in range(targets.shape[1]):
        values = targets[known[:, column], column]
        if values.numel() == 0 or bool((values == values[0]).all()):
            constant.append(column)
    if len(constant) < targets.shape[1]:
        gate.standardise(states)
        ran, best = _fit(gate, states, targets, constant, epochs, batch, rate, held_out, patience,
                         generator)  # fmt: skip
    else:
        ran, best = 0, math.nan
    for column in constant:
        values = targets[known[:, column], column]
        value = bool(values.numel()) and bool(values[0] > 0.5)
        warnings.warn(
            f"all known targets of adapter {column} are {'1' if value else '0 or there are none'}: "
            f"its gate is constantly {'open' if value else 'closed'}",
            stacklevel=2,
        )
        gate.make_constant(column, value)
    return GateFit(ran, best, tuple(constant))


def _check(gate: QueryGate, states: Tensor, targets: Tensor) -> Tensor:
    width = gate.mean.shape[0]
    if states.ndim != 2 or states.shape[1] != width or targets.ndim != 2 or not len(states):
        raise AdapterError(
            f"states have shape {tuple(states.shape)} and targets {tuple(targets.shape)}, expected "
            f"[Q, {width}] and [Q, T] with at least one query"
        )
    last = gate.layers[-1]
    assert isinstance(last, nn.Linear)
    n_adapters = last.out_features
    if targets.shape != (len(states), n_adapters):
        raise AdapterError(
            f"targets have shape {tuple(targets.shape)}, expected [{len(states)}, {n_adapters}]"
        )
    known = ~torch.isnan(targets)
    if not bool(((targets == 0) | (targets == 1) | ~known).all()):
        raise AdapterError("targets hold values other than 0, 1 and NaN (unknown)")
    if not bool(torch.isfinite(states).all()):
        raise AdapterError("hidden states hold NaN or infinite values")
    return known


def _fit(
    gate: QueryGate,
    states: Tensor,
    targets: Tensor,
    constant: list[int],
    epochs: int,
    batch: int,
    rate: float,
    held_out: float,
    patience: int,
    generator: Generator,
) -> tuple[int, float]:
    test, train = _split(targets, held_out, generator)
    columns = [c for c in range(targets.shape[1]) if c not in constant]
    weight_test = [_balanced(targets[test, c]) for c in columns]
    optimiser = torch.optim.AdamW(gate.parameters(), lr=rate)
    best, kept, since, ran = math.inf, copy.deepcopy(gate.state_dict()), 0, 0
    for ran in range(1, epochs + 1):  # noqa: B007
        for _ in range(max(1, math.ceil(len(train) / batch))):
            loss = torch.zeros(())
            for column in columns:
                weight = _balanced(targets[train, column])
                drawn = train[torch.multinomial(weight, batch, True, generator=generator)]
                logits = gate.logits(states[drawn])[:, column]
                loss = loss + F.binary_cross_entropy_with_logits(logits, targets[drawn, column])
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        with torch.no_grad():
            logits = gate.logits(states[test])
            now = sum(
                float(
                    (F.binary_cross_entropy_with_logits(
                        logits[:, c], targets[test, c].nan_to_num(), reduction="none"
                    ) * w).sum()
                )
                for c, w in zip(columns, weight_test, strict=True)
            )  # fmt: skip
        if now < best:
            best, kept, since = now, copy.deepcopy(gate.state_dict()), 0
        else:
            since += 1
            if since >= patience:
                break
    gate.load_state_dict(kept)
    return ran, best


def _split(targets: Tensor, held_out: float, generator: Generator) -> tuple[Tensor, Tensor]:
    """Indices of held-out and training queries, each answer of the first column in both parts."""
    shuffled = torch.randperm(len(targets), generator=generator)
    values = targets[shuffled].nan_to_num(nan=0.0).sum(dim=1) > 0
    parts: tuple[list[Tensor], list[Tensor]] = ([], [])
    for answer in (False, True):
        group = shuffled[values == answer]
        n = max(1, round(held_out * len(group))) if len(group) > 1 else 0
        parts[0].append(group[:n])
        parts[1].append(group[n:])
    test, train = torch.cat(parts[0]), torch.cat(parts[1])
    return (test, train) if len(test) else (train, train)


def _balanced(values: Tensor) -> Tensor:
    """Weights by which both answers weigh the same; unknown ones weigh nothing. They sum to 1."""
    weight = torch.zeros(len(values))
    for answer in (0.0, 1.0):
        group = values == answer
        weight[group] = 1.0 / max(int(group.sum()), 1)
    total = float(weight.sum())
    return weight / total if total else torch.full_like(weight, 1.0 / max(len(values), 1))
