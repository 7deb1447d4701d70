"""ES-MoE: masked and sparse evaluation, pruning, balance, routers of whole feature maps."""

import math

import pytest
import torch
from torch.nn import functional as F

from wye.core import SelectionError, top_k
from wye.moe import aux_loss, record, replay
from wye.moe.base import Context, MoEError
from wye.moe.parts.balance import Routed
from wye.moe.parts.convolution import DepthwiseSeparable
from wye.moe.parts.scores import Scored
from wye.moe.parts.selection import Candidates
from wye.moe.yolo_master import EsMoE, MaskedSoftmax, MeanWeightBalance

pytestmark = pytest.mark.torch

B, C, H = 6, 8, 10


@pytest.fixture
def x():
    return torch.randn(B, C, H, H, generator=torch.Generator().manual_seed(0))


def block_of(**options):
    """A block whose BatchNorms have seen data and whose router has opinions."""
    torch.manual_seed(1)
    block = EsMoE(C, **options)
    block.train()
    for _ in range(3):
        block(torch.randn(B, C, H, H))
    with torch.no_grad():
        if not options.get("votes"):
            block.router.scores.up.weight.mul_(30)
    return block.eval()


@pytest.mark.parametrize("out_channels", [None, 12])
@pytest.mark.parametrize("options", [{}, {"top_k": 2}, {"top_k": 1, "shared": True}])
def test_sparse_and_masked_evaluation_agree(x, options, out_channels):
    block = block_of(n_experts=4, out_channels=out_channels, **options)
    sparse = block(x)
    block.sparse = False
    assert torch.allclose(sparse, block(x), atol=1e-5)
    assert sparse.shape == (B, out_channels or C, H, H)


def test_a_sparse_expert_runs_on_the_images_that_chose_it(x):
    block = block_of(n_experts=3, top_k=1)
    seen = {}
    for place, expert in enumerate(block.experts):
        expert.register_forward_hook(
            lambda module, args, out, place=place: seen.update({place: args[0].shape[0]})
        )
    block(x)
    load = block.last.plan.load().tolist()
    assert seen == {e: n for e, n in enumerate(load) if n}
    seen.clear()
    block.train()(x)
    assert seen == {0: B, 1: B, 2: B}


@pytest.mark.parametrize("train", [False, True])
def test_one_expert_is_that_expert_then_norm_and_silu(x, train):
    block = block_of(n_experts=1, kernels=[5])
    block.train(train)
    y = block(x)
    for norm in block.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            norm.momentum = 0.0
    assert torch.allclose(y, F.silu(block.norm(block.experts[0](x))), atol=1e-6)


@pytest.mark.parametrize("options", [{}, {"top_k": 2}, {"top_k": 2, "least": 0.4}, {"votes": True}])
def test_permuting_the_batch_permutes_the_outputs(x, options):
    block = block_of(**options)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    assert torch.allclose(block(x[order]), block(x)[order], atol=1e-5)


def test_the_output_is_the_weighted_sum_of_the_experts(x):
    block = block_of(n_experts=3)
    pooled = x.mean(dim=(2, 3))
    scores = block.router.scores
    w = torch.softmax(scores.up(F.silu(scores.down(pooled))), dim=1)
    mixed = sum(w[:, e, None, None, None] * block.experts[e](x) for e in range(3))
    assert torch.allclose(block(x), F.silu(block.norm(mixed)), atol=1e-5)


def test_weights_of_top_k_are_the_softmax_of_the_kept_logits(x):
    block = block_of(n_experts=4, top_k=2)
    block(x)
    rows = block.last.plan.dense()
    masked = torch.where(rows > 0, block.last.logits, -math.inf)
    assert torch.allclose(rows, torch.softmax(masked, dim=1), atol=1e-6)


def chosen(affinity, train=False, **options):
    n = affinity.shape[0]
    candidates = Candidates(affinity, affinity.log(), torch.zeros(n, 1), Context(batch=n, length=1))
    return MaskedSoftmax(**options).train(train)(candidates)


@pytest.fixture
def weights():
    return torch.softmax(torch.randn(40, 4, generator=torch.Generator().manual_seed(2)), dim=1)


@pytest.mark.parametrize("k", [None, 3])
def test_a_threshold_of_zero_never_prunes_and_one_above_one_leaves_the_best(weights, k):
    assert chosen(weights, k=k, least=0.0).fan_out().unique().tolist() == [k or 4]
    alone = chosen(weights, k=k, least=1.1)
    assert alone.fan_out().unique().tolist() == [1]
    assert torch.equal(alone.target, weights.argmax(dim=1))


def test_pruning_skips_weak_experts_and_keeps_the_other_weights(weights):
    whole, pruned = chosen(weights, k=2), chosen(weights, k=2, least=0.4)
    rows = whole.dense()
    first = F.one_hot(rows.argmax(dim=1), 4).bool()
    assert torch.equal(pruned.dense(), torch.where(first | (rows >= 0.4), rows, 0.0))
    assert 1 < float(pruned.fan_out().float().mean()) < 2
    shared = chosen(weights, k=2, least=0.4, renormalise=True).dense().sum(dim=1)
    assert torch.allclose(shared, torch.ones(40), atol=1e-6)


def test_training_prunes_nothing(weights):
    assert chosen(weights, train=True, k=2, least=1.1).fan_out().unique().tolist() == [2]


def test_the_balance_loss_is_zero_exactly_where_mean_weights_are_uniform():
    def loss(rows):
        rows = torch.tensor(rows)
        n = len(rows)
        candidates = Candidates(rows, rows.log(), torch.zeros(n, 1), Context(batch=n, length=1))
        routed = Routed(Scored(rows.log()), candidates, rows, top_k(rows, 2))
        return float(MeanWeightBalance(1.0).losses(routed)["balance"])

    assert loss([[0.9, 0.1], [0.1, 0.9]]) == pytest.approx(0.0, abs=1e-12)
    assert loss([[0.5, 0.5], [0.5, 0.5]]) == 0.0
    assert loss([[0.9, 0.1], [0.3, 0.7]]) == pytest.approx(0.01)


def test_training_carries_the_balance_loss_to_the_router(x):
    block = EsMoE(C, n_experts=3, top_k=2, balance=1.0).train()
    assert float(aux_loss(block)) == 0.0
    (block(x) * 0).sum().backward()
    assert float(aux_loss(block)) > 0
    assert float(block.router.scores.up.weight.grad.abs().sum()) > 0


def test_masked_training_gives_every_expert_its_statistics_and_the_chosen_a_gradient(x):
    block = block_of(n_experts=3, top_k=1)
    before = [e.inner_norm.running_mean.clone() for e in block.experts]
    block.train()
    block(x).sum().backward()
    load = block.last.plan.load()
    for expert, mean, n in zip(block.experts, before, load.tolist(), strict=True):
        assert not torch.equal(expert.inner_norm.running_mean, mean)
        assert bool(expert.pointwise.weight.grad.abs().sum() > 0) == (n > 0)


def test_votes_of_places_are_a_distribution_and_noise_is_of_training_alone():
    block = EsMoE(C, n_experts=4, top_k=2, votes=True, shared=True, norm="group")
    big = torch.randn(B, C, 32, 32)
    assert torch.equal(block.eval()(big), block(big))
    votes = block.last.probabilities
    assert torch.allclose(votes.sum(dim=1), torch.ones(B), atol=1e-5)
    block.train()(big)
    assert not torch.equal(block.last.probabilities, votes)


def test_kernels_grow_with_the_expert_and_cost_unequally():
    block = EsMoE(C, n_experts=4)
    assert [expert.kernel for expert in block.experts] == [3, 5, 7, 9]
    work = [expert.multiply_adds(H, H) for expert in block.experts]
    assert work == [H * H * (C * k * k + C * C) for k in (3, 5, 7, 9)]


def test_work_counts_what_a_plan_runs(x):
    block = block_of(n_experts=3, top_k=1)
    block(x)
    plan = block.last.plan
    wanted = sum(block.experts[e].multiply_adds(H, H) for e in plan.target.tolist()) / B
    assert block.multiply_adds(plan, H, H) == pytest.approx(wanted)
    soft = block_of(n_experts=3)
    soft(x)
    assert soft.multiply_adds(soft.last.plan, H, H) == sum(
        expert.multiply_adds(H, H) for expert in soft.experts
    )


@pytest.mark.parametrize("options", [{}, {"top_k": 2}, {"top_k": 2, "least": 0.4}])
def test_a_recorded_routing_replays_to_the_same_output(x, options):
    block = block_of(n_experts=3, **options)
    with record(block) as trace:
        y = block(x)
    with replay(block, trace):
        assert torch.allclose(block(x), y, atol=1e-6)


def test_an_empty_batch_is_an_empty_output():
    assert EsMoE(C, out_channels=5).eval()(torch.zeros(0, C, H, H)).shape == (0, 5, H, H)


def test_the_state_goes_from_block_to_block(x):
    block = block_of(n_experts=3, top_k=2)
    other = EsMoE(C, n_experts=3, top_k=2).eval()
    other.load_state_dict(block.state_dict())
    assert torch.equal(other(x), block(x))


@pytest.mark.parametrize(
    ("make", "part"),
    [
        (lambda: EsMoE(C, n_experts=2, top_k=3), "top_k=3"),
        (lambda: EsMoE(C, kernels=[3, 5]), "expected 3 odd sizes"),
        (lambda: EsMoE(C, kernels=[3, 4, 5]), "expected 3 odd sizes"),
        (lambda: EsMoE(C, norm="layer"), "norm='layer'"),
        (lambda: MaskedSoftmax(0), "k=0"),
        (lambda: MaskedSoftmax(1, least=-1.0), "least"),
        (lambda: EsMoE(C)(torch.zeros(2, C + 1, H, H)), r"expected \[B, 8, H, W\]"),
        (lambda: EsMoE(C)(torch.zeros(2, C)), r"expected \[B, 8, H, W\]"),
    ],
)
def test_what_cannot_work_is_refused(make, part):
    with pytest.raises(MoEError, match=part):
        make()


def test_nan_in_a_feature_map_is_refused(x):
    x[2] = math.nan
    with pytest.raises(SelectionError, match="NaN"):
        EsMoE(C).eval()(x)


def test_an_expert_is_depthwise_then_pointwise():
    torch.manual_seed(0)
    expert = DepthwiseSeparable(C, 4, 5, norm="batch").eval()
    delta = torch.zeros(1, C, 11, 11)
    delta[0, :, 5, 5] = 1.0
    touched = (expert.depthwise(delta) != 0).any(dim=1)[0]
    assert int(touched.any(dim=0).sum()) == 5
    assert expert.depthwise.weight.shape == (C, 1, 5, 5)
    assert expert(delta).shape == (1, 4, 11, 11)
