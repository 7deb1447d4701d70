"""A world of facts that no single model of a pool knows, and a tiny policy over its symbols.

60 subjects, each with a boss (another subject) and a city. A subject's name is a topic and a
number, 15 of each of four topics. Four specialists, one for each topic, know both facts of their
subjects and name a random entity for any other; a generalist is right with probability 0.45. Prices
are 1, 1, 4, 4 and 8 USD per million tokens; a reply is one or two tokens. A question of one hop
asks for a boss or a city; one of two hops for the city of a boss of another topic. Which specialist
knows which topic is drawn anew for each seed and stands nowhere: the policy finds out by asking.

Everything is words of a fixed vocabulary, so that text and tokens are the same thing.

Shape letters: B batch, L length, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from wye.checks.query.decoding import Memory
from wye.moe.models.language_model import LanguageModel
from wye.query.chat_models import ProgramChatModel
from wye.query.chat_models.base import Message
from wye.query.router_r1.router import Piece, PoolModel

N_SUBJECTS, N_CITIES = 60, 100
SPECIALISTS = ("north", "south", "east", "west")
GENERALIST = "general"
PRICES = (1.0, 1.0, 4.0, 4.0, 8.0)
P_GENERALIST = 0.45
_THOUGHTS = ("look", "ask", "know")
_MARKS = ("<think>", "</think>", "<search>", "</search>", "<information>", "</information>",
          "<answer>", "</answer>", ":", "?", "of", "boss", "city", "None")  # fmt: skip
_TOPICS = ("art", "law", "sea", "war")
_NUMBERS = tuple(str(i) for i in range(N_SUBJECTS // 4))
_SUBJECTS = tuple(f"{topic} {number}" for topic in _TOPICS for number in _NUMBERS)
_CITIES = tuple(f"c{i}" for i in range(N_CITIES))
VOCABULARY = ("<pad>", *_MARKS, *_THOUGHTS, *SPECIALISTS, GENERALIST, *_TOPICS, *_NUMBERS, *_CITIES)
_IDS = {symbol: i for i, symbol in enumerate(VOCABULARY)}
_ENDS = (_IDS["</search>"], _IDS["</answer>"])
MOST_SYMBOLS = 16
LENGTH = 160


@dataclass(frozen=True)
class Question:
    """A question, its answer, and how many facts it takes."""

    text: str
    answer: str
    hops: int


class FactWorld:
    """Facts, who knows them, and questions about them; all follow from the seed."""

    def __init__(self, seed: int) -> None:
        self._generator = np.random.default_rng([seed, 1])
        draw = np.random.default_rng([seed, 0])
        self.owner = np.repeat(draw.permutation(4), N_SUBJECTS // 4)
        boss = [
            int(draw.choice([j for j in range(N_SUBJECTS) if j != i])) for i in range(N_SUBJECTS)
        ]
        city = draw.integers(N_CITIES, size=N_SUBJECTS)
        self.facts = {
            **{("boss", _SUBJECTS[i]): _SUBJECTS[b] for i, b in enumerate(boss)},
            **{("city", _SUBJECTS[i]): _CITIES[c] for i, c in enumerate(city.tolist())},
        }
        self.one_hop = [Question(f"{r} of {s} ?", a, 1) for (r, s), a in self.facts.items()]
        self.two_hops = [
            Question(f"city of boss of {_SUBJECTS[i]} ?", _CITIES[int(city[b])], 2)
            for i, b in enumerate(boss)
            if self.owner[i] != self.owner[b]
        ]

    def pool(self) -> list[PoolModel]:
        """The five models."""
        return [
            PoolModel(name, ProgramChatModel(name, self._program(number)), name, price)
            for number, (name, price) in enumerate(
                zip((*SPECIALISTS, GENERALIST), PRICES, strict=True)
            )
        ]

    def questions(self, n: int, draw: np.random.Generator) -> list[Question]:
        """`n` questions, half of them of two hops."""
        return [
            kind[int(draw.integers(len(kind)))]
            for kind in (self.one_hop, self.two_hops)
            for _ in range(n // 2)
        ]

    def _program(self, number: int) -> Callable[[Sequence[Message]], str]:
        def reply(messages: Sequence[Message]) -> str:
            relation, _, subject = messages[-1]["content"].splitlines()[-1].partition(" of ")
            fact = (relation, subject)
            if fact not in self.facts:
                return "None"
            if number < 4:
                knows = self.owner[_SUBJECTS.index(subject)] == number
            else:
                knows = self._generator.random() < P_GENERALIST
            if knows:
                return str(self.facts[fact])
            kind = _SUBJECTS if relation == "boss" else _CITIES
            return str(self._generator.choice(kind))

        return reply


def world_prompt(question: str, pool: Sequence[PoolModel]) -> str:
    """The question alone: the policy learns the models by their names."""
    return question


def made_up(
    world: FactWorld, pool: Sequence[PoolModel], n: int, most_calls: int, draw: np.random.Generator
) -> list[tuple[str, tuple[Piece, ...]]]:
    """Well-formed episodes at random: 1 to `most_calls` calls of random models, the last reply as
    the answer.

    Each call asks, by a coin, the first relation about the subject of the question, or the last
    relation about the latest subject that is known.
    """
    rows = []
    for question in world.questions(n, draw):
        words = question.text.split()
        relations, subject = [w for w in words if w in ("boss", "city")], " ".join(words[-3:-1])
        known, reply, pieces = subject, "None", []
        for _ in range(int(draw.integers(1, most_calls + 1))):
            asked = f"{relations[-1]} of {subject}" if draw.random() < 0.5 else ""
            asked = asked or f"{relations[0]} of {known}"
            target = pool[int(draw.integers(len(pool)))]
            reply = target.model.generate([{"role": "user", "content": asked}]).text
            known = reply if reply in _SUBJECTS else known
            thought = draw.choice(_THOUGHTS[:2])
            pieces += [
                Piece(
                    f" <think> {thought} </think> <search> {target.name} : {asked} </search>", True
                ),
                Piece(f" <information> {reply} </information> ", False),
            ]
        pieces.append(Piece(f" <think> know </think> <answer> {reply} </answer>", True))
        rows.append((question.text, tuple(pieces)))
    return rows


class SymbolPolicy:
    """A causal transformer over the vocabulary; called, it samples a turn after each context.

    Args:
        seed: of its weights and of its sampling.
        n_layers, width: of the transformer.
    """

    def __init__(self, seed: int, *, n_layers: int = 2, width: int = 128) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.model = LanguageModel(
                [
                    nn.Sequential(
                        nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
                    )
                    for _ in range(n_layers)
                ],
                width=width,
                length=LENGTH,
                vocabulary=len(VOCABULARY),
            )
        self.greedy = False
        self._generator = torch.Generator().manual_seed(seed)

    def encode(self, text: str) -> list[int]:
        """Ids of the words."""
        return [_IDS[word] for word in text.split()]

    def logits(self, model: LanguageModel, ids: Tensor) -> Tensor:
        """`[B, L, V]`."""
        found: Tensor = model(ids)
        return found

    @torch.no_grad()
    def __call__(self, contexts: Sequence[str]) -> list[str]:
        """At most 16 symbols after each context, up to a closing search or answer tag."""
        rows = [self.encode(c)[-(LENGTH - MOST_SYMBOLS) :] for c in contexts]
        at = torch.tensor([len(r) for r in rows])
        ids = torch.zeros((len(rows), int(at.max())), dtype=torch.int64)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = torch.tensor(row)
        memory = Memory(self.model, len(rows), ids.shape[1] + MOST_SYMBOLS)
        logits = memory.read(ids)[torch.arange(len(rows)), at - 1]
        written: list[list[int]] = [[] for _ in rows]
        open_rows = set(range(len(rows)))
        for t in range(MOST_SYMBOLS):
            if self.greedy:
                chosen = logits.argmax(-1)
            else:
                law = logits.float().softmax(-1)
                chosen = torch.multinomial(law, 1, generator=self._generator)[:, 0]
            for i in tuple(open_rows):
                written[i].append(int(chosen[i]))
                if written[i][-1] in _ENDS:
                    open_rows.discard(i)
            if not open_rows or t + 1 == MOST_SYMBOLS:
                break
            logits = memory.step(chosen, at + t)
        return [" " + " ".join(VOCABULARY[i] for i in row) for row in written]


class ValueModel(nn.Module):
    """Expected return at every token: a copy of a policy's backbone with a scalar head."""

    def __init__(self, backbone: LanguageModel) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(backbone.width, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, ids_BL: Tensor) -> Tensor:
        """`[B, L]`."""
        kept: list[Tensor] = []
        hook = self.backbone.norm.register_forward_hook(lambda *call: kept.append(call[2]))
        try:
            self.backbone(ids_BL)
        finally:
            hook.remove()
        value: Tensor = self.head(kept[0])[..., 0]
        return value
