"""A dense feed-forward network is read right, and its slices add up to it."""

import pytest
import torch
from torch import Tensor, nn

from wye.moe import Experts, FeedForward, MoEError
from wye.moe.surgery.decompose import MLPWeights, decompose_mlp, read_mlp

pytestmark = pytest.mark.torch


class Gated(nn.Module):
    """Three linear layers under names that say nothing."""

    def __init__(self, width: int, hidden: int, *, bias: bool = False, act: str = "silu") -> None:
        super().__init__()
        self.a = nn.Linear(width, hidden, bias=bias)
        self.b = nn.Linear(width, hidden, bias=bias)
        self.c = nn.Linear(hidden, width, bias=bias)
        self.act = {"silu": nn.SiLU(), "gelu": nn.GELU(), "tanh": nn.Tanh()}[act]

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.a(x) * self.act(self.b(x)))


class Fused(nn.Module):
    """Gate and up in one matrix, the up projection first."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.wide = nn.Linear(width, 2 * hidden)
        self.down = nn.Linear(hidden, width)
        self.act = nn.GELU(approximate="tanh")

    def forward(self, x: Tensor) -> Tensor:
        up, gate = self.wide(x).chunk(2, dim=-1)
        return self.down(self.act(gate) * up)


def plain(width: int, hidden: int, *, bias: bool = True) -> nn.Module:
    return nn.Sequential(
        nn.Linear(width, hidden, bias=bias), nn.ReLU(), nn.Linear(hidden, width, bias=bias)
    )


NETWORKS = {
    "gated": lambda: Gated(6, 12),
    "gated with biases": lambda: Gated(6, 12, bias=True, act="gelu"),
    "gated and square": lambda: Gated(12, 12),
    "fused": lambda: Fused(6, 12),
    "plain": lambda: plain(6, 12),
    "plain without bias": lambda: plain(6, 12, bias=False),
    "wye's own": lambda: FeedForward(6, 12),
    "wye's own, plain": lambda: FeedForward(6, 12, gated=False, bias=True, activation="gelu"),
}


@pytest.fixture(params=NETWORKS)
def network(request: pytest.FixtureRequest) -> nn.Module:
    torch.manual_seed(0)
    made: nn.Module = NETWORKS[request.param]()
    return made


def test_what_is_read_computes_what_the_module_computes(network: nn.Module) -> None:
    weights = read_mlp(network)
    x = torch.randn(2, 5, weights.width)
    torch.testing.assert_close(weights(x), network(x), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("n", [1, 2, 3, 12])
@pytest.mark.parametrize("shuffled", [False, True])
def test_the_slices_add_up_to_the_module(network: nn.Module, n: int, shuffled: bool) -> None:
    order = torch.randperm(12) if shuffled else None
    parts = decompose_mlp(network, n, order=order)
    x = torch.randn(5, parts.down.shape[1])
    total = sum(parts.expert(i)(x) for i in range(n))
    total = total if parts.down_bias is None else total + parts.down_bias
    torch.testing.assert_close(total, network(x), atol=1e-6, rtol=1e-5)


def test_a_slice_holds_the_hidden_values_that_the_order_gives_it() -> None:
    network = plain(6, 12)
    order = torch.randperm(12)
    parts = decompose_mlp(network, 4, order=order)
    up, down = network[0].weight, network[2].weight
    for i in range(4):
        place = order[3 * i : 3 * i + 3]
        assert torch.equal(parts.up[i], up[place])
        assert torch.equal(parts.down[i], down[:, place])


def test_slices_have_the_layout_of_stacked_experts(network: nn.Module) -> None:
    from wye.core import Plan

    parts = decompose_mlp(network, 3)
    experts = Experts(
        3,
        parts.down.shape[1],
        4,
        activation=parts.activation,
        gated=parts.gated,
        bias=parts.up_bias is not None,
    )
    with torch.no_grad():
        experts.up.copy_(parts.up)
        experts.down.copy_(parts.down)
        if parts.up_bias is not None:
            experts.up_bias.copy_(parts.up_bias)
            experts.down_bias.zero_()
    x = torch.randn(5, parts.down.shape[1])
    everybody = Plan(
        torch.arange(5).repeat_interleave(3), torch.arange(3).repeat(5), torch.ones(15), 5, 3
    )
    y = experts(x, everybody) + (0 if parts.down_bias is None else parts.down_bias)
    torch.testing.assert_close(y, network(x), atol=1e-6, rtol=1e-5)


def test_gradients_of_the_slices_reach_the_module(network: nn.Module) -> None:
    x = torch.randn(5, read_mlp(network).width)
    network(x).square().sum().backward()
    expected = {name: p.grad.clone() for name, p in network.named_parameters()}
    network.zero_grad()
    parts = decompose_mlp(network, 4)
    total = sum(parts.expert(i)(x) for i in range(4))
    total = total if parts.down_bias is None else total + parts.down_bias
    total.square().sum().backward()
    for name, p in network.named_parameters():
        torch.testing.assert_close(p.grad, expected[name], atol=1e-5, rtol=1e-4)


def test_reading_leaves_the_module_as_it_was() -> None:
    network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 4))
    network[2].eval()
    weights = read_mlp(network)
    assert weights.dropout == 0.5
    assert [m.training for m in network] == [True, True, False, True]
    assert all(p.grad is None for p in network.parameters())


def test_narrow_floats_are_read_right() -> None:
    torch.manual_seed(0)
    network = Gated(64, 96).bfloat16()
    weights = read_mlp(network)
    assert torch.equal(weights.up[:96], network.b.weight)


def test_conv1d_of_gpt2_is_read_transposed() -> None:
    pytest.importorskip("transformers")
    from transformers import GPT2Config
    from transformers.models.gpt2.modeling_gpt2 import GPT2MLP

    network = GPT2MLP(
        32, GPT2Config(n_embd=12, resid_pdrop=0.1, vocab_size=8, bos_token_id=0, eos_token_id=0)
    )
    weights = read_mlp(network)
    assert (weights.activation, weights.gated, weights.dropout) == ("gelu_tanh", False, 0.1)
    x = torch.randn(3, 12)
    torch.testing.assert_close(weights(x), network.eval()(x), atol=1e-6, rtol=1e-5)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = plain(6, 12)
        self.up, self.act, self.down = self.inner[0], self.inner[1], self.inner[2]

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)


class TwoInputs(Residual):
    def forward(self, x: Tensor, residual: Tensor) -> Tensor:  # type: ignore[override]
        return residual + self.inner(x)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (nn.Linear(4, 4), "no linear layers"),
        (Gated(6, 12, act="tanh"), "one activation among"),
        (nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)), "shape"),
        (Residual(), "no assignment of them"),
        (TwoInputs(), "does not run on hidden states"),
    ],
)
def test_what_is_no_feed_forward_network_is_refused(network: nn.Module, message: str) -> None:
    with pytest.raises(MoEError, match=message):
        read_mlp(network)


@pytest.mark.parametrize("n", [0, 5, -1, 2.0, True])
def test_a_number_of_slices_that_does_not_fit_is_refused(n: object) -> None:
    with pytest.raises(MoEError, match="divisor of 12"):
        decompose_mlp(plain(6, 12), n)  # type: ignore[arg-type]


@pytest.mark.parametrize("order", [torch.zeros(12, dtype=torch.long), torch.arange(6)])
def test_an_order_that_is_no_permutation_is_refused(order: Tensor) -> None:
    with pytest.raises(MoEError, match="no permutation"):
        decompose_mlp(plain(6, 12), 3, order=order)


def test_what_was_read_once_can_be_cut_again() -> None:
    weights = read_mlp(plain(6, 12))
    assert isinstance(weights, MLPWeights)
    assert decompose_mlp(weights, 2).down.shape == (2, 6, 6)
