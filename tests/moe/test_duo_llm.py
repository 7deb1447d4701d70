"""Duo-LLM: routes, oracle, null oracle and the budget router keep their exact properties."""

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from wye.checks.moe.duo_llm import on_route, token_losses
from wye.core import SelectionError
from wye.moe import Context, LanguageModel, MoEError, Shape, after_step, build_layers
from wye.moe.base import make_context, routed_layers
from wye.moe.diagnostics.route_oracle import Regret, all_routes, beam_oracle, null_oracle, oracle
from wye.moe.duo_llm import BIG, SKIP, SMALL, BudgetRouter, RandomRouter, budget_loss, learn_routes
from wye.moe.parts.unequal_experts import UnequalExperts

pytestmark = pytest.mark.torch
SHAPE = Shape(n_layers=3, width=16, hidden=32, n_experts=2, k=1)


def _model(**options) -> LanguageModel:  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    return LanguageModel.build("duo-llm", SHAPE, length=16, n_heads=2, options=options)


def _ids() -> Tensor:
    return torch.randint(0, 256, (3, 13), generator=torch.Generator().manual_seed(1))


def _big(routes: np.ndarray) -> np.ndarray:
    return (routes == BIG).sum(axis=1).astype(np.float64)


def test_the_oracle_is_at_most_every_route_and_falls_with_the_budget() -> None:
    model = _model().eval()
    routes = all_routes(3)
    found = oracle(routes, lambda route: on_route(model, _ids(), route), cost=_big(routes))
    assert found.losses.shape == (8, 3 * 12)
    for b in range(4):
        some = found.of(b)
        assert bool((some.best <= some.losses).all())
        assert some.oracle_loss <= some.fixed_loss <= some.random_loss
    within = [found.of(b, within=True).oracle_loss for b in range(4)]
    assert within == sorted(within, reverse=True)
    np.testing.assert_array_equal(found.best, [min(column) for column in found.losses.T])
    assert found.of(1).share(BIG).sum() == pytest.approx(1.0)
    with pytest.raises(MoEError, match="no route costs 9"):
        found.of(9)


def test_equal_networks_make_all_routes_coincide() -> None:
    model = _model(small=32).eval()
    for layer in routed_layers(model).values():
        big, small = layer.experts.networks
        small.load_state_dict(big.state_dict())
    routes = all_routes(3)
    losses = oracle(routes, lambda r: on_route(model, _ids(), r), cost=_big(routes)).losses
    np.testing.assert_allclose(losses, np.broadcast_to(losses[0], losses.shape), atol=1e-6)
    np.testing.assert_allclose(losses[0], token_losses(model, _ids()), atol=1e-6)


@pytest.mark.parametrize("target", [0.0, 0.25, 1.0])
def test_the_budget_loss_is_zero_exactly_at_the_target_however_it_is_spread(target: float) -> None:
    even = torch.full((8,), target)
    uneven = torch.zeros(8)
    uneven[: round(8 * target)] = 1.0
    assert float(budget_loss(even, target)) == float(budget_loss(uneven, target)) == 0.0
    assert float(budget_loss(even * 0.5 + 0.1, target)) > 0


def test_the_budget_is_one_for_all_layers_together() -> None:
    torch.manual_seed(0)
    layers = [BudgetRouter(8, target=0.5, n_layers=2, last=last) for last in (False, True)]
    x = torch.randn(10, 8)
    first = layers[0].train()(x, Context(batch=1, length=10))
    assert not first.losses
    context = make_context(x, state=first.state)
    second = layers[1].train()(x, context)
    mean = (first.probabilities[:, BIG].mean() + second.probabilities[:, BIG].mean()) / 2
    expected = 10.0 * (mean - 0.5).square()
    torch.testing.assert_close(second.losses["budget"], expected)
    second.losses["budget"].backward()
    assert all(layer.scores.weight.grad is not None for layer in layers)


def test_padding_does_not_enter_the_budget() -> None:
    model = learn_routes(_model(), target=0.9).train()
    last = list(routed_layers(model).values())[-1]
    ids = _ids()
    mask = torch.ones_like(ids, dtype=torch.bool)
    mask[:, 9:] = False
    model(ids, mask=mask)
    padded = last.last.losses["budget"]
    model(ids[:, :9])
    torch.testing.assert_close(padded, last.last.losses["budget"], atol=1e-6, rtol=1e-5)
    model(ids)
    assert float(padded) != float(last.last.losses["budget"])


def test_skipping_everywhere_is_the_model_of_attention_alone() -> None:
    model = _model(skip=True).eval()
    skipped = on_route(model, _ids(), np.full(3, SKIP))

    class Nothing(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.zeros_like(x)

    alone = _model(skip=True).eval()
    for block in alone.blocks:
        block.feed_forward = Nothing()
    np.testing.assert_allclose(skipped, token_losses(alone, _ids()), atol=1e-6)


def test_training_draws_every_target_by_its_share_and_evaluation_takes_big() -> None:
    router = RandomRouter(4, (0.45, 0.45, 0.10)).train()
    x, context = torch.zeros(20_000, 4), Context(batch=1, length=20_000)
    torch.manual_seed(3)
    share = router(x, context).plan.load() / 20_000
    error = np.sqrt(np.array([0.45 * 0.55, 0.45 * 0.55, 0.09]) / 20_000)
    assert bool((np.abs(share.numpy() - [0.45, 0.45, 0.10]) < 4 * error).all())
    assert router.eval()(x, context).plan.load().tolist() == [20_000, 0, 0]


def test_the_router_mixes_while_it_sharpens_and_then_chooses_with_gradient() -> None:
    torch.manual_seed(0)
    router = BudgetRouter(4, target=0.5, sharpen=3).train()
    x, context = torch.randn(6, 4), Context(batch=1, length=6)
    taus = []
    for _ in range(3):
        routing = router(x, context)
        assert len(routing.plan) == 12
        torch.testing.assert_close(routing.plan.dense(), routing.probabilities)
        taus.append(router.temperature)
        router.after_step()
    assert taus == pytest.approx([1.0, 0.7, 0.4])
    assert router.temperature == pytest.approx(0.1)
    routing = router(x, context)
    assert routing.plan.weight.tolist() == [1.0] * 6
    routing.plan.weight.square().sum().backward()
    assert bool(router.scores.weight.grad.any())
    assert torch.equal(router.eval()(x, context).plan.target, routing.plan.target)


def test_learned_routers_train_alone_on_a_frozen_model() -> None:
    model = learn_routes(_model(), target=0.5)
    trainable = {n for n, p in model.named_parameters() if p.requires_grad}
    assert trainable == {f"blocks.{i}.feed_forward.router.scores.weight" for i in range(3)}
    assert [r.router.last for r in routed_layers(model).values()] == [False, False, True]
    after_step(model)
    with pytest.raises(MoEError, match="those of duo_llm"):
        learn_routes(
            LanguageModel(build_layers("top_k", SHAPE), width=16, length=8, n_heads=2),
            target=0.5,
        )


def test_unequal_experts_equal_a_loop_over_tokens_and_run_only_where_sent() -> None:
    torch.manual_seed(0)
    experts = UnequalExperts(4, [8, 2, 0])
    router = RandomRouter(4, (0.4, 0.4, 0.2)).train()
    x = torch.randn(30, 4)
    plan = router(x, Context(batch=1, length=30)).plan
    plan = plan.with_weight(torch.rand(30))
    seen: list[int] = []
    experts.networks[BIG].register_forward_hook(lambda m, a, out: seen.append(out.shape[0]))
    y = experts(x, plan)
    assert seen == [int(plan.load()[BIG])]
    for source, target, weight in zip(plan.source, plan.target, plan.weight, strict=True):
        expected = torch.zeros(4)
        if int(target) != SKIP:
            expected = experts.networks[int(target)](x[source][None])[0] * weight
        torch.testing.assert_close(y[source], expected, atol=1e-6, rtol=1e-5)
    with pytest.raises(MoEError, match="must agree"):
        experts(x[:3], plan)
    with pytest.raises(MoEError, match="at least one width"):
        UnequalExperts(4, [])


def _table(seed: int = 0) -> dict[tuple[int, ...], np.ndarray]:
    rng = np.random.default_rng(seed)
    return {r: rng.normal(size=20) for r in itertools.product(range(3), repeat=4)}


def test_a_beam_that_holds_everything_is_exact_and_a_narrow_one_bounds_from_above() -> None:
    table = _table()

    def loss(route: np.ndarray) -> np.ndarray:
        return table[tuple(int(t) for t in route)]

    best = np.stack(list(table.values())).min(axis=0)
    whole = beam_oracle(4, 3, loss, cheap=SMALL, width=81)
    assert whole.exact
    np.testing.assert_array_equal(whole.best, best)
    assert bool((whole.cost == (whole.routes != SMALL).sum(axis=1)).all())
    narrow = beam_oracle(4, 3, loss, cheap=SMALL, width=2)
    assert not narrow.exact
    assert narrow.losses.shape[0] < 81
    assert bool((narrow.best >= best).all())
    with pytest.raises(MoEError, match="width=0"):
        beam_oracle(4, 3, loss, cheap=SMALL, width=0)


def test_the_null_oracle_has_the_variance_asked_for_and_gains_by_number_alone() -> None:
    draws = np.random.default_rng(0).normal(size=(15, 4000))

    def losses(size: float) -> np.ndarray:
        return 2.0 + size * draws

    found = null_oracle(losses, 0.25)
    # The expected least of 15 standard normal draws is -1.736; their variance is 14/15 of 1.
    assert found.mean() == pytest.approx(2.0 - 0.5 * np.sqrt(15 / 14) * 1.736, abs=0.02)
    np.testing.assert_array_equal(null_oracle(losses, 0.0), np.full(4000, 2.0))
    with pytest.raises(MoEError, match="expected 1e\\+06 among them"):
        null_oracle(losses, 1e6)
    report = Regret(router=2.0, oracle=1.0, null=1.3, fixed=1.9)
    assert (report.regret, report.headroom) == pytest.approx((1.0, 0.3))


def test_bad_routes_shares_and_hidden_states_are_refused() -> None:
    with pytest.raises(MoEError, match="use beam_oracle"):
        all_routes(12, 3)
    assert all_routes(2, 3).tolist() == [list(r) for r in itertools.product(range(3), repeat=2)]
    with pytest.raises(MoEError, match="NaN or infinite"):
        oracle(all_routes(1), lambda r: np.array([np.nan]), cost=np.zeros(2))
    with pytest.raises(MoEError, match=r"expected \[R, L\]"):
        oracle(all_routes(2), lambda r: np.zeros(2), cost=np.zeros(3))
    for shares in ((0.5, 0.6), (1.5, -0.5)):
        with pytest.raises(MoEError, match="sum to 1"):
            RandomRouter(4, shares)
    with pytest.raises(MoEError, match="expected 2: big, small"):
        build_layers("duo-llm", SHAPE, shares=(0.4, 0.4, 0.2))
    with pytest.raises(MoEError, match=r"target=1\.5"):
        BudgetRouter(4, target=1.5)
    with pytest.raises(SelectionError, match="NaN"):
        BudgetRouter(4, target=0.5)(torch.full((2, 4), torch.nan), Context(batch=1, length=2))
