"""What the checks of models in lock step are made of."""

import re

import pytest
import torch
from torch import nn

from wye.checks import CheckError
from wye.checks.query import mixture_of_thoughts
from wye.checks.query.byte_members import byte_member, dense_model
from wye.checks.query.fusionroute import _continued
from wye.checks.query.low_rank import add_low_rank, low_rank_size
from wye.checks.query.thought_tasks import COMPOSED, SKILLS, task_items

pytestmark = pytest.mark.torch


def solved(prompt: str) -> str:
    """The answer, worked out from the text of the prompt alone."""
    if prompt.startswith("rev "):
        return "".join(reversed(prompt[4:-1]))
    table = dict(re.findall(r"([a-f])=(\d)", prompt))
    question = prompt.rpartition(";")[2].rstrip("=")
    values = [int(table.get(name, name)) for name in question.split("+")]
    return str(sum(values) % 10)


@pytest.mark.parametrize("name", [*SKILLS, COMPOSED])
def test_answers_follow_from_their_prompts(name):
    items = task_items(name, 50, seed=3)
    assert [a for _, a in items] == [solved(p) for p, _ in items]
    assert task_items(name, 50, seed=3) == items
    assert task_items(name, 50, seed=4) != items
    assert max(len(p) + len(a) for p, a in items) < mixture_of_thoughts.LENGTH


def test_an_unknown_task_is_refused():
    with pytest.raises(CheckError, match="sum"):
        task_items("product", 1, seed=0)


def test_low_rank_changes_start_at_nothing_and_are_all_that_learns():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.GELU(), nn.Linear(6, 3)).requires_grad_(False)
    size = low_rank_size(model)
    x = torch.randn(5, 4)
    before = model(x)
    learned = add_low_rank(model, 2)
    assert torch.equal(model(x), before)
    assert sum(p.numel() for p in learned) == 2 * size
    assert {id(p) for p in learned} == {id(p) for p in model.parameters() if p.requires_grad}
    nn.init.normal_(learned[-1])
    assert not torch.allclose(model(x), before)


def test_a_byte_member_says_what_its_model_says():
    torch.manual_seed(0)
    model = dense_model(n_layers=2, width=16, length=12)
    ids = torch.randint(256, (2, 7))
    reading = byte_member(model).read(ids)
    assert torch.equal(reading.logits, model(ids))
    torch.testing.assert_close(reading.hidden @ model.embedding.weight.T, reading.logits)


def test_a_continuation_keeps_its_prompt_and_fills_the_window():
    torch.manual_seed(0)
    model = dense_model(n_layers=1, width=16, length=128)
    prompts = torch.randint(256, (3, 60))
    written = _continued(model, prompts, torch.Generator().manual_seed(0))
    assert written.shape == (3, 128)
    assert torch.equal(written[:, :60], prompts)


def test_an_answer_is_right_where_all_its_bytes_are_the_likeliest():
    test = mixture_of_thoughts._questions([("1+2=", "3"), ("rev abcd=", "dcba")])
    ids = test.text(0).ids
    said = nn.functional.one_hot(ids[:, 1:], 256).float()
    assert mixture_of_thoughts._right(said, test).tolist() == [True, True]
    said[0, 0] = said[0, 0].roll(1)
    assert mixture_of_thoughts._right(said, test).tolist() == [True, True]
    said[1, len("rev abcd=") + 1] = said[1, 0]
    assert mixture_of_thoughts._right(said, test).tolist() == [True, False]
