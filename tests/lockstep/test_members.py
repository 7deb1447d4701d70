"""Members: one verb for any causal language model, and what a group of them must share."""

import pytest
import torch

from wye.lockstep import (
    Follower,
    FunctionMember,
    HuggingFaceMember,
    LockstepError,
    common_vocabulary,
)

from .tiny import VOCABULARY, byte_member, cached_member, ids, reading_again

pytestmark = pytest.mark.torch


class Tokenizer:
    """What `HuggingFaceMember` asks of a tokenizer."""

    def __init__(self, names: str) -> None:
        self.vocabulary = {name: i for i, name in enumerate(names)}

    def get_vocab(self) -> dict[str, int]:
        return self.vocabulary


@pytest.mark.parametrize("make", [byte_member, cached_member])
def test_reading_in_chunks_equals_reading_at_once(make):
    member = make(0)
    text = ids(1, 2, 9)
    whole = member.read(text)
    memory = None
    parts = []
    for chunk in text.split([4, 1, 3, 1], dim=1):
        reading = member.read(chunk, memory, remember=True)
        memory = reading.memory
        parts.append(reading)
    torch.testing.assert_close(torch.cat([p.logits for p in parts], 1), whole.logits)
    torch.testing.assert_close(torch.cat([p.hidden for p in parts], 1), whole.hidden)


def test_hidden_states_are_what_the_output_layer_reads():
    member = cached_member(3)
    reading = member.read(ids(1, 1, 5))
    head = member.module.get_output_embeddings()
    torch.testing.assert_close(head(reading.hidden), reading.logits)
    assert reading.memory is None


def test_a_follower_that_reads_late_says_what_one_that_reads_each_token_says():
    text = ids(5, 12)
    late, steady = (Follower(cached_member(0), text[:3]) for _ in range(2))
    steady.catch_up()
    for token in text[3:]:
        late.append(token)
        steady.append(token)
        steady.catch_up()
    assert (late.behind, steady.behind) == (12, 0)
    torch.testing.assert_close(late.catch_up().logits, steady.catch_up().logits)
    torch.testing.assert_close(
        late.catch_up().logits, cached_member(0).read(text[None]).logits[0, -1]
    )
    assert late.behind == 0


def test_taps_read_and_change_what_lies_between_layers():
    member = cached_member(0)
    text = ids(1, 1, 6)
    plain = member.read(text).logits
    states = []
    with member.tapped({0: lambda h: states.append(h) or h}):
        assert torch.equal(member.read(text).logits, plain)
    with member.tapped({0: lambda h: h + torch.linspace(-3, 3, h.shape[-1])}):
        assert not torch.allclose(member.read(text).logits, plain)
    assert states[0].shape == (1, 6, 16)
    assert torch.equal(member.read(text).logits, plain)
    with pytest.raises(LockstepError, match="behind layer 2"), member.tapped({2: lambda h: h}):
        pass


def test_members_of_different_vocabularies_are_refused():
    with pytest.raises(LockstepError, match=r"vocabularies of \[23, 24\]"):
        common_vocabulary([byte_member(0), byte_member(0, vocabulary=24)])
    one = cached_member(0, tokenizer=Tokenizer("abc"))
    with pytest.raises(LockstepError, match="different vocabularies"):
        common_vocabulary([one, cached_member(0, tokenizer=Tokenizer("acb"))])
    with pytest.raises(LockstepError, match="1 of 2 members"):
        common_vocabulary([one, byte_member(0)])
    with pytest.raises(LockstepError, match="no members"):
        common_vocabulary([])


def test_padding_rows_of_one_tokenizer_are_cut():
    padded = cached_member(0, vocabulary=26, tokenizer=Tokenizer("abc"))
    assert common_vocabulary([padded, cached_member(1, tokenizer=Tokenizer("abc"))]) == VOCABULARY
    short = cached_member(0, vocabulary=2, tokenizer=Tokenizer("abc"))
    with pytest.raises(LockstepError, match="logits for 2"):
        common_vocabulary([short, padded])


def test_bad_members_and_ids_are_refused():
    with pytest.raises(LockstepError, match="no output layer"):
        HuggingFaceMember(torch.nn.Linear(2, 2))
    with pytest.raises(LockstepError, match="vocabulary=0"):
        FunctionMember(torch.nn.Linear(2, 2), lambda x: (x, x), vocabulary=0, width=2)
    wrong = FunctionMember(
        torch.nn.Linear(2, 2), lambda x: (x[..., None], x[..., None]), vocabulary=3, width=1
    )
    with pytest.raises(LockstepError, match=r"expected \(1, 4, 3\)"):
        wrong.read(ids(0, 1, 4))
    for given in (ids(0, 4), torch.zeros(1, 4), ids(0, 1, 0)):
        with pytest.raises(LockstepError, match="expected integers"):
            byte_member(0).read(given)
    with pytest.raises(LockstepError, match="the prompt has shape"):
        Follower(byte_member(0), ids(0, 0))


def test_a_model_behind_a_function_is_the_model():
    member = cached_member(2)
    text = ids(4, 2, 5)
    torch.testing.assert_close(reading_again(member).read(text).logits, member.read(text).logits)
