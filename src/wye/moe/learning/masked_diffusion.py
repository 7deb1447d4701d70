"""Masked diffusion language modelling: the objective, its validation bound, and a sampler.

    r ~ U(0, 1) per sequence; every token becomes [MASK] with probability r, independently
    loss = mean over sequences of (1 / (r L)) sum over masked t of -ln p(x_t | masked x)
Its expectation bounds the negative log-likelihood per token from above.

The sampler starts from masks alone and goes through a number of steps. In each the model fills
every masked place, the fills that it is surest of stay, and the others are masked again
(remasking by low confidence), so that the share of masks falls linearly. The mask ratio that the
model is told is the share of masks of the moment: what routes by it spends accordingly.

Source: the objective of masked diffusion as EC-DLM (arXiv 2604.01622) trains it; remasking by low
confidence as in LLaDA (arXiv 2502.09992, section 2.4). Ours: r is drawn from (1/L, 1), because a
sequence with nothing masked teaches nothing, and evenly spaced over the batch, which lowers the
variance of 1/r.

Shape letters: B sequences, L tokens, V vocabulary, R mask ratios.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wye.moe.base import MoEError

Denoiser = Callable[[Tensor, Tensor], Tensor]
"""(ids `[B, L]` with masks, mask ratios `[B]`) -> logits `[B, L, V]`."""


@dataclass(frozen=True)
class Masked:
    """Sequences some of whose tokens are hidden.

    Attributes:
        ids_BL: `[B, L]` ids, [MASK] where hidden.
        hidden_BL: `[B, L]` booleans.
        ratio_B: `[B]` probability with which each token was hidden.
    """

    ids_BL: Tensor
    hidden_BL: Tensor
    ratio_B: Tensor


def draw_ratios(batch: int, length: int, generator: torch.Generator) -> Tensor:
    """Mask ratios `[B]`, each uniform on (1/L, 1), evenly spaced from a random start.

    Args:
        batch: B.
        length: L.
        generator: of the start and of the order.
    """
    start = torch.rand(1, generator=generator)
    grid = (torch.arange(batch) + start) / batch
    ratio = grid[torch.randperm(batch, generator=generator)]
    least = 1.0 / length
    return least + (1.0 - least) * ratio


def hide(ids_BL: Tensor, mask_id: int, ratio_B: Tensor, generator: torch.Generator) -> Masked:
    """Hide each token of sequence b with probability `ratio_B[b]`.

    Args:
        ids_BL: `[B, L]` integers.
        mask_id: id of [MASK], which must not occur.
        ratio_B: `[B]` in [0, 1].
        generator: of the draws, on the processor.

    Raises:
        MoEError: the sequences hold [MASK] already, or another number of ratios.
    """
    if ratio_B.shape != ids_BL.shape[:1]:
        raise MoEError(f"ratio_B has shape {tuple(ratio_B.shape)}, expected [{ids_BL.shape[0]}]")
    if bool((ids_BL == mask_id).any()):
        raise MoEError(f"the sequences hold the id {mask_id} of [MASK]: choose one that is free")
    ratio_B = ratio_B.to(ids_BL.device)
    draws = torch.rand(ids_BL.shape, generator=generator).to(ids_BL.device)
    hidden_BL = draws < ratio_B[:, None]
    return Masked(ids_BL.masked_fill(hidden_BL, mask_id), hidden_BL, ratio_B)


def diffusion_loss(logits_BLV: Tensor, ids_BL: Tensor, masked: Masked) -> Tensor:
    """The objective above, a scalar in nats per token.

    Args:
        logits_BLV: `[B, L, V]` of the masked sequences.
        ids_BL: `[B, L]` the originals.
        masked: what was hidden, and how probably.
    """
    nll_BL = _nll(logits_BLV, ids_BL) * masked.hidden_BL
    return (nll_BL.mean(dim=1) / masked.ratio_B.clamp(min=1e-12)).mean()


def denoising_loss(model: nn.Module, ids: Tensor, generator: torch.Generator) -> Tensor:
    """The objective as `wye.moe.learning.training.train` takes it.

    Args:
        model: called as `model(ids, mask_ratio=...)`; its last id, `model.vocabulary - 1`, is
            [MASK].
        ids: `[B, L + 1]` windows without [MASK]; the last token of each is left out, so that a
            window is as long as that of a next-token model.
        generator: of ratios and masks.

    Raises:
        MoEError: a causal model, which cannot fill a place from what follows it.
    """
    if getattr(model, "causal", False):
        raise MoEError("masked diffusion needs a bidirectional model: build it with causal=False")
    originals = ids[:, :-1]
    ratio_B = draw_ratios(originals.shape[0], originals.shape[1], generator)
    masked = hide(originals, mask_id_of(model), ratio_B, generator)
    logits = model(masked.ids_BL, mask_ratio=masked.ratio_B)
    return diffusion_loss(logits, originals, masked)


def mask_id_of(model: nn.Module) -> int:
    """The id of [MASK] of a model that keeps its last id for it."""
    return int(model.vocabulary) - 1  # type: ignore[arg-type]


def denoiser_of(model: nn.Module) -> Denoiser:
    """`model`, called with the mask ratios of the moment; put it in evaluation mode first."""

    def denoise(ids_BL: Tensor, ratio_B: Tensor) -> Tensor:
        logits: Tensor = model(ids_BL, mask_ratio=ratio_B)
        return logits

    return denoise


@dataclass(frozen=True)
class DiffusionScore:
    """How well hidden tokens are restored.

    Attributes:
        ratios: the mask ratios R.
        cross_entropy: nats per hidden token at each of them.
        bound: mean over the ratios of the objective, nats per token.
    """

    ratios: tuple[float, ...]
    cross_entropy: tuple[float, ...]
    bound: float


@torch.no_grad()
def score_denoiser(
    denoiser: Denoiser,
    batches: Sequence[Tensor],
    *,
    mask_id: int,
    ratios: Sequence[float] = (0.1, 0.3, 0.5, 0.7, 0.9),
    seed: int = 0,
) -> DiffusionScore:
    """Cross-entropy at fixed mask ratios; equal seeds hide the same tokens from every model.

    Args:
        denoiser: in evaluation mode.
        batches: `[B, L]` ids each.
        mask_id: id of [MASK].
        ratios: in (0, 1].
        seed: of what is hidden.

    Raises:
        MoEError: no batches, or ratios out of range.
    """
    if not batches or not ratios or not all(0 < r <= 1 for r in ratios):
        raise MoEError(
            f"{len(batches)} batches and ratios={tuple(ratios)}, expected at least one batch and "
            "ratios in (0, 1]"
        )
    entropies, bounds = [], []
    for place, ratio in enumerate(ratios):
        generator = torch.Generator().manual_seed(seed * len(ratios) + place)
        total = count = tokens = 0.0
        for ids_BL in batches:
            ratio_B = torch.full(ids_BL.shape[:1], ratio)
            masked = hide(ids_BL, mask_id, ratio_B, generator)
            nll_BL = _nll(denoiser(masked.ids_BL, masked.ratio_B), ids_BL) * masked.hidden_BL
            total += float(nll_BL.double().sum())
            count += float(masked.hidden_BL.sum())
            tokens += ids_BL.numel()
        entropies.append(total / max(count, 1.0))
        bounds.append(total / tokens / ratio)
    return DiffusionScore(tuple(ratios), tuple(entropies), sum(bounds) / len(bounds))


@torch.no_grad()
def sample_masked(
    denoiser: Denoiser,
    ids_BL: Tensor,
    *,
    mask_id: int,
    steps: int,
    generator: torch.Generator,
    temperature: float = 1.0,
    on_step: Callable[[Tensor, Tensor], None] | None = None,
) -> Tensor:
    """Fill the masked places of `ids_BL`; the others stay as they are.

    Args:
        denoiser: in evaluation mode; asked once per step, with the masks and ratios of the moment.
        ids_BL: `[B, L]` ids, [MASK] where something is to be written.
        mask_id: id of [MASK].
        steps: at least 1; more steps than masked places cost nothing more.
        generator: of the draws, on the processor.
        temperature: 0 takes the most probable token.
        on_step: called with the ids and the mask ratios `[B]` that the denoiser is asked with.

    Returns:
        `[B, L]` ids without [MASK].

    Raises:
        MoEError: fewer than one step, a negative temperature.
    """
    if steps < 1 or not temperature >= 0:
        raise MoEError(
            f"steps={steps} and temperature={temperature}, expected steps >= 1 and a temperature "
            ">= 0"
        )
    ids_BL = ids_BL.clone()
    open_BL = ids_BL == mask_id
    total_B = open_BL.sum(dim=1)
    for step in range(steps):
        hidden_BL = ids_BL == mask_id
        if not bool(hidden_BL.any()):
            break
        ratio_B = hidden_BL.float().mean(dim=1)
        if on_step is not None:
            on_step(ids_BL, ratio_B)
        logits_BLV = denoiser(ids_BL, ratio_B).float()
        logits_BLV[..., mask_id : mask_id + 1] = -torch.inf
        fill_BL, sure_BL = _fill(logits_BLV, temperature, generator)
        # Masks left after this step fall linearly, to none after the last.
        left_B = total_B * (steps - 1 - step) // steps
        keep_B = hidden_BL.sum(dim=1) - left_B
        sure_BL = sure_BL.masked_fill(~hidden_BL, -torch.inf)
        order_BL = sure_BL.argsort(dim=1, descending=True, stable=True)
        rank_BL = torch.empty_like(order_BL).scatter_(
            1, order_BL, torch.arange(ids_BL.shape[1], device=ids_BL.device).expand_as(order_BL)
        )
        ids_BL = torch.where(hidden_BL & (rank_BL < keep_B[:, None]), fill_BL, ids_BL)
    return ids_BL


def _fill(
    logits_BLV: Tensor, temperature: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """A token for every place, and the probability that the model gives it."""
    log_p = torch.log_softmax(logits_BLV, dim=-1)
    if temperature == 0:
        fill = log_p.argmax(dim=-1)
    else:
        draws = torch.rand(logits_BLV.shape, generator=generator).to(logits_BLV.device)
        gumbel = -torch.log(-torch.log(draws.clamp(1e-20, 1 - 1e-7)))
        fill = (log_p / temperature + gumbel).argmax(dim=-1)
    return fill, log_p.gather(2, fill[..., None])[..., 0].exp()


def _nll(logits_BLV: Tensor, ids_BL: Tensor) -> Tensor:
    flat = F.cross_entropy(logits_BLV.float().flatten(0, 1), ids_BL.reshape(-1), reduction="none")
    return flat.view(ids_BL.shape)
