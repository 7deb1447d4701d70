"""Masked diffusion: what is hidden, what the objective is, and a sampler that fills every place."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from wye.moe.base import MoEError
from wye.moe.build import Shape
from wye.moe.learning.masked_diffusion import (
    Masked,
    denoiser_of,
    denoising_loss,
    diffusion_loss,
    draw_ratios,
    hide,
    sample_masked,
    score_denoiser,
)
from wye.moe.learning.training import train
from wye.moe.models.language_model import LanguageModel

pytestmark = pytest.mark.torch

MASK = 5


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_ratios_are_uniform_and_never_below_one_token() -> None:
    ratio = torch.cat([draw_ratios(16, 20, seeded(s)) for s in range(500)])
    assert ratio.min() >= 1 / 20
    assert ratio.max() < 1
    assert abs(float(ratio.mean()) - (1 + 1 / 20) / 2) < 0.005
    counts = torch.histc(draw_ratios(10, 10**6, seeded()), 10, 0, 1)
    assert counts.tolist() == [1.0] * 10


def test_tokens_are_hidden_with_the_probability_of_their_sequence() -> None:
    ids = torch.randint(0, MASK, (3, 4000), generator=seeded())
    masked = hide(ids, MASK, torch.tensor([0.0, 0.3, 1.0]), seeded(1))
    share = masked.hidden_BL.float().mean(dim=1)
    assert share[0] == 0
    assert abs(float(share[1]) - 0.3) < 0.03
    assert share[2] == 1
    assert torch.equal(masked.ids_BL == MASK, masked.hidden_BL)
    assert torch.equal(masked.ids_BL[~masked.hidden_BL], ids[~masked.hidden_BL])


def test_the_objective_is_its_definition() -> None:
    logits = torch.randn(2, 3, 4, generator=seeded())
    ids = torch.tensor([[0, 1, 2], [3, 0, 1]])
    hidden = torch.tensor([[True, False, True], [False, True, False]])
    masked = Masked(ids.masked_fill(hidden, MASK), hidden, torch.tensor([0.5, 0.25]))
    log_p = torch.log_softmax(logits, dim=-1)
    first = -(log_p[0, 0, 0] + log_p[0, 2, 2]) / 3 / 0.5
    second = -log_p[1, 1, 0] / 3 / 0.25
    assert float(diffusion_loss(logits, ids, masked)) == pytest.approx(float(first + second) / 2)


def test_a_model_that_knows_nothing_scores_the_entropy_of_the_vocabulary() -> None:
    def uniform(ids: Tensor, ratio: Tensor) -> Tensor:
        return torch.zeros(*ids.shape, 8)

    batches = [torch.randint(0, MASK, (64, 128), generator=seeded(i)) for i in range(4)]
    score = score_denoiser(uniform, batches, mask_id=MASK)
    assert score.cross_entropy == pytest.approx([math.log(8)] * 5)
    assert score.bound == pytest.approx(math.log(8), rel=0.02)
    assert score.ratios == (0.1, 0.3, 0.5, 0.7, 0.9)


def test_equal_seeds_hide_the_same_tokens() -> None:
    seen: list[list[Tensor]] = [[], [], []]

    def spy(place: int):  # type: ignore[no-untyped-def]
        def look(ids: Tensor, ratio: Tensor) -> Tensor:
            seen[place].append(ids.clone())
            return torch.zeros(*ids.shape, 8)

        return look

    batches = [torch.randint(0, MASK, (2, 16), generator=seeded())]
    for place, seed in enumerate((0, 0, 1)):
        score_denoiser(spy(place), batches, mask_id=MASK, seed=seed)
    assert all(torch.equal(a, b) for a, b in zip(seen[0], seen[1], strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(seen[0], seen[2], strict=True))


@pytest.mark.parametrize("steps", [1, 3, 40])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_sampling_fills_every_mask_and_leaves_the_prompt(steps: int, temperature: float) -> None:
    prompt = torch.full((3, 10), MASK)
    prompt[:, :2] = torch.tensor([[0, 1], [2, 3], [4, 0]])
    prompt[2] = 1
    hidden: list[list[int]] = []
    ratios: list[Tensor] = []

    def watch(ids: Tensor, ratio: Tensor) -> None:
        hidden.append((ids == MASK).sum(dim=1).tolist())
        ratios.append(ratio)
        assert torch.allclose(ratio, (ids == MASK).float().mean(dim=1))

    def denoise(ids: Tensor, ratio: Tensor) -> Tensor:
        return torch.randn(*ids.shape, 6, generator=seeded(int(ids.sum())))

    got = sample_masked(
        denoise,
        prompt,
        mask_id=MASK,
        steps=steps,
        generator=seeded(),
        temperature=temperature,
        on_step=watch,
    )
    assert not (got == MASK).any()
    fixed = prompt != MASK
    assert torch.equal(got[fixed], prompt[fixed])
    expected = [8 * (steps - step) // steps for step in range(steps)]
    assert [row[0] for row in hidden] == [n for n in expected if n > 0]


def test_the_surest_places_are_filled_first() -> None:
    sure = torch.tensor([1.0, 4.0, 2.0, 3.0])

    def denoise(ids: Tensor, ratio: Tensor) -> Tensor:
        logits = torch.zeros(1, 4, 6)
        logits[0, :, 2] = sure
        return logits

    order: list[list[bool]] = []
    sample_masked(
        denoise,
        torch.full((1, 4), MASK),
        mask_id=MASK,
        steps=4,
        generator=seeded(),
        temperature=0.0,
        on_step=lambda ids, ratio: order.append((ids[0] != MASK).tolist()),
    )
    assert order == [
        [False, False, False, False],
        [False, True, False, False],
        [False, True, False, True],
        [False, True, True, True],
    ]


def test_a_model_learns_to_fill_a_pattern_and_writes_it() -> None:
    torch.manual_seed(0)
    shape = Shape(n_layers=2, width=16, hidden=16, n_experts=4, k=2)
    model = LanguageModel.build(
        "expert-choice-dlm",
        shape,
        length=12,
        vocabulary=257,
        n_heads=2,
        causal=False,
        options={"k_min": 1, "k_max": 3},
    )
    text = bytes(range(65, 71)) * 200
    log = train(model, text, steps=150, batch=8, length=12, rate=1e-2, objective=denoising_loss)
    assert log.loss[-20:].mean() < 0.5 * log.loss[:5].mean()
    model.eval()
    prompt = torch.full((1, 12), 256)
    prompt[0, 0] = 65
    got = sample_masked(
        denoiser_of(model), prompt, mask_id=256, steps=12, generator=seeded(), temperature=0.0
    )
    assert bytes(got[0].tolist()) == (bytes(range(65, 71)) * 2)


def test_bad_input_is_refused() -> None:
    ids = torch.zeros(2, 3, dtype=torch.int64)
    with pytest.raises(MoEError, match="hold the id 0"):
        hide(ids, 0, torch.zeros(2), seeded())
    with pytest.raises(MoEError, match="ratio_B has shape"):
        hide(ids, 1, torch.zeros(3), seeded())
    with pytest.raises(MoEError, match="0 batches"):
        score_denoiser(lambda ids, ratio: ids, [], mask_id=1)
    with pytest.raises(MoEError, match=r"ratios in \(0, 1\]"):
        score_denoiser(lambda ids, ratio: ids, [ids], mask_id=1, ratios=[0.0])
    with pytest.raises(MoEError, match="steps=0"):
        sample_masked(lambda i, r: i, ids, mask_id=1, steps=0, generator=seeded())
    causal = LanguageModel([nn.Identity()], width=4, length=4, n_heads=1, vocabulary=257)
    with pytest.raises(MoEError, match="causal=False"):
        denoising_loss(causal, torch.zeros(1, 4, dtype=torch.int64), seeded())
