"""Mixture of Thoughts: exact limits, causality, grouping, gradients, and writing with caches."""

import pytest
import torch
from torch import Tensor

from wye.lockstep import (
    LockstepError,
    MixtureOfThoughts,
    Roles,
    SharedText,
    ThoughtRouter,
    Tokens,
    fit_thoughts,
    generate_thoughts,
    shared_questions,
)
from wye.lockstep.interaction import Interaction, stack_ends
from wye.lockstep.mixture_of_thoughts_training import ThoughtWeights, answer_loss, thoughts_loss
from wye.lockstep.offsets import NEVER, offsets_of, stacked, visible

from .tiny import byte_member, cached_member, ids, reading_again

pytestmark = pytest.mark.torch
D = 6


def embeddings(n: int, seed: int = 0) -> Tensor:
    return torch.randn(n, D, generator=torch.Generator().manual_seed(seed))


def mixture(
    *, k: int = 2, make=byte_member, n_stacks: int = 2, open_back: bool = True
) -> MixtureOfThoughts:
    """Three models of different shapes; where `open_back`, what they say to each other counts."""
    members = [
        make(0, n_layers=2, width=16),
        make(1, n_layers=3, width=24),
        make(2, n_layers=4, width=8),
    ]
    made = MixtureOfThoughts(
        members, width=D, k=k, n_stacks=n_stacks, shared=12, n_heads=3, seed=4
    ).eval()
    if open_back:
        torch.manual_seed(1)
        for layer in made.interactions:
            for back in layer.back:
                torch.nn.init.normal_(back.weight)
    return made


def roles(primary: list[int], active: list[list[int]], n: int = 3) -> Roles:
    """Roles as told."""
    weight = torch.zeros(len(primary), n)
    for row, models in enumerate(active):
        weight[row, models] = 1.0
    made = ThoughtRouter(D, n, k=n)(torch.zeros(len(primary), D))
    return Roles(made.plan, torch.tensor(primary), weight, made.scores)


def test_back_projections_of_zero_leave_the_primary_exactly():
    made = mixture(open_back=False)
    text, z = ids(0, 6, 9), embeddings(6)
    thoughts = made(text, z)
    assert len(thoughts.groups) > 1
    for group in thoughts.groups:
        alone = made.members[group.primary].read(text[group.rows]).logits
        assert float((group.logits.detach() - alone).abs().max()) == 0


def test_open_back_projections_change_the_primary():
    made = mixture()
    group = made(ids(0, 1, 9), embeddings(1)).groups[0]
    assert not torch.allclose(group.logits, made.members[group.primary].read(ids(0, 1, 9)).logits)


def test_one_active_model_speaks_to_itself_and_at_first_only_is_routed_to():
    text, z = ids(0, 4, 7), embeddings(4)
    made = mixture(k=1)
    thoughts = made(text, z)
    for group in thoughts.groups:
        assert group.active == (group.primary,)
        torch.testing.assert_close(
            group.attention[:, :, group.primary], torch.ones(len(group.rows), 1)
        )
    shuffled = made(text, z, peer_rows=torch.tensor([1, 2, 3, 0]))
    assert torch.equal(shuffled.logits(), thoughts.logits())
    routed = mixture(k=1, open_back=False)
    best = routed.router(z).scores.argmax(-1)
    expected = torch.stack(
        [routed.members[int(m)].read(text[i : i + 1]).logits[0] for i, m in enumerate(best)]
    )
    torch.testing.assert_close(routed(text, z).logits(), expected)


def test_the_order_of_peers_does_not_matter():
    one = mixture(k=3)
    order = [0, 2, 1]
    other = MixtureOfThoughts(
        [one.members[m] for m in order], width=D, k=3, n_stacks=2, shared=12, n_heads=3
    ).eval()
    for mine, theirs in zip(one.interactions, other.interactions, strict=True):
        state = mine.state_dict()
        for part in ("norms", "into", "back"):
            for name in [n for n in state if n.startswith(part)]:
                kind, number, rest = name.split(".")
                state[name] = mine.state_dict()[f"{kind}.{order[int(number)]}.{rest}"]
        theirs.load_state_dict(state)
    text, z = ids(3, 2, 8), embeddings(2)
    told = roles([0, 0], [[0, 1, 2], [0, 1, 2]])
    torch.testing.assert_close(
        one(text, z, roles=told).logits(), other(text, z, roles=told).logits()
    )
    assert (
        one(text, z, roles=roles([0, 0], [[2, 1, 0], [0, 2, 1]]))
        .logits()
        .equal(one(text, z, roles=told).logits())
    )


@pytest.mark.parametrize("make", [byte_member, cached_member])
@pytest.mark.parametrize("primary", [0, 1, 2])
def test_later_text_never_changes_earlier_logits_through_any_peer(make, primary):
    made = mixture(k=3, make=make)
    z = embeddings(1)
    told = roles([primary], [[0, 1, 2]])
    text = ids(2, 1, 10)
    before = made(text, z, roles=told).logits()
    for place in (1, 5, 9):
        for changed in range(3):
            other = text.clone()
            other[0, place] = (other[0, place] + 1) % 23
            read = [Tokens.counted(other if m == changed else text) for m in range(3)]
            after = made(read, z, roles=told).logits()
            torch.testing.assert_close(after[:, :place], before[:, :place])
            assert not torch.allclose(after[:, place:], before[:, place:])


def test_peers_with_tokenizers_of_their_own_are_seen_by_character_offset():
    made = mixture(k=3)
    told = roles([0], [[0, 1, 2]])
    # The same eight characters as eight tokens, as pairs, and as three, two and three.
    ends = [torch.arange(1, 9)[None], torch.tensor([[2, 4, 6, 8]]), torch.tensor([[3, 5, 8]])]
    text = [ids(m, 1, e.shape[1]) for m, e in enumerate(ends)]

    def said(changed: list[Tensor]) -> Tensor:
        read = [Tokens(x, e, e) for x, e in zip(changed, ends, strict=True)]
        return made(read, embeddings(1), roles=told).groups[0].logits

    before = said(text)
    for peer in (1, 2):
        for j, end in enumerate(ends[peer][0].tolist()):
            other = [x.clone() for x in text]
            other[peer][0, j] = (other[peer][0, j] + 1) % 23
            after = said(other)
            assert torch.equal(after[:, : end - 1], before[:, : end - 1])
            assert not torch.allclose(after[:, end - 1], before[:, end - 1])


def test_a_token_inside_a_character_counts_late_for_readers_and_early_for_peers():
    # "a", then "é" in two tokens, then a mark of the end.
    seen, complete = offsets_of([(0, 0), (0, 1), (1, 2), (1, 2), (0, 0)], start=10)
    assert seen.tolist() == [10, 11, 12, 12, 12]
    assert complete.tolist() == [10, 11, 11, 12, 12]
    sees = visible(complete[None], seen[None])[0]
    assert not sees[2, 2]
    assert not sees[2, 3]
    assert sees[3, 3]
    # " é" begins in one token and ends in the next.
    assert offsets_of([(0, 2), (1, 2)])[1].tolist() == [1, 2]


def test_stacked_texts_hide_their_padding():
    one, two = Tokens.counted(ids(0, 1, 3)), Tokens.counted(ids(1, 1, 5))
    both = stacked([one, two])
    assert both.ids.shape == (2, 5)
    assert both.seen[0].tolist() == [1, 2, 3, NEVER, NEVER]
    assert not visible(both.complete, both.seen)[0, :, 3:].any()
    with pytest.raises(LockstepError, match="expected one"):
        Tokens(one.ids, one.seen[:, :2], one.complete)


def test_rows_run_in_groups_of_one_primary_and_one_active_set():
    made = mixture()
    told = roles([0, 1, 0, 0, 1], [[0, 1], [0, 1], [0, 2], [0, 1], [1, 2]])
    text, z = ids(0, 5, 6), embeddings(5)
    together = made(text, z, roles=told)
    found = {(g.primary, g.active): g.rows.tolist() for g in together.groups}
    assert found == {(0, (0, 1)): [0, 3], (1, (0, 1)): [1], (0, (0, 2)): [2], (1, (1, 2)): [4]}
    assert [g.tokens for g in together.groups] == [12 * len(g.rows) for g in together.groups]
    for i in range(5):
        alone = roles([int(told.primary[i])], [told.active[i].nonzero()[:, 0].tolist()])
        one = made(text[i : i + 1], z[i : i + 1], roles=alone).logits()[0]
        torch.testing.assert_close(together.logits()[i], one)
    rows, logits = together.of_primary(0)
    assert rows.tolist() == [0, 2, 3]
    assert torch.equal(logits, together.logits()[rows])
    with pytest.raises(LockstepError, match="model 2 is the primary of no query"):
        together.of_primary(2)


def test_attention_shares_sum_to_one_over_active_models():
    group = mixture(k=2)(ids(0, 1, 6), embeddings(1)).groups[0]
    torch.testing.assert_close(group.attention.sum(-1), torch.ones(1, 1))
    quiet = [m for m in range(3) if m not in group.active]
    assert float(group.attention[:, :, quiet].abs().max()) == 0


def test_a_dropped_peer_is_gone_and_a_primary_stays():
    made = mixture(k=3)
    z = embeddings(1)
    primary = int(made.choose(z).primary)
    peer = (primary + 1) % 3
    text = ids(0, 1, 6)
    dropped = made(text, z, roles=made.choose(z, dropped=[peer]))
    rest = sorted({0, 1, 2} - {peer})
    assert torch.equal(dropped.logits(), made(text, z, roles=roles([primary], [rest])).logits())
    kept = made.choose(z, dropped=[primary])
    assert kept.active.all()
    assert int(kept.primary) == primary


def test_the_router_learns_from_the_answer_and_no_model_does():
    made = mixture().train()
    text = ids(0, 8, 9)
    counted = torch.ones(8, 8, dtype=torch.bool)
    questions = shared_questions(text, counted, embeddings(8))
    generator = torch.Generator().manual_seed(0)
    thoughts = made(text[:, :-1], questions.z, generator=generator)
    torch.autograd.backward(answer_loss(thoughts, questions, torch.arange(8)))
    first, last = made.router.network[0].weight.grad, made.router.network[-1].weight.grad
    assert first is not None
    assert last is not None
    assert float(first.abs().max()) > 0
    assert float(last.abs().max()) > 0
    for layer in made.interactions:
        assert all(p.grad is not None for p in layer.query.parameters())
    for member in made.members:
        assert all(p.grad is None for p in member.module.parameters())
    names = {name.split(".")[0] for name, _ in made.named_parameters()}
    assert names == {"router", "interactions"}


def test_weights_are_exactly_one_or_zero_with_the_gradient_of_softmax():
    router = ThoughtRouter(D, 4, k=2)
    z = embeddings(5)
    found = router(z, noise=True, generator=torch.Generator().manual_seed(0), tau=0.7)
    assert set(found.weight.detach().flatten().tolist()) == {0.0, 1.0}
    assert found.weight.detach().sum(-1).tolist() == [2.0] * 5
    assert bool(found.active.gather(1, found.primary[:, None]).all())
    torch.autograd.backward(found.weight[:, 1].sum())
    assert float(router.network[-1].weight.grad.abs().max()) > 0
    quiet = router.eval()(z)
    best = quiet.scores.topk(2, dim=-1).indices
    assert torch.equal(quiet.active.nonzero()[:, 1].view(5, 2), best.sort(-1).values)
    assert torch.equal(quiet.primary, best[:, 0])


def test_a_forced_primary_stays_under_any_noise():
    router = ThoughtRouter(D, 4, k=2)
    primary = torch.tensor([3, 0, 1, 2, 3])
    seen = set()
    for seed in range(10):
        generator = torch.Generator().manual_seed(seed)
        found = router(embeddings(5), noise=True, generator=generator, primary=primary)
        assert torch.equal(found.primary, primary)
        seen |= {tuple(row) for row in found.active.nonzero().view(-1, 2).tolist()}
    assert len(seen) > 12


def test_the_loss_is_the_sum_of_its_four_terms():
    made = mixture(k=3, open_back=False).eval()
    text, z = ids(0, 4, 6), embeddings(4)
    questions = shared_questions(text, torch.ones(4, 5, dtype=torch.bool), z)
    rows = torch.arange(4)
    law = made.router(z).scores.softmax(-1)
    log_law = law.log()
    entropy = -(law * log_law).sum(-1).mean()
    share = law.mean(0)
    balance = share.var(unbiased=False) / share.mean() ** 2
    thoughts = made(text[:, :-1], z)
    answers = torch.nn.functional.cross_entropy(thoughts.logits().transpose(1, 2), text[:, 1:])
    weights = ThoughtWeights(entropy=0.3, balance=0.2, consistency=0.0)
    loss = thoughts_loss(made, questions, rows, weights=weights)
    torch.testing.assert_close(loss, answers - 0.3 * entropy + 0.2 * balance)
    # All models are active and say nothing to each other yet, so that two draws agree.
    consistent = ThoughtWeights(entropy=0.3, balance=0.2, consistency=5.0)
    torch.testing.assert_close(thoughts_loss(made, questions, rows, weights=consistent), loss)


def test_two_draws_with_other_peers_disagree():
    made = mixture(k=2).train()
    made.router.network[2].p = made.router.network[5].p = 0.0
    questions = shared_questions(ids(0, 6, 6), torch.ones(6, 5, dtype=torch.bool), embeddings(6))

    def loss(consistency: float) -> float:
        generator = torch.Generator().manual_seed(3)
        weights = ThoughtWeights(consistency=consistency)
        rows = torch.arange(6)
        return float(
            thoughts_loss(made, questions, rows, weights=weights, generator=generator).detach()
        )

    assert loss(1.0) > loss(0.0) + 1e-4


def test_training_lowers_the_loss_and_repeats_exactly():
    text = ids(0, 8, 8)
    counted = torch.zeros(8, 7, dtype=torch.bool)
    counted[:, 3:] = True
    questions = shared_questions(text, counted, embeddings(8))

    def losses(steps: int, *, shuffle_peers: bool = False) -> list[float]:
        made = mixture(open_back=False)
        return fit_thoughts(
            made,
            questions,
            steps=steps,
            batch=8,
            interaction_rate=3e-2,
            shuffle_peers=shuffle_peers,
        ).tolist()

    first = losses(12)
    assert losses(2) == first[:2]
    assert sum(first[-3:]) < sum(first[:3]) - 0.3
    # Nobody has said anything before the first step, so that shuffling shows from the second on.
    assert losses(2, shuffle_peers=True) != first[:2]


def test_shuffled_peers_are_the_thoughts_on_another_text():
    made = mixture()
    text, z = ids(0, 2, 6), embeddings(1).expand(2, -1)
    told = roles([0, 0], [[0, 1], [0, 1]])
    swapped = made(text, z, roles=told, peer_rows=torch.tensor([1, 0])).logits()
    read = [Tokens.counted(text), *[Tokens.counted(text.flip(0))] * 2]
    assert torch.equal(swapped, made(read, z, roles=told).logits())
    assert not torch.allclose(swapped, made(text, z, roles=told).logits())


@pytest.mark.parametrize("again", [False, True])
def test_writing_with_caches_equals_reading_everything_again(again):
    made = mixture(k=2, make=cached_member)
    if again:
        made.members = tuple(reading_again(m) for m in made.members)
    prompt, z = ids(5, 4), embeddings(1)
    written = generate_thoughts(made, prompt, z[0], most=7)
    text = torch.cat([prompt, written.ids])[None]
    thoughts = made(text[:, :-1], z)
    assert torch.equal(thoughts.logits()[0, 3:].argmax(-1), written.ids)
    assert written.tokens == 2 * 10
    assert written.attention.shape == (7, 1, 3)
    torch.testing.assert_close(written.attention.sum(-1), torch.ones(7, 1))
    stop = int(written.ids[2])
    ended = generate_thoughts(made, prompt, z[0], most=7, stop={stop}).ids
    assert torch.equal(ended, written.ids[: int((written.ids == stop).nonzero()[0]) + 1])


def test_passes_in_pieces_equal_one_pass():
    made = mixture(k=3, make=cached_member, n_stacks=2)
    text = ids(6, 2, 9)
    told = roles([1, 1], [[0, 1, 2]] * 2)
    whole = made(text, embeddings(2), roles=told).logits()
    running = made.begin(1, (0, 1, 2), told.weight)
    parts, at = [], 0
    for piece in text.split([4, 1, 3, 1], dim=1):
        new = Tokens.counted(piece, start=at)
        parts.append(running.advance(dict.fromkeys(range(3), new)))
        at += piece.shape[1]
    torch.testing.assert_close(torch.cat(parts, 1), whole)
    with pytest.raises(LockstepError, match="gets no token"):
        running.advance(dict.fromkeys(range(3), Tokens.counted(text[:, :0])))


def test_stacks_are_of_about_the_same_size():
    assert stack_ends(30, 4) == [7, 14, 22]
    assert stack_ends(2, 2) == [0]
    assert stack_ends(4, 2, last=True) == [1, 3]
    assert stack_ends(5, 1) == []
    with pytest.raises(LockstepError, match="3 stacks of 2 layers"):
        stack_ends(2, 3)


def test_hidden_states_a_hundred_times_larger_weigh_the_same():
    layer = Interaction([8, 8], shared=4, n_heads=2)
    hidden = torch.randn(1, 3, 8)
    torch.testing.assert_close(
        layer.project(0, hidden), layer.project(0, 100 * hidden), atol=1e-3, rtol=1e-3
    )


def test_bad_mixtures_and_requests_are_refused():
    members = [byte_member(0), byte_member(1, vocabulary=9)]
    with pytest.raises(LockstepError, match="no members"):
        MixtureOfThoughts([], width=D)
    with pytest.raises(LockstepError, match="k=3"):
        MixtureOfThoughts(members, width=D, k=3, n_stacks=2)
    with pytest.raises(LockstepError, match="4 stacks of 2 layers"):
        MixtureOfThoughts(members, width=D, k=1)
    with pytest.raises(LockstepError, match="heads divides"):
        MixtureOfThoughts(members, width=D, k=1, n_stacks=2, shared=9, n_heads=2)
    made = MixtureOfThoughts(members, width=D, k=2, n_stacks=2).eval()
    with pytest.raises(LockstepError, match="vocabularies of"):
        made(ids(0, 1, 3, vocabulary=9), embeddings(1))
    own = [Tokens.counted(ids(0, 2, 3, vocabulary=9))] * 2
    told = roles([0, 1], [[0, 1]] * 2, n=2)
    with pytest.raises(LockstepError, match="no common logits"):
        made(own, embeddings(2), roles=told).logits()
    with pytest.raises(LockstepError, match="2 embeddings"):
        made(own[:1], embeddings(2))
    with pytest.raises(LockstepError, match=r"expected \[B, 6\]"):
        made(own, torch.zeros(2, 5))
    with pytest.raises(LockstepError, match="most=0"):
        generate_thoughts(mixture(), ids(0, 3), torch.zeros(D), most=0)
    with pytest.raises(LockstepError, match="the prompt has shape"):
        generate_thoughts(mixture(), ids(0, 1, 3), torch.zeros(D), most=1)
    with pytest.raises(LockstepError, match="not among the active"):
        mixture().begin(0, (1, 2), torch.ones(1, 3))
    with pytest.raises(LockstepError, match="tau=0"):
        ThoughtRouter(D, 2, k=1)(torch.zeros(1, D), tau=0.0)


def _byte_pairs(vocabulary: list[str], merges: list[tuple[str, str]]):
    """A fast tokenizer of transformers on bytes, with the merges that are given."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = {token: i for i, token in enumerate([*alphabet, *vocabulary])}
    made = Tokenizer(models.BPE(vocab=tokens, merges=merges))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=made)


def test_models_with_tokenizers_of_their_own_write_one_text():
    tokenizers = [
        _byte_pairs([], []),
        _byte_pairs(["ab", "Ã©"], [("a", "b"), ("Ã", "©")]),
        _byte_pairs(["bc"], [("b", "c")]),
    ]
    members = [
        cached_member(i, width=8, vocabulary=len(t), tokenizer=t) for i, t in enumerate(tokenizers)
    ]
    made = MixtureOfThoughts(members, width=D, k=3, n_stacks=2, shared=8, n_heads=2).eval()
    torch.manual_seed(0)
    for back in made.interactions[0].back:
        torch.nn.init.normal_(back.weight)
    shared = SharedText("xabc é", tokenizers)
    lengths = {m: t.ids.shape[1] for m, t in shared.prompt().items()}
    assert lengths == {0: 7, 1: 5, 2: 6}
    written = generate_thoughts(made, shared, embeddings(1)[0], most=5)
    assert len(written.ids) == 5
    with pytest.raises(LockstepError, match="different vocabularies"):
        generate_thoughts(made, ids(0, 3), embeddings(1)[0], most=2)
    with pytest.raises(LockstepError, match=r"models \[0, 1\]"):
        generate_thoughts(made, SharedText("x", tokenizers[:2]), embeddings(1)[0], most=2)


def test_a_character_reaches_peers_when_it_is_whole():
    tokenizers = [_byte_pairs([], []), _byte_pairs(["Ã©"], [("Ã", "©")])]
    text = SharedText("a", tokenizers)
    first, second = (tokenizers[0].convert_tokens_to_ids(t) for t in ("Ã", "©"))
    half = text.append(first, writer=0)
    assert half[1].ids.shape == (1, 0)
    assert (int(half[0].seen), int(half[0].complete)) == (2, 1)
    whole = text.append(second, writer=0)
    assert text.text == "é"
    assert whole[1].ids.tolist() == [[tokenizers[1].convert_tokens_to_ids("Ã©")]]
    assert (int(whole[0].complete), whole[1].seen.tolist()) == (2, [[2]])
