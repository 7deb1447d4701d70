"""Read-ME: experts are slices of the dense network, and the router knows the past alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from wye.core import SelectionError, top_k
from wye.moe.base import Context, MoEError, make_context, routed_layers
from wye.moe.build import Shape
from wye.moe.experts import FeedForward
from wye.moe.models.language_model import LanguageModel
from wye.moe.models.pregate import Pregate, domain_affinity, pregate_loss
from wye.moe.read_me import build, extract_experts, refactor, train_pregate
from wye.moe.surgery.decompose import read_mlp
from wye.moe.surgery.domain_channels import (
    DomainExperts,
    channel_profile,
    domain_channels,
    hidden_values,
    watching,
)

pytestmark = pytest.mark.torch


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


class Named(nn.Module):
    """A gated network with the layers of Llama's."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(width, hidden, bias=False)
        self.up_proj = nn.Linear(width, hidden, bias=False)
        self.down_proj = nn.Linear(hidden, width, bias=False)
        self.act_fn = nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))


class Decoder(nn.Module):
    """Ids through an embedding and residual feed-forwards called mlp."""

    def __init__(self, layers: int = 2) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 8)
        self.layers = nn.ModuleList(nn.ModuleDict({"mlp": Named(8, 12)}) for _ in range(layers))

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.embedding(input_ids)
        for layer in self.layers:
            x = x + layer["mlp"](x)
        return x


def domains(n: int = 3) -> dict[str, list[Tensor]]:
    return {f"domain {m}": [torch.randint(5 * m, 5 * m + 6, (2, 9))] for m in range(n)}


@pytest.mark.parametrize("rho", [0.5, 0.34, 1.0])
def test_core_and_private_channels_make_up_an_expert_of_the_size_asked_for(rho: float) -> None:
    found = domain_channels(torch.rand(4, 3, 25), rho)
    assert found.kept.sum(dim=2).eq(int(rho * 25 + 1e-9)).all()
    assert not (found.shared & found.private).any()
    assert torch.equal(found.shared | found.private, found.kept)
    assert torch.equal(found.shared, found.kept[0] & found.kept[1] & found.kept[2] & found.kept[3])
    if rho == 1.0:
        assert found.shared_share.eq(1).all()


def test_equal_channels_do_not_change_the_size() -> None:
    found = domain_channels(torch.ones(2, 1, 10), 0.5)
    assert found.of_layer(0).tolist() == [[0, 1, 2, 3, 4]] * 2


def test_a_profile_is_the_mean_absolute_activation_whatever_the_names() -> None:
    named = Named(8, 12)
    own = FeedForward(8, 12)
    with torch.no_grad():
        own.up.copy_(read_mlp(named).up)
        own.down.copy_(read_mlp(named).down)
    batches = [torch.randn(2, 3, 8), torch.randn(1, 5, 8)]
    tokens = torch.cat([b.flatten(0, 1) for b in batches])
    gate, up = named.gate_proj(tokens), named.up_proj(tokens)
    expected = (nn.functional.silu(gate) * up).abs().mean(dim=0)
    for mlp in (named, own):
        ids = [torch.full(b.shape[:2], i) for i, b in enumerate(batches)]
        got = channel_profile(lambda i, mlp=mlp: mlp(batches[int(i[0, 0])]), {"mlp": mlp}, ids)
        assert torch.allclose(got[0], expected, atol=1e-6)
        assert not mlp._forward_pre_hooks


def test_sliced_weights_and_masked_activations_give_the_same_output() -> None:
    for dense in (FeedForward(8, 12, bias=True), FeedForward(8, 12, gated=False), Named(8, 12)):
        channels = domain_channels(torch.rand(3, 1, 12), 0.5)
        experts = DomainExperts(dense, channels.of_layer(0))
        x = torch.randn(20, 8, requires_grad=True)
        plan = top_k(torch.rand(20, 3), 1)
        got = experts(x, plan)
        weights = read_mlp(dense)
        masked = hidden_values(weights, x) * channels.kept[plan.target, 0]
        expected = nn.functional.linear(masked, weights.down) * plan.weight[:, None]
        if weights.down_bias is not None:
            expected = expected + weights.down_bias
        assert torch.allclose(got, expected, atol=1e-5)
        if weights.down_bias is None:
            assert torch.allclose(experts.materialised()(x, plan), got, atol=1e-5)
        got.sum().backward()
        assert experts.up.grad is not None


def test_with_every_channel_the_routed_model_is_the_dense_one() -> None:
    model = Decoder()
    ids = torch.randint(0, 20, (2, 7))
    dense = model(ids)
    extraction = extract_experts(model, domains(), rho=1.0)
    routed = refactor(model, extraction, Pregate(8, 3, vocabulary=20, inner=8))
    assert len(routed_layers(model)) == 2
    assert torch.allclose(model(ids), dense, atol=1e-6)
    assert routed.remove() is model
    assert torch.equal(model(ids), dense)
    assert not routed_layers(model)
    assert "pregate" not in dict(model.named_modules())


def test_one_route_is_taken_in_every_layer_and_can_be_fixed() -> None:
    model = Decoder()
    extraction = extract_experts(model, domains(), rho=0.5)
    assert extraction.domains == ("domain 0", "domain 1", "domain 2")
    assert extraction.mlps == ("layers.0.mlp", "layers.1.mlp")
    routed = refactor(model, extraction, Pregate(8, 3, vocabulary=20, inner=8))
    ids = torch.randint(0, 20, (2, 7))
    model(ids)
    plans = [layer.last.plan.target for layer in routed_layers(model).values()]
    assert torch.equal(*plans)
    assert torch.equal(plans[0], routed.pregate.routes(ids).argmax(dim=-1).flatten())
    assert len(set(plans[0].tolist())) > 1
    with routed.fixed("domain 1"):
        model(ids)
    last = next(iter(routed_layers(model).values())).last.plan
    assert last.target.eq(1).all()
    assert last.weight.eq(1).all()


def test_the_decision_for_a_token_is_unchanged_by_later_tokens_and_by_padding() -> None:
    pregate = Pregate(8, 4, vocabulary=30, inner=16)
    ids = torch.randint(0, 30, (3, 12))
    logits = pregate.routes(ids)
    changed = ids.clone()
    changed[:, 7:] = torch.randint(0, 30, (3, 5))
    assert torch.allclose(pregate.routes(changed)[:, :7], logits[:, :7], atol=1e-6)
    assert not torch.allclose(pregate.routes(changed)[:, 7:], logits[:, 7:], atol=1e-3)
    padded = torch.cat([torch.zeros(3, 4, dtype=torch.int64), ids], dim=1)
    mask = torch.arange(16)[None, :].expand(3, -1) >= 4
    assert torch.allclose(pregate.routes(padded, mask)[:, 4:], logits, atol=1e-4)


def test_the_first_layer_routes_and_the_others_take_it_over() -> None:
    model = LanguageModel(
        build(Shape(n_layers=3, width=8, hidden=4, n_experts=3), inner=8),
        width=8,
        length=10,
        n_heads=2,
    )
    calls = []
    pregate = model.blocks[0].feed_forward.router
    pregate.register_forward_hook(lambda *_: calls.append("router"))
    pregate.blocks[0].register_forward_hook(lambda *_: calls.append("block"))
    ids = torch.randint(0, 256, (2, 10))
    model(ids)
    assert calls.count("router") == 3
    assert calls.count("block") == 1
    plans = [layer.last.plan.target for layer in routed_layers(model).values()]
    assert torch.equal(plans[0], plans[1])
    assert torch.equal(plans[0], plans[2])
    mask = torch.tensor([[1] * 10, [0] * 3 + [1] * 7])
    model(ids, mask=mask)
    assert len(model.blocks[2].feed_forward.last.plan) == 17


def test_affinity_counts_hits_among_private_channels() -> None:
    values = torch.tensor([[9.0, -8.0, 7.0, 1.0, 0.5, 0.1]])
    private = torch.tensor([[1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1]]).bool()
    # N = 3: ranks 1 and 2, from {2, 12/5, 9/5, 6/5, 3/5}; hits above the 2nd largest: one.
    got = domain_affinity(values, private)
    assert got.tolist() == [[pytest.approx(1 / 9), 0.0]]
    assert domain_affinity(values, private, signed=True)[0, 0] > 0


def test_the_loss_prefers_the_expert_whose_channels_were_hit() -> None:
    affinity = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    right = torch.tensor([[4.0, -4.0], [-4.0, 4.0]])
    assert pregate_loss(right, affinity) < pregate_loss(-right, affinity)
    assert float(pregate_loss(right, affinity.repeat(2, 1, 1))) == pytest.approx(
        2 * float(pregate_loss(right, affinity))
    )


def test_the_router_learns_domains_from_the_activations_of_the_dense_model() -> None:
    model = Decoder(layers=1)
    texts = {f"{m}": torch.randint(6 * m, 6 * m + 6, (16, 8)) for m in range(3)}
    extraction = extract_experts(model, {k: [v] for k, v in texts.items()}, rho=0.25)
    ids = torch.cat(list(texts.values()))
    seen: list[Tensor] = []
    with torch.no_grad(), watching({"mlp": model.layers[0]["mlp"]}, lambda _, v: seen.append(v)):
        model(ids)
    affinity = domain_affinity(seen[0], extraction.channels.private[:, 0])
    target = affinity.argmax(dim=1)
    majority = torch.bincount(target).max() / len(target)
    pregate = Pregate(8, 3, vocabulary=20, inner=16)
    losses = train_pregate(pregate, ids, affinity.view(1, 48, 8, 3), steps=60, batch=16)
    assert losses[-1] < losses[0]
    accuracy = (pregate.routes(ids).argmax(dim=-1).flatten() == target).float().mean()
    assert accuracy > majority + 0.1


def test_bad_input_is_refused() -> None:
    with pytest.raises(MoEError, match="rho=0"):
        domain_channels(torch.rand(2, 1, 4), 0)
    with pytest.raises(MoEError, match="holds NaN"):
        domain_channels(torch.full((2, 1, 4), torch.nan))
    with pytest.raises(MoEError, match="no tokens to profile"):
        channel_profile(lambda ids: ids, {"mlp": Named(4, 4)}, [])
    with pytest.raises(MoEError, match="no module called mlp"):
        extract_experts(nn.Linear(2, 2), domains())
    with pytest.raises(MoEError, match="name more than"):
        DomainExperts(Named(4, 4), torch.tensor([[4]]))
    with pytest.raises(MoEError, match="even width per head"):
        Pregate(8, 2, vocabulary=4, inner=6)
    pregate = Pregate(8, 2, vocabulary=4, inner=8)
    with pytest.raises(MoEError, match="needs token_ids"):
        pregate(torch.zeros(2, 8), Context(batch=1, length=2))
    with pytest.raises(SelectionError, match="NaN"):
        pregate(torch.full((1, 8), torch.nan), make_context(torch.zeros(1, 8)))
    with pytest.raises(MoEError, match="expected 4 rows"):
        pregate.embed_like(torch.zeros(5, 8))
    with pytest.raises(MoEError, match="no domain has private channels"):
        domain_affinity(torch.ones(1, 3), torch.zeros(2, 3).bool())
    model = Decoder()
    extraction = extract_experts(model, domains())
    with pytest.raises(MoEError, match="3 were extracted"):
        refactor(model, extraction, pregate)
    with pytest.raises(MoEError, match="affinities have shape"):
        train_pregate(pregate, torch.zeros(2, 3).long(), torch.zeros(1, 2, 3, 4), steps=1)
