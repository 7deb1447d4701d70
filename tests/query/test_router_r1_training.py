"""Training Router-R1: what is the policy's own, where the reward lands, and that it learns."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import pytest

from wye.query.base import RouterError
from wye.query.router_r1.reward import Reward
from wye.query.router_r1.router import Episode, Piece

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

WORDS = ["<pad>", "ask", "north", "south", "reply", "yes", "no"]
PIECES = (Piece("north", True), Piece("reply yes", False), Piece("yes", True))


class Embedded(torch.nn.Module):  # type: ignore[name-defined,misc]
    """Next-word scores from the mean of all words so far."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(len(WORDS), 16)
        self.out = torch.nn.Linear(16, width)

    def forward(self, ids: Any) -> Any:
        count = torch.arange(1, ids.shape[1] + 1)[None, :, None]
        return self.out(self.embedding(ids).cumsum(1) / count)


class Value(Embedded):
    def __init__(self) -> None:
        super().__init__(1)

    def forward(self, ids: Any) -> Any:
        return super().forward(ids)[..., 0]


class Policy:
    """Writes one word; a policy of the smallest kind."""

    def __init__(self, seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.model = Embedded(len(WORDS))
        self.generator = torch.Generator().manual_seed(seed)

    def encode(self, text: str) -> list[int]:
        return [WORDS.index(w) for w in text.split()]

    def logits(self, model: Any, ids: Any) -> Any:
        return model(ids)

    def __call__(self, contexts: Sequence[str]) -> list[str]:
        with torch.no_grad():
            ids = torch.tensor([self.encode(c) for c in contexts])
            law = self.model(ids)[:, -1].softmax(-1)
        return [WORDS[i] for i in torch.multinomial(law, 1, generator=self.generator)[:, 0]]


def episode(pieces: Sequence[Piece]) -> Episode:
    return Episode("q", "ask", tuple(pieces), (), 0, None, ("north",), {})


def reward(total: float) -> Reward:
    return Reward(total, total, 0.5, ())


def test_only_what_the_policy_wrote_is_its_own() -> None:
    from wye.query.router_r1.training import tokens_of

    rows = [("ask", PIECES), ("ask ask", PIECES[:1])]
    made = tokens_of(rows, Policy().encode)
    assert made.ids.tolist() == [[1, 2, 4, 5, 5], [1, 1, 2, 0, 0]]
    assert made.own.int().tolist() == [[0, 1, 0, 0, 1], [0, 0, 1, 0, 0]]
    with pytest.raises(RouterError, match="no token of the policy"):
        tokens_of([("ask", PIECES[1:2])], Policy().encode)


def test_the_reward_lands_on_the_last_own_token_before_padding() -> None:
    from wye.query.router_r1.training import landed

    chosen = torch.tensor([[0, 1, 0, 1, 0, 0], [1, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0]]).bool()
    made = landed(torch.tensor([2.0, -1.0, 5.0]), chosen)
    assert made.tolist() == [[0, 0, 0, 2, 0, 0], [-1, 0, 0, 0, 0, 0], [0] * 6]


def test_the_loss_has_no_gradient_at_information_positions() -> None:
    from wye.query.router_r1.training import PolicyTrainer, Settings

    policy = Policy()
    kept: list[Any] = []

    def logits(model: Any, ids: Any) -> Any:
        made = model(ids)
        if made.requires_grad:
            made.retain_grad()
            kept.append(made)
        return made

    policy.logits = logits  # type: ignore[method-assign]
    other = (Piece("south", True), Piece("reply no", False), Piece("no", True))
    trainer = PolicyTrainer(policy, Value(), settings=Settings(minibatch=4))
    trainer.step([episode(PIECES), episode(other)] * 2, [reward(1.0), reward(0.0)] * 2)
    (made,) = kept
    # Logits at place t are of the token at t + 1; information stands at 2 and 3.
    assert (made.grad[:, [1, 2]] == 0).all()
    assert (made.grad[:, [0, 3]] != 0).any(dim=-1).all()


def test_imitation_lowers_the_loss_of_own_tokens_alone() -> None:
    from wye.query.router_r1.training import imitate

    policy = Policy()
    losses = imitate(policy, lambda step: [("ask", PIECES)], steps=60, rate=0.05)
    assert losses[-1] < 0.5 * losses[0]
    law = policy.model(torch.tensor([[1, 2, 4]])).softmax(-1)[0]
    # The words of the reply were seen and never learned.
    assert law[1, WORDS.index("reply")] < 0.5


def test_a_rewarded_word_becomes_the_likely_one_and_a_saved_seed_repeats_it() -> None:
    from wye.query.router_r1.training import PolicyTrainer, Settings

    shares = []
    for _ in range(2):
        policy = Policy(seed=3)
        rates = Settings(actor_rate=0.02, critic_rate=0.02, minibatch=16)
        critic = Value()
        before = copy.deepcopy(policy.model.state_dict())
        trainer = PolicyTrainer(policy, critic, settings=rates, seed=1)
        for _ in range(40):
            words = policy(["ask"] * 32)
            made = [episode([Piece(w, True)]) for w in words]
            figures = trainer.step(made, [reward(float(w == "south")) for w in words])
        for name, value in trainer.reference.state_dict().items():
            assert torch.equal(value, before[name])
        shares.append(figures["reward"])
        assert figures["kl"] > 0
    assert shares[0] > 0.8


def test_rewards_and_episodes_must_be_as_many() -> None:
    from wye.query.router_r1.training import PolicyTrainer

    with pytest.raises(RouterError, match="1 episodes and 0 rewards"):
        PolicyTrainer(Policy(), Value()).step([episode(PIECES)], [])
