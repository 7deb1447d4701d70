"""Windows of text for training and measuring, as integer ids.

Shape letters: B batch, L length.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from wye.moe.base import MoEError


def ids_of(text: bytes | Tensor, length: int) -> Tensor:
    """Integer ids `[n]` of bytes or of ids, on the processor.

    Raises:
        MoEError: no flat integers, or no more of them than one window has.
    """
    ids = torch.frombuffer(bytearray(text), dtype=torch.uint8) if isinstance(text, bytes) else text
    if ids.ndim != 1 or ids.is_floating_point():
        raise MoEError(f"text has shape {tuple(ids.shape)} and is {ids.dtype}, expected ids [n]")
    if length < 1 or ids.shape[0] <= length:
        raise MoEError(
            f"text of {ids.shape[0]} tokens with length={length}: give more text than one window"
        )
    return ids.cpu()


def windows(ids: Tensor, batch: int, length: int, generator: Generator) -> Tensor:
    """`[B, L + 1]` ids from random places of `ids` `[n]`, int64."""
    starts = torch.randint(0, ids.shape[0] - length, (batch,), generator=generator)
    return cut_windows(ids, starts, length)


def cut_windows(ids: Tensor, starts: Tensor, length: int) -> Tensor:
    """`[B, L + 1]` ids from the places `starts` `[B]`, int64."""
    return ids[starts[:, None] + torch.arange(length + 1)].long()


class WindowReader:
    """Takes windows from several texts in turn, in an order drawn anew each round.

    Args:
        text: one text, or several.
        batch: B.
        length: L.

    Raises:
        MoEError: none, or one that is shorter than a window.
    """

    def __init__(
        self, text: bytes | Tensor | Sequence[bytes | Tensor], batch: int, length: int
    ) -> None:
        texts = [text] if isinstance(text, bytes | Tensor) else list(text)
        if not texts:
            raise MoEError("no text to train on")
        self.texts = [ids_of(each, length) for each in texts]
        self.batch, self.length = batch, length
        self._turn: list[int] = []

    def windows(self, generator: Generator) -> Tensor:
        """`[B, L + 1]` ids of the text whose turn it is."""
        if len(self.texts) > 1 and not self._turn:
            self._turn = torch.randperm(len(self.texts), generator=generator).tolist()
        place = self._turn.pop() if self._turn else 0
        return windows(self.texts[place], self.batch, self.length, generator)
