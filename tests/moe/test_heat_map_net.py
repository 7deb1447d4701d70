"""The network that finds objects, its loss, its peaks, and the scenes that it is checked on."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from wye.checks.moe.digit_scenes import EDGES, scenes
from wye.checks.moe.yolo_master import _f1
from wye.moe.base import MoEError
from wye.moe.models.heat_map_net import HeatMapNet, focal_loss, peaks
from wye.moe.models.residual_mlp import ResidualMLP

pytestmark = pytest.mark.torch


def test_focal_loss_without_focus_is_cross_entropy_per_positive():
    logits = torch.randn(2, 3, 4, 4)
    target = (torch.rand(2, 3, 4, 4) < 0.2).float()
    plain = F.binary_cross_entropy_with_logits(logits, target, reduction="sum") / target.sum()
    assert torch.allclose(focal_loss(logits, target, gamma=0.0), plain)
    p = torch.sigmoid(logits)
    truth = torch.where(target > 0, p, 1 - p)
    wanted = (-((1 - truth) ** 2) * truth.log()).sum() / target.sum()
    assert torch.allclose(focal_loss(logits, target), wanted, rtol=1e-4)


def test_peaks_are_local_maxima_of_enough_probability():
    heat = torch.zeros(1, 1, 5, 5)
    heat[0, 0, 1, 1], heat[0, 0, 1, 2], heat[0, 0, 4, 4], heat[0, 0, 4, 0] = 0.9, 0.8, 0.5, 0.2
    found = peaks(heat)[0, 0].nonzero().tolist()
    assert found == [[1, 1], [4, 4]]


def test_f1_matches_within_one_cell_and_the_right_class_alone():
    truth = torch.zeros(1, 2, 6, 6, dtype=torch.bool)
    truth[0, 0, 2, 2] = truth[0, 1, 5, 5] = True
    found = torch.zeros_like(truth)
    found[0, 0, 3, 1] = True
    assert _f1(found, truth) == pytest.approx(2 / 3)
    found[0, 0, 5, 5] = True
    assert _f1(found, truth) == pytest.approx(0.5)
    assert _f1(truth, truth) == 1.0
    assert _f1(torch.zeros_like(truth), truth) == 0.0


def test_the_heat_map_starts_at_its_prior():
    net = HeatMapNet(lambda _: nn.Identity(), 10, prior=0.01).eval()
    heat, count = net(torch.zeros(1, 1, 32, 32))
    assert torch.sigmoid(heat).detach().numpy() == pytest.approx(0.01, abs=0.01)
    assert count.shape == (1,)


def test_scenes_hold_one_centre_per_object_and_repeat_with_their_seed():
    some = scenes(200, held_out=False, seed=3)
    assert torch.equal(some.centres.sum(dim=(1, 2, 3)).long(), some.count)
    assert set(some.count.tolist()) == set(range(1, 7))
    assert bool((some.sizes.sum(dim=0) > 0).all())
    again = scenes(200, held_out=False, seed=3)
    assert torch.equal(some.images, again.images)
    assert not torch.equal(some.images, scenes(200, held_out=False, seed=4).images)
    assert float(some.images.min()) >= 0
    assert float(some.images.max()) <= 1


def test_objects_never_overlap():
    some = scenes(300, held_out=True, seed=0)
    area = (some.sizes * torch.tensor(EDGES) ** 2).sum(dim=1)
    assert int(area.max()) <= 32 * 32
    # Two centres are never nearer than the smallest box is wide, which is two cells.
    near = F.avg_pool2d(some.centres.sum(dim=1, keepdim=True), 2, stride=1) * 4
    assert float(near.max()) <= 1.0 + 1e-6


def test_training_and_test_scenes_are_of_different_digits():
    from wye.checks.moe.digit_scenes import _glyphs

    def keys(held_out):
        return {glyph.tobytes() for glyph in _glyphs(held_out)[0][0]}

    train, held_out = keys(False), keys(True)
    assert len(train) + len(held_out) == 1797
    assert not train & held_out
    assert np.unique(_glyphs(True)[1]).size == 10


def test_a_residual_network_adds_its_layers():
    class Twice(nn.Module):
        def forward(self, x):
            return x

    net = ResidualMLP([Twice(), Twice()], 4, 6, 3)
    x = torch.randn(5, 4)
    h = net.input(x)
    for norm in net.norms:
        h = h + norm(h)
    assert torch.allclose(net(x), net.output(net.norm(h)))
    with pytest.raises(MoEError, match="one module per layer"):
        ResidualMLP([], 4, 6, 3)
