"""The contract of a strategy: a conversation goes in, an answer and its true token count come out.

A strategy decides how one model is used on a query: how often it is called, with what around the
question, and what is done with what it wrote. All strategies share one model, so what differs
between them is tokens, seconds and skill.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from wye.errors import WyeError

if TYPE_CHECKING:
    from wye.gateway.pool.client import Completion, ModelClient

Message = dict[str, str]


class StrategyError(WyeError):
    """A conversation cannot be answered as it is; the message says what to change."""


@dataclass(frozen=True, kw_only=True)
class AnswerParams:
    """What the caller may ask of an answer. None leaves the choice to the strategy.

    Attributes:
        max_tokens: most tokens of the text that the caller reads; work behind it (reasoning, an
            expression) has a limit of its own.
        temperature: 0 is greedy. `majority` samples even where this is 0 or not given.
        seed: of the sampler; call number i of one answer uses seed + i. Answers can still differ in
            a close call: rounding depends on what part of the prompt the server's cache held.
        stop: strings at which the text ends.
        confidence: ask for token log-probabilities and fill `StrategyAnswer.confidence`.
    """

    max_tokens: int | None = None
    temperature: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    confidence: bool = False

    def __post_init__(self) -> None:
        if self.max_tokens is not None and self.max_tokens < 1:
            raise StrategyError(f"max_tokens is {self.max_tokens}, expected 1 or more")
        if self.temperature is not None and not 0 <= self.temperature <= 2:
            raise StrategyError(f"temperature is {self.temperature}, expected 0 to 2")


@dataclass(frozen=True, kw_only=True)
class Step:
    """One thing that a strategy did on the way: a call of the model, a search, an evaluation."""

    action: str
    text: str


@dataclass(frozen=True, kw_only=True)
class StrategyAnswer:
    """What a strategy answered and what it took.

    Attributes:
        text: what the user reads.
        input_tokens, output_tokens: summed over all calls of the model, cached prefixes included.
        latency_s: seconds from the call to the full text.
        steps: what was done, in order.
        finish_reason: OpenAI's: "stop", or "length" where the text was cut at `max_tokens`.
        confidence: exp of the mean token log-probability of the call that made the answer, 0 to 1;
            None unless asked for.
    """

    text: str
    input_tokens: int
    output_tokens: int
    latency_s: float
    steps: tuple[Step, ...]
    finish_reason: str
    confidence: float | None = None


class Strategy(ABC):
    """One way of using the model.

    Attributes:
        name: the target's name.
        description: what it does and what it is good at, in words.
        token_cost: what it takes in tokens, in words.
    """

    name: str
    description: str
    token_cost: str

    @abstractmethod
    async def answer(
        self, messages: Sequence[Mapping[str, Any]], *, client: ModelClient, params: AnswerParams
    ) -> StrategyAnswer:
        """Answer the last user message of an OpenAI message list.

        Raises:
            StrategyError: the conversation has no user message last, or holds other than text.
            ModelClientError: the model's server refused or is gone.
        """

    async def stream(
        self, messages: Sequence[Mapping[str, Any]], *, client: ModelClient, params: AnswerParams
    ) -> AsyncIterator[str | StrategyAnswer]:
        """The text in pieces as it becomes known, then once, last, the whole `StrategyAnswer`.

        A strategy that knows its text only at the end gives it as one piece.
        """
        done = await self.answer(messages, client=client, params=params)
        if done.text:
            yield done.text
        yield done


def conversation(messages: Sequence[Mapping[str, Any]]) -> list[Message]:
    """The messages as plain role and text, checked to end with a user's message.

    Content in parts (`[{"type": "text", "text": ...}]`) is joined; a missing content is empty.

    Raises:
        StrategyError: no message, the last is not a user's, or a part is not text.
    """
    plain = [_plain(message, place) for place, message in enumerate(messages)]
    if not plain or plain[-1]["role"] != "user":
        last = plain[-1]["role"] if plain else "no message at all"
        raise StrategyError(
            f"the conversation ends with {last}, expected a message of the role 'user' last: "
            "append the question to `messages`"
        )
    return plain


def with_examples(talk: list[Message], shown: Sequence[tuple[str, str]]) -> list[Message]:
    """The conversation with worked examples as earlier turns, after its system messages."""
    turns = [
        {"role": role, "content": text}
        for question, answer in shown
        for role, text in (("user", question), ("assistant", answer))
    ]
    start = next(i for i, m in enumerate(talk) if m["role"] != "system")
    return [*talk[:start], *turns, *talk[start:]]


def total(
    text: str,
    calls: Sequence[Completion],
    steps: Sequence[Step],
    latency_s: float,
    *,
    finish_reason: str = "stop",
    confidence: float | None = None,
) -> StrategyAnswer:
    """A `StrategyAnswer` whose tokens are the sum over `calls`."""
    return StrategyAnswer(
        text=text,
        input_tokens=sum(c.input_tokens for c in calls),
        output_tokens=sum(c.output_tokens for c in calls),
        latency_s=latency_s,
        steps=tuple(steps),
        finish_reason=finish_reason,
        confidence=confidence,
    )


def _plain(message: Mapping[str, Any], place: int) -> Message:
    role, content = message.get("role"), message.get("content")
    if not isinstance(role, str) or not role:
        raise StrategyError(f"messages[{place}] has role {role!r}, expected 'user' or such a name")
    if content is None:
        content = ""
    if not isinstance(content, str):
        content = _joined(content, place)
    return {"role": role, "content": content}


def _joined(parts: Any, place: int) -> str:
    if not isinstance(parts, Sequence):
        raise StrategyError(
            f"messages[{place}].content is of type {type(parts).__name__}, expected text "
            "or a list of text parts"
        )
    texts = []
    for part in parts:
        if not isinstance(part, Mapping) or part.get("type") != "text":
            kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
            raise StrategyError(
                f"messages[{place}].content has a part of type {kind!r}; the embedded model reads "
                "text alone: send parts of type 'text'"
            )
        texts.append(str(part.get("text", "")))
    return "\n".join(texts)
