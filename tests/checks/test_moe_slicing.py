"""What the checks of slices, chosen tokens and looking ahead measure: tiny runs of their code."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from wye.checks.moe import expert_choice_dlm, read_me, union_of_experts
from wye.moe.base import Context
from wye.moe.build import Shape
from wye.moe.expert_choice_dlm import build
from wye.moe.learning.masked_diffusion import denoising_loss
from wye.moe.learning.training import train
from wye.moe.models.language_model import LanguageModel
from wye.moe.models.pregate import Pregate
from wye.moe.parts.selection import Candidates

pytestmark = pytest.mark.torch

TEXT = bytes(np.random.default_rng(0).integers(0, 64, 20_000, dtype=np.uint8))


def model_of(layers, prepare=None):
    model = LanguageModel(layers, width=128, length=128, n_heads=8)
    if prepare is not None:
        prepare(model, 0)
    log = train(model, TEXT, steps=1, batch=2, length=128)
    return model.eval(), log


def test_a_random_choice_is_as_large_as_the_learned_one_may_be():
    context = Context(batch=1, length=128)
    zeros = torch.zeros(128, 8)
    by_expert = union_of_experts.FixedByPosition(8, by_expert=True, seed=0)
    plan = by_expert(Candidates(zeros, zeros, zeros, context))
    assert plan.load().tolist() == [64] * 8
    assert len(set(plan.fan_out().tolist())) > 1
    by_token = union_of_experts.FixedByPosition(8, by_expert=False, seed=0)
    plan = by_token(Candidates(zeros, zeros, zeros, context))
    assert plan.fan_out().tolist() == [8] + [4] * 127


def test_flops_are_counted_from_what_ran():
    shape = Shape(n_layers=1, width=128, hidden=64, n_experts=8, k=4)
    dense, log = model_of(union_of_experts.dense(shape, inner=512))
    whole = union_of_experts.counted(dense, log, TEXT, 0)["megaflops"]
    attention = 4 * 128**2 + 128 * 129
    assert whole == pytest.approx(2e-6 * (attention + 3 * 128 * 512))
    fixed, log = model_of(union_of_experts.random_slices(shape), union_of_experts.with_random_heads)
    counted = union_of_experts.counted(fixed, log, TEXT, 0)
    slices = 2e-6 * 3 * 128 * 256
    heads = counted["megaflops"] - slices
    # Half of the projections, about a quarter of the scores, and the gate's own matrix.
    least = 2e-6 * (0.5 * 4 * 128**2 + 0.25 * 128 * 129)
    assert least < heads < 1.15 * least
    assert 0 <= counted["unserved"] < 0.05


@pytest.mark.parametrize("chooses", ["token", "expert"])
def test_bounds_and_spending_of_a_denoiser(chooses):
    shape = Shape(n_layers=1, width=16, hidden=8, n_experts=16, k=3)
    make = {"token": expert_choice_dlm.token_choice, "expert": build}[chooses]
    model = LanguageModel(make(shape), width=16, length=128, vocabulary=257, causal=False)
    log = train(model, TEXT, steps=2, batch=4, length=128, objective=denoising_loss)
    figures = expert_choice_dlm.restored(model.eval(), log, TEXT, 0)
    assert figures["pairs"] == 3 * 128
    assert (figures["peak"] == 0.0) == (chooses == "expert")
    entropies = [v for k, v in figures.items() if k.startswith("entropy")]
    assert len(entropies) == 5
    assert figures["bound"] == pytest.approx(np.mean(entropies), rel=0.1)


def test_the_scheduler_is_given_the_routes_of_every_prompt(monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setattr(read_me, "PROMPTS", 40)
    pregate = Pregate(8, 5, vocabulary=50, inner=8)
    texts = {
        name: read_me.Texts(torch.zeros(0), torch.randint(10 * i, 10 * i + 2, (2, 256)))
        for i, name in enumerate(read_me.DOMAINS)
    }
    figures = read_me.scheduler_figures(pregate, texts, 0)
    assert figures["belady misses"] <= figures["lru misses"] <= figures["accesses"]
    assert figures["experts, look-ahead"] <= figures["experts, arrival order"]
    assert figures["accesses"] == pytest.approx(5 * figures["experts, look-ahead"])
