"""What the checks of variable fan-out measure: tiny runs of their own code."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from wye.checks.base import CheckError
from wye.checks.moe import blockffn, dynamic_moe, dynamoe, yolo_master
from wye.checks.moe.fitting import fit
from wye.checks.moe.held_out import held_out_tokens
from wye.moe.build import Shape
from wye.moe.learning.training import train
from wye.moe.models.language_model import LanguageModel

pytestmark = pytest.mark.torch

TEXT = bytes(np.random.default_rng(0).integers(0, 64, 4000, dtype=np.uint8))


def test_fitting_lowers_the_loss_and_keeps_the_norm_of_every_gradient():
    torch.manual_seed(0)
    x = torch.randn(50, 3)
    y = x @ torch.tensor([1.0, -2.0, 0.5])
    model = nn.Linear(3, 1)

    def loss(index):
        return F.mse_loss(model(x[index])[:, 0], y[index])

    everything = torch.arange(50)
    before = float(loss(everything).detach())
    norms = fit(model, loss, 50, epochs=20, batch=16, rate=0.05, seed=0)
    assert float(loss(everything).detach()) < before / 10
    assert norms.shape == (20 * 4,)
    assert norms[-4:].mean() < norms[:4].mean()
    assert not model.training


def test_fitting_stops_at_a_loss_that_is_not_finite():
    model = nn.Linear(1, 1)
    with pytest.raises(CheckError, match="nan in step 1"):
        fit(model, lambda _: model.weight.sum() * torch.nan, 4, epochs=1, batch=2, rate=1, seed=0)


def test_held_out_tokens_carry_their_loss_and_routing():
    torch.manual_seed(0)
    shape = Shape(n_layers=2, width=16, hidden=8, n_experts=4)
    model = LanguageModel.build("dynamic-moe", shape, length=12, options={"p": 0.5})
    first, second = held_out_tokens(model, TEXT, batches=2, batch=3)
    assert first.ids.shape == first.loss.shape == first.fan_out.shape == (36,)
    assert not torch.equal(first.ids, second.ids)
    logits = model(first.ids.view(3, 12))
    # The byte that follows is the next one that was read, but for the last of each window.
    inner = F.cross_entropy(logits[:, :-1].flatten(0, 1), first.ids.view(3, 12)[:, 1:].flatten())
    assert float(first.loss.view(3, 12)[:, :-1].mean()) == pytest.approx(float(inner.detach()))
    total = sum(plan.fan_out() for plan in first.plans.values())
    assert torch.equal(first.fan_out, total)


def test_measures_of_a_language_model_are_those_of_its_routing():
    torch.manual_seed(0)
    shape = Shape(n_layers=2, width=16, hidden=4, n_experts=32, k=3)
    model = LanguageModel.build("top_k", shape, length=32, options={"gated": False})
    log = train(model, TEXT, steps=2, batch=2, length=32)
    found = blockffn.measure(model.eval(), log, TEXT, 0)
    assert found["TLS"] == pytest.approx(1 - 3 / 32)
    assert found["CLS_16"] <= found["CLS_8"] <= found["TLS"]
    assert 0 < found["share alive"] <= 1
    fan = dynamic_moe.measure(model, log, TEXT, 0)
    assert fan["fan-out of layer 0"] == fan["fan-out over training"] == 3
    assert fan["difficulty correlation"] == 0.0


def test_mutual_information_is_zero_if_independent_and_entropy_if_determined():
    assert blockffn._mutual_information(np.outer([1.0, 3.0], [2.0, 2.0])) == pytest.approx(0.0)
    assert blockffn._mutual_information(np.diag([5.0, 5.0])) == pytest.approx(np.log(2))


def test_scope_token_has_the_fan_out_of_its_formula_and_no_spread():
    figures = dynamoe.trial("descending token", 0, epochs=1)
    assert figures["fan-out less the formula's"] == 0.0
    assert figures["fan-out sd"] == 0.0
    batch = dynamoe.trial("descending batch", 0, epochs=1)
    assert batch["fan-out sd"] > 0
    assert batch["parameters"] == figures["parameters"]


def test_masked_and_sparse_evaluation_of_a_trained_network_agree():
    figures = yolo_master.trial("top-2", 0, number=64, epochs=1)
    assert figures["masked - sparse"] <= yolo_master.SAME
    assert figures["experts"] == 2
    assert figures["pruned experts"] <= 2
    assert figures["pruned multiply-adds"] <= figures["multiply-adds"]
