"""Parts of a router keep the exact properties of the classic mixture-of-experts pieces."""

import copy
import math
import re

import pytest
import torch
from torch import Tensor

from wye.core import Plan, SelectionError
from wye.moe import (
    Capped,
    ComposedRouter,
    Context,
    CosineScores,
    DualPrices,
    EntropyLoss,
    Experts,
    Gate,
    LinearScores,
    LoadBalanceLoss,
    LossFreeBias,
    MoEError,
    MoELayer,
    Shape,
    TopK,
    TopP,
    ZLoss,
    build_layers,
    get_router,
)
from wye.moe.parts.balance import Routed
from wye.moe.parts.scores import Scored
from wye.moe.parts.selection import Candidates

pytestmark = pytest.mark.torch
S, E, D, K = 24, 6, 8, 2


def _x(n: int = S) -> Tensor:
    return torch.randn(n, D, generator=torch.Generator().manual_seed(0))


def _context(batch: int = 2, length: int = S // 2) -> Context:
    return Context(batch=batch, length=length)


def _router(**parts) -> ComposedRouter:  # type: ignore[no-untyped-def]
    torch.manual_seed(1)
    scores = LinearScores(D, E, init_std=1.0)
    return ComposedRouter(D, scores, **{"gate": Gate(normalise=True), "selection": TopK(K)} | parts)


def _routed(logits: Tensor, plan: Plan, context: Context | None = None) -> Routed:
    p = torch.softmax(logits, dim=-1)
    context = context or Context(batch=1, length=logits.shape[0])
    return Routed(Scored(logits), Candidates(p, logits, logits, context), p, plan)


def test_renormalised_top_k_is_softmax_over_the_kept_logits() -> None:
    routing = _router()(_x(), _context())
    kept = routing.logits.topk(K, dim=1)
    expected = torch.softmax(kept.values, dim=1)
    torch.testing.assert_close(routing.plan.weight.reshape(S, K), expected, atol=1e-6, rtol=0)
    assert torch.equal(routing.plan.target.reshape(S, K), kept.indices)


@pytest.mark.parametrize("uniform", ["load", "probabilities"])
def test_the_balance_loss_is_one_where_load_or_probabilities_are_uniform(uniform: str) -> None:
    logits = torch.zeros(S, E) if uniform == "probabilities" else torch.randn(S, E)
    target = torch.arange(S) % E if uniform == "load" else torch.zeros(S, dtype=torch.int64)
    plan = Plan(torch.arange(S), target, torch.ones(S), S, E)
    for scope in ("batch", "sequence"):
        loss = LoadBalanceLoss(0.01, scope=scope).losses(  # type: ignore[arg-type]
            _routed(logits, plan, _context())
        )
        assert float(loss["balance"]) == pytest.approx(0.01, rel=1e-5)


def test_the_balance_loss_of_sequences_is_the_mean_of_their_own_without_empty_ones() -> None:
    logits = torch.randn(10, E, generator=torch.Generator().manual_seed(3))
    target = torch.randint(0, E, (10,), generator=torch.Generator().manual_seed(4))
    plan = Plan(torch.arange(10), target, torch.ones(10), 10, E)
    # Three sequences of length 6: five tokens of the first, none of the second, five of the third.
    place = torch.cat([torch.arange(5), 12 + torch.arange(5)])
    context = Context(batch=3, length=6, place=place)
    whole = LoadBalanceLoss(1.0, scope="sequence").losses(_routed(logits, plan, context))
    alone = []
    for part in (slice(0, 5), slice(5, 10)):
        own = Plan(torch.arange(5), target[part], torch.ones(5), 5, E)
        alone.append(float(LoadBalanceLoss(1.0).losses(_routed(logits[part], own))["balance"]))
    assert float(whole["balance"]) == pytest.approx(sum(alone) / 2, rel=1e-5)


def test_the_z_loss_knows_the_level_of_the_logits_and_the_choice_does_not() -> None:
    plan = Plan(torch.arange(S), torch.zeros(S, dtype=torch.int64), torch.ones(S), S, E)
    zero = ZLoss(1.0).losses(_routed(torch.zeros(S, E), plan))["z"]
    assert float(zero) == pytest.approx(math.log(E) ** 2, rel=1e-6)
    logits = torch.randn(S, E)
    p, moved = (Gate().affinity_of(z) for z in (logits, logits + 7))
    torch.testing.assert_close(p, moved, atol=1e-6, rtol=1e-5)
    higher = ZLoss(1.0).losses(_routed(logits + 7, plan))["z"]
    assert float(higher) > float(ZLoss(1.0).losses(_routed(logits, plan))["z"]) + 40


def test_two_losses_of_one_name_add_up() -> None:
    twice = _router(balance=[LoadBalanceLoss(0.01), LoadBalanceLoss(0.02, scope="sequence")])
    found = twice.train()(_x(), _context()).losses["balance"]
    alone = [
        _router(balance=[part])(_x(), _context()).losses["balance"]
        for part in (LoadBalanceLoss(0.01), LoadBalanceLoss(0.02, scope="sequence"))
    ]
    torch.testing.assert_close(found, alone[0] + alone[1])


def test_an_entropy_loss_reads_the_probabilities() -> None:
    plan = Plan(torch.arange(S), torch.zeros(S, dtype=torch.int64), torch.ones(S), S, E)
    loss = EntropyLoss(0.5).losses(_routed(torch.zeros(S, E), plan))["entropy"]
    assert float(loss) == pytest.approx(0.5 * math.log(E), rel=1e-5)


def test_capacity_of_at_least_all_tokens_changes_nothing() -> None:
    free = _router().train()(_x(), _context())
    for group in ("batch", "sequence"):
        roomy = Capped(TopK(K), factor=E / K, group=group)  # type: ignore[arg-type]
        held = _router(selection=roomy).train()(_x(), _context())
        assert torch.equal(held.plan.cells(), free.plan.cells())
        assert torch.equal(held.plan.weight, free.plan.weight)


def test_a_full_expert_turns_pairs_away_by_position_or_score() -> None:
    scores = torch.tensor([[0.6, 0.4], [0.9, 0.1], [0.7, 0.3], [0.2, 0.8]])
    candidates = Candidates(scores, scores, scores, Context(batch=1, length=4))
    for priority, kept in (("position", [0, 1, 3]), ("score", [1, 2, 3])):
        cap = Capped(TopK(1), factor=1.0, minimum=0, priority=priority)  # type: ignore[arg-type]
        assert cap(candidates).source.tolist() == kept


def test_second_choices_come_after_all_first_ones() -> None:
    # Both tokens want expert 0, the first as its second choice.
    p = torch.tensor([[0.4, 0.6, 0.0], [0.7, 0.0, 0.3]])
    cap = Capped(TopK(2), factor=0.75, minimum=0)
    plan = cap(Candidates(p, p, p, Context(batch=1, length=2)))
    assert set(zip(plan.source.tolist(), plan.target.tolist(), strict=True)) == {
        (0, 1),
        (1, 0),
        (1, 2),
    }


def test_gates_are_shared_before_pairs_are_dropped_and_losses_count_the_choice() -> None:
    cap = Capped(TopK(K), factor=0.5, minimum=1)
    router = _router(selection=cap, balance=[LoadBalanceLoss(1.0)]).train()
    routing = router(_x(), _context())
    free = _router(balance=[LoadBalanceLoss(1.0)]).train()(_x(), _context())
    assert len(routing.plan) < S * K
    dense, whole = routing.plan.dense(), free.plan.dense()
    kept = dense > 0
    torch.testing.assert_close(dense[kept], whole[kept])
    torch.testing.assert_close(routing.losses["balance"], free.losses["balance"])
    again = router.weigh(routing.plan, routing)
    torch.testing.assert_close(again.weight, routing.plan.weight)


def test_capacity_is_counted_per_sequence_without_padding() -> None:
    cap = Capped(TopK(1), factor=1.0, minimum=0, group="sequence")
    place = torch.tensor([0, 1, 2, 3, 6, 7])
    p = torch.tensor([[0.9, 0.1]]).repeat(6, 1)
    plan = cap(Candidates(p, p, p, Context(batch=2, length=6, place=place)))
    # Four tokens of the first sequence have 2 places per expert, two of the second have 1.
    assert plan.source.tolist() == [0, 1, 4]


def test_capacity_zero_leaves_an_empty_plan_and_a_zero_output() -> None:
    router = _router(selection=Capped(TopK(K), factor=0.0, minimum=0))
    layer = MoELayer(router, Experts(E, D, 4)).train()
    y = layer(_x())
    assert len(layer.last.plan) == 0
    assert not y.any()


def test_a_loss_free_bias_changes_the_choice_and_never_the_gates() -> None:
    controller = LossFreeBias(E, rate=0.1)
    router = _router(gate=Gate(affinity="sigmoid"), balance=[controller])
    before = router(_x(), _context())
    controller.bias_E += torch.tensor([5.0] + [0.0] * (E - 1))
    after = router(_x(), _context())
    assert bool((after.plan.target.reshape(S, K) == 0).any(dim=1).all())
    pairs = after.plan
    torch.testing.assert_close(
        pairs.weight, torch.sigmoid(after.logits)[pairs.source, pairs.target]
    )
    weighed = router.weigh(before.plan, after)
    torch.testing.assert_close(weighed.weight, before.plan.weight)
    assert not controller.bias_E.requires_grad


def test_a_loss_free_bias_moves_by_its_rate_towards_balance_once_per_step() -> None:
    controller = LossFreeBias(3, rate=0.01)
    target = torch.tensor([0, 0, 0, 1])
    plan = Plan(torch.arange(4), target, torch.ones(4), 4, 3)
    for _ in range(2):
        controller.losses(_routed(torch.zeros(4, 3), plan))
    assert controller.load.tolist() == [6, 2, 0]
    controller.after_step()
    torch.testing.assert_close(controller.bias_E, torch.tensor([-0.01, 0.01, 0.01]))
    controller.after_step()
    torch.testing.assert_close(controller.bias_E, torch.tensor([-0.01, 0.01, 0.01]))
    assert controller.load.tolist() == [0, 0, 0]


def test_biases_and_prices_stay_float32_in_a_bfloat16_model() -> None:
    router = _router(balance=[LossFreeBias(E), DualPrices(E, K)])
    bias, prices = router.balance
    assert isinstance(bias, LossFreeBias)
    assert isinstance(prices, DualPrices)
    bias.bias_E += 1.0
    bias.bias_E += 1e-3
    router.to(torch.bfloat16)
    assert router.scores.weight.dtype == torch.bfloat16
    assert float(bias.bias_E[0]) == pytest.approx(1.001, abs=1e-6)
    assert {bias.bias_E.dtype, prices.price_E.dtype, prices.mean_E.dtype} == {torch.float32}
    router.double()
    assert bias.bias_E.dtype == torch.float32


def test_dual_prices_balance_training_and_are_frozen_in_evaluation() -> None:
    router = _router(balance=[DualPrices(E, K, rounds=20)]).train()
    load = router(_x(240), Context(batch=1, length=240)).plan.load()
    unbalanced = _router().train()(_x(240), Context(batch=1, length=240)).plan.load()
    assert load.max() < unbalanced.max()
    assert load.max() / load.float().mean() < 1.3
    router.eval()
    x = _x()
    alone = router(x[:1], Context(batch=1, length=1)).plan.target
    assert torch.equal(alone, router(x, _context()).plan.target[:K])


@pytest.mark.parametrize(
    "selection", [TopK(E), TopP(1.0), Capped(TopK(E), factor=1.0)], ids=["k", "p", "capped"]
)
def test_with_all_experts_the_layer_is_the_dense_mixture(selection) -> None:  # type: ignore[no-untyped-def]
    router = _router(selection=selection)
    layer = MoELayer(router, Experts(E, D, 4))
    y = layer(_x())
    p = torch.softmax(layer.last.logits, dim=1)
    torch.testing.assert_close(layer.last.plan.dense(), p, atol=1e-6, rtol=1e-5)
    expected = torch.zeros(S, D)
    for e in range(E):
        one = Plan(torch.arange(S), torch.full((S,), e), torch.ones(S), S, E)
        expected += p[:, e, None] * layer.experts(_x(), one)
    torch.testing.assert_close(y, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("affinity", ["softmax", "sigmoid", "sqrt_softplus", "relu"])
def test_a_closed_expert_has_a_finite_gradient(affinity: str) -> None:
    z = torch.tensor([[0.5, -math.inf, -200.0]], requires_grad=True)
    a = Gate(affinity=affinity).affinity_of(z)  # type: ignore[arg-type]
    a.sum().backward()
    assert bool(torch.isfinite(a).all())
    assert z.grad is not None
    assert bool(torch.isfinite(z.grad).all())


def test_cosine_scores_ignore_lengths() -> None:
    scores = CosineScores(D, E)
    one, other = (scores(c * _x(), _context()).logits for c in (1.0, 40.0))
    torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
    assert float(one.detach().abs().max()) <= 1 + 1e-5


def test_jitter_is_for_training_alone() -> None:
    scores = LinearScores(D, E, jitter=0.1)
    a, b = scores.eval()(_x(), _context()).logits, scores(_x(), _context()).logits
    assert torch.equal(a, b)
    assert not torch.equal(scores.train()(_x(), _context()).logits, a)


def test_bad_parameters_and_input_are_refused_in_words() -> None:
    shape = Shape(n_layers=1, width=4, hidden=4, n_experts=2)
    for make, words in (
        (lambda: Gate(affinity="soft"), "expected one of"),  # type: ignore[arg-type]
        (lambda: Gate(temperature=0.0), "expected a number > 0"),
        (lambda: TopK(0), "at least 1"),
        (lambda: Capped(TopP(0.5)), "fixed fan-out"),
        (lambda: Capped(TopK(1), factor=-1.0), ">= 0"),
        (lambda: Capped(TopK(1), group="day"), "'batch' or 'sequence'"),  # type: ignore[arg-type]
        (lambda: LinearScores(D, E, jitter=1.0), "[0, 1)"),
        (lambda: LoadBalanceLoss(scope="year"), "'batch' or 'sequence'"),  # type: ignore[arg-type]
        (lambda: Shape(n_layers=1, width=4, hidden=4, n_experts=2, k=3), "k <= n_experts"),
        (lambda: Shape(n_layers=0, width=4, hidden=4, n_experts=2), "n_layers"),
        (lambda: get_router("topk", 4, 2), "did you mean 'top_k'"),
        (lambda: get_router("top_k", 4, 2, kk=1), "has no parameters"),
        (
            lambda: build_layers("no such", shape),
            "no system",
        ),
        (lambda: MoELayer(_router(), Experts(E + 1, D, 4)), "same n_experts"),
        (lambda: _router()(torch.zeros(3, D + 1), _context()), f"expected [S, {D}]"),
    ):
        with pytest.raises(MoEError, match=re.escape(words)):
            make()
    bad = _x()
    bad[3, 2] = torch.nan
    with pytest.raises(SelectionError, match="logits hold NaN"):
        _router()(bad, _context())
    with pytest.raises(SelectionError, match="k"):
        _router(selection=TopK(E + 1))(_x(), _context())


def test_masks_of_another_shape_or_kind_are_refused() -> None:
    layer = MoELayer(_router(), Experts(E, D, 4))
    x = _x().reshape(2, 12, D)
    for mask, words in (
        (torch.ones(12, 2), "expected"),
        (torch.ones(2, 11), "expected"),
        (torch.zeros(2, 12) - 1e9, "other values than 0 and 1"),
    ):
        with pytest.raises(MoEError, match=words):
            layer(x, mask=mask)
    with pytest.raises(MoEError, match="token_ids"):
        layer(x, token_ids=torch.zeros(5))
    with pytest.raises(MoEError, match="has routed nothing"):
        _ = layer.last


def test_a_layer_copies_without_what_passed_through_it() -> None:
    layer = MoELayer(_router(), Experts(E, D, 4), carries_losses=False).train()
    layer(_x().requires_grad_())
    again = copy.deepcopy(layer)
    assert torch.equal(layer.eval()(_x()), again.eval()(_x()))
