"""On PyTorch: gradients flow through weights, a fixed k compiles in one graph."""

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

import wye.core as core

pytestmark = pytest.mark.torch
torch: Any = pytest.importorskip("torch")


def test_the_gradient_of_a_weight_lands_on_the_chosen_score() -> None:
    scores = torch.tensor([[0.1, 0.7, 0.2], [0.5, 0.4, 0.3]], requires_grad=True)
    core.top_k(scores, 2).weight.sum().backward()
    assert scores.grad.tolist() == [[0.0, 1.0, 1.0], [1.0, 1.0, 0.0]]


def test_softmax_weights_have_the_gradient_of_renormalised_gates() -> None:
    torch.manual_seed(0)
    scores = torch.randn(5, 8, dtype=torch.float64, requires_grad=True)
    direction = torch.randn(15, dtype=torch.float64)
    (core.top_k(scores, 3, weight="softmax").weight * direction).sum().backward()
    mine, scores.grad = scores.grad, None
    gates = torch.softmax(scores, 1)
    kept = gates.gather(1, scores.topk(3, dim=1).indices)
    ((kept / kept.sum(1, keepdim=True)).reshape(-1) * direction).sum().backward()
    torch.testing.assert_close(mine, scores.grad)


@pytest.mark.parametrize(
    "select",
    [
        lambda s: core.top_k(s, 2, bias=s.detach() * 3),
        lambda s: core.top_p(s, 0.8),
        lambda s: core.threshold(s, 0.2),
        lambda s: core.expert_choice(s, 3),
        lambda s: core.sample(s, 2, generator=0),
        lambda s: core.uniform(s, 2, generator=0, weight="score"),
        lambda s: core.balanced(s, 2),
        lambda s: core.assignment(s, 2),
        lambda s: core.within_budget(s, torch.tensor([3.0, 2.0, 1.0, 1.0]), 15.0),
        lambda s: core.makespan(s),
        lambda s: core.shared(core.top_k(s, 2)),
        lambda s: core.softmaxed(core.top_k(s, 2)),
        lambda s: core.sinkhorn(s, 2),
        lambda s: core.weigh(core.top_k(s.detach(), 2), s),
    ],
)
def test_every_selection_lets_gradients_through_its_weights(select: Any) -> None:
    torch.manual_seed(1)
    scores = torch.softmax(torch.randn(8, 4), 1).requires_grad_()
    plan = select(scores)
    (plan.weight * torch.arange(1.0, len(plan) + 1)).sum().backward()
    reached = scores.grad != 0
    chosen = core.Plan(plan.source, plan.target, torch.ones(len(plan)), 8, 4).dense() > 0
    assert torch.isfinite(scores.grad).all()
    assert reached.any()
    assert not (reached & ~chosen).any()


def test_objectives_have_gradients_where_probabilities_are_zero() -> None:
    p = torch.tensor([[1.0, 0.0], [0.4, 0.6]], requires_grad=True)
    plan = core.top_k(p)
    total = core.load_balance(p, plan) + core.entropy(p) + core.entropy(p, order=1.5)
    total.backward()
    assert torch.isfinite(p.grad).all()
    logits = torch.tensor([[0.0, -float("inf")], [1.0, 2.0]], requires_grad=True)
    core.z_loss(logits).backward()
    assert torch.isfinite(logits.grad).all()
    anchor = torch.tensor([[0.0, 0.0], [1.0, 2.0]], requires_grad=True)
    core.contrastive(anchor, torch.ones(2, 2)).backward()
    assert torch.isfinite(anchor.grad).all()


def test_the_balance_loss_pushes_probability_off_the_loaded_target() -> None:
    p = torch.softmax(torch.tensor([[2.0, 0.0]] * 4), 1).requires_grad_()
    core.load_balance(p, core.top_k(p)).backward()
    assert (p.grad[:, 0] > p.grad[:, 1]).all()


def test_straight_through_and_merge_carry_gradients() -> None:
    soft = torch.tensor([[0.3, 0.7]], requires_grad=True)
    (
        core.straight_through(torch.tensor([[0.0, 1.0]]), soft) * torch.tensor([2.0, 3.0])
    ).sum().backward()
    assert soft.grad.tolist() == [[2.0, 3.0]]
    out = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    lse = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda o, l: core.merge_partials(o, l), (out, lse))


def test_the_leave_one_out_gradient_is_that_of_the_expected_reward() -> None:
    torch.manual_seed(2)
    logits = torch.tensor([[0.2, -0.1, 0.4]], dtype=torch.float64, requires_grad=True)
    reward = torch.tensor([1.0, 0.0, 3.0], dtype=torch.float64)
    (torch.softmax(logits, 1) @ reward).sum().backward()
    exact, logits.grad = logits.grad.clone(), None
    n = 40_000
    wide = logits.expand(2 * n, 3)
    drawn = core.sample(wide.detach(), generator=0).target.reshape(-1, 1)
    logged = core.log_probability(wide, drawn).reshape(2, n)
    core.leave_one_out_loss(logged, reward[drawn].reshape(2, n)).backward()
    torch.testing.assert_close(-logits.grad, exact, atol=0.05, rtol=0)


def test_a_torch_generator_or_the_global_seed_repeats_the_draw() -> None:
    scores = torch.zeros(100, 8)
    first, second = (
        core.sample(scores, 3, generator=torch.Generator().manual_seed(5)).target for _ in range(2)
    )
    assert torch.equal(first, second)
    torch.manual_seed(6)
    first = core.uniform(scores, generator=None).target
    torch.manual_seed(6)
    assert torch.equal(first, core.uniform(scores, generator=None).target)


def test_the_choice_does_not_depend_on_the_number_of_threads() -> None:
    scores = torch.round(
        torch.randn(500, 12, generator=torch.Generator().manual_seed(0)), decimals=1
    )
    threads = torch.get_num_threads()
    chosen = []
    try:
        for n in (1, 2):
            torch.set_num_threads(n)
            chosen.append([core.top_k(scores, k).target for k in (1, 2, 4, 6)])
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(*chosen, strict=True))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_narrow_floats_are_routed_as_they_are(dtype: str) -> None:
    scores = torch.randn(6, 9).to(getattr(torch, dtype))
    for k in (2, 6):
        plan = core.top_k(scores, k).validate()
        assert plan.weight.dtype == scores.dtype
        expected = np.argsort(-scores.float().numpy(), axis=1, kind="stable")[:, :k]
        assert plan.target.reshape(6, k).tolist() == expected.tolist()
    assert len(core.within_budget(scores, torch.ones(9), 6.0).validate()) == 6


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_fixed_k_compiles_in_one_graph() -> None:
    def route(scores: Any, bias: Any) -> Any:
        plan = core.top_k(scores, 2, bias=bias, weight="softmax", check=False)
        balance = core.load_balance(torch.softmax(scores, 1), plan)
        order, offsets = plan.by_target()
        return plan.source, plan.target, plan.weight, plan.load(), order, offsets, balance

    compiled = torch.compile(route, backend="eager", fullgraph=True)
    scores, bias = torch.randn(16, 6), torch.randn(6)
    for mine, eager in zip(compiled(scores, bias), route(scores, bias), strict=True):
        torch.testing.assert_close(mine, eager)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_other_static_selections_compile_in_one_graph() -> None:
    def route(scores: Any) -> Any:
        wide = core.top_k(scores, 6, check=False)
        nucleus = core.top_p(torch.softmax(scores, 1), 0.7, max_k=3, static=True, check=False)
        fair = core.sinkhorn(scores, 2, rounds=5, tolerance=None, check=False)
        priced = core.balanced(scores, 2, rounds=2, check=False)
        chosen = core.expert_choice(scores, 3, check=False)
        full = core.capped(chosen, 2, priority=chosen.weight, static=True)
        return [(p.target, p.weight) for p in (wide, nucleus, fair, priced, chosen, full)]

    scores = torch.randn(16, 8)
    compiled = torch.compile(route, backend="eager", fullgraph=True)
    for mine, eager in zip(compiled(scores), route(scores), strict=True):
        torch.testing.assert_close(mine, eager)


def test_the_core_never_imports_torch() -> None:
    program = "import sys, wye.core; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
