"""What targets were seen to have cached, by prefix: bounded, forgotten when the provider forgets.

It lives in one gateway. Another gateway of the same store does not know of it: there the target is
expected to have nothing cached, so a conversation that changes gateways is priced as a fresh one.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass

from wye.gateway.conversation.prefix import Prefix


@dataclass(frozen=True, slots=True)
class Cached:
    """One prefix at one target.

    Attributes:
        tokens: that the provider has cached of it.
        prompt: tokens that the prefix has.
        characters: of text that the prefix has.
        seconds: how long the provider keeps it after each use.
        until: when that is over, on the clock that `CacheMemory` is asked with.
    """

    tokens: int
    prompt: int
    characters: int
    seconds: float
    until: float


class CacheMemory:
    """Prefixes with what each target has cached of them; the least recently used go first.

    Args:
        most: most prefixes that are kept.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._prefixes: OrderedDict[int, dict[str, Cached]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._prefixes)

    def longest(self, prefix: Prefix, targets: Iterable[str], now: float) -> dict[str, Cached]:
        """The longest prefix that each of the targets has cached at this moment, where it has."""
        wanted, found = set(targets), dict[str, Cached]()
        for key, characters in zip(reversed(prefix.keys), reversed(prefix.characters), strict=True):
            holders = self._prefixes.get(key)
            if holders is None:
                continue
            self._prefixes.move_to_end(key)
            for target, cached in tuple(holders.items()):
                if cached.until <= now:
                    del holders[target]
                elif target in wanted and cached.characters <= characters:
                    found[target] = cached
                    wanted.discard(target)
            if not holders:
                del self._prefixes[key]
            if not wanted:
                break
        return found

    def put(self, key: int, target: str, cached: Cached, now: float) -> None:
        """Remember that a target has a prefix."""
        self._prefixes.setdefault(key, {})[target] = cached
        self._prefixes.move_to_end(key)
        while self._prefixes and (len(self._prefixes) > self._most or self._oldest_over(now)):
            self._prefixes.popitem(last=False)

    def _oldest_over(self, now: float) -> bool:
        oldest = next(iter(self._prefixes.values()))
        return all(cached.until <= now for cached in oldest.values())
