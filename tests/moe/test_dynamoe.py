"""DynaMoE: the percentile in its two scopes, the second softmax, experts over depth."""

import math

import pytest
import torch

from wye.moe import Shape, build_layers, get_router
from wye.moe.base import Context, MoEError
from wye.moe.parts.thresholds import percentile_fan_out

pytestmark = pytest.mark.torch

D, S = 12, 40


def routed(n_experts, *, train=False, x=None, seed=0, **parameters):
    torch.manual_seed(seed)
    router = get_router("dynamoe", D, n_experts, **parameters).train(train)
    with torch.no_grad():
        router.scores.weight.mul_(20)
    x = torch.randn(S, D) if x is None else x
    return router(x, Context(batch=1, length=x.shape[0]))


@pytest.mark.parametrize("n", range(2, 33))
def test_scope_token_is_top_k(n):
    for tenth in range(11):
        routing = routed(n, tau=tenth / 10, faithful=True)
        k = max(1, n - 1 - (tenth * (n - 1)) // 10)
        best = routing.probabilities.topk(k, dim=1).indices.sort(dim=1).values
        chosen = routing.plan.target.view(S, k).sort(dim=1).values
        assert torch.equal(chosen, best)
    assert routed(n, tau=1.0, faithful=True).plan.fan_out().unique().tolist() == [1]
    assert routed(n, tau=0.0, faithful=True).plan.fan_out().unique().tolist() == [n - 1]


def test_scope_token_gives_the_same_number_whatever_input_temperature_and_noise():
    k = percentile_fan_out(9, 0.5)
    for scale in (0.01, 1.0, 100.0):
        for temperature in (0.1, 0.5, 2.0):
            for noise in (0.0, 0.1, 1.0):
                routing = routed(
                    9,
                    train=True,
                    x=scale * torch.randn(S, D),
                    temperature=temperature,
                    noise=noise,
                    faithful=True,
                    combine="gates",
                )
                assert routing.plan.fan_out().unique().tolist() == [k]


def test_noise_changes_who_is_taken_in_training_and_nothing_in_evaluation():
    for combine in ("gates", "logits"):
        quiet = routed(9, train=True, noise=0.0, faithful=True, combine=combine).plan
        loud = routed(9, train=True, noise=0.5, faithful=True, combine=combine).plan
        assert not torch.equal(quiet.dense() > 0, loud.dense() > 0)
        still = routed(9, train=False, noise=0.5, faithful=True, combine=combine).plan
        assert torch.equal(still.dense(), quiet.dense())


def test_noise_per_expert_is_divided_by_their_number():
    router = get_router("dynamoe", D, 8, noise=0.4, noise_per_expert=True, combine="gates")
    assert router.transforms[0].std == pytest.approx(0.05)


def test_scope_batch_varies_the_number_with_the_token():
    fan_out = routed(8, train=True, scope="batch").plan.fan_out().float()
    assert float(fan_out.std()) > 0.3
    assert int(fan_out.min()) >= 1


@pytest.mark.parametrize("scope", ["token", "batch"])
@pytest.mark.parametrize("combine", ["gates", "logits"])
@pytest.mark.parametrize("train", [False, True])
def test_weights_sum_to_one_on_the_chosen_and_are_zero_elsewhere(scope, combine, train):
    plan = routed(8, train=train, scope=scope, combine=combine).plan
    rows = plan.dense()
    assert torch.allclose(rows.sum(dim=1), torch.ones(S), atol=1e-6)
    assert bool((plan.weight > 0).all())
    assert int((rows > 0).sum()) == len(plan)


def test_weights_of_gates_are_never_more_than_e_apart_and_are_their_softmax():
    routing = routed(8, scope="token", combine="gates", tau=0.2)
    rows = routing.plan.dense()
    least = torch.where(rows > 0, rows, math.inf).amin(dim=1)
    assert bool((rows.amax(dim=1) / least <= math.e + 1e-5).all())
    masked = torch.where(rows > 0, routing.probabilities, -math.inf)
    assert torch.allclose(rows, torch.softmax(masked, dim=1), atol=1e-6)


def test_weights_of_logits_are_the_softmax_of_the_tempered_logits_of_the_chosen():
    routing = routed(8, scope="token", combine="logits", temperature=0.7)
    rows = routing.plan.dense()
    masked = torch.where(rows > 0, routing.logits / 0.7, -math.inf)
    assert torch.allclose(rows, torch.softmax(masked, dim=1), atol=1e-6)


def test_a_single_expert_takes_every_token_whole():
    for scope in ("token", "batch"):
        plan = routed(1, train=True, scope=scope).plan
        assert plan.fan_out().tolist() == [1] * S
        assert torch.allclose(plan.weight, torch.ones(S))


def test_the_balance_loss_is_off_when_faithful_and_optional():
    assert routed(8, train=True, faithful=True).losses == {}
    assert set(routed(8, train=True).losses) == {"balance"}
    assert routed(8, train=True, balance=0.0).losses == {}
    assert set(routed(8, train=True, faithful=True, balance=0.1).losses) == {"balance"}


@pytest.mark.parametrize("schedule", ["uniform", "descending", "ascending", "valley", "wave"])
def test_layers_follow_the_schedule_at_an_equal_number_of_parameters(schedule):
    shape = Shape(n_layers=6, width=D, hidden=8, n_experts=4)
    layers = build_layers("dynamoe", shape, schedule=schedule, max_k=2)
    sizes = [layer.router.n_experts for layer in layers]
    assert sum(sizes) == 24
    assert min(sizes) >= 1
    count = sum(p.numel() for layer in layers for p in layer.parameters())
    assert count == 24 * (3 * D * 8 + D)
    x = torch.randn(2, 5, D)
    for layer in layers:
        x = x + layer(x)
    assert x.shape == (2, 5, D)


def test_options_that_contradict_or_are_unknown_are_refused():
    with pytest.raises(MoEError, match="choose tau instead"):
        get_router("dynamoe", D, 8, scope="token", max_k=2)
    with pytest.raises(MoEError, match="expected 'token' or 'batch'"):
        get_router("dynamoe", D, 8, scope="sequence")
    with pytest.raises(MoEError, match="expected 'gates' or 'logits'"):
        get_router("dynamoe", D, 8, combine="sum")
    with pytest.raises(MoEError, match="tau=2"):
        get_router("dynamoe", D, 8, tau=2)
