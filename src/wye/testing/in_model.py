"""What a module in a model promises about a token's output, checked on any module.

`check_causal`: it does not change when later tokens do. `check_batch_invariant`: nor when the
other sequences of its batch do. `check_padding`: nor when its sequence is padded. Any callable
from hidden states `[B, L, D]` or token ids `[B, L]` to `[B, L, ...]` will do, peers' modules
included.

An answer that depends on nothing would pass all three, so each check also demands that a changed
token changes its own output.

Shape letters: B sequences, L positions, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

Called = Callable[..., Any]
MakeInput = Callable[[torch.Generator], Tensor]
Side = Literal["left", "right"]


class ContractError(AssertionError):
    """A module that does not keep what was asked of it; the message says where and by how much."""


def check_causal(
    module: Called,
    x: Tensor | MakeInput,
    *,
    cuts: Sequence[int] | None = None,
    tolerance: float = 1e-5,
    seed: int = 0,
) -> None:
    """Raise unless the output of every token is the same whatever the later tokens are.

    Modules run in evaluation mode, without gradient, and are left in the mode they were in.

    Args:
        module: `x -> [B, L, ...]`; a tuple's first entry, or `logits` or `last_hidden_state` of
            what it returns, is read.
        x: `[B, L, D]` floats or `[B, L]` integer ids, L >= 2; or a function that makes it from a
            `torch.Generator`. Integers are replaced by other ids that occur in `x`.
        cuts: positions from which on tokens are replaced; when not given, some at the start, in the
            middle and at the end.
        tolerance: largest difference that counts as rounding, times the largest output (at least
            1).
        seed: of the replaced tokens.

    Raises:
        ContractError: a token changed; the message names the first position and the difference. Or
            nothing depends on what was replaced, the output is not finite, not deterministic, or of
            another shape.

    Example:
        >>> import torch
        >>> check_causal(lambda x: x.cumsum(dim=1), torch.randn(2, 8, 4))
        >>> check_causal(lambda x: x - x.mean(dim=1, keepdim=True), torch.randn(2, 8, 4))
        Traceback (most recent call last):
        ...
        wye.testing.in_model.ContractError: ...
    """
    generator = torch.Generator().manual_seed(seed)
    x = _input(x, generator, least=(1, 2))
    length = x.shape[1]
    chosen = _cuts(length) if cuts is None else tuple(cuts)
    if not chosen or not all(0 < cut < length for cut in chosen):
        raise ContractError(f"cuts={list(chosen)}, expected positions from 1 to {length - 1}")
    with _evaluating(module), torch.no_grad():
        before = _reference(module, x)
        allowed = _allowed(before, tolerance)
        reacted = False
        for cut in chosen:
            for _ in range(2):
                changed = x.clone()
                changed[:, cut:] = _other(x[:, cut:], x, generator)
                after = _output(module, changed)
                gap = _gap(before, after)
                reacted = reacted or bool((gap[:, cut:] > allowed).any())
                early = gap[:, :cut]
                if bool((early > allowed).any()):
                    row, position = _first(early, allowed)
                    raise ContractError(
                        f"not causal: replacing tokens from position {cut} on changed the output "
                        f"at position {position} of sequence {row} by "
                        f"{float(gap[row, position]):.3g} (largest before: "
                        f"{float(early.max()):.3g}; allowed {allowed:.1g}). "
                        f"Expected no change before {cut}: look for a choice made over "
                        "the whole sequence or batch (expert choice, capacity, Sinkhorn, "
                        "normalisation over tokens), or declare the system not causal"
                    )
        _refuse_vacuous(reacted, "the replaced tokens themselves")


def check_batch_invariant(
    module: Called, x: Tensor | MakeInput, *, tolerance: float = 1e-5, seed: int = 0
) -> None:
    """Raise unless the output of a sequence is the same whatever else is in its batch.

    The other sequences are replaced, taken away, and put in another order.

    Args:
        module: as in `check_causal`.
        x: as in `check_causal`, with B >= 2.
        tolerance: as in `check_causal`.
        seed: of the replaced sequences.

    Raises:
        ContractError: as in `check_causal`.
    """
    generator = torch.Generator().manual_seed(seed)
    x = _input(x, generator, least=(2, 1))
    n = x.shape[0]
    with _evaluating(module), torch.no_grad():
        before = _reference(module, x)
        allowed = _allowed(before, tolerance)
        reacted = False
        for row in sorted({0, n // 2, n - 1}):
            others = torch.arange(n) != row
            for _ in range(2):
                changed = x.clone()
                changed[others] = _other(x[others], x, generator)
                gap = _gap(before, _output(module, changed))
                reacted = reacted or bool((gap[others] > allowed).any())
                _refuse_change(gap[row], allowed, row, "replacing the other sequences")
            alone = _gap(before[row : row + 1], _output(module, x[row : row + 1]))
            _refuse_change(alone[0], allowed, row, "leaving out the other sequences")
        order = torch.arange(n - 1, -1, -1)
        gap = _gap(before[order], _output(module, x[order]))
        for place, row in enumerate(order.tolist()):
            _refuse_change(gap[place], allowed, row, "reversing the order of the sequences")
        _refuse_vacuous(reacted, "the replaced sequences themselves")


def check_padding(
    module: Called,
    x: Tensor | MakeInput,
    *,
    mask_name: str = "mask",
    sides: Sequence[Side] = ("right", "left"),
    amounts: Sequence[int] = (1, 5),
    tolerance: float = 1e-5,
    seed: int = 0,
) -> None:
    """Raise unless the output of every token is the same when its sequence is padded.

    What stands in the padding is random, so that a module that reads it is found out. Sequences of
    one batch are padded by different amounts.

    Args:
        module: `(x, mask_name=[B, L] booleans) -> [B, L, ...]`; False at padding. For modules that
            want more (ids, positions), wrap them in a callable.
        x: as in `check_causal`.
        mask_name: keyword of the mask.
        sides: where padding goes. Modules that count positions from the start of the row cannot
            keep the left side.
        amounts: of padding added to each batch, positions.
        tolerance: as in `check_causal`.
        seed: of what stands in the padding.

    Raises:
        ContractError: as in `check_causal`.
    """
    generator = torch.Generator().manual_seed(seed)
    x = _input(x, generator, least=(1, 1))

    def run(x: Tensor, mask: Tensor) -> Tensor:
        return _output(module, x, **{mask_name: mask})

    rows, length = int(x.shape[0]), int(x.shape[1])
    # Sequences of different lengths: later ones lack up to a third of their tokens.
    lengths = [length - (row * length) // (3 * rows) for row in range(rows)]
    with _evaluating(module), torch.no_grad():
        alone = [run(x[r : r + 1, :n], _ones(x, n)) for r, n in enumerate(lengths)]
        for row, out in enumerate(alone):
            if not bool(torch.isfinite(out).all()):
                raise ContractError(f"the output of sequence {row} holds NaN or infinite values")
        allowed = max(_allowed(out, tolerance) for out in alone)
        reacted = False
        for row, n in enumerate(lengths):
            other = run(_other(x[row : row + 1, :n], x, generator), _ones(x, n))
            reacted = reacted or bool((_gap(alone[row], other) > allowed).any())
        _refuse_vacuous(reacted, "the replaced tokens themselves")
        for side in sides:
            for amount in amounts:
                _check_padded(run, x, lengths, alone, allowed, side, amount, generator)


def _check_padded(
    run: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    lengths: list[int],
    alone: list[Tensor],
    allowed: float,
    side: Side,
    amount: int,
    generator: torch.Generator,
) -> None:
    if side not in ("left", "right") or amount < 1:
        raise ContractError(
            f"side={side!r}, amount={amount}: expected 'left' or 'right' and at least 1"
        )
    total = int(x.shape[1]) + amount
    source = x.repeat((1, total // x.shape[1] + 1, *([1] * (x.ndim - 2))))[:, :total]
    padded = _other(source, x, generator)
    mask = torch.zeros(padded.shape[:2], dtype=torch.bool, device=x.device)
    places = []
    for row, n in enumerate(lengths):
        start = total - n if side == "left" else 0
        places.append(slice(start, start + n))
        padded[row, places[-1]] = x[row, :n]
        mask[row, places[-1]] = True
    out = run(padded, mask)
    for row, place in enumerate(places):
        gap = _gap(alone[row], out[row : row + 1, place])
        words = f"padding by {total - lengths[row]} positions on the {side}"
        _refuse_change(gap[0], allowed, row, words)


def _refuse_change(gap: Tensor, allowed: float, row: int, what: str) -> None:
    if bool((gap > allowed).any()):
        position = int((gap > allowed).nonzero()[0, 0])
        raise ContractError(
            f"{what} changed the output at position {position} of sequence {row} by "
            f"{float(gap[position]):.3g} (largest in the sequence {float(gap.max()):.3g}; allowed "
            f"{allowed:.1g}). Expected no change: look for capacities, counts, prices or "
            "statistics taken over the batch or over padding, or declare that this does not hold"
        )


def _refuse_vacuous(reacted: bool, whose: str) -> None:
    if not reacted:
        raise ContractError(
            f"the check says nothing: not even the outputs of {whose} changed. Expected a module "
            "whose output depends on its input: give weights that are not zero, an input that "
            "reaches what is checked, or a tolerance below the outputs"
        )


def _input(x: Tensor | MakeInput, generator: torch.Generator, least: tuple[int, int]) -> Tensor:
    made: Any = x if isinstance(x, Tensor) else x(generator)
    if not isinstance(made, Tensor) or not (
        (made.ndim == 3 and made.is_floating_point())
        or (made.ndim == 2 and not made.is_floating_point() and made.dtype != torch.bool)
    ):
        given = (
            f"{made.dtype} {tuple(made.shape)}" if isinstance(made, Tensor) else type(made).__name__
        )
        raise ContractError(
            f"the input is {given}, expected floats [B, L, D] or integer ids [B, L]"
        )
    if made.shape[0] < least[0] or made.shape[1] < least[1]:
        raise ContractError(
            f"the input has shape {tuple(made.shape)}, expected at least {least[0]} sequences of "
            f"at least {least[1]} positions, or there is nothing to compare"
        )
    if not made.is_floating_point() and int(torch.unique(made).numel()) < 2:
        raise ContractError("all ids of the input are the same: give at least two different ones")
    return made


def _cuts(length: int) -> tuple[int, ...]:
    return tuple(sorted({1, max(1, length // 4), max(1, length // 2), length - 1}))


def _other(part: Tensor, whole: Tensor, generator: torch.Generator) -> Tensor:
    """Tokens of the kind of `whole` that differ from `part` at every place."""
    if part.is_floating_point():
        draws = torch.randn(part.shape, generator=generator).to(part.device, part.dtype)
        spread = float(whole.float().std(correction=0)) or 1.0
        return draws * (2.0 * spread) + float(whole.float().mean())
    ids = torch.unique(whole)
    step = torch.randint(1, int(ids.numel()), part.shape, generator=generator).to(part.device)
    found: Tensor = ids[(torch.searchsorted(ids, part.contiguous()) + step) % ids.numel()]
    return found


def _ones(x: Tensor, length: int) -> Tensor:
    return torch.ones(1, length, dtype=torch.bool, device=x.device)


def _reference(module: Called, x: Tensor) -> Tensor:
    before = _output(module, x)
    if not bool(torch.isfinite(before).all()):
        raise ContractError("the output of the given input holds NaN or infinite values")
    again = _output(module, x)
    if not torch.equal(before, again):
        gap = float((before - again).abs().max())
        raise ContractError(
            f"the same input gave outputs that differ by {gap:.3g}, expected equal ones: switch "
            "off noise and dropout, or seed them inside the callable"
        )
    return before


def _output(module: Called, x: Tensor, **keywords: Tensor) -> Tensor:
    out = module(x, **keywords)
    for name in ("logits", "last_hidden_state"):
        if not isinstance(out, Tensor) and hasattr(out, name):
            out = getattr(out, name)
    if isinstance(out, (tuple, list)) and out:
        out = out[0]
    if not isinstance(out, Tensor) or out.shape[:2] != x.shape[:2]:
        given = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
        raise ContractError(
            f"the module returned {given} for an input of shape {tuple(x.shape)}, expected "
            f"[{x.shape[0]}, {x.shape[1]}, ...]: wrap it in a callable that gives one output per "
            "token"
        )
    return out.detach().to(torch.float64 if out.dtype == torch.float64 else torch.float32)


def _gap(before: Tensor, after: Tensor) -> Tensor:
    """Largest absolute difference per token `[B, L]`; infinite where NaN came up."""
    gap = (before - after).abs().reshape(*before.shape[:2], -1)
    largest = gap.amax(dim=-1) if gap.shape[-1] else gap.new_zeros(gap.shape[:2])
    return largest.nan_to_num(nan=torch.inf, posinf=torch.inf)


def _allowed(before: Tensor, tolerance: float) -> float:
    if not tolerance >= 0:
        raise ContractError(f"tolerance={tolerance}, expected a number >= 0")
    return tolerance * max(1.0, float(before.abs().max()) if before.numel() else 1.0)


def _first(gap: Tensor, allowed: float) -> tuple[int, int]:
    rows, positions = (gap > allowed).nonzero(as_tuple=True)
    first = int(positions.argmin())
    return int(rows[first]), int(positions[first])


@contextmanager
def _evaluating(module: Called) -> Iterator[None]:
    """Every part in evaluation mode, and afterwards in the mode it was in."""
    modes = (
        {part: part.training for part in module.modules()} if isinstance(module, nn.Module) else {}
    )
    try:
        for part in modes:
            part.training = False
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode
