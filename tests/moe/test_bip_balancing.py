"""BIP balancing: prices, quotas, ties, the online variants, and what balance costs."""

import copy
import itertools
import math
import warnings

import pytest
import torch

from wye.core import capped, dual_bound, dual_prices, max_violation, top_k
from wye.moe import DualPrices, MoEError, get_router
from wye.moe.base import after_step, make_context
from wye.moe.bip_balancing import RetainedScore
from wye.moe.parts.balance import fixed_jitter, quota_of
from wye.moe.parts.online_prices import OnlinePrices

pytestmark = pytest.mark.torch

WIDTH, EXPERTS = 8, 4


def made(k: int = 2, **options):
    torch.manual_seed(0)
    router = get_router("bip-balancing", WIDTH, EXPERTS, k=k, **options)
    torch.nn.init.normal_(router.scores.weight, std=0.5)
    return router


def tokens(n: int = 64, seed: int = 0, offset: float = 1.0) -> torch.Tensor:
    return torch.randn(n, WIDTH, generator=torch.Generator().manual_seed(seed)) + offset


def routed(router, x):
    return router(x, make_context(x))


def skewed(n: int = 240, m: int = 6, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(n, m, generator=generator) + torch.randn(m, generator=generator)
    return torch.softmax(z.double(), dim=1)


def test_a_batch_that_is_balanced_already_is_routed_as_before():
    s = torch.eye(6, dtype=torch.float64).repeat(10, 1) * 0.5 + 0.05
    s = s + 0.1 * torch.roll(torch.eye(6, dtype=torch.float64), 1, 0).repeat(10, 1)
    plain = top_k(s, 2)
    assert max_violation(plain.load()) == 0
    for rounds in (1, 4, 14):
        priced = top_k(s, 2, bias=-dual_prices(s, 2, rounds=rounds))
        assert torch.equal(priced.target, plain.target)


def test_a_constant_added_to_a_token_changes_no_choice():
    s = skewed() + 1.0
    moved = s + 0.3 * torch.rand(240, 1, dtype=torch.float64)
    for rounds in (1, 4, 8):
        one = top_k(s, 2, bias=-dual_prices(s, 2, rounds=rounds))
        other = top_k(moved, 2, bias=-dual_prices(moved, 2, rounds=rounds))
        assert torch.equal(one.target, other.target)


def test_the_dual_never_rises_and_bounds_what_is_chosen():
    s = skewed()
    bounds = [dual_bound(s, dual_prices(s, 2, rounds=r), 2) for r in range(12)]
    assert all(b <= a + 1e-9 for a, b in itertools.pairwise(bounds))
    # Drop what is over the quota to make the choice feasible.
    plan = top_k(s, 2, bias=-dual_prices(s, 2, rounds=11))
    feasible = capped(plan, math.ceil(2 * 240 / 6))
    total = float(feasible.weight.sum())
    assert 0 <= total <= min(bounds) + 1e-9


def test_gates_are_the_original_scores_bit_for_bit():
    router = made(k=1)
    routing = routed(router.train(), tokens())
    p = routing.probabilities
    plan = routing.plan
    assert torch.equal(plan.weight, p[plan.source, plan.target])
    pairs = made(k=2)
    routing = routed(pairs.train(), tokens())
    chosen = routing.probabilities[routing.plan.source, routing.plan.target].view(-1, 2)
    shares = chosen / chosen.sum(dim=1, keepdim=True)
    assert torch.equal(routing.plan.weight.view(-1, 2), shares)


def test_the_load_is_even_from_the_first_batch():
    x = tokens(400)
    plain = max_violation(routed(get_plain(), x).plan.load())
    assert max_violation(routed(made(rounds=14).train(), x).plan.load()) < 0.1 * plain


def get_plain():
    router = made()
    router.balance = torch.nn.ModuleList()
    return router.train()


def test_evaluation_uses_frozen_prices_whatever_the_batch():
    router = made().train()
    for seed in range(5):
        routed(router, tokens(seed=seed))
    router.eval()
    before = copy.deepcopy(router.state_dict())
    x = tokens(seed=9)
    together = routed(router, x).plan.dense()
    alone = torch.cat([routed(router, row[None]).plan.dense() for row in x])
    torch.testing.assert_close(together, alone)
    assert all(torch.equal(v, before[n]) for n, v in router.state_dict().items())


def test_identical_tokens_are_parted_by_the_tie_break_alone():
    x = tokens(1).expand(64, WIDTH)
    together = routed(made(k=1, rounds=14).train(), x).plan.load()
    assert max_violation(together) == EXPERTS - 1
    parted = made(k=1, rounds=60, tie_break=1e-2).train()
    assert max_violation(routed(parted, x).plan.load()) < 0.5


def test_the_tie_break_is_fixed_by_place_and_expert():
    x = tokens(12)
    whole = fixed_jitter(torch.zeros(12, 3), make_context(x))
    place = torch.tensor([1, 5, 11])
    part = fixed_jitter(torch.zeros(3, 3), make_context(x).without_padding(place))
    assert torch.equal(part, whole[place])
    assert float(whole.min()) >= 0
    assert float(whole.max()) < 1
    assert whole.unique().numel() == 36


def test_shares_divide_the_load():
    router = made(k=1, rounds=30, shares=[5, 1, 1, 1]).train()
    load = routed(router, tokens(800, offset=0.3)).plan.load()
    assert load.sum() == 800
    wanted = torch.tensor([500.0, 100.0, 100.0, 100.0])
    assert float(((load - wanted) / wanted).max()) < 0.15


def test_what_a_share_exceeds_goes_to_the_others():
    assert quota_of((0.7, 0.1, 0.1, 0.1), 200, 100).tolist() == [100, 34, 34, 34]
    assert quota_of(None, 200, 100) is None
    with pytest.raises(MoEError, match="too few"):
        quota_of((1.0, 0.0), 200, 100)


@pytest.mark.parametrize("shares", [[1, 1], [1, 1, 1, -1], [0, 0, 0, 0]])
def test_shares_that_make_no_sense_are_refused(shares):
    with pytest.raises(MoEError, match="shares"):
        DualPrices(EXPERTS, 1, shares=shares)


@pytest.mark.parametrize("solver", ["window", "histogram"])
def test_online_prices_balance_a_stream_without_looking_at_its_batch(solver):
    router = made(k=1, solver=solver, window=512).train()
    loads = []
    for seed in range(60):
        x = tokens(seed=seed)
        before = router.balance[0].price_E.clone()
        plan = routed(router, x).plan
        logits = routed(copy.deepcopy(router).eval(), x).logits
        p = torch.softmax(logits, dim=1)
        assert torch.equal(plan.target, top_k(p, 1, bias=-before).target)
        loads.append(plan.load())
    plain = max_violation(top_k(p, 1).load())
    late = torch.stack(loads[30:]).sum(dim=0)
    assert max_violation(late) < 0.4 * plain


@pytest.mark.parametrize("solver", ["window", "histogram"])
def test_online_prices_are_saved_with_the_router(solver):
    router = made(k=1, solver=solver, window=128).train()
    routed(router, tokens())
    other = made(k=1, solver=solver, window=128).train()
    other.load_state_dict(router.state_dict())
    x = tokens(seed=3)
    assert torch.equal(routed(other, x).plan.target, routed(router, x).plan.target)
    assert torch.equal(other.balance[0].price_E, router.balance[0].price_E)
    router.bfloat16()
    assert router.balance[0].price_E.dtype == torch.float32


def test_a_choice_that_keeps_too_little_score_is_warned_of():
    router = made(k=1, rounds=14).train()
    router.scores.weight.data[0] += 3.0  # every token's favourite, by far
    with pytest.warns(UserWarning, match="of the score"):
        routed(router, tokens(256, offset=3.0))
    assert router.balance[1].last < 0.7
    mild = made(k=2).train()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        routed(mild, tokens(offset=0.0))
    assert mild.balance[1].last > 0.7


def test_a_batch_of_one_and_an_empty_one_are_routed():
    router = made().train()
    assert len(routed(router, tokens(1)).plan) == 2
    assert len(routed(router, tokens(0)).plan) == 0
    after_step(router)


def test_unknown_options_are_refused():
    with pytest.raises(MoEError, match="solver"):
        made(solver="exact")
    with pytest.raises(MoEError, match="tie_break"):
        made(tie_break=-1.0)
    with pytest.raises(MoEError, match="window"):
        OnlinePrices(4, 2, window=0)
    with pytest.raises(MoEError, match="memory"):
        OnlinePrices(4, 2, memory="heap")
    with pytest.raises(MoEError, match="every"):
        RetainedScore(every=0)
