"""What each target would cost in a conversation, given what it has cached of it.

For a target with a price for cached input, with C tokens of the prompt cached there, M tokens of it
that its provider caches at all, and prices p (input), c (cached), w (written to the cache):

    saved now    d = C (p - c) - max(0, M - C) (w - p)
    saved later  D = M (p - c)
    cost           = full price - (d + F D) / (1 + F)

F further turns are expected at the same target (`further_turns`); with F = 0 the cost is what this
turn is expected to cost. C counts by the share of the cached tokens that the target was really seen
to read. Where the conversation goes is for the policy to say: it sees these costs and nothing else,
so it switches exactly where what it gains exceeds the lost cache.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from wye.gateway.conversation.memory import Cached, CacheMemory
from wye.gateway.conversation.prefix import Prefix, prefix_of, session_of
from wye.gateway.conversation.settings import ConversationTable, Rule
from wye.gateway.money.usage import Usage
from wye.gateway.openai_api import ChatRequest

if TYPE_CHECKING:
    from wye.gateway.config import Config, Target
    from wye.gateway.estimates import Expected

_LONG_SECONDS = 3600.0
_CHARACTERS_PER_TOKEN = 4
# The share of cached tokens that is read counts as 1 with the weight of so many tokens, and what
# was seen fades by this factor each time.
_TRUST_TOKENS, _FADING = 8192.0, 0.98


@dataclass(frozen=True)
class Followed:
    """A request as part of its conversation.

    Attributes:
        prefix: what a cache could hold of it.
        tokens: expected input tokens.
        promised: tokens that each target should have cached; a target without a price for
            cached input has none.
        cached: those of them that it is expected to read, by what it was seen to read.
        saved: USD by which each of the M targets is expected to be cheaper than at its full price.
        always: USD that each would be expected to cost had it had the whole conversation, in the
            order of the targets.
        shift: USD by which the expected cost of each was changed for all this, in that order.
        known: most tokens of the prompt that any target has cached.
        holder: the target where most would be lost; None where nothing is cached.
    """

    prefix: Prefix
    tokens: int
    promised: Mapping[str, int]
    cached: Mapping[str, int]
    saved: Mapping[str, float]
    always: tuple[float, ...]
    shift: tuple[float, ...]
    known: int
    holder: str | None

    def switch_cost(self, target: str) -> float:
        """USD of lost cache in going to a target; 0 where the conversation is."""
        if self.holder is None:
            return 0.0
        return max(0.0, self.saved[self.holder] - self.saved[target])

    def figures(self, target: str) -> dict[str, Any]:
        """What a decision shows of a candidate."""
        return {
            "cached_tokens": self.cached.get(target, 0),
            "switch_cost_usd": self.switch_cost(target),
        }

    def reasons(self, target: str | None, others: Sequence[str]) -> tuple[str, ...]:
        """What the conversation had to do with the choice; `others` could have been chosen."""
        holder = self.holder
        if target is None or holder is None:
            return ()
        if target != holder:
            lost = self.switch_cost(target)
            return (f"leaves {holder}: ${lost:.6f} of lost cache is part of its expected cost",)
        rivals = [name for name in others if name != target]
        said = f"{self.cached[target]} tokens of the conversation are cached at {target}"
        if not rivals:
            return (said,)
        costs = dict(zip(self.saved, self.always, strict=True))
        rival = min(rivals, key=lambda name: costs[name])
        cost = self.switch_cost(rival)
        return (f"stays: switching to {rival} would cost ${cost:.6f} in lost cache; {said}",)


class Conversations:
    """Follows conversations and puts their caches into the expected costs.

    Args:
        targets: all there are.
        table: see `ConversationTable`.
        clock: seconds, never going back.
    """

    def __init__(
        self,
        targets: Sequence[Target],
        table: ConversationTable,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._table = table
        self._clock = clock
        self._caches = {cache.name: cache for t in targets if (cache := _cache_of(t)) is not None}
        self._input_price = [t.prices.input if t.prices is not None else 0.0 for t in targets]
        self._least = min((cache.minimum for cache in self._caches.values()), default=0)
        self._memory = CacheMemory(table.max_prefixes)

    @property
    def counts(self) -> bool:
        """Whether any target has a cache whose loss costs something."""
        return bool(self._caches)

    def expect(
        self, chat: ChatRequest, expected: Expected, owner: str | None, session: str | None
    ) -> Expected:
        """The same expectation with what is cached where; unchanged for a short request.

        Args:
            owner: the key; no key sees what is cached for another.
            session: the conversation, where the client names it.
        """
        if chat.input_tokens_estimate < self._least:
            return expected
        if session is not None and self._table.follow == "session":
            prefix: Prefix | None = session_of(chat, owner, session)
        else:
            prefix = prefix_of(chat, owner)
        if prefix is None:
            return expected
        found = self._memory.longest(prefix, self._caches, self._clock())
        return self._priced(chat, expected, prefix, found)

    def observe(
        self, followed: Followed, target: str, usage: Usage, *, estimated: bool = False
    ) -> None:
        """Remember what a target has cached, after it read a prompt.

        Args:
            usage: of the answer; where it is `estimated`, the provider's rule alone counts.
        """
        cache = self._caches.get(target)
        if cache is None:
            return
        if not estimated:
            cache.learn(followed.promised.get(target, 0), usage)
        now = self._clock()
        for position, tokens, prompt, seconds in cache.filled(followed.prefix, usage, estimated):
            characters = followed.prefix.characters[position]
            entry = Cached(tokens, prompt, characters, seconds, now + seconds)
            self._memory.put(followed.prefix.keys[position], target, entry, now)

    def _priced(
        self,
        chat: ChatRequest,
        expected: Expected,
        prefix: Prefix,
        found: Mapping[str, Cached],
    ) -> Expected:
        estimate = expected.estimate
        length = _Length(chat, prefix, found)
        tokens = length.of(len(prefix.keys) - 1)
        marked = None if prefix.marked is None else length.of(prefix.marked)
        known = min(tokens, max((cached.tokens for cached in found.values()), default=0))
        # A prompt whose length was measured is priced by that, at every target.
        more = (tokens - chat.input_tokens_estimate) / 1e6
        saved, always, changed = dict.fromkeys(estimate.models, 0.0), [], bool(more)
        promised: dict[str, int] = {}
        read: dict[str, int] = {}
        full = estimate.cost[0].tolist()
        for column, name in enumerate(estimate.models):
            full[column] += more * self._input_price[column]
            cache = self._caches.get(name)
            if cache is None:
                always.append(full[column])
                continue
            most = cache.cacheable(tokens, marked)
            if name in found:
                promised[name] = min(most, found[name].tokens)
                read[name] = round(promised[name] * cache.share)
            saved[name] = cache.saved(read.get(name, 0), most, self._table.further_turns)
            changed = changed or saved[name] != 0.0
            always.append(max(0.0, full[column] - cache.saved(min(known, most), most)))
        holder = max(read, key=lambda name: saved[name], default=None)
        if holder is not None and saved[holder] <= 0:
            holder = None
        shift = tuple(
            more * price - saved[name]
            for name, price in zip(estimate.models, self._input_price, strict=True)
        )
        followed = Followed(
            prefix, tokens, promised, read, saved, tuple(always), shift, known, holder
        )
        if not changed:
            return replace(expected, conversation=followed)
        # A cost that is not known stays so.
        cost = [
            0.0 if whole < saved[name] else whole - saved[name]
            for name, whole in zip(estimate.models, full, strict=True)
        ]
        priced = replace(estimate, cost=np.array([cost]))
        return replace(expected, estimate=priced, conversation=followed)


class _Cache:
    """The prompt cache of one target: its prices, its rule, and how well it keeps its word."""

    def __init__(self, target: Target, rule: Rule) -> None:
        prices = target.prices
        assert prices is not None
        assert prices.cached_input is not None
        table = target.prompt_cache
        self.name = target.name
        self.minimum = table.min_tokens
        self._marked = rule == "marked"
        self._step = 1 if self._marked else table.step_tokens
        self._seconds = table.seconds
        self._discount = (prices.input - prices.cached_input) / 1e6
        write = prices.input if prices.cache_write is None else prices.cache_write
        self._surcharge = (write - prices.input) / 1e6
        self._promised = self._read = 0.0
        self._tells = False

    @property
    def share(self) -> float:
        """Of the tokens that should have been cached, the share that really was."""
        if not self._tells:
            return 1.0
        return (_TRUST_TOKENS + self._read) / (_TRUST_TOKENS + self._promised)

    def learn(self, promised: int, usage: Usage) -> None:
        """Hold what was expected to be cached against what the provider says.

        A target that never told of a cached token may not tell at all, so nothing follows from its
        silence.
        """
        self._tells = self._tells or usage.cached_input > 0
        if promised:
            self._promised = _FADING * self._promised + promised
            self._read = _FADING * self._read + min(promised, usage.cached_input)

    def cacheable(self, tokens: int, marked: int | None) -> int:
        """Tokens that the provider caches of a prompt, of which `marked` tokens are marked."""
        return self._whole((marked or 0) if self._marked else tokens)

    def saved(self, read: int, most: int, ahead: float = 0.0) -> float:
        """USD less than at the full price: for what is read, but for what has to be written.

        The mean over this turn and so many that are `ahead`, which read all that can be cached.
        """
        at_once = read * self._discount - max(0, most - read) * self._surcharge
        return (at_once + ahead * most * self._discount) / (1 + ahead) if ahead else at_once

    def filled(
        self, prefix: Prefix, usage: Usage, estimated: bool
    ) -> list[tuple[int, int, int, float]]:
        """Position, cached tokens, tokens and seconds of the prefixes that are cached now."""
        told = usage.cached_input + usage.cache_write
        last = len(prefix.keys) - 1
        if self._marked:
            if prefix.marked is None:
                return []
            by_rule = self._whole(math.floor(usage.input * prefix.share(prefix.marked)))
            tokens = by_rule if estimated else told
            seconds = _LONG_SECONDS if usage.cache_write_1h else self._seconds
            return [(prefix.marked, tokens, tokens, seconds)] if tokens else []
        whole = max(self._whole(usage.input), told)
        if not whole:
            return []
        filled = [(last, whole, usage.input, self._seconds)]
        head = math.floor(usage.input * prefix.share(prefix.head))
        if prefix.head < last and (cached := self._whole(head)):
            filled.append((prefix.head, cached, head, self._seconds))
        return filled

    def _whole(self, tokens: int) -> int:
        return tokens - tokens % self._step if tokens >= self.minimum else 0


def conversations_of(config: Config) -> Conversations | None:
    """What follows conversations as configured; None where it is off or nothing can be lost."""
    if not config.conversation.switching_cost:
        return None
    conversations = Conversations(config.targets, config.conversation)
    return conversations if conversations.counts else None


def _cache_of(target: Target) -> _Cache | None:
    prices = target.prices
    if prices is None or prices.cached_input is None or prices.cached_input >= prices.input:
        return None
    by_kind: Rule = "marked" if target.kind == "anthropic" else "automatic"
    rule = target.prompt_cache.rule or by_kind
    return None if rule == "none" else _Cache(target, rule)


class _Length:
    """Tokens of a request's prefixes: measured for what was asked before, estimated beyond."""

    def __init__(self, chat: ChatRequest, prefix: Prefix, found: Mapping[str, Cached]) -> None:
        self._characters = prefix.characters
        longest = max(found.values(), key=lambda cached: cached.characters, default=None)
        if longest is not None:
            self._measured = (longest.characters, longest.prompt)
        else:
            self._measured = (prefix.characters[-1], chat.input_tokens_estimate)

    def of(self, position: int) -> int:
        """Tokens of the prefix at a position."""
        size, (characters, tokens) = self._characters[position], self._measured
        if size <= characters:
            return math.floor(tokens * size / max(1, characters))
        return tokens + math.ceil((size - characters) / _CHARACTERS_PER_TOKEN)
