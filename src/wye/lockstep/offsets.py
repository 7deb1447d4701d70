"""Places of different tokenizers in one text, by character offset.

Token j of one model may be seen from token i of another where all that j has read lies in what i
has read to the end. Two offsets of a token say so:

    complete   characters that stand in the text wholly up to and with this token
    seen       the last character of which it has read anything, so seen >= complete

They differ inside a character that takes several tokens: there a peer counts by `seen` and a reader
by `complete`, or bytes of the next token would leak. Stretching one sequence to the length of the
other has no such bound and lets later text through.

Shape letters: B batch, L length.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from wye.lockstep.base import LockstepError

NEVER = 2**31 - 1
"""`seen` of padding: no token sees it."""


@dataclass(frozen=True)
class Tokens:
    """Texts as one member reads them.

    Attributes:
        ids: `[B, L]`, padded at their ends.
        seen: `[B, L]` characters; `NEVER` at padding.
        complete: `[B, L]` characters.
    """

    ids: Tensor
    seen: Tensor
    complete: Tensor

    def __post_init__(self) -> None:
        if self.ids.ndim != 2 or not self.ids.shape == self.seen.shape == self.complete.shape:
            raise LockstepError(
                f"ids, seen and complete have shapes {tuple(self.ids.shape)}, "
                f"{tuple(self.seen.shape)} and {tuple(self.complete.shape)}, expected one [B, L]"
            )

    @classmethod
    def counted(cls, ids: Tensor, start: int = 0) -> Tokens:
        """Ids `[B, L]` of a tokenizer that all share: every token counts as one character.

        Example:
            >>> Tokens.counted(torch.zeros(1, 3, dtype=torch.int64)).seen.tolist()
            [[1, 2, 3]]
        """
        if ids.ndim != 2:
            raise LockstepError(f"ids have shape {tuple(ids.shape)}, expected [B, L]")
        places = torch.arange(start + 1, start + 1 + ids.shape[1], device=ids.device)
        places = places.expand(ids.shape)
        return cls(ids, places, places)

    def rows(self, index: Tensor) -> Tokens:
        """Some of the texts."""
        return Tokens(self.ids[index], self.seen[index], self.complete[index])


def visible(reader: Tensor, peer: Tensor) -> Tensor:
    """Who sees whom, booleans `[B, L, L']`, from `complete` `[B, L]` and `seen` `[B, L']`."""
    return peer[:, None, :] <= reader[:, :, None]


def offsets_of(spans: Sequence[tuple[int, int]], start: int = 0) -> tuple[Tensor, Tensor]:
    """`seen` and `complete` `[L]` of tokens from their spans of characters.

    A token whose span the next one enters again ends inside a character. Tokens without text
    (marks of beginning and end) stand where the token before them ended.

    Args:
        spans: first character and the one behind the last, of every token in order.
        start: characters before the first.

    Example:
        >>> seen, complete = offsets_of([(0, 0), (0, 1), (1, 2), (1, 2)])
        >>> seen.tolist(), complete.tolist()
        ([0, 1, 2, 2], [0, 1, 1, 2])
    """
    following: list[int | None] = []
    behind: int | None = None
    for begin, end in reversed(spans):
        following.append(behind)
        behind = begin if end > begin else behind
    seen, complete = [], []
    at = done = 0
    for (begin, end), entered in zip(spans, reversed(following), strict=True):
        at = max(at, end)
        if end > begin:
            done = max(done, end if entered is None else min(end, entered))
        seen.append(start + at)
        complete.append(start + done)
    return torch.tensor(seen), torch.tensor(complete)


def stacked(texts: Sequence[Tokens], *, padding: int = 0) -> Tokens:
    """Texts of one member as one batch, padded at their ends with the id `padding`."""
    length = max(t.ids.shape[1] for t in texts)

    def filled(parts: Sequence[Tensor], value: int) -> Tensor:
        return torch.cat([F.pad(p, (0, length - p.shape[1]), value=value) for p in parts])

    return Tokens(
        filled([t.ids for t in texts], padding),
        filled([t.seen for t in texts], NEVER),
        filled([t.complete for t in texts], 0),
    )


def tokens_of(tokenizer: Any, text: str, *, start: int = 0, special: bool = True) -> Tokens:
    """One text `[1, L]` as a fast tokenizer of transformers reads it.

    Args:
        tokenizer: one that knows the offsets of its tokens.
        text: any.
        start: characters of the text before it.
        special: with its marks of beginning and end.

    Raises:
        LockstepError: a tokenizer without offsets.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise LockstepError(
            f"{type(tokenizer).__name__} does not know where its tokens stand in the text: load "
            "its fast version"
        )
    found = tokenizer(text, add_special_tokens=special, return_offsets_mapping=True, verbose=False)
    seen, complete = offsets_of([tuple(span) for span in found["offset_mapping"]], start)
    ids = torch.tensor(found["input_ids"], dtype=torch.int64)
    return Tokens(ids[None], seen[None].long(), complete[None].long())


class SharedText:
    """One growing text, as members with tokenizers of their own read it.

    Args:
        prompt: the text so far.
        tokenizers: of the members, fast ones of transformers.

    Raises:
        LockstepError: a tokenizer without offsets.
    """

    def __init__(self, prompt: str, tokenizers: Mapping[int, Any] | Sequence[Any]) -> None:
        pairs = tokenizers.items() if isinstance(tokenizers, Mapping) else enumerate(tokenizers)
        self._tokenizers = dict(pairs)
        self._prompt = prompt
        self._written: list[int] = []
        self.text = ""

    def prompt(self) -> dict[int, Tokens]:
        """The prompt for every member."""
        return {m: tokens_of(t, self._prompt) for m, t in self._tokenizers.items()}

    def append(self, token: int, writer: int) -> dict[int, Tokens]:
        """What a token of one member adds for each; a peer gets none inside of a character.

        Args:
            token: in the vocabulary of `writer`.
            writer: the member that wrote it.

        Returns:
            New tokens `[1, L]` by member; L may be 0.
        """
        self._written.append(int(token))
        whole = self._tokenizers[writer].decode(self._written, skip_special_tokens=True)
        before = len(self._prompt) + len(self.text)
        # A character that is not complete decodes to the replacement character at the end.
        piece = "" if whole.endswith("\ufffd") else whole[len(self.text) :]
        partly = int(whole.endswith("\ufffd"))
        self.text += piece
        after = before + len(piece)
        new = {
            m: tokens_of(t, piece, start=before, special=False)
            for m, t in self._tokenizers.items()
            if m != writer
        }
        one = torch.ones(1, 1, dtype=torch.int64)
        new[writer] = Tokens(one * int(token), one * (after + partly), one * after)
        return new
