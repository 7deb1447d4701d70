"""What is expected of each configured target on a request: the router's estimate, or a prior.

The router knows models by the names in its training data. A target with such a name (or whose
`model` is such a name) gets the router's figures; any other gets a prior: its configured `quality`,
else the mean of the targets that are known, else 0.5, and a cost by its prices.

Requests that come together are estimated together: a router works on matrices, and one call for
many costs little more than one call for one.

Shape letters: Q requests, M targets.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from wye.embed import EmbedError
from wye.gateway.config import Target
from wye.gateway.distant import Distant, embeds_remotely, in_haste
from wye.gateway.money.prices import CONFIGURED
from wye.gateway.money.usage import Usage
from wye.gateway.openai_api import ChatRequest
from wye.query.base import Estimate, QueryRouter, RouterError
from wye.query.learning.features import describe_texts

if TYPE_CHECKING:
    from wye.gateway.conversation.switching import Followed
    from wye.gateway.learning.course import Course

logger = logging.getLogger("wye.gateway")
_PRIOR_STD = 0.25
_PRIOR_QUALITY = 0.5
_PRIOR_OUTPUT_TOKENS = 300
# What one request of a batch waits for the others stays within a few milliseconds.
_MOST_AT_ONCE = 64


@dataclass
class Expected:
    """An estimate over the configured targets.

    Attributes:
        estimate: one query, M targets in configured order.
        notes: where each target's figures come from when not from the router and `wye.toml`, by
            its name.
        seconds: what estimating took, shared among those estimated together.
        described: what is worth telling of the text, see `describe_texts`.
        conversation: what is cached of the conversation, where that is followed.
        course: which policies decide, in which experiment; None where nothing but one set does.
    """

    estimate: Estimate
    notes: Mapping[str, str]
    seconds: float
    described: Mapping[str, Any]
    conversation: Followed | None = None
    course: Course | None = None


def known_columns(router: QueryRouter | None, targets: Sequence[Target]) -> dict[str, str]:
    """The router's model behind each target that it knows, by the target's name."""
    models = set(router.models_) if router is not None else set()
    columns = {}
    for target in targets:
        for name in (target.name, target.upstream_model):
            if name in models:
                columns[target.name] = name
                break
    return columns


class Expectations:
    """What to expect of the targets, by a router where it knows them and by priors elsewhere.

    Args:
        router: None when there is none: every figure is a prior then.
        targets: M of them.
    """

    def __init__(self, router: QueryRouter | None, targets: Sequence[Target]) -> None:
        self.columns = known_columns(router, targets)
        self.remote = bool(self.columns) and embeds_remotely(router)
        self._distant = Distant() if self.remote else None
        self._router = router if self.columns else None
        if self._router is not None and self.remote:
            self._router = in_haste(self._router)
        self._targets = tuple(targets)
        self._names = tuple(t.name for t in targets)
        self._known = np.flatnonzero([name in self.columns for name in self._names])
        # USD of one token.
        self._input = np.array([_one_token(t, Usage(1)) for t in targets])
        self._output = np.array([_one_token(t, Usage(0, 1)) for t in targets])
        self._origins = {
            t.name: f"{t.name}: prices are from {t.prices.origin}"
            for t in targets
            if t.prices is not None and t.prices.origin != CONFIGURED
        }
        self._waiting: list[tuple[ChatRequest, asyncio.Future[Expected]]] = []

    async def of(self, chat: ChatRequest) -> Expected:
        """What to expect on one request, estimated together with those that come beside it.

        A router that embeds over the network is asked in a thread, since it takes long; where it
        takes too long, or fails, priors speak.
        """
        if self._distant is not None:
            found = await self._distant.ask(lambda: self._expect(self._router, [chat]))
            return (found or self._expect(None, [chat]))[0]
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Expected] = loop.create_future()
        self._waiting.append((chat, future))
        if len(self._waiting) == 1:
            # Requests whose bytes came in the same turn of the loop have joined by then.
            loop.call_soon(self._gathered, loop)
        return await future

    def now(self, chats: Sequence[ChatRequest]) -> list[Expected]:
        """What to expect on each of several requests; priors speak, and say so, if routers fail."""
        try:
            return self._expect(self._router, chats)
        except (RouterError, EmbedError) as error:
            logger.error("the router failed, priors decide: %s", error)
            return self._expect(None, chats)

    def _gathered(self, loop: asyncio.AbstractEventLoop) -> None:
        together, self._waiting = self._waiting[:_MOST_AT_ONCE], self._waiting[_MOST_AT_ONCE:]
        if self._waiting:
            loop.call_soon(self._gathered, loop)
        self._answer([pair for pair in together if not pair[1].done()])

    def _answer(self, pairs: list[tuple[ChatRequest, asyncio.Future[Expected]]]) -> None:
        try:
            found = self.now([chat for chat, _ in pairs])
        except Exception as error:  # noqa: BLE001 - it is raised where the request waits
            if len(pairs) == 1:
                pairs[0][1].set_exception(error)
                return
            # A request that defeats the router fails alone.
            for pair in pairs:
                self._answer([pair])
            return
        for (_, future), expected in zip(pairs, found, strict=True):
            future.set_result(expected)

    def _expect(self, router: QueryRouter | None, chats: Sequence[ChatRequest]) -> list[Expected]:
        if not chats:
            return []
        started = time.perf_counter()
        texts = [chat.text for chat in chats]
        shape = (len(chats), len(self._targets))
        quality, std = np.full(shape, np.nan), np.full(shape, _PRIOR_STD)
        latency = np.full(shape, np.nan)
        sizes = np.array([[chat.input_tokens_estimate, _output_of(chat)] for chat in chats])
        cost = sizes[:, :1] * self._input + sizes[:, 1:] * self._output
        novelty, router_cost, router_seconds = np.ones(len(chats)), 0.0, math.nan
        known = self._known if router is not None else self._known[:0]
        if router is not None:
            learned = router.estimate(texts)
            source = [learned.models.index(self.columns[self._names[i]]) for i in known]
            quality[:, known] = learned.quality[:, source]
            std[:, known] = learned.quality_std[:, source]
            latency[:, known] = learned.latency[:, source]
            priced = learned.cost[:, source] + self._history(chats)[:, known]
            cost[:, known] = np.where(np.isfinite(priced), priced, cost[:, known])
            novelty, router_cost = learned.novelty, learned.router_cost
            router_seconds = learned.router_seconds
        said = self._fill(quality, set(known.tolist()))
        described = describe_texts(texts)
        together = Estimate(
            models=self._names,
            quality=quality,
            quality_std=std,
            cost=cost,
            latency=latency,
            novelty=novelty,
            router_cost=router_cost,
            router_seconds=router_seconds,
        )
        seconds = (time.perf_counter() - started) / len(chats)
        return [
            Expected(estimate, notes, seconds, words)
            for estimate, notes, words in zip(together.each(), said, described, strict=True)
        ]

    def _history(self, chats: Sequence[ChatRequest]) -> np.ndarray:
        """`[Q, M]` USD of the messages that a router's estimate on the last text leaves out."""
        extra = [
            max(0, chat.input_tokens_estimate - math.ceil(len(chat.text) / 4)) for chat in chats
        ]
        return np.outer(extra, np.nan_to_num(self._input))

    def _fill(self, quality: np.ndarray, known: set[int]) -> list[Mapping[str, str]]:
        """Put priors where the router knows nothing; of each request where figures are from."""
        if len(known) == len(self._targets):
            return [self._origins] * len(quality)
        said: list[Mapping[str, str]] = []
        for row in quality:
            notes = {}
            for column, target in enumerate(self._targets):
                if column not in known:
                    row[column], notes[target.name] = _prior_quality(target, row)
            for name, origin in self._origins.items():
                notes[name] = "; ".join(filter(None, (notes.get(name), origin)))
            said.append(notes)
        return said


def _one_token(target: Target, usage: Usage) -> float:
    price = target.price(usage)
    return math.nan if price is None else price


def _output_of(chat: ChatRequest) -> int:
    """As many output tokens as a usual answer has."""
    return min(chat.max_output or _PRIOR_OUTPUT_TOKENS, _PRIOR_OUTPUT_TOKENS)


def _prior_quality(target: Target, quality: np.ndarray) -> tuple[float, str]:
    if target.quality is not None:
        return target.quality, (
            f"{target.name}: the router has no outcomes of it; quality {target.quality:.2f} is "
            "from wye.toml"
        )
    known = quality[np.isfinite(quality)]
    if known.size:
        mean = float(known.mean())
        return mean, (
            f"{target.name}: the router has no outcomes of it; quality {mean:.2f} is the mean of "
            "the targets known so far"
        )
    return _PRIOR_QUALITY, (
        f"{target.name}: nothing is known of its quality; {_PRIOR_QUALITY} is assumed. Set "
        "quality in wye.toml, or train a router"
    )
