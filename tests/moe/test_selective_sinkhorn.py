"""SSR: the transport plan, the coin, the gates and their gradients."""

import math

import pytest
import torch

from wye.core import SelectionError, transport_potentials
from wye.moe import MoEError, MoELayer, get_router
from wye.moe.base import after_step, make_context
from wye.moe.experts import Experts
from wye.moe.selective_sinkhorn import SelectiveSinkhorn

pytestmark = pytest.mark.torch

WIDTH, EXPERTS = 8, 4


def made(name: str = "selective-sinkhorn", std: float = 0.5, **options):
    torch.manual_seed(0)
    router = get_router(name, WIDTH, EXPERTS, **options)
    torch.nn.init.normal_(router.scores.weight, std=std)
    return router


def tokens(n: int = 48, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, WIDTH, generator=torch.Generator().manual_seed(seed)) + 0.5


def routed(router, x):
    return router(x, make_context(x))


def test_rows_of_the_plan_sum_to_one_and_columns_to_equal_mass():
    rule = SelectiveSinkhorn(2, delta=1e-4, rounds=500)
    cost = torch.softmax(torch.randn(60, 6, generator=torch.Generator().manual_seed(0)), dim=1)
    mass, found = rule.solve(cost)
    torch.testing.assert_close(mass.sum(dim=1), torch.ones(60), atol=1e-6, rtol=1e-6)
    assert float((mass.sum(dim=0) - 10).norm()) <= 1.1e-4
    assert found.rounds < 500


def test_potentials_of_rows_and_columns_leave_the_plan_unchanged():
    rule = SelectiveSinkhorn(2, epsilon=0.5, delta=1e-10, rounds=3000)
    generator = torch.Generator().manual_seed(0)
    cost = torch.rand(20, 5, generator=generator, dtype=torch.float64)
    a = torch.rand(20, 1, generator=generator, dtype=torch.float64)
    b = torch.rand(1, 5, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(rule.solve(cost)[0], rule.solve(cost + a + b)[0], atol=1e-8, rtol=0)


def test_a_hot_plan_is_uniform_and_a_cold_one_is_the_assignment():
    from scipy.optimize import linear_sum_assignment

    cost = torch.rand(8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    hot, _ = SelectiveSinkhorn(1, epsilon=1e6).solve(cost)
    torch.testing.assert_close(hot, torch.full_like(hot, 1 / 8), atol=1e-5, rtol=0)
    cold, _ = SelectiveSinkhorn(1, epsilon=2e-3, rounds=20_000, delta=1e-6).solve(cost)
    _, column = linear_sum_assignment(cost.numpy(), maximize=True)
    assert cold.argmax(dim=1).tolist() == column.tolist()
    assert float(cold.max(dim=1).values.min()) > 0.9


def test_without_transport_the_layer_is_the_vanilla_one_bit_for_bit():
    x = tokens()
    ours, vanilla = (
        MoELayer(router, experts)
        for router, experts in (
            (made(p=0.0), _experts()),
            (made("top_k", k=2), _experts()),
        )
    )
    for training in (True, False):
        assert torch.equal(ours.train(training)(x), vanilla.train(training)(x))
    always = MoELayer(made(p=1.0), _experts()).eval()
    assert torch.equal(always(x), vanilla.eval()(x))


def _experts() -> Experts:
    torch.manual_seed(5)
    return Experts(EXPERTS, WIDTH, 8)


def test_gates_are_the_mass_shared_over_the_chosen():
    router = made(p=1.0).train()
    routing = routed(router, tokens())
    mass, _ = router.selection.solve(routing.probabilities.detach())
    best = mass.topk(2, dim=1)
    rows = routing.plan.weight.view(-1, 2)
    assert torch.equal(routing.plan.target.view(-1, 2), best.indices)
    expected = best.values / best.values.sum(dim=1, keepdim=True)
    torch.testing.assert_close(rows, expected, atol=1e-5, rtol=1e-4)


def test_gradients_flow_as_the_option_says():
    gradients = {}
    for gradient in ("envelope", "unroll", "none"):
        router = made(p=1.0, gradient=gradient, epsilon=0.5).train()
        plan = routed(router, tokens()).plan
        if gradient == "none":
            assert not plan.weight.requires_grad
            continue
        (plan.weight * torch.linspace(0, 1, len(plan))).sum().backward()
        gradients[gradient] = router.scores.weight.grad
    assert all(bool(g.abs().sum() > 0) for g in gradients.values())
    assert not torch.allclose(gradients["envelope"], gradients["unroll"])


def test_unrolled_gradients_are_those_of_finite_differences():
    cost = torch.rand(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    cost.requires_grad_()

    def mass(c: torch.Tensor) -> torch.Tensor:
        found = transport_potentials(c, epsilon=0.5, rounds=4, tolerance=None, unroll=True)
        return found.mass(c)

    assert torch.autograd.gradcheck(mass, (cost,))


def test_the_coin_falls_per_step_and_layer_with_its_probability():
    rules = [SelectiveSinkhorn(2, p=0.2, layer=layer) for layer in (0, 1)]
    falls = torch.tensor([[rule.transported(step) for step in range(3000)] for rule in rules])
    share = falls.float().mean(dim=1)
    assert float((share - 0.2).abs().max()) < 4 * math.sqrt(0.16 / 3000)
    assert not torch.equal(falls[0], falls[1])
    again = [SelectiveSinkhorn(2, p=0.2).transported(step) for step in range(100)]
    assert again == falls[0, :100].tolist()


def test_all_micro_batches_of_a_step_share_the_coin():
    router = made(p=0.5).train()
    for _ in range(20):
        for _ in range(3):
            routed(router, tokens())
        after_step(router)
    branches = [solve.branch for solve in router.selection.trace]
    assert all(len(set(branches[i : i + 3])) == 1 for i in range(0, 60, 3))
    assert set(branches) == {"ot", "softmax"}
    assert [s.step for s in router.selection.trace][::3] == list(range(20))


def test_the_trace_tells_branch_rounds_and_residuals():
    router = made(p=1.0, rounds=1, epsilon=0.05).train()
    routed(router, tokens())
    (solve,) = router.selection.trace
    assert (solve.branch, solve.rounds, solve.converged) == ("ot", 1, False)
    assert solve.row_residual < 1e-4 < solve.column_residual
    router.eval()
    routed(router, tokens())
    assert len(router.selection.trace) == 1


def test_recomputed_passes_repeat_coin_and_noise():
    from torch.utils.checkpoint import checkpoint

    torch.manual_seed(0)
    for p in (0.5, 1.0):
        gradients = []
        for again in (False, True):
            layer = MoELayer(made(p=p, noise=0.5, noise_where="both"), _experts()).train()
            x = tokens().requires_grad_()
            y = checkpoint(layer, x, use_reentrant=False) if again else layer(x)
            y.square().sum().backward()
            gradients.append(x.grad)
            assert len(layer.router.selection.trace) == 1
        torch.testing.assert_close(*gradients)


def test_noise_changes_the_branches_it_is_meant_for():
    x = tokens()
    quiet = {p: routed(made(p=p).train(), x).plan.target for p in (0.0, 1.0)}
    for where, changes in {"ot": (1.0,), "softmax": (0.0,), "both": (0.0, 1.0)}.items():
        for p in (0.0, 1.0):
            noisy = routed(made(p=p, noise=1.0, noise_where=where).train(), x).plan.target
            assert torch.equal(noisy, quiet[p]) is (p not in changes)


def test_the_linear_cost_is_the_logits():
    router = made(p=1.0, cost="linear", epsilon=1.0).train()
    routing = routed(router, tokens())
    mass, _ = router.selection.solve(routing.logits.detach())
    assert torch.equal(routing.plan.target.view(-1, 2), mass.topk(2, dim=1).indices)


def test_the_step_is_saved_with_the_router():
    router = made(p=0.5)
    for _ in range(7):
        after_step(router)
    other = made(p=0.5)
    other.load_state_dict(router.state_dict())
    assert int(other.selection.step) == 7


def test_small_epsilon_does_not_overflow():
    router = made(p=1.0, epsilon=1e-3, std=20.0).train()
    plan = routed(router, tokens()).plan
    assert bool(torch.isfinite(plan.weight).all())


@pytest.mark.parametrize(
    "bad",
    [
        {"p": 1.5},
        {"epsilon": 0.0},
        {"rounds": 0},
        {"noise": -1.0},
        {"cost": "cosine"},
        {"gradient": "straight"},
        {"noise_where": "nowhere"},
        {"k": 0},
    ],
)
def test_options_out_of_range_are_refused(bad):
    with pytest.raises(MoEError):
        made(**bad)


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_nan_is_refused_in_both_branches(p):
    with pytest.raises(SelectionError, match="NaN"):
        routed(made(p=p).train(), torch.full((4, WIDTH), torch.nan))
