"""Routing smoothed over token graphs: limits, padding, causality, entropy, real models."""

from typing import Any

import numpy as np
import pytest
import torch

from wye.core import entropy_bounds, row_entropy
from wye.moe import (
    Context,
    LanguageModel,
    MoEError,
    Routing,
    Shape,
    build_layers,
    get_router,
    routed_layers,
)
from wye.moe.models.vision import VisionTransformer, cut
from wye.moe.parts.selection import Candidates
from wye.moe.parts.token_graph import (
    AttentionGraph,
    CosineGraph,
    GraphSmoothing,
    SimilarityGraph,
    TokenGraph,
    posterior_attention,
)

pytestmark = pytest.mark.torch

D, E = 16, 6
B, L, H = 3, 7, 2


class Given(TokenGraph):
    """A graph that is handed in."""

    def __init__(self, weights: Any) -> None:
        super().__init__()
        self.weights = weights

    def forward(self, candidates: Candidates, allowed: Any) -> Any:
        return self.weights.expand(allowed.shape)


def attention_of(causal: bool = False, seed: int = 0) -> Any:
    logits = torch.randn(B, H, L, L, generator=torch.Generator().manual_seed(seed)) * 2
    if causal:
        logits = logits.masked_fill(~torch.ones(L, L).bool().tril(), -torch.inf)
    return torch.softmax(logits, dim=-1)


def router_of(**options: Any) -> Any:
    torch.manual_seed(0)
    router = get_router("graph-of-tokens", D, E, **options).eval()
    with torch.no_grad():
        for p in router.parameters():
            if p.ndim == 2:
                p.mul_(40)
    return router


def states(seed: int = 1) -> Any:
    return torch.randn(B * L, D, generator=torch.Generator().manual_seed(seed))


def grid(routing: Routing) -> Any:
    return routing.probabilities.reshape(B, L, E)


@pytest.mark.parametrize("share", [0.3, 0.5, 1.0])
def test_a_graph_of_loops_gives_the_ordinary_router_bit_for_bit(share: float) -> None:
    router = router_of(share=share, causal=False)
    router.transforms[0].graph = Given(torch.eye(L))
    plain = get_router("top_k", D, E, k=2).eval()
    with torch.no_grad():
        plain.scores.weight.copy_(router.scores.weight)
    context = Context(batch=B, length=L)
    smooth, ordinary = router(states(), context), plain(states(), context)
    assert torch.equal(smooth.plan.target, ordinary.plan.target)
    assert torch.equal(smooth.plan.weight, ordinary.plan.weight)
    assert torch.equal(smooth.probabilities, ordinary.probabilities)


@pytest.mark.parametrize("graph", ["attention", "similarity", "cosine"])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("share", [0.5, 1.0])
def test_smoothed_affinities_are_the_mixture_written_out(
    graph: Any, causal: bool, share: float
) -> None:
    router = router_of(graph=graph, causal=causal, share=share)
    attention = attention_of(causal)
    context = Context(batch=B, length=L, attention=attention)
    x = states()
    routing = router(x, context)
    u = x.reshape(B, L, D).double()
    r = torch.softmax(routing.logits.double(), dim=1).reshape(B, L, E)
    for b in range(B):
        if graph == "attention":
            weight = attention[b].double().mean(dim=0)
        elif graph == "similarity":
            part = router.transforms[0].graph
            q, k = u[b] @ part.query.double().T, u[b] @ part.key.double().T
            weight = torch.exp(q @ k.T / 64**0.5)
        else:
            unit = u[b] / u[b].norm(dim=-1, keepdim=True)
            weight = torch.exp(unit @ unit.T / 0.1)
        for i in range(L):
            open_ = [j for j in range(L) if not causal or 0 < j <= i]
            row = r[b, i].clone()
            if open_:
                total = sum(weight[i, j] for j in open_)
                mixed = sum(weight[i, j] / total * r[b, j] for j in open_)
                row = (1 - share) * row + share * mixed
            torch.testing.assert_close(grid(routing)[b, i].double(), row, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(routing.probabilities.sum(dim=1), torch.ones(B * L))
    kept = routing.probabilities.topk(2, dim=1).values
    gates = routing.plan.weight.reshape(-1, 2)
    torch.testing.assert_close(gates, kept / kept.sum(dim=1, keepdim=True))


def test_identical_tokens_with_identical_rows_get_identical_experts() -> None:
    router = router_of(causal=False)
    x = states().reshape(B, L, D)
    x[:, 5] = x[:, 2]
    rows = torch.rand(L, L)
    rows[5] = rows[2]
    router.transforms[0].graph = Given(rows)
    # A matrix product may end its rows differently: equal up to rounding, the same experts.
    routing = router(x.reshape(-1, D), Context(batch=B, length=L))
    torch.testing.assert_close(grid(routing)[:, 5], grid(routing)[:, 2], rtol=1e-5, atol=1e-7)
    target = routing.plan.target.reshape(B, L, 2)
    assert torch.equal(target[:, 5], target[:, 2])


def test_a_uniform_graph_gives_a_sequence_one_set_of_experts() -> None:
    router = router_of(causal=False, share=1.0)
    router.transforms[0].graph = Given(torch.ones(L, L))
    target = router(states(), Context(batch=B, length=L)).plan.target.reshape(B, L, 2)
    assert torch.equal(target, target[:, :1].expand_as(target))
    assert not torch.equal(target[0, 0], target[1, 0]) or not torch.equal(
        target[0, 0], target[2, 0]
    )


@pytest.mark.parametrize("graph", ["attention", "similarity", "cosine"])
@pytest.mark.parametrize("share", [0.5, 1.0])
def test_the_entropy_of_smoothed_routing_lies_within_its_bounds(graph: Any, share: float) -> None:
    router = router_of(graph=graph, share=share, causal=False)
    context = Context(batch=B, length=L, attention=attention_of())
    routing = router(states(), context)
    r = torch.softmax(routing.logits, dim=1)
    mixing = router.transforms[0].mixing(Candidates(r, routing.logits, states(), context))
    torch.testing.assert_close(mixing.sum(dim=-1), torch.ones(B, L))
    whole = (1 - share) * torch.eye(L) + share * mixing
    low, high = entropy_bounds(r.reshape(B, L, E), whole)
    entropy = row_entropy(routing.probabilities).reshape(B, L)
    assert (low <= entropy + 1e-6).all()
    assert (entropy <= high + 1e-6).all()


@pytest.mark.parametrize("graph", ["attention", "similarity", "cosine"])
@pytest.mark.parametrize("drop_first", [None, False])
def test_a_later_token_changes_no_routing_before_it(graph: Any, drop_first: Any) -> None:
    for share in (0.5, 1.0):
        router = router_of(graph=graph, share=share, drop_first=drop_first)
        context = Context(batch=B, length=L, attention=attention_of(causal=True))
        x = states().reshape(B, L, D)
        before = grid(router(x.reshape(-1, D), context))
        for t in range(1, L):
            other = x.clone()
            other[:, t] = -other[:, t]
            after = grid(router(other.reshape(-1, D), context))
            torch.testing.assert_close(after[:, :t], before[:, :t], rtol=1e-5, atol=1e-7)
            if share == 0.5:
                assert not torch.allclose(after[:, t], before[:, t])


@pytest.mark.parametrize("graph", ["attention", "similarity", "cosine"])
@pytest.mark.parametrize("causal", [False, True])
def test_padding_on_either_side_changes_nothing(graph: Any, causal: bool) -> None:
    torch.manual_seed(0)
    shape = Shape(n_layers=2, width=D, hidden=8, n_experts=E, k=2)
    layers: list[Any] = build_layers("graph-of-tokens", shape, graph=graph, causal=causal)
    layer = layers[0].eval()
    x = states().reshape(B, L, D)
    attention = attention_of(causal) if graph == "attention" else None
    alone = layer(x, attention=attention)
    for left, right in ((0, 4), (4, 0), (2, 2)):
        size = L + left + right
        here = slice(left, left + L)
        padded = torch.randn(B, size, D)
        padded[:, here] = x
        mask = torch.zeros(B, size, dtype=torch.bool)
        mask[:, here] = True
        wide = torch.full((B, H, size, size), 1.0 / size)
        wide[:, :, here, here] = attention_of(causal)
        found = layer(padded, mask=mask, attention=None if attention is None else wide)
        torch.testing.assert_close(found[:, here], alone, atol=1e-5, rtol=1e-4)
        assert not found[~mask].any()


def test_the_sink_is_dropped_and_a_token_without_edges_keeps_its_own_scores() -> None:
    router = router_of(graph="attention", share=1.0)
    sink = torch.zeros(B, H, L, L)
    sink[..., 0] = 1.0
    routing = router(states(), Context(batch=B, length=L, attention=sink))
    torch.testing.assert_close(routing.probabilities, torch.softmax(routing.logits, dim=1))
    kept = router_of(graph="attention", share=1.0, drop_first=False)
    routing = kept(states(), Context(batch=B, length=L, attention=sink))
    first = torch.softmax(routing.logits, dim=1).reshape(B, L, E)[:, :1]
    torch.testing.assert_close(grid(routing), first.expand(B, L, E))


def test_the_balance_loss_reads_what_routes() -> None:
    router = router_of(causal=False, balance_weight=1.0).train()
    routing = router(states(), Context(batch=B, length=L))
    phi = routing.plan.load() / len(routing.plan)
    expected = E * (phi * routing.probabilities.mean(dim=0)).sum()
    torch.testing.assert_close(routing.losses["balance"], expected)


@pytest.mark.parametrize("graph", ["attention", "similarity"])
def test_graphs_and_share_learn_through_the_gates(graph: Any) -> None:
    heads = H if graph == "attention" else None
    router = router_of(graph=graph, learn_share=True, learned_heads=heads, balance_weight=0.0)
    routing = router.train()(states(), Context(batch=B, length=L, attention=attention_of(True)))
    (routing.plan.weight * torch.arange(len(routing.plan))).sum().backward()
    for name, p in router.transforms[0].named_parameters():
        assert float(p.grad.abs().max()) > 0, name


def test_learned_heads_start_as_their_mean() -> None:
    context = Context(batch=B, length=L, attention=attention_of(True))
    mean = router_of(graph="attention")(states(), context)
    learned = router_of(graph="attention", learned_heads=H)(states(), context)
    torch.testing.assert_close(mean.probabilities, learned.probabilities)


def test_posterior_attention_weighs_heads_by_what_they_explain() -> None:
    attention, c = attention_of(), torch.randn(B, H, L, D)
    found = posterior_attention(attention, c)
    for b in range(B):
        for i in range(L):
            total = c[b, :, i].sum(dim=0)
            agree = torch.stack([c[b, h, i] @ total for h in range(H)]) / D**0.5
            row = sum(w * attention[b, h, i] for h, w in enumerate(torch.softmax(agree, dim=0)))
            torch.testing.assert_close(found[b, 0, i], row)
    torch.testing.assert_close(found.sum(dim=-1), torch.ones(B, 1, L))
    with pytest.raises(MoEError, match=r"\[B, H, L, D\]"):
        posterior_attention(attention, c[:, :1])


@pytest.mark.parametrize("graph", ["attention", "similarity", "cosine"])
def test_a_language_model_hands_its_attention_over_and_stays_causal(graph: Any) -> None:
    torch.manual_seed(0)
    shape = Shape(n_layers=2, width=D, hidden=8, n_experts=E, k=2)
    layers = build_layers("graph-of-tokens", shape, graph=graph)
    model = LanguageModel(layers, width=D, length=12, n_heads=2).eval()
    ids = torch.randint(0, 256, (2, 12))
    whole = model(ids)
    torch.testing.assert_close(model(ids[:, :5]), whole[:, :5], atol=1e-5, rtol=1e-4)
    model.train()
    model(ids).sum().backward()
    for layer in routed_layers(model).values():
        assert float(layer.router.scores.weight.grad.abs().max()) > 0


def test_a_vision_transformer_routes_patches_over_its_attention() -> None:
    torch.manual_seed(0)
    shape = Shape(n_layers=2, width=D, hidden=8, n_experts=E, k=2)
    layers = build_layers("graph-of-tokens", shape, graph="attention", causal=False)
    model = VisionTransformer(layers, patch=4, length=16, width=D, n_heads=2)
    images = torch.arange(2 * 64.0).reshape(2, 1, 8, 8)
    patches = cut(images, 2)
    np.testing.assert_array_equal(patches[0, 5], images[0, 0, 2:4, 2:4].reshape(-1))
    logits = model(patches / 128)
    assert tuple(logits.shape) == (2, 10)
    logits.sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    with pytest.raises(MoEError, match="expected"):
        model(patches[:, :3])
    with pytest.raises(MoEError, match="side 3"):
        cut(images, 3)
    with pytest.raises(MoEError, match="even width"):
        VisionTransformer(layers, patch=4, length=16, width=D, n_heads=3)


def test_half_precision_states_are_smoothed_in_float32() -> None:
    for graph in (AttentionGraph(), SimilarityGraph(D), CosineGraph()):
        context = Context(batch=B, length=L, attention=attention_of().bfloat16())
        x = states().bfloat16()
        affinity = torch.full((B * L, E), 1.0 / E)
        candidates = Candidates(affinity, affinity, x, context)
        assert GraphSmoothing(graph)(affinity, candidates).dtype == torch.float32


def test_what_cannot_work_is_refused() -> None:
    with pytest.raises(MoEError, match="needs attention"):
        router_of(graph="attention")(states(), Context(batch=B, length=L))
    wrong = attention_of()[:, :, :4]
    with pytest.raises(MoEError, match="attention has shape"):
        router_of(graph="attention")(states(), Context(batch=B, length=L, attention=wrong))
    with pytest.raises(MoEError, match="attention has shape"):
        router_of(graph="attention", learned_heads=5)(
            states(), Context(batch=B, length=L, attention=attention_of())
        )
    with pytest.raises(MoEError, match="graph="):
        router_of(graph="friends")
    with pytest.raises(MoEError, match="to learn it"):
        router_of(share=1.0, learn_share=True)
    with pytest.raises(MoEError, match="number > 0"):
        router_of(graph="cosine", temperature=0.0)
    empty = router_of()(torch.zeros(0, D), Context(batch=0, length=L))
    assert len(empty.plan) == 0
