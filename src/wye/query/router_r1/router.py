"""Router-R1: a language model routes in rounds; it thinks, asks a model, reads, and answers.

Routes sub-questions of a query to models, several times during one answer, on the query, the
models' descriptions in words and all replies so far. Source: Zhang, Feng and You, Router-R1,
arXiv 2506.09033.

One episode of at most T turns (`max_turns`):

    context <- prompt(question, descriptions)
    repeat  text <- policy(context), cut at its first closing search or answer tag
            answer           -> the end
            search NAME:QUERY -> the reply of NAME, cut, as information; `None` where it cannot be
            neither          -> nothing is added
    after T turns, what is unfinished gets one last text, whose calls are not made
    C = sum over calls of (tokens of the reply) x (USD per million of them)

The descriptions are only text of the prompt: a model that joins the pool needs no training. Any
callable from contexts to texts is a policy: a chat model (`ChatWriter`), a program, a local model
under training (`wye.query.router_r1.training`). Replies are untrusted: protocol tags are taken out
of them, or a reply that holds an answer tag would end the episode.

Ours, where the paper leaves it open: the words of both prompts; a call that fails is answered like
an unknown name; the prompt, like the context, loses its beginning where it is too long.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from wye.query.base import RouterError
from wye.query.chat_models.base import ChatModel, ChatModelError
from wye.query.prompts.token_cutting import TokenCutter, WordCutter
from wye.query.router_r1.protocol import (
    NO_REPLY,
    call_of,
    end_of_turn,
    first_action,
    thoughts,
    without_tags,
)

Writer = Callable[[Sequence[str]], Sequence[str]]
"""B contexts -> B texts that continue them."""

_PROMPT = """\
Work out the answer to the question at the end. You may ask other models for what you do not know.
Reason between <think> and </think> first, and again after everything you learn.
To ask a model, write <search> NAME:QUERY </search> with one name of the list and one concrete
question, and no other colon. Its reply comes back between <information> and </information>.
As soon as you know the answer, write it alone, in a few words, as <answer> ... </answer>.

Models that you may ask:
{models}

Question: {question}
"""
_HELPER = """\
Somebody is working on a larger problem and asks you the following. Answer it if you can, briefly.
If you cannot, say what you know that may help; if you know nothing of use, say that another model
should be asked.

{query}"""


@dataclass(frozen=True)
class PoolModel:
    """One model that may be asked.

    Attributes:
        name: as the policy writes it; no colon.
        model: answers.
        description: what the policy reads about it: strengths, size, price.
        price_out_per_mtok: USD per million tokens of its replies.
        aliases: other names that are accepted for it.
    """

    name: str
    model: ChatModel
    description: str
    price_out_per_mtok: float
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True)
class Call:
    """One call of an episode.

    Attributes:
        turn: from 0.
        thought: the reasoning right before it.
        target, query, reply: who was asked what, and the reply as the policy reads it.
        output_tokens: of the whole reply, as its model counts them.
        price_out_per_mtok: USD per million of these.
    """

    turn: int
    thought: str
    target: str
    query: str
    reply: str
    output_tokens: int
    price_out_per_mtok: float

    @property
    def cost(self) -> float:
        """Millionths of a dollar."""
        return self.output_tokens * self.price_out_per_mtok


@dataclass(frozen=True)
class Piece:
    """A part of a response: the policy's own, or written by the environment."""

    text: str
    own: bool


@dataclass(frozen=True)
class Episode:
    """One question from the prompt to the answer.

    Attributes:
        question, prompt: what was asked, and the whole text before the response.
        pieces: the response, in order.
        calls: made, in order.
        invalid: turns that asked for something that cannot be called.
        answer: None where there is none.
        names, aliases: of the pool, for judging the format.
    """

    question: str
    prompt: str
    pieces: tuple[Piece, ...]
    calls: tuple[Call, ...]
    invalid: int
    answer: str | None
    names: tuple[str, ...]
    aliases: Mapping[str, str]

    @property
    def response(self) -> str:
        """Everything after the prompt."""
        return "".join(piece.text for piece in self.pieces)

    @property
    def cost(self) -> float:
        """C, millionths of a dollar."""
        return sum(call.cost for call in self.calls)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Tokens of the parts of an episode.

    Attributes:
        start: of the prompt.
        context: of all that the policy reads at once.
        call: that a model may write.
        reply: of a reply that the policy reads.
    """

    start: int = 2048
    context: int = 4096
    call: int = 512
    reply: int = 600


def default_prompt(question: str, pool: Sequence[PoolModel]) -> str:
    """The question and the models in words, and how to ask them."""
    models = "\n".join(f"{m.name}: {m.description}" for m in pool)
    return _PROMPT.format(models=models, question=without_tags(question))


class MultiRoundRouter:
    """Runs episodes of a policy over a pool.

    Args:
        policy: B contexts -> B texts.
        pool: models that may be asked.
        max_turns: T; 0 makes no call.
        prompt: question and pool -> text that an episode starts with.
        limits: of tokens.
        cutter: what a token is for the limits.
        workers: calls made side by side; replies go back to the rows that asked.

    Raises:
        RouterError: no pool, names that clash or hold a colon, or a number out of range.

    Example:
        >>> from wye.query.chat_models import ProgramChatModel
        >>> clerk = PoolModel("clerk", ProgramChatModel("c", lambda m: "42"), "knows all", 1.0)
        >>> def policy(contexts):
        ...     if contexts[0].endswith("</information> "):
        ...         return ["<think> known </think> <answer> 42 </answer>"]
        ...     return ["<think> ask </think> <search> clerk:what is it? </search>"]
        >>> episode = MultiRoundRouter(policy, [clerk]).answer("What is it?")
        >>> episode.answer, episode.cost
        ('42', 1.0)
    """

    def __init__(
        self,
        policy: Writer,
        pool: Sequence[PoolModel],
        *,
        max_turns: int = 4,
        prompt: Callable[[str, Sequence[PoolModel]], str] = default_prompt,
        limits: Limits | None = None,
        cutter: TokenCutter | None = None,
        workers: int = 1,
    ) -> None:
        if max_turns < 0 or workers < 1:
            raise RouterError(f"max_turns={max_turns}, workers={workers}; expected >= 0 and >= 1")
        called = [n for m in pool for n in (m.name, *m.aliases)]
        if not called or len(set(called)) < len(called) or any(":" in n or not n for n in called):
            raise RouterError(
                f"the pool has the names and aliases {called}; expected at least one model, all "
                "names different, not empty and without a colon"
            )
        self.policy = policy
        self.pool = tuple(pool)
        self.max_turns = max_turns
        self.prompt = prompt
        self.limits = limits or Limits()
        self.cutter = cutter or WordCutter()
        self.workers = workers
        self._by_name = {m.name: m for m in pool}
        self._aliases = {alias: m.name for m in pool for alias in m.aliases}

    def answer(self, question: str) -> Episode:
        """One episode; see `episodes`."""
        return self.episodes([question])[0]

    def episodes(self, questions: Sequence[str]) -> list[Episode]:
        """One episode for each question, side by side, in order.

        Raises:
            RouterError: the policy gave another number of texts than it was given contexts.
        """
        rows = [
            _Row(q, self.cutter.last(self.prompt(q, self.pool), self.limits.start))
            for q in questions
        ]
        for turn in range(self.max_turns):
            self._turn(rows, turn, calling=True)
        self._turn(rows, self.max_turns, calling=False)
        names = tuple(self._by_name)
        return [row.episode(names, self._aliases) for row in rows]

    def _turn(self, rows: Sequence[_Row], turn: int, *, calling: bool) -> None:
        open_rows = [row for row in rows if row.answer is None]
        if not open_rows:
            return
        contexts = [self.cutter.last(row.context, self.limits.context) for row in open_rows]
        texts = self.policy(contexts)
        if len(texts) != len(contexts):
            raise RouterError(f"the policy gave {len(texts)} texts for {len(contexts)} contexts")
        searching: list[tuple[_Row, str, tuple[str, str] | None]] = []
        for row, written in zip(open_rows, texts, strict=True):
            text = end_of_turn(written)
            row.pieces.append(Piece(text, own=True))
            action = first_action(text)
            if action is None:
                continue
            if action.kind == "answer":
                row.answer = action.body
            elif calling:
                call = call_of(action.body, list(self._by_name), self._aliases)
                searching.append((row, text, call))
        if searching:
            self._search(searching, turn)

    def _search(
        self, searching: Sequence[tuple[_Row, str, tuple[str, str] | None]], turn: int
    ) -> None:
        with ThreadPoolExecutor(self.workers) as workers:
            replies = list(workers.map(lambda asked: self._reply(asked[2]), searching))
        for (row, text, call), (reply, tokens) in zip(searching, replies, strict=True):
            row.pieces.append(Piece(f" <information> {reply} </information> ", own=False))
            if call is None or tokens is None:
                row.invalid += 1
                continue
            before = thoughts(text)
            price = self._by_name[call[0]].price_out_per_mtok
            thought = before[-1] if before else ""
            row.calls.append(Call(turn, thought, call[0], call[1], reply, tokens, price))

    def _reply(self, call: tuple[str, str] | None) -> tuple[str, int | None]:
        """What the policy reads, and the tokens that were paid for; None for no reply."""
        if call is None:
            return NO_REPLY, None
        name, query = call
        asked = [{"role": "user", "content": _HELPER.format(query=query)}]
        try:
            made = self._by_name[name].model.generate(asked, max_tokens=self.limits.call)
        except ChatModelError:
            return NO_REPLY, None
        text = self.cutter.first(without_tags(made.text), self.limits.reply).strip()
        return text or NO_REPLY, made.output_tokens


class ChatWriter:
    """A chat model as an untrained policy: it reads the whole context as one message.

    Args:
        model: writes.
        max_tokens: of one turn.
        temperature, seed: of its sampling; call number i uses seed + i.
    """

    def __init__(
        self,
        model: ChatModel,
        *,
        max_tokens: int = 1024,
        temperature: float = 1.0,
        seed: int | None = None,
    ) -> None:
        self.model = model
        self.max_tokens = max_tokens
        self.temperature = temperature
        self.seed = seed
        self._made = 0

    def __call__(self, contexts: Sequence[str]) -> list[str]:
        """What the model writes after each context, up to a closing search or answer tag."""
        return [self._one(context) for context in contexts]

    def _one(self, context: str) -> str:
        seed = None if self.seed is None else self.seed + self._made
        self._made += 1
        made = self.model.generate(
            [{"role": "user", "content": context}],
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            seed=seed,
            stop=("</search>", "</answer>"),
        )
        if made.finish_reason != "stop":
            return made.text
        # A stop string is no part of the answer, and nothing says which of them it was.
        opened = max(("search", "answer"), key=lambda tag: made.text.rfind(f"<{tag}>"))
        return f"{made.text}</{opened}>" if f"<{opened}>" in made.text else made.text


@dataclass
class _Row:
    """An episode on its way."""

    question: str
    prompt: str
    pieces: list[Piece] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    invalid: int = 0
    answer: str | None = None

    @property
    def context(self) -> str:
        return self.prompt + "".join(piece.text for piece in self.pieces)

    def episode(self, names: tuple[str, ...], aliases: Mapping[str, str]) -> Episode:
        return Episode(
            question=self.question,
            prompt=self.prompt,
            pieces=tuple(self.pieces),
            calls=tuple(self.calls),
            invalid=self.invalid,
            answer=self.answer,
            names=names,
            aliases=aliases,
        )
