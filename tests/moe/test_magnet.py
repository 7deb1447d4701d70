"""MAGNET: two views of a graph, roles, pairs that go to experts."""

import pytest
import torch

from wye.moe import MoEError
from wye.moe.base import Context
from wye.moe.magnet import Magnet, Role, RoleMixture, pairwise_loss, role_templates
from wye.moe.models.light_graph import content_edges, normalised_adjacency, propagate

pytestmark = pytest.mark.torch

N_USERS, N_ITEMS = 6, 9


def data() -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    dense = torch.rand(N_USERS, N_ITEMS, generator=generator) < 0.4
    dense[0] = False  # a user without history
    users, items = dense.nonzero(as_tuple=True)
    return (
        users,
        items,
        {
            "name": torch.randn(N_ITEMS, 5, generator=generator),
            "text": torch.randn(N_ITEMS, 7, generator=generator),
        },
    )


def magnet(**options) -> Magnet:
    torch.manual_seed(0)
    users, items, content = data()
    return Magnet(N_USERS, N_ITEMS, users, items, content, width=8, neighbours=2, **options)


def test_nine_templates_have_three_roles_and_sum_to_one():
    roles = role_templates(["b", "v", "t"])
    assert len(roles) == 9
    assert {r.name.split()[0] for r in roles} == {"dominant", "complementary", "balanced"}
    for role in roles:
        assert sum(role.weights) == pytest.approx(1.0)
    assert roles[0].weights == pytest.approx((0.8, 0.1, 0.1))
    assert roles[3].weights == pytest.approx((0.45, 0.45, 0.1))
    with pytest.raises(MoEError, match="at least two"):
        role_templates(["b"])


def test_all_experts_with_equal_probabilities_are_their_mean():
    roles = role_templates(["b", "v", "t"])
    mixture = RoleMixture(8, roles, k=9)
    for parameter in mixture.router.scores.parameters():
        torch.nn.init.zeros_(parameter)
    x = torch.randn(5, 40)
    fused, routing = mixture.run(x, Context(batch=1, length=5))
    torch.testing.assert_close(routing.plan.weight, torch.full((45,), 1 / 9))
    q = torch.nn.functional.rms_norm(x[:, :24].reshape(5, 3, 8), (8,))
    each = []
    for e, role in enumerate(roles):
        mixed = sum(w * q[:, m] for m, w in enumerate(role.weights))
        ex = mixture.experts
        hidden = torch.nn.functional.gelu(mixed @ ex.up[e].T + ex.up_bias[e])
        each.append(hidden @ ex.down[e].T + ex.down_bias[e])
    torch.testing.assert_close(fused, torch.stack(each).mean(dim=0), rtol=1e-5, atol=1e-6)


def test_a_modality_of_weight_zero_cannot_change_an_expert():
    mixture = RoleMixture(4, [Role("only b", (1.0, 0.0)), Role("only t", (0.0, 1.0))], k=2)
    for parameter in mixture.router.scores.parameters():
        torch.nn.init.zeros_(parameter)
    mixture.experts.down.data[1] = 0
    mixture.experts.down_bias.data[1] = 0
    x = torch.randn(3, 16)
    changed = x.clone()
    changed[:, 4:8] += 1
    run = [mixture.run(v, Context(batch=1, length=3))[0] for v in (x, changed)]
    torch.testing.assert_close(run[0], run[1])


def test_without_content_edges_both_views_agree_on_equal_embeddings():
    model = magnet(content_weight=0.0)
    first, second = model.views
    second.load_state_dict(
        {n: v for n, v in first.state_dict().items() if n != "adjacency"}, strict=False
    )
    a, b = (v.encode(model.modalities, model.history_UI, 2) for v in (first, second))
    for name in model.modalities:
        torch.testing.assert_close(a[name], b[name])
    apart = magnet(content_weight=0.1)
    edges = [int((view.adjacency.to_dense() != 0).sum()) for view in apart.views]
    assert edges[1] > edges[0]


def test_normalisation_equals_the_dense_formula_and_survives_isolated_nodes():
    edges = torch.tensor([[0, 0, 1], [2, 3, 3]])
    weights = torch.tensor([1.0, 2.0, 0.5])
    adjacency = normalised_adjacency(edges, weights, 5)
    assert adjacency.layout is torch.strided
    assert normalised_adjacency(edges, weights, 50).layout is torch.sparse_coo
    dense = torch.zeros(5, 5)
    for (a, b), w in zip(edges.T.tolist(), weights.tolist(), strict=True):
        dense[a, b] += w
        dense[b, a] += w
    root = torch.where(dense.sum(1) > 0, dense.sum(1), 1.0).rsqrt()
    torch.testing.assert_close(adjacency, root[:, None] * dense * root[None])
    e = torch.randn(5, 3)
    expected = (e + adjacency @ e + adjacency @ adjacency @ e) / 3
    torch.testing.assert_close(propagate(adjacency.to_sparse(), e, 2), expected)
    with pytest.raises(MoEError, match="negative"):
        normalised_adjacency(edges, -weights, 5)


def test_content_edges_join_similar_items_and_never_an_item_with_itself():
    features = torch.tensor([[1.0, 0.0], [0.9, 0.1], [-1.0, 0.0]])
    users, items = torch.tensor([0]), torch.tensor([0])
    edges, weights = content_edges([features], users, items, 1, neighbours=1)
    found = {tuple(e): w for e, w in zip(edges.T.tolist(), weights.tolist(), strict=True)}
    assert (1, 2) in found
    assert found[0, 2] == pytest.approx(0.1)
    assert all(a != b for a, b in found)
    assert not any(3 in e for e in found)


def test_a_user_without_history_gets_the_mean_cue():
    model = magnet()
    z = model.encode()
    assert all(bool(torch.isfinite(v).all()) for v in z.values())
    view = model.views[0]
    items = view.content["text"](view.features_text)
    cues = torch.sparse.mm(model.history_UI, items)
    some = torch.sparse.sum(model.history_UI, dim=1).to_dense() > 0
    assert not bool(some[0])
    start = torch.where(some[:, None], cues, cues[some].mean(dim=0))
    isolated = propagate(view.adjacency, torch.cat([start, items]), 2)[0]
    torch.testing.assert_close(isolated, start[0] / 3)


@pytest.mark.parametrize("fuse", ["experts", "concatenate", "none"])
def test_training_raises_what_was_liked_and_ranking_leaves_out_what_was_seen(fuse):
    model = magnet(fuse=fuse)
    users, items, _ = data()
    negative = (items + 1) % N_ITEMS
    optimiser = torch.optim.Adam(model.parameters(), 0.02)
    losses = []
    for _ in range(30):
        z = model.encode()
        loss = pairwise_loss(model.score(z, users, items), model.score(z, users, negative))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0]
    seen = torch.zeros(N_USERS, N_ITEMS, dtype=torch.bool)
    seen[users, items] = True
    ranked = model.eval().rank(torch.arange(N_USERS), shortlist=4, seen=seen)
    for user in range(N_USERS):
        free = int((~seen[user]).sum())
        assert not bool(seen[user, ranked[user, : min(free, 4)]].any())


def test_content_of_another_number_of_items_is_refused():
    users, items, content = data()
    with pytest.raises(MoEError, match="expected one for each of the 9"):
        Magnet(N_USERS, N_ITEMS, users, items, {"text": content["text"][:4]})
