"""FusionRoute: exact properties of the group, of its losses, and of writing with caches."""

import pytest
import torch

from wye.lockstep import (
    ExpertRecord,
    FunctionMember,
    LockstepError,
    Preferences,
    Texts,
    TokenFusion,
    choose_token,
    complemented_dpo,
    fit_cdpo,
    fit_sft,
    log_linear,
    record_experts,
    routing_accuracy,
    routing_loss,
)
from wye.lockstep.fusionroute import MODES
from wye.lockstep.fusionroute_training import sft_loss
from wye.lockstep.preference_loss import sequence_log_probability

from .tiny import byte_member, cached_member, ids, reading_again, silent

pytestmark = pytest.mark.torch


def fusion(n: int = 3, *, make=byte_member, k: int = 1, router=None) -> TokenFusion:
    """A group whose head sends different places to different experts."""
    made = TokenFusion(make(9) if router is None else router, [make(i) for i in range(n)], k=k)
    torch.manual_seed(0)
    torch.nn.init.normal_(made.head.weight)
    return made


def shifted(member: FunctionMember, by: float) -> FunctionMember:
    return FunctionMember(
        member.module,
        lambda x: (member.read(x).logits + by, member.read(x).hidden),
        vocabulary=member.vocabulary,
        width=member.width,
    )


def test_router_logits_of_zero_leave_the_chosen_expert_exactly():
    group = fusion(router=silent(byte_member(9)))
    text = ids(1, 4, 10)
    seen = group(text)
    chosen = seen.plan.target.view(4, 10)
    assert len(chosen.unique()) > 1
    said = torch.stack([e.read(text).logits for e in group.experts], dim=2)
    expected = said.gather(2, chosen[..., None, None].expand(-1, -1, 1, said.shape[-1]))[:, :, 0]
    # An expert runs the rows alone that ask for it: batches of other sizes round differently.
    torch.testing.assert_close(seen.logits, expected, rtol=0, atol=1e-6)
    assert torch.equal(seen.logits, group(text, mode="select").logits)


def test_one_expert_and_zero_logits_write_the_experts_greedy_text():
    group = fusion(1, router=silent(byte_member(9)))
    assert torch.equal(group(ids(1, 2, 7)).logits, group.experts[0].read(ids(1, 2, 7)).logits)
    prompt = ids(2, 5)
    text = prompt
    for _ in range(8):
        text = torch.cat([text, group.experts[0].read(text[None]).logits[0, -1].argmax()[None]])
    assert torch.equal(group.generate(prompt, most=8).ids, text[5:])


def test_a_constant_added_to_router_logits_changes_nothing():
    plain = fusion()
    moved = fusion(router=shifted(byte_member(9), 7.5))
    text = ids(3, 2, 8)
    torch.testing.assert_close(
        plain(text).logits.log_softmax(-1), moved(text).logits.log_softmax(-1)
    )
    assert torch.equal(plain.generate(text[0], most=6).ids, moved.generate(text[0], most=6).ids)


def test_fused_logits_are_the_product_of_router_and_chosen_expert():
    group = fusion()
    text = ids(4, 2, 6)
    seen = group(text)
    best = (group._reader.read(text).hidden @ group.head.weight.T).argmax(-1)
    for b in range(2):
        for t in range(6):
            expert = group.experts[int(best[b, t])].read(text).logits[b, t]
            law = expert.softmax(-1) * seen.router_logits[b, t].softmax(-1)
            torch.testing.assert_close(seen.logits[b, t].softmax(-1), law / law.sum())


def test_two_chosen_experts_are_weighed_by_softmax():
    group = fusion(k=2)
    text = ids(4, 1, 3)
    top = group(text).scores[0].topk(2, dim=-1)
    weight = top.values.softmax(-1)
    for t in range(3):
        expected = sum(
            weight[t, i] * group.experts[int(top.indices[t, i])].read(text).logits[0, t]
            for i in range(2)
        )
        torch.testing.assert_close(group(text, mode="select").logits[0, t], expected)


def test_no_gradient_reaches_an_expert():
    group = fusion()
    text = ids(5, 2, 9)
    torch.autograd.backward(sft_loss(group, Texts.of(group, text), torch.arange(2)))
    torch.autograd.backward(group(text).logits.log_softmax(-1)[..., 0].sum())
    for expert in group.experts:
        assert all(p.grad is None and not p.requires_grad for p in expert.module.parameters())
    assert all(p.grad is not None for p in group.parameters())
    assert set(group.state_dict()) == {
        "head.weight",
        *(f"router.{name}" for name in group.router.state_dict()),
    }


@pytest.mark.parametrize("mode", MODES)
def test_writing_with_caches_equals_reading_everything_again(mode):
    group = fusion(make=cached_member)
    naive = TokenFusion(reading_again(group._reader), [reading_again(e) for e in group.experts])
    naive.head = group.head
    prompt = ids(6, 4)
    fast, slow = (g.generate(prompt, most=14, mode=mode) for g in (group, naive))
    assert torch.equal(fast.ids, slow.ids)
    assert torch.equal(fast.trace.experts, slow.trace.experts)
    torch.testing.assert_close(fast.trace.override, slow.trace.override)
    text = torch.cat([prompt, fast.ids])[None, :-1]
    assert torch.equal(group(text, mode=mode).logits[0, 3:].argmax(-1), fast.ids)


def test_an_expert_that_was_not_asked_reads_what_it_missed_when_it_is():
    group = fusion(make=cached_member)
    written = group.generate(ids(7, 5), most=20)
    chosen = written.trace.experts[:, 0]
    assert len(chosen.unique()) > 1
    read = torch.zeros(3, dtype=torch.int64)
    for step, expert in enumerate(chosen):
        expected = torch.zeros(3, dtype=torch.int64)
        expected[expert] = 5 + step - read[expert]
        read[expert] = 5 + step
        assert torch.equal(written.trace.read[step], expected)


def test_experts_may_have_prompts_of_their_own():
    group = fusion(2, make=cached_member)
    prompts = [ids(1, 3), ids(2, 8)]
    written = group.generate(ids(0, 5), most=6, mode="uniform", expert_prompts=prompts).ids
    for t in range(6):
        laws = [
            e.read(torch.cat([p, written[:t]])[None]).logits[0, -1].log_softmax(-1)
            for e, p in zip(group.experts, prompts, strict=True)
        ]
        assert int(sum(laws).argmax()) == int(written[t])
    with pytest.raises(LockstepError, match="1 prompts for experts"):
        group.generate(ids(0, 5), most=1, expert_prompts=prompts[:1])


def test_a_stop_token_ends_the_text_and_the_trace():
    group = fusion(make=cached_member)
    free = group.generate(ids(8, 4), most=9).ids
    stopped = group.generate(ids(8, 4), most=9, stop={int(free[3])})
    first = int((free == free[3]).nonzero()[0])
    assert torch.equal(stopped.ids, free[: first + 1])
    assert len(stopped.trace.experts) == first + 1


def test_nobody_is_overridden_without_a_router_and_nobody_is_asked_by_it_alone():
    group = fusion(make=cached_member)
    assert float(group.generate(ids(1, 3), most=4, mode="select").trace.override.abs().max()) == 0
    assert bool((group.generate(ids(1, 3), most=4).trace.override > 0).all())
    assert group.generate(ids(1, 3), most=4, mode="router_only").trace.experts.shape == (4, 0)


def test_a_token_that_an_expert_forbids_can_still_be_written():
    forbidding = torch.tensor([-torch.inf, 0.0, 1.0])
    assert log_linear([forbidding, torch.tensor([2e4, 0.0, 0.0])]).argmax() == 0
    assert torch.isfinite(log_linear([forbidding])).all()
    assert torch.equal(log_linear([forbidding])[1:], forbidding[1:])


def test_log_linear_cuts_weighs_and_refuses():
    a, b = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.5, -1.0])
    assert torch.equal(log_linear([a, b]), a[:2] + b)
    assert torch.equal(log_linear([a, b], [0.5, 2.0]), 0.5 * a[:2] + 2 * b)
    for logits, weights in (([], None), ([a], [1.0, 2.0])):
        with pytest.raises(LockstepError, match="expected at least one model"):
            log_linear(logits, weights)


def test_temperature_makes_laws_sharp_or_flat():
    logits = torch.tensor([0.0, 1.0, 3.0])
    generator = torch.Generator().manual_seed(0)
    for temperature in (0.5, 2.0):
        draws = choose_token(logits.expand(20_000, 3), temperature=temperature, generator=generator)
        share = torch.bincount(draws, minlength=3) / len(draws)
        torch.testing.assert_close(share, (logits / temperature).softmax(-1), atol=0.015, rtol=0)
    assert int(choose_token(logits)) == 2
    for temperature in (-1.0, float("nan")):
        with pytest.raises(LockstepError, match="temperature"):
            choose_token(logits, temperature=temperature)
    with pytest.raises(LockstepError, match="NaN"):
        choose_token(torch.tensor([0.0, float("nan")]))


def test_the_record_holds_what_experts_say_and_where_they_differ():
    experts = [byte_member(i) for i in range(3)]
    text = ids(3, 5, 8)
    record = record_experts(experts, text, batch=2)
    for n, expert in enumerate(experts):
        law = expert.read(text[:, :-1]).logits.log_softmax(-1)
        torch.testing.assert_close(
            record.log_probability[..., n], law.gather(-1, text[:, 1:, None])[..., 0]
        )
        assert torch.equal(record.best[..., n], law.argmax(-1))
    naive = [[len(set(place.tolist())) > 1 for place in row] for row in record.best]
    assert torch.equal(record.informative, torch.tensor(naive))
    with pytest.raises(LockstepError, match="L >= 1"):
        record_experts(experts, ids(0, 2, 1))


def test_the_routing_loss_is_the_mixtures_likelihood_where_experts_differ():
    record = record_experts([byte_member(i) for i in range(3)], ids(3, 4, 6))
    scores = torch.randn(4, 5, 3, generator=torch.Generator().manual_seed(0))
    law, said = scores.softmax(-1), record.log_probability.exp()
    kept = record.informative
    torch.testing.assert_close(
        routing_loss(scores, record), -(law * said).sum(-1).log()[kept].mean()
    )
    target = said.argmax(-1)
    torch.testing.assert_close(
        routing_loss(scores, record, one_hot=True),
        torch.nn.functional.cross_entropy(scores[kept], target[kept]),
    )
    assert routing_accuracy(said, record) == 1.0
    with pytest.raises(LockstepError, match="expected"):
        routing_loss(scores[:, 1:], record)


@pytest.mark.parametrize("one_hot", [False, True])
def test_the_routing_loss_of_experts_that_agree_is_zero_with_a_gradient_of_zero(one_hot):
    said = torch.randn(2, 4, 3).log_softmax(-1)
    record = ExpertRecord(said, torch.ones(2, 4, 3, dtype=torch.int64))
    scores = torch.randn(2, 4, 3, requires_grad=True)
    loss = routing_loss(scores, record, one_hot=one_hot)
    torch.autograd.backward(loss)
    assert float(loss.detach()) == 0
    assert scores.grad is not None
    assert float(scores.grad.abs().max()) == 0


def test_a_step_on_the_routing_loss_raises_the_expert_that_is_right():
    said = torch.tensor([[[-0.1, -5.0]]])
    record = ExpertRecord(said, torch.tensor([[[0, 1]]]))
    for one_hot in (False, True):
        scores = torch.zeros(1, 1, 2, requires_grad=True)
        torch.autograd.backward(routing_loss(scores, record, one_hot=one_hot))
        assert scores.grad is not None
        assert scores.grad[0, 0, 0] < 0 < scores.grad[0, 0, 1]


def test_cdpo_teaches_less_where_the_pair_is_in_order_already():
    def slope(margin: float) -> float:
        first = torch.tensor([margin], requires_grad=True)
        zero = torch.zeros(1)
        torch.autograd.backward(complemented_dpo(first, zero, zero, zero, beta=0.5))
        assert first.grad is not None
        return -float(first.grad)

    assert slope(10.0) < slope(0.0) < slope(-10.0)
    assert slope(0.0) == pytest.approx(0.25)
    two = torch.zeros(2)
    for bad in ((two, two[:1], two, two), (two[:0],) * 4):
        with pytest.raises(LockstepError, match="one shape"):
            complemented_dpo(*bad)
    with pytest.raises(LockstepError, match="beta"):
        complemented_dpo(two, two, two, two, beta=0.0)


def test_padding_has_no_part_in_the_likelihood_of_a_sequence():
    logits = torch.randn(1, 3, 5)
    counted = torch.tensor([[True, True, False]])
    targets = torch.tensor([[1, 4, -100]])
    law = logits.log_softmax(-1)
    torch.testing.assert_close(
        sequence_log_probability(logits, targets, counted), law[:, 0, 1] + law[:, 1, 4]
    )
    with pytest.raises(LockstepError, match=r"\[B, L, V\]"):
        sequence_log_probability(logits, targets[:, :2], counted)


def test_stage_one_learns_to_speak_and_to_route():
    group = fusion()
    text = ids(2, 8, 12)
    texts = Texts.of(group, text)
    before = routing_accuracy(group.route(text[:, :-1])[1], texts.record)
    losses = fit_sft(group, texts, steps=40, batch=4, rate=1e-2)
    after = routing_accuracy(group.route(text[:, :-1])[1], texts.record)
    assert losses[-5:].mean() < losses[:5].mean() - 1.0
    assert after > before + 0.2
    first, again = (fit_sft(fusion(), texts, steps=2, batch=4, rate=1e-2) for _ in range(2))
    assert (first == again).all()


def test_stage_two_orders_pairs_without_moving_the_head_or_the_experts():
    group = fusion()
    good, bad = ids(2, 8, 10), ids(3, 8, 10)
    bad[:, :4] = good[:, :4]
    counted = torch.zeros(8, 9, dtype=torch.bool)
    counted[:, 3:] = True
    pairs = Preferences(good, bad, counted, counted)
    rows = torch.arange(8)
    with torch.no_grad():
        start = torch.stack(pairs.log_probabilities(group, rows))
    head = group.head.weight.clone()
    experts = [e.read(good).logits for e in group.experts]
    texts = Texts.of(group, good)
    first = fit_cdpo(group, texts, pairs, steps=1, batch=8, rate=0.0)
    expected = sft_loss(group, texts, rows).detach() + torch.log(torch.tensor(2.0))
    assert first[0] == pytest.approx(float(expected), abs=1e-5)
    fit_cdpo(group, texts, pairs, steps=15, batch=8, rate=1e-2, beta=1.0)
    with torch.no_grad():
        end = torch.stack(pairs.log_probabilities(group, rows))
    assert bool(((end[0] - end[1]) > (start[0] - start[1])).all())
    assert torch.equal(group.head.weight, head)
    assert group.head.weight.requires_grad
    for expert, said in zip(group.experts, experts, strict=True):
        assert torch.equal(expert.read(good).logits, said)


def test_bad_groups_and_requests_are_refused():
    one = byte_member(0)
    with pytest.raises(LockstepError, match="one of the experts"):
        TokenFusion(one, [one])
    for n, k in ((0, 1), (2, 3), (2, 0)):
        with pytest.raises(LockstepError, match=f"k={k}"):
            TokenFusion(one, [byte_member(i + 1) for i in range(n)], k=k)
    with pytest.raises(LockstepError, match="vocabularies"):
        TokenFusion(one, [byte_member(1, vocabulary=5)])
    group = fusion()
    with pytest.raises(LockstepError, match="mode='both'"):
        group(ids(0, 1, 3), mode="both")
    with pytest.raises(LockstepError, match="mode='both'"):
        group.generate(ids(0, 3), most=2, mode="both")
    with pytest.raises(LockstepError, match="most=0"):
        group.generate(ids(0, 3), most=0)
    with pytest.raises(LockstepError, match="counted has shape"):
        Texts.of(group, ids(0, 2, 5), torch.ones(2, 5, dtype=torch.bool))
    with pytest.raises(LockstepError, match="preferred has shapes"):
        Preferences(*(ids(0, 2, 5),) * 4)
    with pytest.raises(LockstepError, match="0 texts"):
        fit_sft(group, Texts.of(group, ids(0, 2, 5)[:0].reshape(0, 5)), steps=1)
