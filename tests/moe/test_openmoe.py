"""OpenMoE keeps the unit properties of its equations."""

import math

import numpy as np
import pytest
import torch

from wye.core import Plan
from wye.moe import Context, FeedForward, MoEError, MoELayer, Shape, build_layers, get_router
from wye.moe.openmoe import next_token_and_output_z
from wye.moe.parts.balance import Routed
from wye.moe.parts.scores import Scored
from wye.moe.parts.selection import Candidates
from wye.testing import ContractError, check_causal

pytestmark = pytest.mark.torch
D, E, K, L = 16, 8, 2, 32
SHAPE = Shape(n_layers=4, width=D, hidden=8, n_experts=E, k=K)


def _x(batch: int = 3) -> torch.Tensor:
    return torch.randn(batch, L, D, generator=torch.Generator().manual_seed(0))


def _layer(factor: float | None) -> MoELayer:
    torch.manual_seed(0)
    layer = build_layers("openmoe", SHAPE, factor=factor, eval_factor=factor, minimum=0)[0]
    assert isinstance(layer, MoELayer)
    torch.nn.init.normal_(layer.router.scores.weight, std=1.0)
    return layer.eval()


def test_with_room_for_all_nothing_is_dropped_and_the_output_is_the_dropless_one() -> None:
    roomy, free = _layer(E / K), _layer(None)
    torch.testing.assert_close(roomy(_x()), free(_x()))
    assert len(roomy.last.plan) == 3 * L * K


def test_the_drop_ratio_never_rises_with_the_capacity_factor() -> None:
    ratios = []
    for factor in (0.1, 0.25, 0.5, 0.75, 1.0, 1.25, 2.0, 4.0):
        layer = _layer(factor)
        layer(_x())
        ratios.append(1 - len(layer.last.plan) / (3 * L * K))
    assert ratios == sorted(ratios, reverse=True)
    assert ratios[0] > 0.8
    assert ratios[-1] == 0.0


def test_dropped_pairs_are_the_latest_of_their_expert_within_the_same_choice() -> None:
    free, tight = _layer(None), _layer(0.75)
    free(_x())
    tight(_x())
    whole, kept = free.last.plan, tight.last.plan
    stays = torch.isin(whole.cells(), kept.cells())
    rank = torch.arange(len(whole)) % K
    group = (whole.source // L) * E + whole.target
    assert not bool(stays.all())
    for one in group.unique():
        for r in range(K):
            mine = (group == one) & (rank == r)
            last_kept = whole.source[mine & stays].max().item() if (mine & stays).any() else -1
            assert bool((whole.source[mine & ~stays] > last_kept).all())
        if bool((~stays & (group == one) & (rank == 0)).any()):
            assert not bool((stays & (group == one) & (rank == 1)).any())


def test_the_balance_loss_of_uniform_probabilities_is_k() -> None:
    router = get_router("openmoe", D, E, k=K, balance=1.0)
    logits = torch.zeros(1000, E)
    draws = torch.rand(1000, E, generator=torch.Generator().manual_seed(1)).topk(K).indices
    plan = Plan.from_rows(draws, torch.ones(1000, K), E)
    p = torch.softmax(logits, dim=1)
    context = Context(batch=1, length=1000)
    routed = Routed(Scored(logits), Candidates(p, logits, logits, context), p, plan)
    assert float(router.balance[0].losses(routed)["balance"]) == pytest.approx(K)


def test_the_z_loss_of_zero_logits_is_the_square_of_ln_e() -> None:
    router = get_router("openmoe", D, E, z=1.0).train()
    loss = router(torch.zeros(10, D), Context(batch=1, length=10)).losses["z"]
    assert float(loss.detach()) == pytest.approx(math.log(E) ** 2)


def test_gates_sum_to_one_and_the_dense_network_is_always_on() -> None:
    layer = _layer(None)
    y = layer(_x())
    np.testing.assert_allclose(layer.last.plan.dense().sum(dim=1), 1.0, atol=1e-6)
    closed = _layer(0.0)
    assert len(closed(_x()).shape) == 3
    assert len(closed.last.plan) == 0
    torch.testing.assert_close(closed(_x()), closed.shared(_x().reshape(-1, D)).reshape(3, L, D))
    assert not torch.equal(y, closed(_x()))


def test_a_limited_capacity_in_evaluation_sees_the_future_and_says_so() -> None:
    tight, free = _layer(0.75), _layer(None)
    assert not tight.router.contracts.causal
    assert free.router.contracts.causal
    check_causal(free, _x())
    with pytest.raises(ContractError, match="not causal"):
        check_causal(tight, _x(), cuts=range(1, L))


def test_mixtures_stand_in_every_second_layer_and_start_as_published() -> None:
    layers = build_layers("openmoe", SHAPE, every=2)
    assert [type(layer) for layer in layers] == [FeedForward, MoELayer] * 2
    wide = get_router("openmoe", 4096, 64)
    assert float(wide.scores.weight.detach().std()) == pytest.approx(
        math.sqrt(0.1 / 4096), rel=0.02
    )
    with pytest.raises(MoEError, match="every=5"):
        build_layers("openmoe", SHAPE, every=5)


def test_the_objective_adds_the_spread_of_the_output_logits() -> None:
    logits = torch.zeros(2, 5, 7)
    ids = torch.zeros(2, 6, dtype=torch.int64)

    class Flat(torch.nn.Module):
        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return logits

    loss = next_token_and_output_z(Flat(), ids, torch.Generator())
    assert float(loss) == pytest.approx(math.log(7) + 1e-3 * math.log(7) ** 2, rel=1e-6)
