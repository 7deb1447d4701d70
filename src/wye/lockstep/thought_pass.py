"""One primary and its peers on one text: whole, or token by token with what was read remembered.

Peers read first; their hidden states behind each stack, projected, wait for the primary, which
meets them at the same depth. Every model keeps its own cache of keys and values, and the pass keeps
u of every model at every interaction.

Shape letters: B queries, L length, S all places so far, V vocabulary, M models, U shared width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from wye.lockstep.base import LockstepError, Member, Tap
from wye.lockstep.interaction import Interaction
from wye.lockstep.offsets import Tokens, visible


@dataclass
class Track:
    """What one model has read.

    Attributes:
        memory: of its own.
        seen, complete: `[B, S]` offsets of its tokens.
        latents: u `[B, S, U]` at every interaction.
    """

    memory: Any = None
    seen: Tensor | None = None
    complete: Tensor | None = None
    latents: dict[int, Tensor] = field(default_factory=dict)

    def extend(self, new: Tokens) -> None:
        """Add the places of new tokens."""
        old_seen, old_complete = self.seen, self.complete
        self.seen = new.seen if old_seen is None else torch.cat([old_seen, new.seen], 1)
        self.complete = (
            new.complete if old_complete is None else torch.cat([old_complete, new.complete], 1)
        )


class ThoughtPass:
    """A primary with its peers.

    Args:
        members: all M models.
        ends: of every model, the layers behind which interactions stand.
        interactions: in order of depth.
        primary: who speaks.
        active: who takes part, in order, the primary among them.
        weight: a `[B, M]`.

    Raises:
        LockstepError: a primary that is not active.
    """

    def __init__(
        self,
        members: Sequence[Member],
        ends: Sequence[Sequence[int]],
        interactions: Sequence[nn.Module],
        primary: int,
        active: tuple[int, ...],
        weight: Tensor,
    ) -> None:
        if primary not in active:
            raise LockstepError(f"the primary {primary} is not among the active models {active}")
        self.members, self.ends, self.interactions = members, ends, interactions
        self.primary, self.active, self.weight = primary, active, weight
        self.tracks = {m: Track() for m in active}
        self.attention = weight.new_zeros(len(weight), len(interactions), len(members))

    def advance(self, new: Mapping[int, Tokens], *, remember: bool = True) -> Tensor:
        """Logits `[B, L, V]` of the primary behind each of its new tokens.

        Args:
            new: tokens for every active model; peers may get none.
            remember: keep what is needed to go on.

        Raises:
            LockstepError: the primary gets no token.
        """
        if not new[self.primary].ids.shape[1]:
            raise LockstepError("the primary gets no token, expected at least one")
        for member in self.active:
            self.tracks[member].extend(new[member])
        for member in self.active:
            if member != self.primary and new[member].ids.shape[1]:
                self._listen(member, new[member].ids, remember)
        return self._speak(new[self.primary].ids, remember)

    def _listen(self, member: int, ids: Tensor, remember: bool) -> None:
        states: dict[int, Tensor] = {}

        def kept_as(depth: int) -> Tap:
            def tap(hidden: Tensor) -> Tensor:
                states[depth] = hidden
                return hidden

            return tap

        with torch.no_grad():
            self._read(member, ids, [kept_as(d) for d in range(len(self.interactions))], remember)
        for depth, hidden in states.items():
            self._project(member, depth, hidden)

    def _speak(self, ids: Tensor, remember: bool) -> Tensor:
        taps = [self._tap(depth) for depth in range(len(self.interactions))]
        return self._read(self.primary, ids, taps, remember)

    def _tap(self, depth: int) -> Tap:
        def tap(hidden: Tensor) -> Tensor:
            own = self._project(self.primary, depth, hidden)
            c = self._meet(depth, own)
            return self._layer(depth).update(self.primary, hidden, c, self.weight[:, self.primary])

        return tap

    def _meet(self, depth: int, reader: Tensor) -> Tensor:
        length = reader.shape[1]
        complete = self._offsets(self.primary)[1][:, -length:]
        sources, seen, owner = [], [], []
        for member in self.active:
            u = self.tracks[member].latents.get(depth)
            if u is None:
                continue
            if member == self.primary:
                seen.append(_earlier(length, u))
            else:
                u = u * self.weight[:, member, None, None]
                seen.append(visible(complete, self._offsets(member)[0]))
            sources.append(u)
            owner += [member] * u.shape[1]
        c, mass = self._layer(depth).attend(
            reader, torch.cat(sources, dim=1), torch.cat(seen, dim=2)
        )
        share = mass.new_zeros(len(mass), len(self.members))
        self.attention[:, depth] = share.index_add(
            1, torch.tensor(owner, device=mass.device), mass.mean(dim=1)
        )
        return c

    def _read(self, member: int, ids: Tensor, taps: Sequence[Tap], remember: bool) -> Tensor:
        track = self.tracks[member]
        with self.members[member].tapped(dict(zip(self.ends[member], taps, strict=True))):
            reading = self.members[member].read(ids, track.memory, remember=remember)
        track.memory = reading.memory
        return reading.logits

    def _project(self, member: int, depth: int, hidden: Tensor) -> Tensor:
        """u of the places that were just run; all places so far are kept."""
        track = self.tracks[member]
        u = self._layer(depth).project(member, hidden)
        before = track.latents.get(depth)
        fresh = before is None or not self.members[member].incremental
        track.latents[depth] = u if fresh or before is None else torch.cat([before, u], dim=1)
        return u

    def _layer(self, depth: int) -> Interaction:
        layer = self.interactions[depth]
        if not isinstance(layer, Interaction):
            raise LockstepError(f"{type(layer).__name__} at depth {depth}, expected an Interaction")
        return layer

    def _offsets(self, member: int) -> tuple[Tensor, Tensor]:
        track = self.tracks[member]
        if track.seen is None or track.complete is None:
            raise LockstepError(f"model {member} has read nothing yet")
        return track.seen, track.complete


def _earlier(length: int, sources: Tensor) -> Tensor:
    """`[B, L, S]`: the last L of S places, each seeing itself and those before it."""
    places = torch.arange(sources.shape[1], device=sources.device)
    seen = places[None, :] <= places[-length:, None]
    return seen.expand(len(sources), -1, -1)
