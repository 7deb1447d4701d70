"""Experts made of a dense network: where they start, and what sets them apart."""

import pytest
import torch
from torch import nn

from wye.core import Plan, top_k
from wye.moe import Experts, MoEError, get_router
from wye.moe.base import Context
from wye.moe.surgery.decompose import read_mlp
from wye.moe.surgery.upcycle import tie_slices, upcycle_mlp

pytestmark = pytest.mark.torch

WIDTH, HIDDEN = 8, 24


def dense(*, bias: bool = True) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(WIDTH, HIDDEN, bias=bias), nn.GELU(), nn.Linear(HIDDEN, WIDTH, bias=bias)
    )


def gated() -> nn.Module:
    from wye.moe import FeedForward

    torch.manual_seed(0)
    return FeedForward(WIDTH, HIDDEN)


@pytest.mark.parametrize("network", [dense(), dense(bias=False), gated()])
def test_copies_under_gates_that_sum_to_one_are_the_dense_network(network: nn.Module) -> None:
    experts = upcycle_mlp(network, 4)
    x = torch.randn(10, WIDTH)
    for k in (1, 2, 4):
        plan = top_k(torch.randn(10, 4), k, weight="softmax")
        torch.testing.assert_close(experts(x, plan), network(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("slices", [2, 3])
@pytest.mark.parametrize("network", [dense(), gated()])
def test_slices_of_whole_copies_are_the_dense_network(network: nn.Module, slices: int) -> None:
    experts = upcycle_mlp(network, 4, slices=slices)
    router = get_router("top_k", WIDTH, 4 * slices, k=2 * slices)
    assert tie_slices(router, slices)
    x = torch.randn(10, WIDTH)
    routing = router(x, Context(batch=1, length=10))
    chosen = routing.plan.target.reshape(10, 2 * slices)
    assert all(len(set(row.tolist())) == 2 for row in chosen // slices)
    torch.testing.assert_close(experts(x, routing.plan), network(x), atol=1e-5, rtol=1e-5)


def test_all_slices_of_one_copy_sum_to_the_dense_network() -> None:
    network = dense(bias=False)
    experts = upcycle_mlp(network, 1, slices=4)
    x = torch.randn(5, WIDTH)
    plan = Plan(
        torch.arange(5).repeat_interleave(4),
        torch.arange(4).repeat(5),
        torch.full((20,), 0.25),
        5,
        4,
    )
    torch.testing.assert_close(experts(x, plan), network(x), atol=1e-5, rtol=1e-5)


def test_noise_has_the_size_that_was_asked_for_and_differs_between_experts() -> None:
    network = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 64))
    experts = upcycle_mlp(network, 2, noise=0.1, generator=torch.Generator().manual_seed(1))
    weight = network[0].weight
    difference = ((experts.up - weight) / weight.std()).detach()
    # 16,384 draws: the standard error of their deviation is 0.1 / sqrt(2 * 16384) = 0.0006.
    assert abs(float(difference[0].std()) - 0.1) < 0.003
    assert not torch.equal(experts.up[0], experts.up[1])


def test_drop_upcycling_draws_exactly_the_share_of_hidden_values_anew() -> None:
    network = gated()
    experts = upcycle_mlp(network, 3, reinitialise=0.5, generator=torch.Generator().manual_seed(1))
    weights = read_mlp(network)
    same_up = (experts.up == weights.up).all(dim=2)
    same_down = (experts.down == weights.down).all(dim=1)
    for expert in range(3):
        gate, up = same_up[expert].chunk(2)
        assert int(gate.sum()) == HIDDEN // 2
        assert torch.equal(gate, up)
        assert torch.equal(gate, same_down[expert])
    assert not torch.equal(same_up[0], same_up[1])


def test_everything_drawn_anew_has_the_statistics_of_the_weights() -> None:
    network = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 64))
    with torch.no_grad():
        network[0].weight.add_(0.2)
    experts = upcycle_mlp(network, 1, reinitialise=1.0, generator=torch.Generator().manual_seed(1))
    weight = network[0].weight
    error = 5 * float(weight.std()) / 16384**0.5
    assert abs(float(experts.up.mean() - weight.mean())) < error
    assert abs(float(experts.up.std() - weight.std())) < error
    assert float(experts.up_bias.abs().max()) == 0


def test_the_same_seed_gives_the_same_experts() -> None:
    made = [
        upcycle_mlp(
            gated(), 3, noise=0.1, reinitialise=0.3, generator=torch.Generator().manual_seed(seed)
        ).up
        for seed in (1, 1, 2)
    ]
    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[0], made[2])


def test_the_dense_network_is_left_as_it_was() -> None:
    network = gated()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    experts = upcycle_mlp(network, 2, noise=0.1, reinitialise=0.5)
    with torch.no_grad():
        experts.up.zero_()
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


def test_dtype_follows_the_dense_network() -> None:
    experts = upcycle_mlp(gated().bfloat16(), 2, slices=2)
    assert {p.dtype for p in experts.parameters()} == {torch.bfloat16}
    assert isinstance(experts, Experts)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"copies": 0}, "copies=0"),
        ({"copies": 2, "slices": 5}, "divisor of 24"),
        ({"copies": 2, "noise": -1.0}, "noise"),
        ({"copies": 2, "noise": float("nan")}, "noise"),
        ({"copies": 2, "reinitialise": 1.5}, "reinitialise"),
    ],
)
def test_numbers_out_of_range_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(MoEError, match=message):
        upcycle_mlp(gated(), **options)  # type: ignore[arg-type]


def test_slices_that_do_not_divide_the_experts_are_refused() -> None:
    with pytest.raises(MoEError, match="divisor"):
        tie_slices(get_router("top_k", WIDTH, 4), 3)
