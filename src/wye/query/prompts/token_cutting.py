"""Keeping the first or the last tokens of a text, by words or by a tokenizer."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from typing import Any

_WORD = re.compile(r"\s*\S+")


class TokenCutter(ABC):
    """Cuts texts to a number of tokens."""

    @abstractmethod
    def first(self, text: str, n: int) -> str:
        """The first `n` tokens of `text`; all of it where there are fewer."""

    @abstractmethod
    def last(self, text: str, n: int) -> str:
        """The last `n` tokens of `text`; all of it where there are fewer."""


class WordCutter(TokenCutter):
    """Counts words as tokens.

    Example:
        >>> WordCutter().last("one two  three", 2)
        ' two  three'
    """

    def first(self, text: str, n: int) -> str:
        """The first `n` words."""
        words = _WORD.findall(text)
        return text if len(words) <= n else "".join(words[:n])

    def last(self, text: str, n: int) -> str:
        """The last `n` words."""
        words = _WORD.findall(text)
        return text if len(words) <= n else "".join(words[len(words) - n :])


class TokenizerCutter(TokenCutter):
    """Counts the tokens of a Hugging Face tokenizer."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    def first(self, text: str, n: int) -> str:
        """The first `n` tokens."""
        return self._kept(text, slice(0, n), n)

    def last(self, text: str, n: int) -> str:
        """The last `n` tokens."""
        return self._kept(text, slice(-n, None) if n else slice(0, 0), n)

    def _kept(self, text: str, part: slice, n: int) -> str:
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return text if len(ids) <= n else str(self.tokenizer.decode(ids[part]))
