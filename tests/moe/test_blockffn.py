"""BlockFFN: its gate, its losses, chunks that touch few experts."""

import math

import pytest
import torch
from torch.nn import functional as F

from wye.moe import MoELayer, Shape, build_layers, get_router
from wye.moe.base import Context
from wye.moe.diagnostics.sparsity import chunk_sparsity, token_sparsity
from wye.moe.experts import Experts
from wye.moe.parts.balance import Routed
from wye.moe.parts.chunks import chunks_of
from wye.moe.parts.loss_weight import RatioWeight, TargetWeight
from wye.moe.parts.scores import Scored
from wye.moe.parts.selection import Candidates
from wye.moe.parts.sparsity_losses import ChunkLoss, L1Loss, LocalityLoss, chunk_use, locality
from wye.moe.parts.thresholds import Positive

pytestmark = pytest.mark.torch

B, L, D, E, F_ = 2, 24, 16, 12, 4
CPU = torch.device("cpu")


def grid(**more):
    return Context(batch=B, length=L, **more)


def layer_and_input(seed=0, **parameters):
    torch.manual_seed(seed)
    router = get_router("blockffn", D, E, **parameters)
    layer = MoELayer(router, Experts(E, D, F_, gated=False))
    return layer, torch.randn(B * L, D)


def test_the_output_is_that_of_one_wide_network_with_normalised_gates():
    layer, x = layer_and_input()
    with torch.no_grad():
        layer.router.transforms[0].weight.uniform_(0.5, 2.0)
    a = torch.relu(x @ layer.router.scores.weight.T)
    g = a / torch.sqrt((a**2).mean(dim=1, keepdim=True) + 1e-5) * layer.router.transforms[0].weight
    u = F.silu(x @ layer.experts.up.reshape(E * F_, D).T).view(-1, E, F_)
    y = torch.einsum("sef,edf->sd", u * g[:, :, None], layer.experts.down)
    assert torch.allclose(layer.eval()(x), y, atol=1e-5)


def test_about_half_the_experts_are_active_at_the_start():
    layer, x = layer_and_input()
    routing = layer.router(x, grid())
    assert 0.4 < token_sparsity(routing.plan) < 0.6
    assert torch.equal(routing.plan.dense() > 0, routing.logits > 0)


def test_sparsity_of_windows_of_one_token_is_token_sparsity_and_falls_with_length():
    layer, x = layer_and_input()
    plan = layer.router(x, grid()).plan
    values = [chunk_sparsity(plan, grid(), n) for n in range(1, L + 1)]
    assert values[0] == pytest.approx(token_sparsity(plan))
    assert values == sorted(values, reverse=True)


@pytest.mark.parametrize("scale", [0.1, 3.0, 100.0])
def test_scaling_the_logits_leaves_the_gates(scale):
    layer, x = layer_and_input(eps=1e-12)
    before = layer.router(x, grid()).plan.dense()
    with torch.no_grad():
        layer.router.scores.weight.mul_(scale)
    assert torch.allclose(layer.router(x, grid()).plan.dense(), before, atol=1e-5)


def test_no_positive_logit_gives_exactly_zero_and_finite_gradients():
    layer, x = layer_and_input()
    with torch.no_grad():
        layer.router.scores.weight.copy_(-layer.router.scores.weight.abs())
    y = layer.train()(x.abs())
    assert torch.equal(y, torch.zeros_like(y))
    y.sum().backward()
    for parameter in layer.parameters():
        assert parameter.grad is None or bool(parameter.grad.isfinite().all())


def test_a_negative_scale_leaves_an_expert_active():
    layer, x = layer_and_input()
    with torch.no_grad():
        layer.router.transforms[0].weight[3] = -1.0
    plan = layer.router(x, grid()).plan
    logits = layer.router.scores(x, grid()).logits
    assert int(plan.load()[3]) == int((logits[:, 3] > 0).sum()) > 0
    assert bool((plan.weight[plan.target == 3] < 0).all())


def test_locality_is_least_at_equality_where_it_is_the_entropy_of_the_target():
    right = torch.tensor([0.03, -0.01, 0.0, 0.02], dtype=torch.float64)
    left = right.clone().requires_grad_()
    q = torch.sigmoid(100 * right)
    entropy = -(q * q.log() + (1 - q) * (1 - q).log())
    loss = locality(left, right)
    assert float(loss.detach()) == pytest.approx(float(entropy.mean()))
    (slope,) = torch.autograd.grad(loss, left)
    assert torch.allclose(slope, torch.zeros(4, dtype=torch.float64), atol=1e-12)
    for step in (-0.02, -0.001, 0.001, 0.02):
        for place in range(4):
            moved = right.clone()
            moved[place] += step
            assert float(locality(moved, right)) > float(loss.detach())


def test_locality_vanishes_at_equality_of_saturated_logits_without_overflow():
    z = torch.tensor([50.0, -50.0])
    assert float(locality(z, z)) == 0.0
    assert math.isfinite(float(locality(z, -z)))


@pytest.mark.parametrize("length", [1, 4, 16])
def test_the_chunk_loss_of_uniform_shares_is_one_less_the_chance_of_absence(length):
    share = torch.full((16, 8), 1 / 8)
    chunks = chunks_of(Context(batch=1, length=16), length, CPU)
    wanted = 1 - (1 - 1 / 8) ** length
    assert chunk_use(share, chunks).numpy() == pytest.approx(wanted, abs=1e-6)


def test_the_chunk_loss_of_a_repeated_token_is_that_of_its_share():
    share = torch.tensor([[0.7, 0.2, 0.1, 0.0]]).repeat(5, 1)
    use = chunk_use(share, chunks_of(Context(batch=1, length=5), 5, CPU))
    assert use[0].tolist() == pytest.approx([1 - (1 - p) ** 5 for p in (0.7, 0.2, 0.1, 0.0)])


def test_a_single_active_expert_gives_a_finite_gradient():
    z = torch.tensor([[3.0, -1.0], [2.0, -1.0]], requires_grad=True)
    loss = sum(ChunkLoss(1.0, chunk=2).losses(routed(z, Context(batch=1, length=2))).values())
    assert float(loss.detach()) == pytest.approx(0.5, abs=1e-3)
    loss.backward()
    assert bool(z.grad.isfinite().all())
    assert float(z.grad.abs().max()) < 1.0


def routed(z, context):
    a = torch.relu(z)
    candidates = Candidates(a, z, torch.zeros(len(z), 1), context)
    share = a / (a.sum(dim=1, keepdim=True) + 1e-20)
    return Routed(Scored(z), candidates, share, Positive()(candidates))


def test_losses_of_a_layer_are_those_of_their_definitions():
    z = torch.randn(B * L, E, generator=torch.Generator().manual_seed(0))
    (near,) = LocalityLoss(2.0).losses(routed(z, grid())).values()
    rows = z.view(B, L, E)
    q = torch.sigmoid(100 * rows[:, 1:])
    wanted = F.binary_cross_entropy_with_logits(100 * rows[:, :-1], q)
    assert float(near) == pytest.approx(2 * float(wanted), rel=1e-5)
    (use,) = ChunkLoss(0.5, chunk=8).losses(routed(z, grid())).values()
    a = torch.relu(z)
    p = (a / (a.sum(dim=1, keepdim=True) + 1e-5)).view(B * L // 8, 8, E)
    assert float(use) == pytest.approx(0.5 * float((1 - (1 - p).prod(dim=1)).mean()), rel=1e-4)
    (l1,) = L1Loss(3.0).losses(routed(z, grid())).values()
    assert float(l1) == pytest.approx(3 * float(a.sum(dim=1).mean()))


def test_neighbours_of_other_documents_do_not_pull_at_each_other():
    z = torch.randn(6, E, requires_grad=True)
    ids = torch.tensor([1, 1, 0, 1, 1, 1])
    context = Context(batch=1, length=6, token_ids=ids)
    # Ends of documents at 2: tokens 2 and 3 belong to different ones.
    loss = LocalityLoss(1.0, detach_target=True, boundary=0).losses(routed(z, context))
    (slope,) = torch.autograd.grad(loss["locality"], z)
    assert bool((slope[2] == 0).all())
    assert bool((slope[[0, 1, 3, 4]].abs().sum(dim=1) > 0).all())


def test_a_detached_target_moves_the_earlier_token_alone():
    z = torch.randn(2, E, requires_grad=True)
    context = Context(batch=1, length=2)
    both = LocalityLoss(1.0).losses(routed(z, context))["locality"]
    left = LocalityLoss(1.0, detach_target=True).losses(routed(z, context))["locality"]
    assert bool(torch.autograd.grad(both, z)[0][1].abs().sum() > 0)
    assert bool((torch.autograd.grad(left, z)[0][1] == 0).all())


def test_a_single_token_has_no_neighbour_and_no_loss():
    z = torch.randn(1, E)
    assert LocalityLoss().losses(routed(z, Context(batch=1, length=1))) == {}
    assert ChunkLoss().losses(routed(z[:0], Context(batch=1, length=0))) == {}


def test_the_layers_share_one_weight_of_the_mean_over_layers():
    shape = Shape(n_layers=3, width=D, hidden=F_, n_experts=E)
    layers = build_layers("blockffn", shape, steps=100, sparsity=0.3, locality=0.06)
    weights = {id(layer.router.balance[1].weight) for layer in layers}
    assert len(weights) == 1
    shared = layers[0].router.balance[1].weight
    assert isinstance(shared, RatioWeight)
    assert shared.initial == pytest.approx(0.1)
    assert layers[0].router.balance[0].weight.value == pytest.approx(0.02)
    x = torch.randn(B, L, D)
    for layer in layers:
        layer.train()(x)
    for layer in layers:
        layer.router.after_step()
    assert shared.steps == 1


def test_the_chunk_loss_makes_chunks_of_free_logits_sparser_and_locality_aligns_them():
    def minimised(controller):
        z = torch.randn(B * L, E, generator=torch.Generator().manual_seed(0)).requires_grad_()
        optimiser = torch.optim.Adam([z], lr=0.05)
        for _ in range(60):
            optimiser.zero_grad()
            sum(controller.losses(routed(z, grid())).values()).backward()
            optimiser.step()
        return z.detach()

    z = torch.randn(B * L, E, generator=torch.Generator().manual_seed(0))
    before = chunk_sparsity(Positive()(routed(z, grid()).candidates), grid(), 8)
    plan = Positive()(routed(minimised(ChunkLoss(1.0, chunk=8)), grid()).candidates)
    assert chunk_sparsity(plan, grid(), 8) > before + 0.2
    near = minimised(LocalityLoss(1.0, beta=10.0)).view(B, L, E)
    agree = ((near[:, 1:] > 0) == (near[:, :-1] > 0)).float().mean()
    assert float(agree) > 0.8


def test_the_controller_of_the_l1_loss_finds_its_target_against_a_task():
    layer, x = layer_and_input(locality=0.0, sparsity=0.0)
    router = layer.router.train()
    router.balance.append(L1Loss(TargetWeight(0.25, initial=0.01, alpha=1.2)))
    optimiser = torch.optim.Adam(router.scores.parameters(), lr=0.02)
    for _ in range(150):
        routing = router(x, grid())
        optimiser.zero_grad()
        # A pull towards activity, as a task would exert it.
        task = -routing.logits.sigmoid().mean()
        (task + routing.losses["l1"]).backward()
        optimiser.step()
        router.after_step()
    active = 1 - token_sparsity(router.eval()(x, grid()).plan)
    assert active == pytest.approx(0.25, abs=0.08)
