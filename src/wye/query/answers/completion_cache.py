"""A completion cache around any chat model: the same request is answered once.

Source: FrugalGPT (arXiv 2305.05176), LLM approximation by a completion cache. An equal request is
one with equal messages and parameters. With `similar_above`, a request whose last message is as
similar as that to one answered before, all else equal, takes its answer: cheaper, and wrong where
two alike questions differ in what matters, so it is off unless asked for.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from wye.core.audit import digest
from wye.query.base import RouterError
from wye.query.chat_models.base import ChatModel, Generation, Message

if TYPE_CHECKING:
    from wye.embed import Embedder
    from wye.embed.base import Vectors


class CachedChatModel(ChatModel):
    """`model` behind a cache of its last completions.

    Drawn answers without a seed are never kept: each call asks for another.

    Args:
        model: who answers.
        capacity: completions kept; the one unused for longest goes first.
        similar_above: least cosine similarity of the last message; None for equal requests only.
        embedder: for similarity.

    Attributes:
        hits, misses: calls answered from the cache, and passed on.

    Example:
        >>> from wye.query.chat_models import ProgramChatModel
        >>> model = CachedChatModel(ProgramChatModel("echo", lambda m: m[-1]["content"]))
        >>> _ = [model.generate([{"role": "user", "content": "good day"}]) for _ in range(3)]
        >>> model.hits, model.misses
        (2, 1)
    """

    def __init__(
        self,
        model: ChatModel,
        *,
        capacity: int = 10_000,
        similar_above: float | None = None,
        embedder: str | Embedder = "static",
    ) -> None:
        if capacity < 1 or (similar_above is not None and not 0.0 < similar_above <= 1.0):
            raise RouterError(
                f"capacity={capacity}, similar_above={similar_above}; expected at least 1, and "
                "above 0 up to 1, or None"
            )
        self.model = model
        self.name = model.name
        self.capacity = capacity
        self.similar_above = similar_above
        self.embedder = embedder
        self.hits = self.misses = 0
        self._kept: OrderedDict[str, Generation] = OrderedDict()
        self._asked: dict[str, tuple[str, Vectors]] = {}

    def generate(
        self,
        messages: Sequence[Message],
        *,
        max_tokens: int = 512,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int | None = None,
        stop: Sequence[str] = (),
    ) -> Generation:
        """The kept completion, at no cost and in no time, or what `model` answers.

        Raises:
            ChatModelError: as `model` raises; a failure is not kept.
        """
        rest = [max_tokens, float(temperature), float(top_p), seed, list(stop)]
        plain = [dict(m) for m in messages]
        key = digest([plain, rest])
        keeps = temperature == 0 or seed is not None
        found = key if key in self._kept else None
        vector = None
        if keeps and found is None and self.similar_above is not None and plain:
            group = digest([plain[:-1], rest])
            vector = (group, self._vector(plain[-1]["content"]))
            found = self._similar(*vector)
        if keeps and found is not None:
            self.hits += 1
            self._kept.move_to_end(found)
            return replace(self._kept[found], seconds=0.0, cost_usd=0.0)
        self.misses += 1
        made = self.model.generate(
            messages,
            max_tokens=max_tokens,
            temperature=temperature,
            top_p=top_p,
            seed=seed,
            stop=stop,
        )
        if keeps:
            self._kept[key] = made
            if vector is not None:
                self._asked[key] = vector
            if len(self._kept) > self.capacity:
                oldest, _ = self._kept.popitem(last=False)
                self._asked.pop(oldest, None)
        return made

    def _vector(self, text: str) -> Vectors:
        from wye.embed import get_embedder

        space = get_embedder(self.embedder)
        self.embedder = space
        return np.asarray(space.embed([text])[0], np.float32)

    def _similar(self, group: str, vector: Vectors) -> str | None:
        """Key of the most similar request of the same group, at or above the threshold."""
        keys = [k for k, (g, _) in self._asked.items() if g == group]
        if not keys or self.similar_above is None:
            return None
        similarity = np.stack([self._asked[k][1] for k in keys]) @ vector
        best = int(similarity.argmax())
        return keys[best] if similarity[best] >= self.similar_above else None
