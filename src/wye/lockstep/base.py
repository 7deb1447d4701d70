"""The contract of language models in lock step: several frozen models read one text together.

Routes a token (or a whole query) to language models that all follow the same text, and merges what
they say at every step: by token, through their next-token laws, or by latent, through their hidden
states. A *member* is one causal language model behind one verb, `read`: ids in, logits and hidden
states out, with a memory of what it has read. Members stay as they are; what is trained stands
beside them. This module holds what the systems share; each system is a file of its own beside it.

Shape letters: B batch, L length, V vocabulary, D width, N members.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from wye.errors import WyeError

Tap = Callable[[Tensor], Tensor]
"""Hidden states `[B, L, D]` behind a layer -> those that the next layer gets."""


class LockstepError(WyeError):
    """A group of language models cannot work together as asked; the message says what to do."""


@dataclass(frozen=True)
class Reading:
    """What a member says of the ids that it was given last.

    Attributes:
        logits: `[B, L, V]` of the token behind each id.
        hidden: `[B, L, D]` what its output layer reads.
        memory: hand it to the next `read`; None where nothing was to be remembered.
    """

    logits: Tensor
    hidden: Tensor
    memory: Any = None


class Member(ABC):
    """A causal language model as lock step sees it.

    Attributes:
        module: the model itself.
        vocabulary: V, the size of its logits.
        width: D of its hidden states.
        layers: its layers, in order; empty where nobody may look between them.
        tokens: token -> id of its tokenizer; None where ids are their own meaning (bytes).
        incremental: whether a remembered `read` runs the new ids alone, so that taps see those
            alone; otherwise it runs the whole text again.
    """

    module: nn.Module
    vocabulary: int
    width: int
    layers: tuple[nn.Module, ...] = ()
    tokens: Mapping[str, int] | None = None
    incremental: bool = False

    @abstractmethod
    def read(self, ids_BL: Tensor, memory: Any = None, *, remember: bool = False) -> Reading:
        """Read `ids_BL` behind all that `memory` holds; `memory` is used up.

        Args:
            ids_BL: integers `[B, L]`, at least one each.
            memory: of the last reading of the same rows; None at the start of a text.
            remember: also return a memory.

        Raises:
            LockstepError: ids of another shape.
        """

    @contextmanager
    def tapped(self, taps: Mapping[int, Tap]) -> Iterator[None]:
        """While it lasts, the hidden states behind layer `i` go through `taps[i]`.

        Raises:
            LockstepError: a layer that the member does not have.
        """
        for index in taps:
            if not 0 <= index < len(self.layers):
                raise LockstepError(
                    f"a tap behind layer {index}, and {type(self.module).__name__} shows "
                    f"{len(self.layers)} layers: name its layers when you make the member"
                )
        hooks = [
            self.layers[index].register_forward_hook(_hook_of(tap)) for index, tap in taps.items()
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


def freeze(members: Sequence[Member]) -> None:
    """Put members into evaluation mode and take gradients off their parameters."""
    for member in members:
        member.module.eval().requires_grad_(False)


def common_vocabulary(members: Sequence[Member]) -> int:
    """The size V that the logits of members of one tokenizer are cut to.

    Checkpoints of one tokenizer pad their output layers to different sizes; the rows behind the
    last token mean nothing and are cut.

    Raises:
        LockstepError: no members, different tokenizers, or sizes that differ where no tokenizer
            says which rows count.
    """
    if not members:
        raise LockstepError("no members, expected at least one language model")
    sizes = [m.vocabulary for m in members]
    known = [m.tokens for m in members if m.tokens is not None]
    if len(known) not in (0, len(members)):
        raise LockstepError(
            f"{len(known)} of {len(members)} members say what their tokens are: give the tokenizer "
            "of every member, or of none"
        )
    if not known:
        if len(set(sizes)) > 1:
            raise LockstepError(
                f"members have vocabularies of {sizes} tokens, expected one: adding logits needs "
                "one tokenizer. Where they share one and only pad differently, give it to each"
            )
        return sizes[0]
    first = known[0]
    for number, tokens in enumerate(known[1:], start=1):
        if tokens != first:
            other = next(iter(dict(tokens).items() ^ dict(first).items()))
            raise LockstepError(
                f"members 0 and {number} have different vocabularies ({len(first)} and "
                f"{len(tokens)} tokens; {other[0]!r} differs): adding logits needs one tokenizer. "
                "Take models of one family"
            )
    size = min(sizes)
    if first and max(first.values()) >= size:
        raise LockstepError(
            f"the tokenizer has the id {max(first.values())}, and a member has logits for {size} "
            "tokens alone: take the checkpoint that goes with the tokenizer"
        )
    return size


class Follower:
    """One member on one text, read as far as somebody needed it (lazy catch-up).

    A member that was not asked for k tokens is k behind; when it is asked again it reads them as
    one chunk. It reads the text of the group, never a choice of its own.

    Args:
        member: who reads.
        prompt: ids `[L]`, at least one; members may have prompts of their own (chat templates).

    Raises:
        LockstepError: a prompt of another shape.
    """

    def __init__(self, member: Member, prompt: Tensor) -> None:
        if prompt.ndim != 1 or not prompt.numel():
            raise LockstepError(
                f"the prompt has shape {tuple(prompt.shape)}, expected ids [L] with L >= 1"
            )
        self.member = member
        self._unread = prompt
        self._memory: Any = None
        self._last: Reading | None = None

    @property
    def behind(self) -> int:
        """Tokens that it has not read, the prompt included."""
        return int(self._unread.numel())

    def append(self, token: Tensor) -> None:
        """Lengthen the text by ids `[L]` without reading them."""
        self._unread = torch.cat([self._unread, token.reshape(-1)])

    def catch_up(self) -> Reading:
        """Read what is unread; logits `[V]` and hidden `[D]` at the end of the text."""
        if self._last is None or self.behind:
            reading = self.member.read(self._unread[None], self._memory, remember=True)
            self._memory = reading.memory
            self._unread = self._unread[:0]
            self._last = Reading(reading.logits[0, -1], reading.hidden[0, -1])
        return self._last


def check_ids(ids_BL: Tensor) -> None:
    """Refuse what is no batch of ids.

    Raises:
        LockstepError: another shape, or numbers that are no integers.
    """
    if ids_BL.ndim != 2 or not ids_BL.shape[1] or ids_BL.is_floating_point():
        raise LockstepError(
            f"ids are {ids_BL.dtype} of shape {tuple(ids_BL.shape)}, expected integers [B, L] with "
            "L >= 1"
        )


def _hook_of(tap: Tap) -> Callable[[nn.Module, Any, Any], Any]:
    def hook(module: nn.Module, given: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            return (tap(output[0]), *output[1:])
        return tap(output)

    return hook
