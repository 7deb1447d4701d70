"""Top-p routing: its fan-out, its losses, its limits."""

import math
from itertools import pairwise

import pytest
import torch

from wye.core import entropy
from wye.moe import MoELayer, Shape, aux_loss, build_layers, get_router
from wye.moe.base import Context
from wye.moe.experts import Experts, FeedForward

pytestmark = pytest.mark.torch

E, D, S = 8, 16, 64


def context(n=S):
    return Context(batch=1, length=n)


def routed(p, *, x=None, spread=20.0, train=False, **parameters):
    """A router whose logits are spread widely enough for every fan-out to occur."""
    torch.manual_seed(0)
    router = get_router("dynamic-moe", D, E, p=p, **parameters).train(train)
    with torch.no_grad():
        router.scores.weight.mul_(spread)
    return router(torch.randn(S, D) if x is None else x, context())


@pytest.mark.parametrize("p", [1 / E, 0.1, 1e-6])
def test_a_share_of_at_most_one_in_e_is_top_1_for_every_token(p):
    routing = routed(p)
    assert torch.equal(routing.plan.source, torch.arange(S))
    assert torch.equal(routing.plan.target, routing.probabilities.argmax(dim=1))


def test_the_whole_probability_is_the_dense_mixture():
    torch.manual_seed(1)
    x = torch.randn(S, D)
    router = get_router("dynamic-moe", D, E, p=1.0).eval()
    experts = Experts(E, D, 8)
    layer = MoELayer(router, experts).eval()
    routing = router(x, context())
    assert routing.plan.fan_out().tolist() == [E] * S
    each = torch.stack(
        [
            torch.nn.functional.silu(x @ up[:8].T) * (x @ up[8:].T) @ down.T
            for up, down in zip(experts.up, experts.down, strict=True)
        ],
        dim=1,
    )
    dense = (routing.probabilities[:, :, None] * each).sum(dim=1)
    assert torch.allclose(layer(x), dense, atol=1e-6)


@pytest.mark.parametrize("p", [0.3, 0.4, 0.7, 0.95])
def test_the_kept_share_reaches_p_and_not_without_its_smallest(p):
    plan = routed(p).plan
    rows = plan.dense()
    kept = rows.sum(dim=1)
    smallest = torch.where(rows > 0, rows, math.inf).amin(dim=1)
    assert bool((kept >= p - 1e-6).all())
    assert bool((kept - smallest < p + 1e-6).all())
    assert plan.fan_out().unique().numel() > 1


def test_fan_out_never_falls_with_p():
    counts = [routed(p).plan.fan_out() for p in (0.1, 0.3, 0.5, 0.7, 0.9, 1.0)]
    for fewer, more in pairwise(counts):
        assert bool((fewer <= more).all())


def test_the_entropy_loss_is_ln_e_at_zero_logits_and_vanishes_with_scale():
    flat = routed(0.4, spread=0.0, train=True, beta=1.0).losses["entropy"]
    sharp = routed(0.4, spread=1e5, train=True, beta=1.0).losses["entropy"]
    assert float(flat.detach()) == pytest.approx(math.log(E), abs=1e-6)
    assert float(sharp.detach()) == pytest.approx(0.0, abs=1e-3)
    assert float(entropy(torch.full((1, E), 1 / E))) == pytest.approx(math.log(E))


def test_the_balance_loss_counts_memberships_and_not_pairs():
    routing = routed(0.5, train=True, alpha=1.0, beta=0.0)
    members = (routing.plan.dense() > 0).float().mean(dim=0)
    loss = E * (members * routing.probabilities.mean(dim=0)).sum()
    assert float(routing.losses["balance"].detach()) == pytest.approx(float(loss.detach()))
    uniform = routed(1.0, spread=0.0, train=True, alpha=1.0, beta=0.0)
    assert float(uniform.losses["balance"].detach()) == pytest.approx(E, rel=1e-5)


def test_gates_are_raw_probabilities_unless_renormalised():
    routing = routed(0.5)
    plan = routing.plan
    assert torch.equal(plan.weight, routing.probabilities[plan.source, plan.target])
    shared = routed(0.5, renormalise=True).plan.dense().sum(dim=1)
    assert torch.allclose(shared, torch.ones(S), atol=1e-6)


def test_bounds_hold_against_the_rule():
    assert int(routed(1.0, max_k=3).plan.fan_out().max()) == 3
    assert int(routed(0.01, min_k=2).plan.fan_out().min()) == 2


def test_losses_are_left_out_at_weight_zero_and_in_evaluation():
    assert routed(0.4, train=True, alpha=0.0, beta=0.0).losses == {}
    assert routed(0.4, train=False).losses == {}


def test_every_second_layer_is_dense_from_the_second_on():
    shape = Shape(n_layers=4, width=D, hidden=8, n_experts=E)
    layers = build_layers("dynamic-moe", shape, every=2)
    assert [type(layer) for layer in layers] == [MoELayer, FeedForward, MoELayer, FeedForward]


def test_the_entropy_loss_alone_sharpens_the_router():
    torch.manual_seed(0)
    shape = Shape(n_layers=1, width=D, hidden=8, n_experts=E)
    (layer,) = build_layers("dynamic-moe", shape, alpha=0.0, beta=1.0)
    x = torch.randn(1, S, D)
    optimiser = torch.optim.Adam(layer.router.parameters(), lr=0.05)
    layer(x)
    before, wide = float(aux_loss(layer)), layer.last.plan.fan_out().float().mean()
    for _ in range(30):
        layer.zero_grad()
        # The carried loss is all that moves the router: the output itself has no gradient.
        (layer(x) * 0).sum().backward()
        optimiser.step()
    assert float(aux_loss(layer)) < before
    assert layer.last.plan.fan_out().float().mean() < wide


def test_a_share_out_of_range_is_refused():
    with pytest.raises(ValueError, match=r"p=1\.5"):
        routed(1.5)
