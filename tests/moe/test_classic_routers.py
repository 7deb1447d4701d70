"""The classic routers: what their definitions say exactly."""

import itertools
import math

import numpy as np
import pytest
import torch

from wye.core import Plan, SelectionError, top_k
from wye.moe import Experts, MoEError, Shape, build_layers, get_router
from wye.moe.base import after_step, make_context
from wye.moe.models.language_model import LanguageModel
from wye.moe.noisy_top_k import stay_probability
from wye.moe.parts.balanced_selections import AssignmentSelection, SinkhornSelection
from wye.moe.parts.gates import Gate
from wye.moe.parts.scores import LinearScores, NoisyScores, Scored
from wye.moe.parts.selection import Candidates
from wye.moe.parts.zero_cost import WithZeroCost
from wye.moe.soft_moe import SoftMoE

pytestmark = pytest.mark.torch

WIDTH, EXPERTS = 12, 4
TOKEN_CHOICE = (
    "switch",
    "gshard",
    "noisy_top_k",
    "base",
    "sinkhorn",
    "loss_free",
    "deepseek_v3",
    "shared_experts",
    "balance_loss",
    "bip-balancing",
    "selective-sinkhorn",
    "global-batch-lbl",
)


def tokens(n: int = 24, seed: int = 0, scale: float = 3.0) -> torch.Tensor:
    return scale * torch.randn(n, WIDTH, generator=torch.Generator().manual_seed(seed))


def made(name: str, n_experts: int = EXPERTS, **options):
    torch.manual_seed(1)
    if name == "deepseek_v3":
        options = {"k": 2, **options}
    router = get_router(name, WIDTH, n_experts, **options)
    for p in router.parameters():
        # Zero initial weights make every score equal.
        torch.nn.init.normal_(p, std=0.3)
    return router


def routed(router, x: torch.Tensor, batch: int = 1, **known):
    return router(x, make_context(x.view(batch, -1, x.shape[-1]), **known))


def candidates(logits: torch.Tensor, batch: int = 1) -> Candidates:
    context = make_context(logits.view(batch, -1, logits.shape[-1]))
    return Candidates(torch.softmax(logits, dim=1), logits, logits, context)


# Property 1 and 11: gates.


def test_softmax_before_or_after_the_choice_gives_the_same_shares():
    logits = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
    plan = Gate(normalise=True).weigh(top_k(torch.softmax(logits, dim=1), 3), k=3)
    kept = logits.topk(3, dim=1).values
    torch.testing.assert_close(plan.weight.view(50, 3), torch.softmax(kept, dim=1))


@pytest.mark.parametrize("name", ["top_k", "noisy_top_k", "balance_loss", "bip-balancing"])
def test_all_experts_with_shared_gates_are_the_dense_mixture(name):
    options = {"load": 0.0} if name == "noisy_top_k" else {}
    router = made(name, k=EXPERTS, **options).eval()
    x = tokens()
    plan, logits = routed(router, x).plan, routed(router, x).logits
    torch.testing.assert_close(plan.dense(), torch.softmax(logits, dim=1))


# Switch and GShard.


def test_switch_starts_from_a_truncated_normal_of_a_tenth_over_the_width():
    torch.manual_seed(0)
    weight = LinearScores(400, 200, init_scale=0.1).weight
    assert float(weight.detach().std()) == pytest.approx(math.sqrt(0.1 / 400), rel=0.02)
    assert float(weight.detach().abs().max()) <= 2 * math.sqrt(0.1 / 400) / 0.8796 + 1e-9


def test_switch_fills_experts_up_to_the_capacity_in_order_of_position():
    router = made("switch", jitter=0.0, capacity=1.0).train()
    x = tokens(40)
    plan = routed(router, x).plan
    best = routed(router.eval(), x).plan.target
    seen = [0] * EXPERTS
    expected = []
    for t, e in enumerate(best.tolist()):
        if seen[e] < 10:
            expected.append((t, e))
        seen[e] += 1
    assert list(zip(plan.source.tolist(), plan.target.tolist(), strict=True)) == expected
    assert len(routed(router, x).plan) == 40


def test_switch_jitters_its_input_in_training_only():
    router = made("switch", jitter=0.3)
    x = tokens()
    assert not torch.equal(routed(router.train(), x).logits, routed(router, x).logits)
    assert torch.equal(routed(router.eval(), x).logits, routed(router, x).logits)


def test_a_second_choice_stays_as_often_as_its_gate_says():
    router = made("gshard", capacity=None, threshold=0.5).train()
    x = tokens(6)
    torch.manual_seed(0)
    draws = 2000
    hits = torch.zeros(6)
    for _ in range(draws):
        hits += (routed(router, x).plan.fan_out() == 2).float()
    second = routed(router.eval(), x).plan.weight[1::2]
    wanted = (second / 0.5).clamp(max=1).detach()
    error = (wanted * (1 - wanted) / draws).sqrt()
    assert bool(((hits / draws - wanted).abs() <= 4 * error + 1e-9).all())


def test_gates_are_shared_before_the_second_choice_leaves():
    router = made("gshard", capacity=None).train()
    x = tokens(200)
    torch.manual_seed(0)
    plan = routed(router, x).plan
    alone = plan.fan_out() == 1
    assert bool(alone.any())
    weights = plan.dense().sum(dim=1)
    assert bool((weights[alone] < 1).all())
    torch.testing.assert_close(weights[~alone], torch.ones(int((~alone).sum())))


def test_threshold_zero_keeps_every_second_choice():
    plan = routed(made("gshard", capacity=None, threshold=0.0).train(), tokens()).plan
    assert plan.fan_out().tolist() == [2] * 24


def test_first_choices_take_their_places_before_all_second_choices():
    router = made("gshard", capacity=0.5, threshold=0.0, n_experts=3).train()
    x = tokens(60)
    plan = routed(router, x).plan
    whole = routed(router.eval(), x).plan
    places = router.selection.places(60, 3, 0.5)
    first = torch.bincount(whole.target.view(-1, 2)[:, 0], minlength=3)
    rank_of = {
        (s, t): i % 2
        for i, (s, t) in enumerate(zip(whole.source.tolist(), whole.target.tolist(), strict=True))
    }
    kept = [rank_of[p] for p in zip(plan.source.tolist(), plan.target.tolist(), strict=True)]
    for expert in range(3):
        of = [r for r, t in zip(kept, plan.target.tolist(), strict=True) if t == expert]
        assert of.count(0) == min(int(first[expert]), places)
        assert len(of) <= places


def test_capacity_above_the_tokens_drops_nothing():
    x = tokens()
    free = made("switch", capacity=None, jitter=0.0).train()
    wide = made("switch", capacity=float(EXPERTS), jitter=0.0).train()
    torch.testing.assert_close(routed(wide, x).plan.dense(), routed(free, x).plan.dense())


# Property 12: noisy top-k.


def test_noisy_top_k_without_noise_is_top_k_and_starts_undecided():
    torch.manual_seed(0)
    fresh = get_router("noisy_top_k", WIDTH, EXPERTS, k=2)
    assert not any(bool(p.any()) for p in fresh.parameters())
    router = made("noisy_top_k", k=2).eval()
    routing = routed(router, tokens())
    assert torch.equal(routing.plan.target, top_k(routing.logits, 2).target)
    noisy = routed(router.train(), tokens())
    assert not torch.equal(noisy.logits, routing.logits)


def test_the_probability_to_stay_is_that_of_fresh_noise():
    """P_ti replaces the noise of i alone; the share of redraws in which i stays must agree."""
    torch.manual_seed(0)
    scores = NoisyScores(WIDTH, 5, init_std=0.4)
    x = tokens(3, scale=1.0)
    scored = scores(x, make_context(x))
    stays = stay_probability(scored, 2)
    draws = 4000
    for expert in range(5):
        fresh = scored.clean[:, expert] + scored.noise[:, expert] * torch.randn(draws, 3)
        others = scored.logits.clone()
        others[:, expert] = -torch.inf
        least = others.topk(2, dim=1).values[:, 1]
        share = (fresh > least).float().mean(dim=0)
        p = stays[:, expert].detach()
        error = (p * (1 - p) / draws).sqrt()
        assert bool(((share - p).abs() <= 4 * error + 1e-4).all())


def test_the_probabilities_to_stay_add_up_to_k_in_expectation():
    torch.manual_seed(0)
    scores = NoisyScores(WIDTH, 6, init_std=0.4)
    x = tokens(1, scale=1.0).expand(6000, -1)
    # The load counts i under fresh noise of its own and the realised noise of the others, which
    # is the chance that i is in the top k of a wholly fresh draw; those chances add up to k.
    total = stay_probability(scores(x, make_context(x)), 2).sum(dim=1).detach()
    error = float(total.std()) / math.sqrt(len(total))
    assert abs(float(total.mean()) - 2) <= 3 * error


def test_noisy_losses_are_zero_for_even_gates_and_need_noise():
    routing = routed(made("noisy_top_k", k=2).train(), tokens())
    assert set(routing.losses) == {"importance", "load"}
    with pytest.raises(MoEError, match="noisy logits"):
        stay_probability(Scored(torch.zeros(2, 3)), 1)
    with pytest.raises(MoEError, match="load=0"):
        get_router("noisy_top_k", WIDTH, 2, k=2)


# Property 5: expert choice.


@pytest.mark.parametrize("group", ["batch", "sequence"])
def test_every_expert_takes_exactly_its_capacity(group):
    router = made("expert_choice", k=2, group=group)
    plan = routed(router, tokens(48), batch=3).plan
    assert plan.load().tolist() == [24] * EXPERTS
    if group == "sequence":
        cells = torch.bincount(plan.source // 16 * EXPERTS + plan.target, minlength=12)
        assert cells.tolist() == [8] * 12


@pytest.mark.parametrize("group", ["batch", "sequence"])
def test_expert_choice_of_all_experts_is_the_dense_softmax(group):
    router = made("expert_choice", k=EXPERTS, group=group)
    routing = routed(router, tokens(20), batch=2)
    torch.testing.assert_close(routing.plan.dense(), torch.softmax(routing.logits, dim=1))


def test_expert_choice_declares_that_it_sees_the_future():
    assert not made("expert_choice").contracts.causal
    assert not made("expert_choice", group="batch").contracts.batch_invariant
    with pytest.raises(MoEError, match="group"):
        made("expert_choice", group="token")


# Property 6: loss-free.


def test_loss_free_gates_do_not_change_with_the_bias_for_the_same_choice():
    router = made("loss_free", k=2).eval()
    x = tokens()
    before = routed(router, x).plan
    router.balance[0].bias_E += 5.0  # the same for all: the choice stays
    after = routed(router, x).plan
    assert torch.equal(before.target, after.target)
    assert torch.equal(before.weight, after.weight)


def test_loss_free_bias_moves_by_its_rate_once_a_step_and_has_no_gradient():
    router = made("loss_free", k=2, rate=0.25).train()
    for _ in range(3):
        routed(router, tokens())
    load = 3 * routed(router.eval(), tokens()).plan.load()
    after_step(router)
    bias = router.balance[0].bias_E
    assert torch.equal(bias, 0.25 * torch.sign(load.float().mean() - load))
    assert not bias.requires_grad
    after_step(router)
    assert torch.equal(bias, router.balance[0].bias_E)


def test_loss_free_default_rate_follows_the_score():
    assert made("loss_free").balance[0].rate == 1e-3
    assert made("loss_free", affinity="softmax").balance[0].rate == pytest.approx(0.1 / EXPERTS)


# Property 7: Sinkhorn and BASE.


def test_base_gives_every_expert_exactly_its_share_and_beats_greedy_balance():
    logits = torch.randn(48, EXPERTS, generator=torch.Generator().manual_seed(3)) + torch.arange(4)
    plan = AssignmentSelection(1).train()(candidates(logits))
    assert plan.load().tolist() == [12] * EXPERTS
    assert plan.fan_out().tolist() == [1] * 48
    score = logits[plan.source, plan.target].sum()
    room, greedy = [12] * EXPERTS, 0.0
    for t in range(48):
        expert = max((e for e in range(EXPERTS) if room[e]), key=lambda e, t=t: logits[t, e])
        room[expert] -= 1
        greedy += float(logits[t, expert])
    assert float(score) >= greedy


def test_base_equals_brute_force_on_six_tokens_and_three_experts():
    for seed in range(5):
        logits = torch.randn(6, 3, generator=torch.Generator().manual_seed(seed))
        plan = AssignmentSelection(1).train()(candidates(logits))
        best = max(
            float(logits[torch.arange(6), torch.tensor(a)].sum())
            for a in set(itertools.permutations([0, 0, 1, 1, 2, 2]))
        )
        assert float(logits[plan.source, plan.target].sum()) == pytest.approx(best, abs=1e-5)


@pytest.mark.parametrize("name", ["base", "sinkhorn"])
def test_balanced_routers_are_greedy_in_evaluation(name):
    router = made(name).eval()
    routing = routed(router, tokens())
    k = len(routing.plan) // 24
    assert torch.equal(routing.plan.target, top_k(routing.logits, k).target)


def test_base_gates_are_sigmoids_with_gradient():
    router = made("base").train()
    routing = routed(router, tokens())
    plan = routing.plan
    torch.testing.assert_close(plan.weight, torch.sigmoid(routing.logits[plan.source, plan.target]))
    plan.weight.sum().backward()
    assert router.scores.weight.grad.abs().sum() > 0


@pytest.mark.parametrize(("k", "affinity"), [(1, "sigmoid"), (2, "softmax")])
def test_sinkhorn_gates_come_from_the_logits_at_the_places_chosen_by_mass(k, affinity):
    router = made("sinkhorn", k=k).train()
    favourite = router.scores.weight.detach()[0]
    routing = routed(router, tokens(200, scale=1.0) + 3 * favourite)
    gates = getattr(torch, affinity)(routing.logits, **({"dim": 1} if k > 1 else {}))
    plan = routing.plan
    torch.testing.assert_close(plan.weight, gates[plan.source, plan.target])
    plain = top_k(routing.logits, k)
    assert plan.load().max() < plain.load().max()


def test_sinkhorn_and_base_refuse_nan():
    bad = torch.full((4, 3), torch.nan)
    for selection in (SinkhornSelection(1), AssignmentSelection(1)):
        with pytest.raises(SelectionError, match="NaN"):
            selection.train()(candidates(bad))
    with pytest.raises(MoEError, match="k="):
        SinkhornSelection(0)


# Property 8: Soft MoE.


def soft(n_experts: int = 3, slots: int = 2) -> SoftMoE:
    torch.manual_seed(0)
    return SoftMoE(Experts(n_experts, WIDTH, 8), slots=slots)


def test_dispatch_sums_to_one_over_tokens_and_combine_over_slots():
    dispatch, combine = soft().weights(tokens(20).view(2, 10, WIDTH))
    assert dispatch.shape == (2, 10, 6)
    torch.testing.assert_close(dispatch.sum(dim=1), torch.ones(2, 6))
    torch.testing.assert_close(combine.sum(dim=2), torch.ones(2, 10))


def test_permuted_tokens_give_permuted_outputs():
    layer, x = soft(), tokens(10).view(1, 10, WIDTH)
    order = torch.randperm(10, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(layer(x)[:, order], layer(x[:, order]), rtol=1e-4, atol=1e-5)


def test_a_single_slot_gives_all_tokens_the_same_output():
    y = soft(n_experts=1, slots=1)(tokens(10).view(2, 5, WIDTH))
    torch.testing.assert_close(y, y[:, :1].expand_as(y))


def test_soft_moe_equals_its_equations_slot_by_slot():
    layer, x = soft(), tokens(7)
    unit = x / x.norm(dim=1, keepdim=True)
    logits = layer.scale * unit @ (layer.phi / layer.phi.norm(dim=0))
    slots = torch.softmax(logits, dim=0).T @ x
    outputs = []
    for s in range(6):
        one = Plan(torch.tensor([0]), torch.tensor([s // 2]), torch.ones(1), 1, 3)
        outputs.append(layer.experts(slots[s : s + 1], one))
    expected = torch.softmax(logits, dim=1) @ torch.cat(outputs)
    torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-5)


def test_soft_moe_leaves_padding_out_whatever_it_holds():
    layer, x = soft(), tokens(10).view(2, 5, WIDTH)
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], dtype=torch.bool)
    x = torch.where(mask[..., None], x, torch.nan)
    y = layer(x, mask=mask)
    torch.testing.assert_close(y[0, :3], layer(x[0, :3]), rtol=1e-4, atol=1e-5)
    assert not bool(y[0, 3:].any())
    with pytest.raises(MoEError, match="NaN"):
        layer(x)


def test_soft_moe_in_a_model_does_not_see_padding():
    shape = Shape(n_layers=1, width=16, hidden=8, n_experts=2)
    torch.manual_seed(0)
    model = LanguageModel.build("soft_moe", shape, length=8, causal=False).eval()
    ids = torch.randint(0, 256, (1, 8), generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[True] * 5 + [False] * 3])
    torch.testing.assert_close(
        model(ids, mask=mask)[:, :5], model(ids[:, :5]), rtol=1e-4, atol=1e-5
    )


# Property 9: hash and random.


def test_hash_routing_does_not_depend_on_context_or_position():
    router = made("hash")
    ids = torch.tensor([[7, 3, 7], [3, 3, 7]])
    plan = routed(router, tokens(6), batch=2, token_ids=ids).plan
    by_id = {}
    for i, t in zip(ids.flatten().tolist(), plan.target.tolist(), strict=True):
        assert by_id.setdefault(i, t) == t
    other = routed(router, tokens(6, seed=9), batch=3, token_ids=ids.view(3, 2)).plan
    assert torch.equal(other.target, plan.target)
    assert plan.weight.tolist() == [1.0] * 6


def test_unknown_ids_go_to_their_remainder():
    rule = made("hash", vocabulary=10).selection
    assert rule.experts_of(torch.tensor([10, 17, -1])).tolist() == [10 % 4, 17 % 4, -1 % 4]
    assert torch.equal(rule.experts_of(torch.arange(10)), rule.table_V)


def test_the_balanced_table_loads_experts_alike_and_each_layer_has_its_random_table():
    counts = [100, 50, 30, 30, 20, 10, 5, 5]
    table = made("hash", vocabulary=8, frequency=counts, n_experts=2).selection.table_V
    load = torch.zeros(2).index_add(0, table, torch.tensor(counts, dtype=torch.float32))
    assert float(load.max() - load.min()) <= 5
    with pytest.raises(MoEError, match="frequency"):
        made("hash", vocabulary=8, frequency=[1, 2])
    layers = build_layers("hash", Shape(n_layers=2, width=8, hidden=4, n_experts=4))
    first, second = (layer.router.selection.table_V for layer in layers)
    assert not torch.equal(first, second)


def test_hash_routing_needs_token_ids():
    with pytest.raises(MoEError, match="token_ids"):
        routed(made("hash"), tokens())


def test_random_routing_is_uniform_in_training_and_fixed_in_evaluation():
    router = made("random", k=2)
    x = tokens(4000)
    torch.manual_seed(0)
    plan = routed(router.train(), x).plan
    assert plan.fan_out().unique().tolist() == [2]
    deviation = (plan.load() - 2000).abs().max() / math.sqrt(4000 * 0.25)
    assert float(deviation) < 4
    assert plan.weight.unique().tolist() == [0.5]
    once, again = routed(router.eval(), x).plan, routed(router, -x).plan
    assert torch.equal(once.target, again.target)


# DeepSeek.


def test_deepseek_v3_weighs_by_score_alone_and_scales_the_sum():
    router = made("deepseek_v3", k=2, n_experts=8, groups=4, kept_groups=2).eval()
    router.balance[0].bias_E += torch.linspace(-1, 1, 8)
    routing = routed(router, tokens())
    rows = routing.plan.weight.view(-1, 2)
    torch.testing.assert_close(rows.sum(dim=1), torch.full((24,), 2.5))
    scores = torch.sigmoid(routing.logits).gather(1, routing.plan.target.view(-1, 2))
    torch.testing.assert_close(rows, 2.5 * scores / scores.sum(dim=1, keepdim=True))
    groups = routing.plan.target.view(-1, 2) // 2
    assert int(torch.tensor([len(set(g)) for g in groups.tolist()]).max()) <= 2


def test_deepseek_v3_balances_within_sequences_with_normalised_scores():
    router = made("deepseek_v3", k=2, weight=1.0).train()
    x = tokens(24)
    routing = routed(router, x, batch=2)
    s = torch.sigmoid(routing.logits)
    p = (s / s.sum(dim=1, keepdim=True)).view(2, 12, EXPERTS).mean(dim=1)
    phi = torch.stack(
        [torch.bincount(t, minlength=EXPERTS) / 24 for t in routing.plan.target.view(2, 24)]
    )
    expected = EXPERTS * (phi * p).sum(dim=1).mean()
    torch.testing.assert_close(routing.losses["balance"], expected)


def test_shared_and_fine_grained_experts_keep_parameters_and_cost():
    shape = Shape(n_layers=1, width=WIDTH, hidden=16, n_experts=4, k=2)
    (plain,) = build_layers("top_k", shape)
    (fine,) = build_layers("shared_experts", shape, split=4, n_shared=2)
    assert fine.experts.n_experts == 14
    assert fine.router.selection.k == 6
    count = [sum(p.numel() for p in m.parameters()) for m in (plain.experts, fine.experts)]
    shared = sum(p.numel() for p in fine.shared.parameters())
    assert count[0] == count[1] + shared
    x = tokens()
    y, routing = fine.run(x, make_context(x))
    torch.testing.assert_close(y, fine.experts(x, routing.plan) + fine.shared(x))
    with pytest.raises(MoEError, match="split"):
        build_layers("shared_experts", shape, split=3)
    with pytest.raises(MoEError, match="n_shared"):
        build_layers("shared_experts", shape, split=1, n_shared=2)


# Zero-cost experts.


def test_zero_cost_experts_return_the_token_nothing_or_a_constant():
    torch.manual_seed(0)
    layer = WithZeroCost(Experts(2, WIDTH, 8), identity=1, zero=1, constant=1)
    torch.nn.init.normal_(layer.values)
    x = tokens(4)
    weight = torch.tensor([0.5, 0.25, 2.0, 1.0])
    plan = Plan(torch.arange(4), torch.tensor([2, 3, 4, 0]), weight, 4, 5)
    y = layer(x, plan)
    torch.testing.assert_close(y[0], 0.5 * x[0])
    assert not bool(y[1].any())
    torch.testing.assert_close(y[2], 2.0 * layer.values[0])
    real = Plan(torch.tensor([0]), torch.tensor([0]), torch.ones(1), 1, 2)
    torch.testing.assert_close(y[3:], layer.experts(x[3:], real))
    y.sum().backward()
    assert layer.values.grad is not None


def test_zero_cost_experts_stand_beside_the_real_ones_in_a_layer():
    shape = Shape(n_layers=1, width=WIDTH, hidden=8, n_experts=2, k=2)
    (layer,) = build_layers("balance_loss", shape, identity=1, zero=2)
    assert layer.router.n_experts == 5
    assert layer(tokens()).shape == (24, WIDTH)
    with pytest.raises(MoEError, match="zero"):
        build_layers("balance_loss", shape, zero=-1)


# All of them.


@pytest.mark.parametrize("name", TOKEN_CHOICE)
def test_token_choice_does_not_depend_on_other_tokens_in_evaluation(name):
    router = made(name).eval()
    x = tokens(16)
    together = routed(router, x).plan.dense()
    alone = torch.cat([routed(router, row[None]).plan.dense() for row in x])
    torch.testing.assert_close(together, alone)


@pytest.mark.parametrize("name", [n for n in TOKEN_CHOICE if n != "selective-sinkhorn"])
def test_nan_hidden_states_and_another_width_are_refused(name):
    router = made(name)
    with pytest.raises((MoEError, SelectionError), match="NaN"):
        routed(router, torch.full((4, WIDTH), torch.nan))
    with pytest.raises(MoEError, match="width"):
        routed(router, torch.zeros(4, WIDTH + 1))


@pytest.mark.parametrize("name", [*TOKEN_CHOICE, "expert_choice", "random"])
def test_no_tokens_give_an_empty_plan(name):
    for training in (True, False):
        routing = routed(made(name).train(training), torch.zeros(0, WIDTH))
        assert len(routing.plan) == 0
        assert all(bool(torch.isfinite(loss)) for loss in routing.losses.values())


def test_masked_prediction_hides_bytes_and_learns_from_those_alone():
    from wye.moe.learning.masked_objective import MASK, masked_loss

    class Spy(torch.nn.Module):
        def forward(self, ids):
            self.seen = ids
            return torch.zeros(*ids.shape, 257)

    spy = Spy()
    ids = torch.randint(0, 256, (8, 65), generator=torch.Generator().manual_seed(0))
    loss = masked_loss(spy, ids, torch.Generator().manual_seed(0))
    hidden = spy.seen == MASK
    assert 0.1 < float(hidden.float().mean()) < 0.2
    assert torch.equal(spy.seen[~hidden], ids[:, 1:][~hidden])
    assert float(loss) == pytest.approx(math.log(257))
    assert np.isfinite(float(masked_loss(spy, ids[:1, :2], torch.Generator().manual_seed(1))))
