"""ProMoE: the rule by label, prototypes, the contrastive loss."""

import math

import pytest
import torch

from wye.moe import MoEError, MoELayer, Shape, build_layers, get_router
from wye.moe.base import make_context
from wye.moe.models.diffusion_transformer import (
    DiffusionTransformer,
    draw_times,
    drop_labels,
    flow_loss,
    sample,
)

pytestmark = pytest.mark.torch

NULL = 10


def layer(n_experts: int = 4, **options) -> MoELayer:
    torch.manual_seed(0)
    shape = Shape(n_layers=1, width=8, hidden=16, n_experts=n_experts, k=1)
    (made,) = build_layers("promoe", shape, **options)
    return made


def hidden(batch: int = 3, length: int = 6) -> torch.Tensor:
    return torch.randn(batch, length, 8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("choice", ["token", "expert"])
def test_unlabelled_samples_use_the_unconditional_and_the_shared_expert_only(choice):
    moe, x = layer(choice=choice), hidden()
    y = moe(x, labels=torch.full((3,), NULL))
    plan = moe.last.plan
    assert set(plan.target.tolist()) == {4}
    assert plan.weight.tolist() == [1.0] * 18
    assert float(moe.last.losses["contrast"]) == 0
    flat = x.reshape(-1, 8)
    alone = moe.experts(flat, plan) + moe.shared(flat)
    torch.testing.assert_close(y.reshape(-1, 8), alone)


def test_labelled_and_unlabelled_samples_are_routed_apart_within_a_batch():
    moe, x = layer(), hidden()
    moe(x, labels=torch.tensor([1, NULL, 2]))
    target = moe.last.plan.dense().ne(0).reshape(3, 6, 5)
    assert bool(target[1, :, 4].all())
    assert not bool(target[1, :, :4].any())
    assert not bool(target[[0, 2], :, 4].any())
    assert target[[0, 2], :, :4].sum(dim=-1).eq(1).all()


@pytest.mark.parametrize("weight", ["identity", "sigmoid", "softmax"])
def test_scaling_the_hidden_states_changes_no_routing(weight):
    router = get_router("promoe", 8, 5, weight=weight).eval()
    x = hidden().reshape(-1, 8)
    context = make_context(hidden(), labels=torch.tensor([0, NULL, 3]))
    plan, scaled = router(x, context).plan, router(7.5 * x, context).plan
    assert plan.target.tolist() == scaled.target.tolist()
    torch.testing.assert_close(plan.weight, scaled.weight)


def test_gates_are_cosines_and_may_be_negative():
    router = get_router("promoe", 8, 3)
    with torch.no_grad():
        router.scores.prototypes.copy_(-torch.eye(8)[:2])
    routing = router(torch.eye(8)[:1] * 3, make_context(torch.eye(8)[:1], labels=torch.tensor([0])))
    assert routing.plan.weight.tolist() == [0.0]
    both = get_router("promoe", 8, 3, k=2)
    with torch.no_grad():
        both.scores.prototypes.copy_(-torch.eye(8)[:2])
    routing = both(torch.eye(8)[:1], make_context(torch.eye(8)[:1], labels=torch.tensor([0])))
    assert sorted(routing.plan.weight.tolist()) == [-1.0, 0.0]


def test_the_contrastive_loss_is_ln_v_for_equal_means_and_vanishes_for_ideal_ones():
    router = get_router("promoe", 8, 4)
    total, count = torch.ones(1, 3, 8), torch.tensor([[1, 1, 1]])
    assert float(router._contrast(total, count).detach()) == pytest.approx(math.log(3), abs=1e-5)
    with torch.no_grad():
        router.scores.prototypes.copy_(torch.stack([torch.ones(8), -torch.ones(8), torch.ones(8)]))
    two = torch.tensor([[1, 1, 0]])
    ideal = torch.stack([torch.ones(8), -torch.ones(8), torch.zeros(8)])[None]
    assert float(router._contrast(ideal, two).detach()) == pytest.approx(0.0, abs=1e-6)
    assert float(router._contrast(ideal, torch.tensor([[1, 0, 0]])).detach()) == 0


def test_the_contrastive_loss_reaches_prototypes_and_hidden_states():
    router = get_router("promoe", 8, 4)
    x = hidden().reshape(-1, 8).requires_grad_()
    routing = router(x, make_context(hidden(), labels=torch.tensor([0, 1, 2])))
    routing.losses["contrast"].backward()
    assert float(router.scores.prototypes.grad.abs().sum()) > 0
    assert float(x.grad.abs().sum()) > 0


def test_one_prototype_with_weight_one_is_the_expert_plus_the_shared_one():
    moe, x = layer(n_experts=1, weight="softmax"), hidden()
    flat = x.reshape(-1, 8)
    y = moe(x, labels=torch.zeros(3, dtype=torch.int64))
    up, down = moe.experts.up[0], moe.experts.down[0]
    expert = torch.nn.functional.gelu(flat @ up.T, approximate="tanh") @ down.T
    torch.testing.assert_close(y.reshape(-1, 8), expert + moe.shared(flat), rtol=1e-5, atol=1e-6)


def test_in_expert_choice_every_expert_takes_equally_many_tokens_of_every_sample():
    moe = layer(choice="expert")
    moe(hidden(length=8), labels=torch.tensor([0, NULL, 1]))
    plan = moe.last.plan
    sample_of = plan.source // 8
    for b in (0, 2):
        counts = torch.bincount(plan.target[sample_of == b], minlength=5)
        assert counts.tolist() == [2, 2, 2, 2, 0]


def test_labels_are_required_and_one_per_sample():
    moe = layer()
    with pytest.raises(MoEError, match="needs labels"):
        moe(hidden())
    with pytest.raises(MoEError, match="expected one for each of the 3 samples"):
        moe(hidden(), labels=torch.zeros(2, dtype=torch.int64))
    with pytest.raises(MoEError, match="at least 2"):
        get_router("promoe", 8, 1)


def test_a_diffusion_transformer_learns_and_samples_by_its_seed():
    torch.manual_seed(0)
    shape = Shape(n_layers=2, width=16, hidden=16, n_experts=3, k=1)
    model = DiffusionTransformer(build_layers("promoe", shape), size=8, width=16, n_heads=2)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(8, 1, 8, 8, generator=generator).sign()
    labels = torch.arange(8) % 10
    optimiser = torch.optim.AdamW(model.parameters(), 3e-3)
    losses = []
    for _ in range(30):
        dropped = drop_labels(labels, model.null_label, 0.1, generator)
        noise = torch.randn(images.shape, generator=generator)
        loss = flow_loss(model, images, draw_times(8, generator), noise, dropped)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert sum(losses[-5:]) < 0.95 * sum(losses[:5])
    made = [
        sample(model.eval(), labels, steps=3, generator=torch.Generator().manual_seed(s))
        for s in (0, 0, 1)
    ]
    assert made[0].shape == (8, 1, 8, 8)
    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[0], made[2])
